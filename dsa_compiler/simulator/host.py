"""Host steps: operators that the CPU runs between segments, by ONNX's reference implementation."""

from __future__ import annotations

import numpy as np

from dsa_compiler.errors import UserError
from dsa_compiler.program.tables import TIR_STEP, HostStep, binding_bytes
from dsa_compiler.simulator.bindings import binding_dtype, read_binding, write_binding
from dsa_compiler.simulator.memories import Memories


def run_host_step(step: HostStep, memories: Memories) -> None:
    """Run one step on tensors in ddr. Raises `UserError` where the operator fails or gives another shape."""
    if step.model.startswith(TIR_STEP):
        _run_kernel(step, memories)
        return
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


def _run_kernel(step: HostStep, memories: Memories) -> None:
    """Run a kernel's TIR, compiled by TVM for this CPU, on the buffers as they lie in ddr."""
    import tvm

    module = tvm.ir.load_json(step.model[len(TIR_STEP) :].decode())
    library = tvm.compile(module, target="llvm")
    arrays = []
    for binding in (*step.inputs, *step.outputs):
        data, _ = memories.get(binding.address, binding_bytes(binding))
        arrays.append(tvm.runtime.tensor(np.array(data.view(binding_dtype(binding)).reshape(binding.shape))))
    library["kernel"](*arrays)
    for binding, array in zip(step.outputs, arrays[len(step.inputs) :], strict=True):
        write_binding(memories, binding, array.numpy())


def _evaluate(model: bytes, outputs: list[str], feeds: dict[str, np.ndarray], where: str) -> list[np.ndarray]:
    import onnx
    from onnx.reference import ReferenceEvaluator

    evaluator = ReferenceEvaluator(onnx.load_model_from_string(model))
    try:
        return list(evaluator.run(outputs, feeds))
    except Exception as error:  # whatever an operator's reference implementation raises
        raise UserError(f"the operator failed: {error}", where=where, action="check the model's inputs") from error
