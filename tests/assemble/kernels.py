"""Level-4 kernels written by hand: loops, allocations and instruction calls, without the passes before them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from tvm.tirx import PrimFunc

from dsa_compiler.assemble.expand import expand
from dsa_compiler.assemble.link import KernelCall, Stream
from dsa_compiler.assemble.trace import Trace
from dsa_compiler.emit.intrinsics import InstructionOperand, encode
from dsa_compiler.isa.definition import ROLES
from dsa_compiler.isa.table import BY_CODE
from dsa_compiler.lower.tir import Buffer, Stmt, function
from dsa_compiler.program.tables import Binding, Constant, Program
from dsa_compiler.target import Target


def at(
    role: str, buffer: Buffer, base: Sequence[Any], extents: Sequence[Any], strides: Sequence[int] | None = None
) -> InstructionOperand:
    """An operand; the strides of its extents are those of the buffer's last dimensions unless given."""
    if strides is None:
        shape = [int(s) for s in buffer.shape]
        strides = [int(np.prod(shape[len(shape) - d :])) for d in reversed(range(len(extents)))]
    return InstructionOperand(role, buffer, tuple(base), tuple(extents), tuple(strides))


def issue(opcode: str, *operands: InstructionOperand, **attrs: Any) -> Stmt:
    """One instruction."""
    return encode(opcode, operands, attrs)


def trace_of(target: Target, parameters: Sequence[Buffer], body: Stmt, name: str = "kernel") -> Trace:
    return expand(kernel(parameters, body, name), name, target)


def kernel(parameters: Sequence[Buffer], body: Stmt, name: str = "kernel") -> PrimFunc:
    return function(name, parameters, body)


def listed(trace: Trace) -> list[tuple[int, str]]:
    """(core, opcode) in the order of the trace."""
    return [(int(e["core"]), BY_CODE[int(e["opcode"])].name) for e in trace.entries]


def operands_of(trace: Trace, entry: int) -> dict[str, Mapping[str, Any]]:
    """The operands of an entry by role: buffer name, slot, byte offset, extents, strides."""
    row = trace.entries[entry]
    result = {}
    for o in trace.operands[int(row["operand"]) : int(row["operand"]) + int(row["operands"])]:
        rank = int(o["rank"])
        result[ROLES[o["role"]]] = {
            "buffer": trace.buffers[o["buffer"]].name,
            "slot": int(o["slot"]),
            "offset": int(o["offset"]),
            "extents": o["extents"][:rank].tolist(),
            "strides": o["strides"][:rank].tolist(),
        }
    return result


def program_of(
    target: Target,
    stream: Stream,
    ddr_bytes: int,
    constants: Sequence[tuple[int, np.ndarray]] = (),
    outputs: Sequence[Binding] = (),
) -> Program:
    made = tuple(Constant(a, np.ascontiguousarray(v).reshape(-1).view(np.uint8)) for a, v in constants)
    return Program(
        target,
        stream.entries,
        stream.operands,
        stream.flags,
        stream.attrs,
        constants=made,
        outputs=tuple(outputs),
        nodes=("node",),
        kernels=("a", "b", "c", "d"),
        ddr_bytes=ddr_bytes,
    )


def call_of(trace: Trace, *addresses: int, constant: Sequence[bool] | None = None, node: int = 0) -> KernelCall:
    return KernelCall(trace, addresses, tuple(constant) if constant is not None else (False,) * len(addresses), node)
