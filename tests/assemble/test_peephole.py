"""Padded loads that turn out to need no padding, or no source."""

from __future__ import annotations

from typing import Any

from tvm import tirx

from dsa_compiler.lower.tir import allocate, buffer, integer, sequence, tile_loop
from tests.assemble.kernels import at, issue, listed, operands_of, trace_of
from tests.lower.parts import part

ONE = part("single")
SRC = buffer("src", (8, 32), "float16")
TILE = buffer("t1", (4, 32), "float16", "l1")


def padded(first: Any, value: float = 1.5) -> Any:
    """Four rows from row `first` on of an image of eight rows; those outside are padding."""
    top = tirx.min(tirx.max(integer(0) - first, integer(0)), integer(4))
    bottom = tirx.min(tirx.max(first + 4 - 8, integer(0)), integer(4))
    rows = integer(4) - top - bottom
    src = at("src", SRC, (tirx.max(first, integer(0)), integer(0)), (rows, 32))
    return issue(
        "load_pad", at("dst", TILE, (integer(0), integer(0)), (4, 32)), src, pad=[[top, bottom], [0, 0]], value=value
    )


def run(step: Any, count: int) -> Any:
    return trace_of(ONE, [SRC], sequence(allocate(TILE), tile_loop("i", count, lambda i: padded(step(i)))))


def test_only_borders_are_padded() -> None:
    """First rows -6, -2, 2, 6, 10: outside, top border, inside, bottom border, outside."""
    trace = run(lambda i: i * 4 - 6, 5)
    assert [n for _, n in listed(trace)] == ["load_fill", "load_pad", "load", "load_pad", "load_fill"]
    attrs = [trace.attrs[a] for a in trace.entries["attrs"]]
    assert attrs[0] == attrs[4] == {"value": 1.5}
    assert attrs[1] == {"pad": [[2, 0], [0, 0]], "value": 1.5}
    assert attrs[2] == {}
    assert attrs[3] == {"pad": [[0, 2], [0, 0]], "value": 1.5}


def test_a_fill_has_no_source() -> None:
    trace = run(lambda i: i * 4 - 6, 1)
    assert list(operands_of(trace, 0)) == ["dst"] and operands_of(trace, 0)["dst"]["extents"] == [4, 32]


def test_other_instructions_stay() -> None:
    fill = issue("load_fill", at("dst", TILE, (integer(0), integer(0)), (4, 32)), value=0.0)
    trace = trace_of(ONE, [SRC], sequence(allocate(TILE), fill))
    assert listed(trace) == [(0, "load_fill")] and trace.attrs[trace.entries["attrs"][0]] == {"value": 0.0}
