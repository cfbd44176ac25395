"""Calls of kernels on clusters: addresses, multicasts over clusters, turns of calls that overlap."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from dsa_compiler.assemble.calls import AttrTable, ClusterPlace, KernelCall, concatenate, stretch
from dsa_compiler.assemble.link import link
from dsa_compiler.assemble.trace import Trace
from dsa_compiler.isa.table import BY_CODE
from dsa_compiler.lower.tir import allocate, buffer, core_loop, integer, sequence, tile_loop
from dsa_compiler.program.tables import SCOPE_CODE
from tests.assemble.kernels import at, issue, trace_of
from tests.lower.parts import changed, part

FOUR = part("four")
X, W, Y = (buffer(n, (16, 32), "float16") for n in "xwy")
NEAR = buffer("near", (16, 32), "float16", "llb")
T, U = buffer("t1", (4, 32), "float16", "l1"), buffer("u1", (4, 32), "float16", "l1")


def piece(role: str, made: Any, row: Any = 0) -> Any:
    return at(role, made, (integer(row) if isinstance(row, int) else row, integer(0)), (4, 32))


def kernel(source: Any = X, cores: int = 2) -> Trace:
    """Each core loads its own rows of `source` and the same rows of w, and stores their sum."""

    def body(c: Any) -> Any:
        return sequence(
            allocate(T), issue("load", piece("dst", T), piece("src", source, c * 4)),
            allocate(U), issue("load", piece("dst", U), piece("src", W)),
            issue("add", piece("dst", T), piece("src", T), piece("src2", U)),
            issue("store", piece("dst", Y, c * 4), piece("src", T)),
        )  # fmt: skip

    return trace_of(FOUR, [source, W, Y], core_loop("c", cores, 1, body))


def call(*places: tuple[int, int, int, int], source: Any = X, cores: int = 2, **more: Any) -> KernelCall:
    """`places`: cluster and the addresses of source, w and y."""
    clusters = tuple(ClusterPlace(c, addresses) for c, *addresses in places)  # type: ignore[arg-type]
    return KernelCall(kernel(source, cores), (), (False, True, False), clusters=clusters, chip_wide=False, **more)


def loads(*calls: KernelCall, target: Any = FOUR) -> list[tuple[str, int, int, int]]:
    """(opcode, chip core, group, address of the source) of every load, in the order of the stream."""
    rows = concatenate(calls, target, AttrTable())
    found = []
    for e in rows.entries:
        name = BY_CODE[int(e["opcode"])].name
        if name.startswith("load"):
            source = rows.operands[int(e["operand"]) + 1]
            found.append((name, int(e["chip_core"]), int(e["group"]), int(source["address"])))
    return found


def test_each_cluster_has_its_own_addresses() -> None:
    found = loads(call((0, 0, 8192, 4096), (1, 1024, 16384, 5120)))
    assert [(c, a) for n, c, g, a in found if a < 8192] == [(0, 0), (1, 256), (2, 1024), (3, 1280)]


def test_weights_are_read_once_for_all_clusters() -> None:
    """w lies at one address: one group of four cores; what each cluster reads of its own has no group."""
    found = loads(call((0, 0, 8192, 4096), (1, 1024, 8192, 5120)))
    shared = [(n, c, g) for n, c, g, a in found if a == 8192]
    assert [c for _, c, _ in shared] == [0, 1, 2, 3] and len({g for _, _, g in shared}) == 1
    assert {n for n, _, _ in shared} == {"load_multicast"} and shared[0][2] >= 0
    assert {(n, g) for n, _, g, a in found if a != 8192} == {("load", -1)}


def test_clusters_that_read_apart_have_groups_of_their_own() -> None:
    found = loads(call((0, 0, 8192, 4096), (1, 1024, 12288, 5120)))
    groups = {a: {g for _, _, g, b in found if b == a} for a in (8192, 12288)}
    assert all(len(g) == 1 for g in groups.values()) and groups[8192] != groups[12288]
    assert {n for n, _, _, a in found if a in groups} == {"load_multicast"}


def test_lone_loads_of_the_same_bytes_become_multicasts() -> None:
    """One core a cluster: its load has no group within the cluster, but the other cluster reads the same."""
    found = loads(call((0, 0, 8192, 4096), (1, 1024, 8192, 5120), cores=1))
    assert [(n, c) for n, c, _, a in found if a == 8192] == [("load_multicast", 0), ("load_multicast", 2)]
    assert len({g for _, _, g, a in found if a == 8192}) == 1
    assert {n for n, _, _, a in found if a != 8192} == {"load"}


def test_without_multicast_everyone_loads() -> None:
    target = changed(FOUR, **{"features.multicast": False})
    found = loads(call((0, 0, 8192, 4096), (1, 1024, 8192, 5120), cores=1), target=target)
    assert {(n, g) for n, _, g, _ in found} == {("load", -1)}


def test_an_llb_is_never_shared_by_clusters() -> None:
    """The same address in the llb of another cluster holds other bytes."""
    found = loads(call((0, 0, 8192, 4096), (1, 0, 8192, 5120), source=NEAR, cores=1))
    assert [(n, g) for n, _, g, a in found if a == 0] == [("load", -1)] * 2
    groups = {a: {g for _, _, g, b in found if b == a} for a in (8192,)}
    assert len(groups[8192]) == 1


def test_groups_of_calls_differ() -> None:
    one = call((0, 0, 8192, 4096), (1, 1024, 8192, 5120))
    groups = [g for _, _, g, _ in loads(one, replace(one, number=1)) if g >= 0]
    assert len(set(groups)) == 2 and groups[:4] == [groups[0]] * 4


def test_operands_are_those_of_their_scope() -> None:
    rows = concatenate([call((1, 64, 8192, 4096), source=NEAR)], FOUR, AttrTable())
    scopes = rows.operands["scope"]
    assert (rows.operands["address"][scopes == SCOPE_CODE["llb"]] < 1024).all()
    assert rows.constant.sum() == 2, "both cores' loads of w"
    assert set(rows.entries["cluster"].tolist()) == {1} and set(rows.entries["chip_core"].tolist()) == {2, 3}


def test_a_call_without_a_stretch_follows_the_one_before() -> None:
    one = call((0, 0, 8192, 4096))
    assert stretch(one, 3) == (3.0, 4.0)
    assert stretch(replace(one, start=2.0, end=5.0), 3) == (2.0, 5.0)


def order(*calls: KernelCall) -> list[int]:
    """The calls of core 0's loads, stores and vector entries in the order of the program."""
    stream = link(calls, FOUR)
    mine = stream.entries[(stream.entries["cluster"] == 0) & (stream.entries["core"] == 0)]
    return [int(e["kernel"]) for e in mine if BY_CODE[int(e["opcode"])].engine not in ("scalar", None)]


