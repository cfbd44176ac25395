"""What bytes each entry reads and writes, as boxes of rows, and whether two boxes share a byte."""

from __future__ import annotations

from typing import Any

import numpy as np

from dsa_compiler.isa.compiled import kernel
from dsa_compiler.isa.definition import ROLE_CODE, WRITTEN_ROLES
from dsa_compiler.program.tables import SCOPE_CODE, Program
from dsa_compiler.simulator.memories import memory_numbers, operand_owners, row_bytes

ACCESS = np.dtype(
    [
        ("entry", np.int64),
        ("low", np.int64),          # first byte
        ("high", np.int64),         # after the last byte
        ("planes", np.int64),
        ("rows", np.int64),
        ("plane_stride", np.int64),
        ("row_stride", np.int64),
        ("length", np.int64),       # bytes of a row
        ("memory", np.int32),
        ("operand", np.int32),      # row of the operand table
        ("reads", np.uint8),
        ("writes", np.uint8),
        ("solid", np.uint8),        # leaves no byte between its first and its last to another operand
    ]
)  # fmt: skip
"""Rows at low + i * plane_stride + j * row_stride. Repeated rows (stride 0) count once."""

_MOST_WORK = 1 << 20
"""Rows that an exact comparison looks at before it calls two boxes overlapping."""


def list_accesses(program: Program) -> tuple[np.ndarray, np.ndarray]:
    """ACCESS rows entry by entry, and for each entry the place of its first (with one place more)."""
    owner, operand = operand_owners(program)
    table, entries = program.operands[operand], program.entries
    result = np.zeros(len(owner), ACCESS)
    result["entry"], result["operand"], result["low"] = owner, operand, table["address"]
    core = np.maximum(entries["core"][owner].astype(np.int64), 0)
    cluster = entries["cluster"][owner].astype(np.int64)
    result["memory"] = memory_numbers(program.target, table["scope"].astype(np.int64), cluster, core)
    written = np.isin(table["role"], [ROLE_CODE[r] for r in WRITTEN_ROLES])
    result["writes"], result["reads"] = written, ~written | (table["role"] == ROLE_CODE["acc"])
    _measure(result, table, _alignments(program, table["scope"]))
    first = np.searchsorted(owner, np.arange(len(entries) + 1))
    return result, first.astype(np.int64)


def _alignments(program: Program, scope: np.ndarray) -> np.ndarray:
    """The unit that rows own alone: of scratchpads their alignment, since every row starts at a multiple of it."""
    unit = np.ones(len(SCOPE_CODE), np.int64)
    for name in ("l1", "l0a", "l0b", "l0c"):
        unit[SCOPE_CODE[name]] = program.target.memory[name].alignment
    return np.asarray(unit[scope])


def _measure(result: np.ndarray, table: np.ndarray, unit: np.ndarray) -> None:
    """Fill in the box: innermost row, then rows and planes, merged where they are contiguous."""
    rank = table["rank"].astype(np.int64)
    length = row_bytes(table)
    place = np.arange(len(table))
    rows, row_stride = _outer(table, place, rank - 2)
    planes, plane_stride = _outer(table, place, rank - 3)
    padded = -(-length // unit) * unit
    result["high"] = table["address"] + (planes - 1) * plane_stride + (rows - 1) * row_stride + length
    dense = (rows == 1) | (row_stride <= padded)
    extent = np.where(rows == 1, padded, (rows - 1) * row_stride + padded)
    result["solid"] = dense & ((planes == 1) | (plane_stride <= extent))
    joined = (rows > 1) & (row_stride == length)
    length = np.where(joined, length * rows, length)
    rows = np.where(joined, 1, rows)
    lone = rows == 1
    rows, row_stride = np.where(lone, planes, rows), np.where(lone, plane_stride, row_stride)
    planes, plane_stride = np.where(lone, 1, planes), np.where(lone, 0, plane_stride)
    joined = (rows > 1) & (row_stride == length)
    length = np.where(joined, length * rows, length)
    rows = np.where(joined, 1, rows)
    for name, value in (("planes", planes), ("rows", rows), ("length", length)):
        result[name] = value
    result["plane_stride"] = np.where(planes > 1, plane_stride, 0)
    result["row_stride"] = np.where(rows > 1, row_stride, 0)


def _outer(table: np.ndarray, place: np.ndarray, axis: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Extent and stride along an axis; (1, 0) where there is none or where it repeats."""
    at = place, np.maximum(axis, 0)
    stride = table["strides"][at]
    there = (axis >= 0) & (stride != 0)
    return np.where(there, table["extents"][at], 1), np.where(there, stride, 0)


@kernel
def share_a_byte(a: Any, b: Any) -> bool:
    """Whether two ACCESS rows of one memory have a byte in common."""
    if a.low >= b.high or b.low >= a.high:
        return False
    if a.planes * a.rows == 1 and b.planes * b.rows == 1:
        return True
    if (a.plane_stride == b.plane_stride or a.planes * b.planes == 1) and a.row_stride == b.row_stride:
        return _meet_on_lattice(a, b)
    if a.planes * a.rows > b.planes * b.rows:
        a, b = b, a
    if a.planes * a.rows * b.planes > _MOST_WORK:
        return True
    for i in range(a.planes):
        for j in range(a.rows):
            start = a.low + i * a.plane_stride + j * a.row_stride
            for plane in range(b.planes):
                if _meets_row(start - b.low - plane * b.plane_stride, a.length, b.rows, b.row_stride, b.length):
                    return True
    return False


@kernel
def _meet_on_lattice(a: Any, b: Any) -> bool:
    """`share_a_byte` for equal strides: some difference of rows brings a row of b less than a row's length from a's."""
    for plane in range(1 - a.planes, b.planes):
        apart = b.low - a.low + plane * max(a.plane_stride, b.plane_stride)
        if a.row_stride == 0:
            if -b.length < apart < a.length:
                return True
            continue
        least = max(1 - a.rows, (-b.length - apart) // a.row_stride + 1)
        most = min(b.rows - 1, -((apart - a.length) // a.row_stride) - 1)
        if least <= most:
            return True
    return False


@kernel
def _meets_row(start: int, size: int, rows: int, stride: int, length: int) -> bool:
    """Whether the bytes start .. start + size meet a row of `length` bytes at 0, stride, .."""
    if start >= (rows - 1) * stride + length or start + size <= 0:
        return False
    if rows == 1:
        return True
    last = min(rows - 1, (start + size - 1) // stride)
    return last * stride + length > start


@kernel
def covers(a: Any, b: Any) -> bool:
    """Whether a certainly holds every byte of b."""
    if a.solid != 0 and a.low <= b.low and b.high <= a.high:
        return True
    return bool(
        a.low == b.low
        and a.planes == b.planes
        and a.rows == b.rows
        and a.length == b.length
        and a.plane_stride == b.plane_stride
        and a.row_stride == b.row_stride
    )
