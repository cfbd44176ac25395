"""Level-4 kernels as streams: order, cores, rings, conditions, dynamic extents, attributes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tvm
from tvm import tirx
from tvm.tirx import AttrStmt, For, ForKind

from dsa_compiler.assemble.expand import expand, scope_of
from dsa_compiler.errors import InternalError
from dsa_compiler.lower.tir import (
    allocate,
    buffer,
    constant,
    core_loop,
    function,
    integer,
    sequence,
    store,
    tile_loop,
    when,
)
from tests.assemble.kernels import at, issue, listed, operands_of, trace_of
from tests.lower.parts import part

ONE = part("single")
FOUR = part("four")
SRC, DST = buffer("src", (64, 32), "float16"), buffer("dst", (64, 32), "float16")


def tile(name: str = "t1") -> Any:
    return buffer(name, (4, 32), "float16", "l1")


def load(t: Any, row: Any, rows: Any = 4) -> Any:
    return issue(
        "load", at("dst", t, (integer(0), integer(0)), (rows, 32)), at("src", SRC, (row, integer(0)), (rows, 32))
    )


def put(t: Any, row: Any, rows: Any = 4) -> Any:
    return issue(
        "store", at("dst", DST, (row, integer(0)), (rows, 32)), at("src", t, (integer(0), integer(0)), (rows, 32))
    )


def relu(t: Any) -> Any:
    return issue(
        "relu", at("dst", t, (integer(0), integer(0)), (4, 32)), at("src", t, (integer(0), integer(0)), (4, 32))
    )


def test_statements_keep_their_order_in_loops() -> None:
    t = tile()
    body = tile_loop("i", 3, lambda i: sequence(allocate(t, 2), load(t, i * 4), relu(t), put(t, i * 4)))
    trace = trace_of(ONE, [SRC, DST], body)
    assert listed(trace) == [(0, "load"), (0, "relu"), (0, "store")] * 3
    assert [operands_of(trace, e)["src"]["offset"] for e in (0, 3, 6)] == [0, 4 * 64, 8 * 64]
    assert len(np.unique(trace.entries["key"])) == 9


def test_a_ring_turns_with_every_allocation() -> None:
    t, u = tile(), tile("u1")

    def inner(i: Any, j: Any) -> Any:
        return sequence(allocate(u, 3), load(u, (i * 5 + j) * 4))

    body = tile_loop(
        "i", 2, lambda i: sequence(allocate(t, 2), load(t, i * 4), tile_loop("j", 5, lambda j: inner(i, j)))
    )
    trace = trace_of(ONE, [SRC], body)
    slots = [
        (operands_of(trace, e)["dst"]["buffer"], operands_of(trace, e)["dst"]["slot"])
        for e in range(len(trace.entries))
    ]
    assert [s for b, s in slots if b == "t1"] == [0, 1]
    assert [s for b, s in slots if b == "u1"] == [0, 1, 2, 0, 1, 2, 0, 1, 2, 0]
    assert {b.name: (b.scope, b.bytes, b.ring, b.parameter) for b in trace.buffers} == {
        "src": ("ddr", 4096, 1, 0),
        "t1": ("l1", 256, 2, -1),
        "u1": ("l1", 256, 3, -1),
    }
    assert trace.footprint("l1") == 256 * 5 and trace.footprint("l0a") == 0


def test_rings_of_cores_turn_apart() -> None:
    """Core 1 skips an iteration; its next slot is still the next one."""
    t = tile()

    def step(c: Any, i: Any) -> Any:
        return when([tirx.Or(c != integer(1), i != integer(1))], sequence(allocate(t, 2), load(t, c * 16 + i * 4)))

    trace = trace_of(ONE, [SRC], core_loop("c", 3, 1, lambda c: tile_loop("i", 3, lambda i: step(c, i))))
    slots = [(int(e["core"]), operands_of(trace, n)["dst"]["slot"]) for n, e in enumerate(trace.entries)]
    assert slots == [(0, 0), (0, 1), (0, 0), (1, 0), (1, 1), (2, 0), (2, 1), (2, 0)]


def test_cores_are_sums_of_weighted_indices() -> None:
    t = tile()
    body = core_loop(
        "a", 2, 2, lambda a: core_loop("b", 2, 1, lambda b: sequence(allocate(t), load(t, (a * 2 + b) * 4)))
    )
    trace = trace_of(FOUR, [SRC], body)
    assert [int(e["core"]) for e in trace.entries] == [0, 1, 2, 3]
    assert [operands_of(trace, e)["src"]["offset"] for e in range(4)] == [0, 256, 512, 768]
    assert trace.cores.tolist() == [0, 1, 2, 3]
    assert len(set(trace.entries["key"].tolist())) == 1


def test_equal_places_of_cores_have_equal_keys() -> None:
    """Cores that skip work do not shift the keys of what follows."""
    t = tile()

    def body(c: Any) -> Any:
        rows = tile_loop("i", 2, lambda i: when([i < c + 1], load(t, i * 4)))
        return sequence(allocate(t), rows, put(t, c * 4))

    trace = trace_of(part("plain"), [SRC, DST], core_loop("c", 2, 1, body))
    assert listed(trace) == [(0, "load"), (0, "store"), (1, "load"), (1, "load"), (1, "store")]
    keys = trace.entries["key"].tolist()
    assert keys[0] == keys[2] and keys[1] == keys[4]


def test_branches() -> None:
    t = tile()
    body = tile_loop("i", 4, lambda i: sequence(allocate(t), when([i < 1], load(t, i), relu(t)), put(t, i * 4)))
    assert [name for _, name in listed(trace_of(ONE, [SRC, DST], body))] == [
        "load",
        "store",
        "relu",
        "store",
        "relu",
        "store",
        "relu",
        "store",
    ]


def test_a_branch_that_never_runs() -> None:
    t = tile()
    body = tile_loop("i", 2, lambda i: sequence(allocate(t), when([i > 9], relu(t)), load(t, i)))
    assert listed(trace_of(ONE, [SRC], body)) == [(0, "load")] * 2


def test_loops_without_iterations() -> None:
    t = tile()
    i = tirx.Var("i", "int64")

    def empty(extent: Any) -> Any:
        return For(i, integer(0), extent, ForKind.SERIAL, relu(t))

    body = tile_loop("j", 2, lambda j: sequence(allocate(t), empty(j - integer(1)), load(t, j)))
    assert listed(trace_of(ONE, [SRC], body)) == [(0, "load")] * 2
    assert listed(trace_of(ONE, [SRC], sequence(allocate(t), empty(integer(0)), load(t, integer(0))))) == [(0, "load")]
    nothing = trace_of(ONE, [SRC], sequence(allocate(t), empty(integer(0))))
    assert len(nothing.entries) == 0 and len(nothing.operands) == 0 and nothing.cores.tolist() == []


def test_loops_that_do_not_start_at_zero_and_vary() -> None:
    t = tile()
    j = tirx.Var("j", "int64")

    def inner(i: Any) -> Any:
        return For(j, i + integer(1), integer(3) - i, ForKind.SERIAL, load(t, j))

    trace = trace_of(ONE, [SRC], sequence(allocate(t), tile_loop("i", 3, inner), relu(t)))
    assert [operands_of(trace, e)["src"]["offset"] // 64 for e in range(6)] == [1, 2, 3, 2, 3, 3]
    assert listed(trace)[-1] == (0, "relu")


def test_extents_of_the_last_tile_and_empty_ones() -> None:
    """Ten rows in tiles of four; a fourth tile has no rows and is dropped."""
    t = tile()

    def step(i: Any) -> Any:
        rows = tirx.min(integer(4), integer(10) - i * 4)
        return sequence(allocate(t, 2), load(t, i * 4, rows), put(t, i * 4, rows))

    trace = trace_of(ONE, [SRC, DST], tile_loop("i", 4, step))
    assert [operands_of(trace, e)["dst"]["extents"] for e in range(0, 6, 2)] == [[4, 32], [4, 32], [2, 32]]
    assert len(trace.entries) == 6


def test_operands_in_bytes() -> None:
    wide = buffer("wide", (8, 10, 16), "float32", "l1")
    place = at("dst", wide, (integer(2), integer(3), integer(8)), (4, 5, 8))
    twice = at("src", wide, (integer(0), integer(0), integer(0)), (4, 5, 8), (0, 32, 1))
    trace = trace_of(ONE, [], sequence(allocate(wide), issue("copy", place, twice)))
    assert operands_of(trace, 0) == {
        "dst": {
            "buffer": "wide",
            "slot": 0,
            "offset": (2 * 160 + 3 * 16 + 8) * 4,
            "extents": [4, 5, 8],
            "strides": [640, 64, 4],
        },
        "src": {"buffer": "wide", "slot": 0, "offset": 0, "extents": [4, 5, 8], "strides": [0, 128, 4]},
    }


def test_attributes_are_evaluated_and_shared() -> None:
    t = tile()

    def step(i: Any) -> Any:
        dst, src = (
            at("dst", t, (integer(0), integer(0)), (4, 32)),
            at("src", SRC, (i * 4, integer(0)), (tirx.min(integer(4), i + 1), 32)),
        )
        return issue("load_pad", dst, src, pad=[[integer(0), tirx.max(integer(3) - i, integer(0))], [0, 0]], value=0.0)

    trace = trace_of(ONE, [SRC], sequence(allocate(t), tile_loop("i", 6, step)))
    used = [trace.attrs[a] for a in trace.entries["attrs"]]
    assert used[:3] == [{"pad": [[0, p], [0, 0]], "value": 0.0} for p in (3, 2, 1)]
    assert used[3:] == [{}] * 3 and len(set(trace.entries["attrs"][3:].tolist())) == 1
    assert [name for _, name in listed(trace)] == ["load_pad"] * 3 + ["load"] * 3
    assert all(isinstance(p, int) for a in used[:3] for pair in a["pad"] for p in pair)


def test_marks_are_passed_through() -> None:
    t = tile()
    marked = AttrStmt(tvm.ir.StringImm("x"), "pragma_mark", integer(1), load(t, integer(0)))
    assert listed(trace_of(ONE, [SRC], sequence(allocate(t), marked))) == [(0, "load")]


def test_what_was_not_emitted_is_named() -> None:
    t = tile()
    left = store(t, [integer(0), integer(0)], constant(1.0, "float16"))
    with pytest.raises(InternalError, match=r"^\[assemble.expand\] BufferStore was not emitted: "):
        expand(function("k", [], sequence(allocate(t), left)), "k", ONE)


def test_scopes() -> None:
    assert (scope_of(SRC), scope_of(tile()), scope_of(buffer("c", (4,), "float32", "l0c"))) == ("ddr", "l1", "l0c")


def test_an_allocation_that_stands_in_two_branches() -> None:
    """A pass that duplicates a body repeats its allocations: each copy turns its own ring."""
    t = tile()

    def body(i: Any) -> Any:
        return sequence(allocate(t, 2), load(t, i * 4), put(t, i * 4))

    trace = trace_of(ONE, [SRC, DST], tile_loop("i", 6, lambda i: when([i < 4], body(i), body(i))))
    slots = [operands_of(trace, e)["dst"]["slot"] for e in range(0, 12, 2)]
    assert slots[:4] == [0, 1, 0, 1] and slots[4] != slots[5]
    assert trace.footprint("l1") <= 4 * 256
