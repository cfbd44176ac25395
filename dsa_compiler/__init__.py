"""dsac: compiles ONNX models for scratchpad NPUs and runs them on a simulator that is right in values and time.

    import dsa_compiler as dsac

    executable = dsac.compile("model.onnx", target="npu-v1", precision="float16")
    outputs = executable.run({"x": x})
    executable.report["cycles"], executable.report["efficiency"]
    executable.save("model.npu")
    dsac.load("model.npu").run({"x": x})

Only `compile` imports TVM.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dsa_compiler.errors import DsacError, Infeasible, InternalError, UserError
from dsa_compiler.options import CompileOptions
from dsa_compiler.target import list_targets

if TYPE_CHECKING:
    from onnx import ModelProto

    from dsa_compiler.runtime.executable import Executable
    from dsa_compiler.target import Target

__all__ = [
    "CompileOptions", "DsacError", "Infeasible", "InternalError", "UserError", "compile", "list_targets", "load",
]  # fmt: skip

__version__ = "0.1.0"


def compile(
    model: str | Path | bytes | ModelProto,
    target: str | Path | Target = "npu-v1",
    precision: str | None = None,
    batch: int | None = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
    options: CompileOptions | None = None,
    progress: Callable[[str], None] | None = None,
) -> Executable:
    """Compile an ONNX model (a path, the bytes of a file, or a `ModelProto`) for a part.

    `target` is the name of a packaged part, the path of a TOML file, or a `Target`. `precision` is "float32" or
    "float16"; without it the model's own is kept. `batch` and `shapes` bind symbolic dimensions. `options` holds
    the rest; what is given beside it prevails. `progress` is told what comes next.

    Raises `UserError` for a model, part or option that cannot be accepted; its message says what to do.
    """
    from dsa_compiler.driver import compile_model

    given: dict[str, Any] = {"precision": precision, "batch": batch, "shapes": shapes}
    options = replace(options or CompileOptions(), **{name: v for name, v in given.items() if v is not None})
    return compile_model(model, target, options, progress or (lambda step: None))


def load(path: str | Path) -> Executable:
    """The executable in a `.npu` file, as `Executable.save` and `dsac compile -o` write it.

    Raises `UserError` for a file that is damaged, truncated, newer than this version or no `.npu` file.
    """
    from dsa_compiler.runtime.executable import load as load_executable

    return load_executable(path)
