"""Row pitches of buffers in the scratchpads: rows start at multiples of the scope's alignment."""

from __future__ import annotations

from dsa_compiler.isa.dtypes import item_bytes
from dsa_compiler.target import Target


def scope_pitch(extent: int, dtype: str, target: Target, *scopes: str) -> int:
    """Elements from one row of `extent` elements to the next where rows lie in each of `scopes`."""
    alignment = max(target.memory[s].alignment for s in scopes)
    unit = max(1, alignment // item_bytes(dtype))
    return -(-extent // unit) * unit


def operand_pitch(extent: int, dtype: str, target: Target) -> int:
    """The pitch of matrix operands, which move from l1 to l0a and l0b."""
    return scope_pitch(extent, dtype, target, "l1", "l0a", "l0b")


def accumulator_pitch(extent: int, dtype: str, target: Target) -> int:
    """The pitch of accumulators and of bias rows."""
    return scope_pitch(extent, dtype, target, "l0b", "l0c")
