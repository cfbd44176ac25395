"""What the regression asks of quantised models: values within one quantum, products in integers.

The reference is `onnx.reference`, whose integer products do not saturate; of the opset that it has operators for, and
for operators of com.microsoft ONNX Runtime without graph optimisations. A quantum of an output is a step of the 8-bit
grid that spans the reference's values. Two right ways to compute a deep quantised network part at values halfway
between two integers, so what the two references differ by widens the bound.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import ModelProto, version_converter
from onnx.reference import ReferenceEvaluator

from dsa_compiler.isa.dtypes import DTYPES
from dsa_compiler.program.tables import Program
from dsa_compiler.report.counts import entry_macs, operand_rows
from dsa_compiler.verification import difference, reference_outputs

Arrays = Mapping[str, np.ndarray]

COSINE = 0.999
INTEGER_MACS = 0.95
SPREAD = 1.5
ROUNDING = 1.001
"""Outputs are floats: a quantum is met but for their own rounding."""
NEWEST = 21


def quantum(values: np.ndarray) -> float:
    """A step of the 8-bit grid that spans `values` and zero."""
    return float(max(values.max(), 0) - min(values.min(), 0)) / 255


def quantized_reference(model: ModelProto, feeds: Arrays) -> dict[str, np.ndarray]:
    """The outputs by `onnx.reference`, at the newest opset where the model's own lacks an operator, or ONNX Runtime."""
    names = [output.name for output in model.graph.output]
    for candidate in (lambda: model, lambda: version_converter.convert_version(model, NEWEST)):
        try:
            return dict(zip(names, ReferenceEvaluator(candidate()).run(names, dict(feeds)), strict=True))
        except (RuntimeError, NotImplementedError, onnx.version_converter.ConvertError):
            continue
    return unoptimized_outputs(model, feeds)


def unoptimized_outputs(model: ModelProto, feeds: Arrays) -> dict[str, np.ndarray]:
    """The outputs by ONNX Runtime with every operator as it stands; by the installed reference without it."""
    try:
        import onnxruntime
    except ImportError:
        return reference_outputs(model, feeds)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in model.graph.output]
    return dict(zip(names, map(np.asarray, session.run(names, dict(feeds))), strict=True))


def integer_share(program: Program) -> float:
    """The share of a program's multiply-accumulates that are of 8-bit operands on the matrix engine."""
    macs, lhs = entry_macs(program), operand_rows(program, "lhs")
    names = np.asarray(list(DTYPES))
    dtypes = names[program.operands["dtype"][np.maximum(lhs, 0)]]
    whole = (lhs >= 0) & np.isin(dtypes, ("int8", "uint8"))
    return float(macs[whole].sum() / max(macs.sum(), 1))


def references_spread(model: ModelProto, feeds: Arrays, want: Arrays) -> dict[str, float]:
    """How far ONNX Runtime, with and without graph optimisations, is from the reference's outputs."""
    others = [unoptimized_outputs(model, feeds), reference_outputs(model, feeds)]
    return {name: max(_gap(other[name], values) for other in others) for name, values in want.items()}


def _gap(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a.astype(np.float64) - b.astype(np.float64)).max())


def value_problems(got: Arrays, want: Arrays, spread: Mapping[str, float]) -> tuple[list[str], list[str]]:
    """(what is wrong, what bound was widened) of outputs; `spread` is how far other references are from `want`."""
    problems, notes = [], []
    for name, values in want.items():
        step = quantum(values)
        gap = _gap(got[name], values)
        cosine = difference(name, got[name], values).cosine
        text = f"output {name}: {gap / max(step, 1e-30):.2f} quanta, cosine {cosine:.6f}"
        if cosine >= COSINE and gap <= step * ROUNDING:
            continue
        if cosine >= COSINE and gap <= SPREAD * spread[name]:
            notes.append(f"{text}, references differ by {spread[name] / max(step, 1e-30):.2f}")
        else:
            problems.append(text)
    return problems, notes
