"""Host steps: operators that the CPU runs between segments, by ONNX's reference implementation."""

from __future__ import annotations

import numpy as np

from dsa_compiler.errors import UserError
from dsa_compiler.program.tables import HostStep
from dsa_compiler.simulator.bindings import binding_dtype, read_binding, write_binding
from dsa_compiler.simulator.memories import Memories


def run_host_step(step: HostStep, memories: Memories) -> None:
    """Run one step on tensors in ddr. Raises `UserError` where the operator fails or gives another shape."""
    where = f"host step {step.op} {step.node}".strip()
    feeds = {b.name: read_binding(memories, b, f"the input of {where}") for b in step.inputs}
    values = _evaluate(step.model, [b.name for b in step.outputs], feeds, where)
    for binding, value in zip(step.outputs, values, strict=True):
        array = np.asarray(value)
        if array.shape != tuple(binding.shape):
            raise UserError(
                f"{binding.name!r} has shape {list(array.shape)}, {list(binding.shape)} was expected",
                where=where,
                action="compile the model for shapes that do not depend on values",
            )
        write_binding(memories, binding, array.astype(binding_dtype(binding), copy=False))


def _evaluate(model: bytes, outputs: list[str], feeds: dict[str, np.ndarray], where: str) -> list[np.ndarray]:
    import onnx
    from onnx.reference import ReferenceEvaluator

    evaluator = ReferenceEvaluator(onnx.load_model_from_string(model))
    try:
        return list(evaluator.run(outputs, feeds))
    except Exception as error:  # whatever an operator's reference implementation raises
        raise UserError(f"the operator failed: {error}", where=where, action="check the model's inputs") from error
