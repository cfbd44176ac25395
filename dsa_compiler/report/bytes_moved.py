"""Bytes that a program moves and holds, from its tables and the costs of its entries."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from dsa_compiler.isa.dtypes import DTYPES, item_bytes
from dsa_compiler.program.tables import SCOPE_CODE, Program
from dsa_compiler.report.counts import operand_rows, written_rows

DIRECTIONS = (("ddr", "read"), ("ddr", "written"), ("llb", "read"), ("llb", "written"))

Bytes = npt.NDArray[np.float64]


def entry_bytes(program: Program, costs: npt.NDArray[Any]) -> dict[tuple[str, str], Bytes]:
    """Bytes by entry, by (memory, direction): whole bursts as they are charged.

    A multicast's bytes are the most of any member, read once, by its first member; each member writes its llb.
    """
    group, flow = program.entries["group"], costs["flow"] != 0
    moved = np.where(flow, costs["work"], 0.0)
    first = np.ones(len(program), bool)
    grouped = np.flatnonzero(flow & (group >= 0))
    if len(grouped):
        _, start, member = np.unique(group[grouped], return_index=True, return_inverse=True)
        most = np.zeros(len(start))
        np.maximum.at(most, member, moved[grouped])
        moved[grouped] = most[member]
        first[grouped] = False
        first[grouped[start]] = True
    source = _scope(program, operand_rows(program, "src"))
    target = _scope(program, written_rows(program))
    result = {}
    for memory, direction in DIRECTIONS:
        there = (source if direction == "read" else target) == SCOPE_CODE[memory]
        once = first | (direction == "written" and memory == "llb")
        result[memory, direction] = np.where(there & once, moved, 0.0)
    return result


def _scope(program: Program, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Scope code of each row of the operand table, -1 for row -1."""
    if not len(program.operands):
        return np.full(len(rows), -1, np.int64)
    return np.where(rows >= 0, program.operands["scope"][np.maximum(rows, 0)].astype(np.int64), -1)


def peak_bytes(program: Program, scope: str) -> int:
    """Most bytes of one memory of `scope` that the operands of one kernel touch; of an llb, those of all kernels
    together, as tensors lie there between the kernels that write and read them."""
    owner = np.repeat(np.arange(len(program)), program.entries["operands"])
    rows = _operand_order(program)
    mine = program.operands["scope"][rows] == SCOPE_CODE[scope]
    owner, rows = owner[mine], rows[mine]
    if not len(rows):
        return 0
    entries = program.entries[owner]
    low, high = _span(program.operands[rows])
    place = entries["cluster"].astype(np.int64) * program.target.cores_per_cluster
    if scope != "llb":
        place += entries["core"]
    kernel = entries["kernel"].astype(np.int64) * (scope != "llb")
    keys = np.unique(np.stack([kernel, place, low, high], axis=1), axis=0)
    return int(_covered(keys).max())


def _operand_order(program: Program) -> npt.NDArray[np.int64]:
    """Rows of the operand table in the order of the entries that use them."""
    counts = program.entries["operands"].astype(np.int64)
    ends = np.cumsum(counts)
    rows: npt.NDArray[np.int64] = np.repeat(program.entries["operand"] - (ends - counts), counts) + np.arange(
        int(counts.sum())
    )
    return rows


def _span(operands: npt.NDArray[Any]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """First byte and end of each operand."""
    item = np.array([item_bytes(name) for name in DTYPES], np.int64)[operands["dtype"]]
    inside = np.arange(3)[None, :] < operands["rank"][:, None]
    reach = np.where(inside, (operands["extents"] - 1) * operands["strides"], 0).sum(axis=1)
    return operands["address"], operands["address"] + reach + item


def _covered(keys: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Bytes covered by the spans of each (kernel, place); rows (kernel, place, low, high), sorted."""
    new = np.any(keys[1:, :2] != keys[:-1, :2], axis=1)
    number = np.concatenate([[0], np.cumsum(new)])
    span = int(keys[:, 3].max()) + 1
    reached = np.maximum.accumulate(keys[:, 3] + number * span) - number * span
    before = np.concatenate([[0], reached[:-1]])
    before[np.concatenate([[True], new])] = 0
    fresh = np.maximum(keys[:, 3] - np.maximum(before, keys[:, 2]), 0)
    return np.bincount(number, weights=fresh).astype(np.int64)
