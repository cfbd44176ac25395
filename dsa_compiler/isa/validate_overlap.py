"""The rule on sources and destinations that share bytes."""

from __future__ import annotations

import numpy as np

from dsa_compiler.isa.cost_tables import Tables
from dsa_compiler.isa.dtypes import DTYPES, item_bits
from dsa_compiler.isa.validate_entries import spread
from dsa_compiler.isa.validate_operands import WRITTEN, OperandRows, row_lengths, spans


def check_overlap(program: Tables) -> None:
    """A source is the destination exactly, or shares no byte with it."""
    entries = program.entries
    owner, rows = spread(entries["operand"], entries["operands"])
    table = program.operands
    written = np.array(WRITTEN)[table["role"][rows]] if len(rows) else np.zeros(0, np.bool_)
    target_row = np.full(len(entries), -1, np.int64)
    target_row[owner[written]] = rows[written]
    source, owner = rows[~written], owner[~written]
    result, scope = target_row[owner], table["scope"]
    meets = (result >= 0) & (scope[source] == scope[result])
    source, owner, result = source[meets], owner[meets], result[meets]
    near = ~_identical(table[source], table[result])
    start, other = table["address"][source], table["address"][result]
    stop, other_stop = start + spans(table[source]), other + spans(table[result])
    near &= (start < other_stop) & (other < stop)
    for i in _distinct(table, source, result, np.flatnonzero(near)):
        if _share_bytes(table[source[i] : source[i] + 1], table[result[i] : result[i] + 1]):
            OperandRows(program, owner[i : i + 1], source[i : i + 1]).refuse(
                np.array([True]),
                lambda r, n=i: f"bytes {start[n]} to {stop[n] - 1} overlap those of the result, "  # type: ignore[misc]
                f"{other[n]} to {other_stop[n] - 1}",
                "use the same operand exactly, or another place",
            )


def _identical(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Whether two operands are the same in place and shape, their elements of one size."""
    bits = np.array([item_bits(d) for d in DTYPES])
    same = (left["address"] == right["address"]) & (left["rank"] == right["rank"])
    same &= bits[left["dtype"]] == bits[right["dtype"]]
    same &= (left["extents"] == right["extents"]).all(axis=1)
    return np.asarray(same & (left["strides"] == right["strides"]).all(axis=1))


def _distinct(table: np.ndarray, source: np.ndarray, result: np.ndarray, near: np.ndarray) -> np.ndarray:
    """One of each kind of pair: shapes and distance."""
    if not len(near):
        return near
    left, right = table[source[near]], table[result[near]]
    columns = [(left["address"] - right["address"])[:, None]]
    for side in (left, right):
        columns += [side["extents"], side["strides"], side["dtype"][:, None], side["rank"][:, None]]
    return near[np.unique(np.concatenate(columns, axis=1), axis=0, return_index=True)[1]]


def _row_starts(operand: np.ndarray) -> np.ndarray:
    """Where each innermost row of one operand starts."""
    starts = operand["address"]
    for axis in range(int(operand["rank"][0]) - 1):
        starts = (starts[:, None] + np.arange(operand["extents"][0, axis]) * operand["strides"][0, axis]).reshape(-1)
    return np.unique(starts)


def _share_bytes(left: np.ndarray, right: np.ndarray) -> bool:
    """Whether two operands have a byte in common, row by row."""
    a, b = _row_starts(left), _row_starts(right)
    length, other = int(row_lengths(left)[0]), int(row_lengths(right)[0])
    after = np.searchsorted(b, a, side="left")
    follows = (after < len(b)) & (b[np.minimum(after, len(b) - 1)] < a + length)
    precedes = (after > 0) & (b[np.maximum(after, 1) - 1] + other > a)
    return bool((follows | precedes).any())
