"""Loads of the same bytes by several cores become one multicast, where the part has it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tvm import tirx

from dsa_compiler.assemble.trace import Trace
from dsa_compiler.isa.table import BY_CODE
from dsa_compiler.lower.tir import allocate, buffer, core_loop, integer, sequence, tile_loop, when
from tests.assemble.kernels import at, issue, trace_of
from tests.lower.parts import changed, part

FOUR = part("four")
SRC = buffer("src", (64, 32), "float16")
TILE = buffer("t1", (4, 32), "float16", "l1")


def load(row: Any, rows: Any = 4, slot_row: Any = 0) -> Any:
    dst = at("dst", TILE, (integer(slot_row) if isinstance(slot_row, int) else slot_row, integer(0)), (rows, 32))
    return issue("load", dst, at("src", SRC, (row, integer(0)), (rows, 32)))


def groups(trace: Trace) -> list[tuple[int, str, int]]:
    return [(int(e["core"]), BY_CODE[int(e["opcode"])].name, int(e["group"])) for e in trace.entries]


def cores(body: Any, count: int = 4) -> Any:
    return core_loop("c", count, 1, lambda c: sequence(allocate(TILE, 2), body(c)))


def test_equal_loads_are_joined() -> None:
    trace = trace_of(FOUR, [SRC], cores(lambda c: sequence(load(integer(8)), load(c * 4))))
    found = groups(trace)
    shared = [g for g in found if g[1] == "load_multicast"]
    assert [c for c, _, _ in shared] == [0, 1, 2, 3] and len({g for _, _, g in shared}) == 1
    assert [g for g in found if g[1] == "load"] == [(c, "load", -1) for c in range(4)]


def test_some_cores_share() -> None:
    trace = trace_of(FOUR, [SRC], cores(lambda c: load(tirx.floordiv(c, integer(2)) * 4)))
    (a, b, c, d) = (g for _, _, g in groups(trace))
    assert a == b != c == d and min(a, c) >= 0


def test_every_iteration_is_a_group() -> None:
    trace = trace_of(FOUR, [SRC], cores(lambda c: tile_loop("i", 3, lambda i: load(i * 4))))
    by_core = [[g for core, _, g in groups(trace) if core == c] for c in range(4)]
    assert len(set(by_core[0])) == 3 and all(order == by_core[0] for order in by_core)


def test_the_same_bytes_at_another_time_are_not_joined() -> None:
    """Core c loads row i + c in iteration i: equal bytes, but at different places of the streams."""
    trace = trace_of(FOUR, [SRC], cores(lambda c: tile_loop("i", 2, lambda i: load((i + c) * 4)), 2))
    assert {name for _, name, _ in groups(trace)} == {"load"}


def test_a_core_that_skips_stays_out() -> None:
    trace = trace_of(FOUR, [SRC], cores(lambda c: when([c < 3], load(integer(0)))))
    assert [(c, n) for c, n, _ in groups(trace)] == [
        (0, "load_multicast"),
        (1, "load_multicast"),
        (2, "load_multicast"),
    ]


def test_other_shapes_are_not_joined() -> None:
    trace = trace_of(FOUR, [SRC], cores(lambda c: load(integer(0), tirx.Select(c < 2, integer(4), integer(2)))))
    found = groups(trace)
    assert found[0][2] == found[1][2] != found[2][2] == found[3][2]


def test_destinations_may_differ() -> None:
    trace = trace_of(FOUR, [SRC], cores(lambda c: load(integer(0), 1, c)))
    assert len({g for _, _, g in groups(trace)}) == 1


def test_padded_loads_have_groups_of_their_own() -> None:
    def body(c: Any) -> Any:
        src = at("src", SRC, (integer(0), integer(0)), (2, 32))
        pad = issue(
            "load_pad", at("dst", TILE, (integer(0), integer(0)), (4, 32)), src, pad=[[1, 1], [0, 0]], value=0.0
        )
        return sequence(load(integer(0)), pad)

    names = {(n, g) for _, n, g in groups(trace_of(FOUR, [SRC], cores(body)))}
    assert {n for n, _ in names} == {"load_multicast", "load_pad_multicast"} and len({g for _, g in names}) == 2


def test_an_llb_is_shared_by_the_cores_of_its_cluster() -> None:
    """Four cores of two clusters: ddr is read once for all, an llb by its own two cores only."""
    near = buffer("near", (64, 32), "float16", "llb")
    src = at("src", near, (integer(0), integer(0)), (4, 32))
    body = cores(lambda c: issue("load", at("dst", TILE, (integer(0), integer(0)), (4, 32)), src))
    found = groups(trace_of(FOUR, [near], body))
    assert {n for _, n, _ in found} == {"load_multicast"}
    assert found[0][2] == found[1][2] != found[2][2] == found[3][2]


def test_stores_are_never_joined() -> None:
    body = cores(
        lambda c: issue(
            "store",
            at("dst", SRC, (integer(0), integer(0)), (4, 32)),
            at("src", TILE, (integer(0), integer(0)), (4, 32)),
        )
    )
    assert {n for _, n, _ in groups(trace_of(FOUR, [SRC], body))} == {"store"}


@pytest.mark.parametrize(
    "target", [part("plain"), changed(FOUR, **{"features.multicast": False})], ids=["three cores", "four cores"]
)
def test_parts_without_multicast(target: Any) -> None:
    trace = trace_of(target, [SRC], cores(lambda c: load(integer(0)), 3))
    assert {n for _, n, _ in groups(trace)} == {"load"} and np.all(trace.entries["group"] == -1)


def test_one_core_has_nobody_to_share_with() -> None:
    assert groups(trace_of(FOUR, [SRC], cores(lambda c: load(integer(0)), 1))) == [(0, "load", -1)]
