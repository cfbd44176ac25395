"""Named tensors in ddr: a program's inputs and outputs and those of host steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from dsa_compiler.errors import UserError
from dsa_compiler.isa.dtypes import DTYPES, numpy_dtype
from dsa_compiler.program.tables import Binding, Program, binding_bytes
from dsa_compiler.simulator.memories import Memories, pack_int4, unpack_int4


def binding_dtype(binding: Binding) -> np.dtype[Any]:
    """The NumPy type of a bound tensor; models also have types that no instruction takes, such as int64."""
    return numpy_dtype(binding.dtype) if binding.dtype in DTYPES else np.dtype(binding.dtype)


def feed_inputs(program: Program, memories: Memories, inputs: Mapping[str, np.ndarray]) -> None:
    """Write `inputs` to ddr. Raises `UserError` for missing or unknown names, other shapes and other dtypes."""
    names = {b.name for b in program.inputs}
    unknown = sorted(set(inputs) - names)
    if unknown:
        raise UserError(
            f"the model has no input {unknown[0]!r}",
            where="inputs",
            action=f"its inputs are {', '.join(sorted(names))}",
        )
    for binding in program.inputs:
        if binding.name not in inputs:
            raise UserError(f"the input {binding.name!r} is missing", where="inputs", action="give an array for it")
        write_binding(memories, binding, check_array(binding, inputs[binding.name]))


def check_array(binding: Binding, array: np.ndarray) -> np.ndarray:
    """The array if it has the shape and dtype of the binding; else raises `UserError`."""
    array = np.asarray(array)
    if array.dtype != binding_dtype(binding):
        raise UserError(
            f"the input {binding.name!r} is {array.dtype}, the model takes {binding.dtype}",
            where="inputs",
            action="convert the array",
        )
    if array.shape != tuple(binding.shape):
        raise UserError(
            f"the input {binding.name!r} has shape {list(array.shape)}, the model takes {list(binding.shape)}",
            where="inputs",
            action="give that shape, or compile the model for another one",
        )
    return array


def write_binding(memories: Memories, binding: Binding, array: np.ndarray) -> None:
    """Put an array where the binding lies, dense and row-major."""
    data = np.ascontiguousarray(array)
    if binding.dtype == "int4":
        data = pack_int4(data.reshape(1, -1))
    memories.put(binding.address, data.reshape(-1).view(np.uint8))


def read_binding(memories: Memories, binding: Binding, purpose: str) -> np.ndarray:
    """The bound tensor. Raises `UserError` if a byte of it was never written."""
    data, written = memories.get(binding.address, binding_bytes(binding))
    if not written:
        raise UserError(
            f"{purpose} {binding.name!r} has bytes that nothing wrote",
            where="simulator",
            action="the program must write the whole tensor",
        )
    if binding.dtype == "int4":
        count = int(np.prod(binding.shape, dtype=np.int64))
        return np.asarray(unpack_int4(data[None], count)[0].reshape(binding.shape))
    return np.array(data.view(binding_dtype(binding)).reshape(binding.shape))


def fetch_outputs(program: Program, memories: Memories) -> dict[str, np.ndarray]:
    """The outputs by name."""
    return {b.name: read_binding(memories, b, "the output") for b in program.outputs}
