"""Compare a compiled model with the reference, level by level: ONNX, Relax, layers, program."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from onnx import ModelProto

from dsa_compiler.errors import UserError
from dsa_compiler.isa.dtypes import DTYPE_CODE
from dsa_compiler.options import Precision
from dsa_compiler.program.tables import Binding, Program
from dsa_compiler.runtime.executable import Executable

if TYPE_CHECKING:
    from dsa_compiler.graph import LayerGraph

Array = npt.NDArray[Any]
Arrays = Mapping[str, Array]


@dataclass(frozen=True)
class Tolerance:
    """What passes: the greatest error relative to the largest reference value, and the least cosine."""

    error: float
    cosine: float


TOLERANCES: Mapping[str, Tolerance] = {"float32": Tolerance(1e-3, 0.9999), "float16": Tolerance(3e-2, 0.999)}


@dataclass(frozen=True)
class Difference:
    """How far an output is from its reference.

    `error` is the greatest difference over the greatest magnitude of the reference, `distance` the Euclidean one,
    `cosine` 1.0 for the same direction. All are NaN if the output has a NaN that the reference has not.
    """

    output: str
    error: float
    cosine: float
    distance: float

    def within(self, tolerance: Tolerance) -> bool:
        """Whether the difference passes; NaN does not."""
        return self.error <= tolerance.error and self.cosine >= tolerance.cosine


@dataclass(frozen=True)
class LevelResult:
    """One level's differences from the reference."""

    level: str
    differences: tuple[Difference, ...]

    def within(self, tolerance: Tolerance) -> bool:
        """Whether every output passes."""
        return all(difference.within(tolerance) for difference in self.differences)


def program_precision(program: Program) -> str:
    """"float16" if any operand is narrower than float32 by being float16, else "float32"."""
    return "float16" if bool((program.operands["dtype"] == DTYPE_CODE["float16"]).any()) else "float32"


def random_inputs(bindings: tuple[Binding, ...], seed: int) -> dict[str, Array]:
    """Seeded inputs: standard normal floats, whole numbers 0 or 1, coin flips."""
    random = np.random.default_rng(seed)
    result: dict[str, Array] = {}
    for binding in bindings:
        dtype = np.dtype(np.int8 if binding.dtype == "int4" else binding.dtype)
        if dtype.kind == "f":
            result[binding.name] = random.standard_normal(binding.shape).astype(dtype)
        else:
            result[binding.name] = random.integers(0, 2, binding.shape).astype(dtype)
    return result


def reference_name() -> str:
    """The reference that is installed: ONNX Runtime, or ONNX's own."""
    return "onnx.reference" if _runtime() is None else "onnxruntime"


def reference_outputs(model: ModelProto, inputs: Arrays) -> dict[str, Array]:
    """The outputs of `model` by name, by ONNX Runtime if it is installed, else by `onnx.reference`.

    Raises `UserError` if the reference does not take the model or the inputs.
    """
    names = [output.name for output in model.graph.output]
    runtime = _runtime()
    try:
        if runtime is None:
            from onnx.reference import ReferenceEvaluator

            values = ReferenceEvaluator(model).run(names, dict(inputs))
        else:
            options = runtime.SessionOptions()
            options.log_severity_level = 3
            session = runtime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
            values = session.run(names, dict(inputs))
    except Exception as error:  # what the reference raises has no common base
        raise UserError(
            f"the reference does not run the model: {error}", where="verify", action="check the model and its inputs"
        ) from error
    return dict(zip(names, map(np.asarray, values), strict=True))


def _runtime() -> Any:
    try:
        import onnxruntime
    except ImportError:
        return None
    return onnxruntime


def compare(got: Arrays, want: Arrays) -> tuple[Difference, ...]:
    """The difference of each output in `want`."""
    return tuple(difference(name, got[name], array) for name, array in want.items())


def difference(name: str, got: Array, want: Array) -> Difference:
    """The difference of one output from its reference."""
    a, b = got.astype(np.float64).ravel(), want.astype(np.float64).ravel()
    if a.shape != b.shape:
        return Difference(name, np.inf, 0.0, np.inf)
    if not a.size or np.array_equal(a, b, equal_nan=True):
        return Difference(name, 0.0, 1.0, 0.0)
    gap = np.abs(a - b)
    norms = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return Difference(
        name,
        error=float(gap.max() / max(float(np.abs(b).max()), np.finfo(np.float64).tiny)),
        cosine=float((a * b).sum() / norms) if norms else 0.0,
        distance=float(np.sqrt((gap * gap).sum())),
    )


def compiled_from(executable: Executable) -> tuple[ModelProto, LayerGraph]:
    """The model and the layers that an executable was compiled from; raises `UserError` for one from a file."""
    if executable.model is None or executable.graph is None:
        raise UserError("the program does not hold its model", where="verify", action="give the ONNX model")
    return executable.model, executable.graph


def run_levels(
    executable: Executable, inputs: Arrays, precision: Precision | None, every: bool
) -> Iterator[tuple[str, Callable[[], dict[str, Array]]]]:
    """(level, how to run it) of a model compiled in this process, from the model down to the program."""
    model, graph = compiled_from(executable)
    if every:
        from dsa_compiler.frontend import import_model
        from dsa_compiler.graph import evaluate, optimize, run_relax

        yield "1 Relax as imported", lambda: run_relax(import_model(model), inputs)
        yield "1 Relax, optimised", lambda: run_relax(optimize(import_model(model), precision), inputs)
        yield "2 layers", lambda: evaluate(graph, inputs)
    yield "5 program", lambda: executable.run(inputs)


def verify(
    executable: Executable,
    inputs: Arrays,
    precision: Precision | None = None,
    *,
    every: bool = False,
    progress: Callable[[str], None] = lambda step: None,
) -> list[LevelResult]:
    """The differences of an executable compiled in this process from the reference, at `every` level or the last."""
    progress(f"0 model, by {reference_name()}")
    want = reference_outputs(compiled_from(executable)[0], inputs)
    results = []
    for level, run in run_levels(executable, inputs, precision, every):
        progress(level)
        results.append(LevelResult(level, compare(run(), want)))
    return results
