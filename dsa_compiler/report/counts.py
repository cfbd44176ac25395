"""Work that the entries of a program carry out, from their operands and attributes alone.

`entry_macs` counts multiply-accumulates of matrix and depthwise entries, `entry_operations` element operations:
those of vector entries, and the additions of a product's bias row.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
import numpy.typing as npt

from dsa_compiler.isa.definition import ROLE_CODE, OpDef
from dsa_compiler.isa.table import BY_CODE, OPCODES
from dsa_compiler.program.tables import Program

Counts = npt.NDArray[np.int64]

FUSED: Final[Mapping[str, int]] = {
    "fma": 2, "axpy": 2, "square": 1, "reduce_sumsq": 2, "reduce_absmax": 2, "silu": 2, "softsign": 3, "mish": 3,
    "gelu": 5, "gelu_tanh": 8, "quantize": 3, "dequantize": 2, "requantize": 3,
}  # fmt: skip
"""Arithmetic operations of an element where an instruction joins several; 1 for those not named."""

_MOVEMENT = frozenset({"copy", "fill", "iota", "slide", "transpose", "interleave", "deinterleave", "gather", "reverse"})
_BIASED = frozenset(d.code for d in BY_CODE.values() if d.engine == "matrix" and d.spec("bias") is not None)


def operand_rows(program: Program, role: str) -> Counts:
    """For each entry the row of its operand of `role` in the operand table, -1 without one."""
    result = np.full(len(program), -1, np.int64)
    first, count = program.entries["operand"], program.entries["operands"].astype(np.int64)
    for place in range(int(count.max(initial=0))):
        there = np.flatnonzero(count > place)
        rows = first[there] + place
        mine = program.operands["role"][rows] == ROLE_CODE[role]
        result[there[mine]] = rows[mine]
    return result


def written_rows(program: Program) -> Counts:
    """For each entry the row of the operand that it writes, -1 without one."""
    dst = operand_rows(program, "dst")
    return np.where(dst >= 0, dst, operand_rows(program, "acc"))


def entry_macs(program: Program) -> Counts:
    """Multiply-accumulates by entry: m * n * k of a product, result elements times taps of a depthwise entry."""
    written, lhs = written_rows(program), operand_rows(program, "lhs")
    result = np.zeros(len(program), np.int64)
    products = np.flatnonzero((lhs >= 0) & (written >= 0))
    result[products] = _elements(program, written[products]) * program.operands["extents"][lhs[products], 1]
    taps = _attribute(program, "taps")
    windows = np.flatnonzero(_with_tag(program, "macs") & (written >= 0))
    result[windows] = _elements(program, written[windows]) * taps[windows]
    return result


def entry_operations(program: Program) -> Counts:
    """Element operations by entry; moving or repeating elements is none."""
    written, src = written_rows(program), operand_rows(program, "src")
    factors = np.zeros(max(BY_CODE) + 1, np.int64)
    by_source = np.zeros(len(factors), bool)
    for code, definition in BY_CODE.items():
        factors[code] = _operations(definition)
        by_source[code] = bool(definition.tags & {"reduce", "scan"})
    opcode = program.entries["opcode"]
    row = np.where(by_source[opcode], src, written)
    result = np.where(row >= 0, _elements(program, np.maximum(row, 0)), 0) * factors[opcode]
    taps = _attribute(program, "taps")
    windows = _with_tag(program, "window")
    counts: Counts = np.where(windows, result * np.maximum(taps, 1), result)
    return counts


def _operations(definition: OpDef) -> int:
    if definition.code in _BIASED:
        return 1
    if definition.engine != "vector" or definition.name in _MOVEMENT or "macs" in definition.tags:
        return 0
    return FUSED.get(definition.name, 1)


def _elements(program: Program, rows: Counts) -> Counts:
    if not len(program.operands):
        return np.zeros(len(rows), np.int64)
    elements: Counts = program.operands["extents"][rows].prod(axis=1)
    return elements


def _with_tag(program: Program, tag: str) -> npt.NDArray[np.bool_]:
    codes = [d.code for d in OPCODES.values() if tag in d.tags]
    return np.isin(program.entries["opcode"], codes)


def _attribute(program: Program, name: str) -> Counts:
    """A whole-number attribute by entry, 0 where it is absent."""
    values = np.array([_whole(attrs.get(name)) for attrs in program.attrs] or [0], np.int64)
    counts: Counts = values[program.entries["attrs"]]
    return counts


def _whole(value: object) -> int:
    return value if isinstance(value, int) else 0