def test_calls_that_overlap_take_turns() -> None:
    steps = core_loop("c", 1, 1, lambda c: sequence(allocate(T), tile_loop("i", 4, lambda i: issue(
        "load", piece("dst", T), piece("src", X, i * 4)))))  # fmt: skip
    trace = trace_of(FOUR, [X, W, Y], steps)

    def at_time(number: int, start: float, end: float) -> KernelCall:
        return replace(call((0, 0, 8192, 4096)), trace=trace, number=number, start=start, end=end, after=-1)

    assert order(at_time(0, 0, 4), at_time(1, 4, 8)) == [0] * 4 + [1] * 4
    assert order(at_time(0, 0, 4), at_time(1, 2, 6)) == [0, 0, 0, 1, 0, 1, 1, 1]
    assert order(at_time(0, 0, 4), at_time(1, 0.5, 4.5)) == [0, 1] * 4


def test_a_call_may_fill_scratchpads_from_their_ends() -> None:
    one = call((0, 0, 8192, 4096))
    places = []
    for top in (False, True):
        rows = concatenate([replace(one, from_top=top)], FOUR, AttrTable())
        places.append(set(rows.operands["address"][rows.operands["scope"] == SCOPE_CODE["l1"]].tolist()))
    assert not places[0] & places[1] and max(places[1]) >= FOUR.memory["l1"].size - 1024
    second = concatenate([one, one], FOUR, AttrTable()).operands
    assert np.any(second["address"][second["scope"] == SCOPE_CODE["l1"]] >= FOUR.memory["l1"].size - 1024)
