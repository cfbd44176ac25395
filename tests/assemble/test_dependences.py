"""Dependences between engines: found from bytes, sufficient, and no more than needed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dsa_compiler.assemble.calls import STREAM_ENTRY
from dsa_compiler.assemble.dependences import CLASSES, QUEUE_OF_CLASS, CoreStream, Edges, find_edges
from dsa_compiler.assemble.relays import insert_relays
from dsa_compiler.isa.table import BY_CODE, OPCODES
from tests.lower.drawing import drawn

LOAD, STORE, MOVE, MATRIX, VECTOR, SCALAR, NEAR_LOAD, NEAR_STORE, OWN_LOAD, OWN_STORE = range(CLASSES)
SIZE, BLOCK = 4096, 32
DMA = (0, 1)


@dataclass(frozen=True)
class Access:
    """Bytes of memory 0 (or another): rows of 2-byte elements."""

    address: int
    extents: tuple[int, ...] = (16,)
    strides: tuple[int, ...] = (2,)
    written: bool = False
    memory: int = 0

    def bytes(self) -> set[int]:
        grid = np.indices(self.extents).reshape(len(self.extents), -1)
        starts = self.address + sum(g * s for g, s in zip(grid, self.strides, strict=True))
        return {int(a) + i for a in np.atleast_1d(starts) for i in range(2)}


def read(address: int, **more: object) -> Access:
    return Access(address, **more)  # type: ignore[arg-type]


def write(address: int, **more: object) -> Access:
    return Access(address, written=True, **more)  # type: ignore[arg-type]


Entry = tuple[int, Sequence[Access]]


def stream(entries: Sequence[Entry]) -> CoreStream:
    accesses = [a for _, own in entries for a in own]
    first = np.cumsum([0, *(len(own) for _, own in entries)])
    extents = np.ones((len(accesses), 3), np.int64)
    strides = np.zeros((len(accesses), 3), np.int64)
    for row, a in enumerate(accesses):
        extents[row, 3 - len(a.extents) :] = a.extents
        strides[row, 3 - len(a.strides) :] = a.strides
    column = lambda name: np.array([getattr(a, name) for a in accesses], np.int64)  # noqa: E731
    return CoreStream(
        np.array([k for k, _ in entries], np.int64),
        first.astype(np.int64),
        column("memory"),
        column("address"),
        extents,
        strides,
        np.full(len(accesses), 2, np.int64),
        column("written").astype(bool),
        np.array([SIZE, SIZE], np.int64),
        np.array([BLOCK, BLOCK], np.int64),
    )


def edges(*entries: Entry) -> list[tuple[int, int]]:
    found = find_edges(stream(entries))
    return sorted(zip(found.producer.tolist(), found.consumer.tolist(), strict=True))


def test_read_after_write() -> None:
    assert edges((LOAD, [write(0)]), (VECTOR, [read(0), write(64)])) == [(0, 1)]


def test_write_after_read() -> None:
    assert edges((STORE, [read(0)]), (VECTOR, [write(0)])) == [(0, 1)]


def test_write_after_write() -> None:
    assert edges((LOAD, [write(0)]), (VECTOR, [write(0)])) == [(0, 1)]


def test_reads_do_not_wait_for_reads() -> None:
    assert edges((STORE, [read(0)]), (VECTOR, [read(0), write(64)]), (MOVE, [read(0)])) == []


def test_other_bytes_and_other_memories_are_independent() -> None:
    assert edges((LOAD, [write(0)]), (VECTOR, [read(64), write(128)])) == []
    assert edges((LOAD, [write(0)]), (VECTOR, [read(0, memory=1), write(64)])) == []
    assert edges((LOAD, [write(0, memory=-1)]), (VECTOR, [read(0, memory=-1)])) == []


def test_a_queue_orders_its_own() -> None:
    assert edges((VECTOR, [write(0)]), (VECTOR, [read(0), write(0)]), (LOAD, [write(64)]), (LOAD, [write(64)])) == []


def test_all_readers_since_the_last_write_are_waited_for() -> None:
    found = edges((LOAD, [write(0)]), (STORE, [read(0)]), (MOVE, [read(0)]), (VECTOR, [write(0)]))
    assert found == [(0, 1), (0, 2), (1, 3), (2, 3)]


def test_the_latest_of_a_queue_proves_those_before_it() -> None:
    found = edges((LOAD, [write(0)]), (LOAD, [write(64)]), (VECTOR, [read(0), read(64), write(128)]))
    assert found == [(1, 2)]


def test_what_a_producer_knew_is_known() -> None:
    """load -> vector -> store: the store needs no flag of the load; nor a later load the vector's."""
    found = edges((LOAD, [write(0)]), (VECTOR, [read(0), write(64)]), (STORE, [read(0), read(64)]), (LOAD, [write(0)]))
    assert found == [(0, 1), (1, 2), (2, 3)]


def test_what_a_queue_knew_stays_known() -> None:
    found = edges((LOAD, [write(0)]), (VECTOR, [read(0), write(64)]), (VECTOR, [read(0), write(96)]))
    assert found == [(0, 1)]


def test_the_previous_of_a_queue_without_latency_is_complete() -> None:
    """The move that starts proves the move before it; a load that starts does not prove the load before it."""
    moves = edges(
        (MOVE, [read(0), write(0, memory=1)]), (MOVE, [read(64), write(64, memory=1)]), (LOAD, [write(0), write(64)])
    )
    assert moves == [(1, 2)]
    after = edges(
        (LOAD, [write(0)]), (LOAD, [write(64)]), (VECTOR, [read(64), write(128)]), (STORE, [read(0), read(128)])
    )
    assert after == [(1, 2), (2, 3)]


def test_a_near_load_proves_no_far_one() -> None:
    """A load of less latency may complete before an earlier one of more."""
    found = edges((LOAD, [write(0)]), (NEAR_LOAD, [write(64)]), (VECTOR, [read(0), read(64), write(128)]))
    assert found == [(0, 2), (1, 2)]
    found = edges((NEAR_LOAD, [write(0)]), (LOAD, [write(64)]), (VECTOR, [read(0), read(64), write(128)]))
    assert found == [(1, 2)]
    found = edges((STORE, [read(0)]), (NEAR_STORE, [read(64)]), (VECTOR, [write(0), write(64)]))
    assert len(found) == 2


def test_a_fill_proves_no_load() -> None:
    """A fill reads no memory and may complete before an earlier load, even of the llb; a load proves a fill."""
    for kind in (LOAD, NEAR_LOAD):
        found = edges((kind, [write(0)]), (OWN_LOAD, [write(64)]), (VECTOR, [read(0), read(64), write(128)]))
        assert found == [(0, 2), (1, 2)]
        found = edges((OWN_LOAD, [write(0)]), (kind, [write(64)]), (VECTOR, [read(0), read(64), write(128)]))
        assert found == [(1, 2)]
    assert edges((NEAR_STORE, [read(0)]), (OWN_STORE, [read(64)]), (VECTOR, [write(0), write(64)])) == [(0, 2), (1, 2)]


def test_strided_operands_leave_gaps() -> None:
    """Rows of 32 bytes, 128 apart: what lies between them is free."""
    rows = {"extents": (4, 16), "strides": (128, 2)}
    assert edges((LOAD, [write(0, **rows)]), (VECTOR, [read(64), write(96)])) == []
    assert edges((LOAD, [write(0, **rows)]), (VECTOR, [read(384), write(96)])) == [(0, 1)]
    planes = {"extents": (2, 2, 16), "strides": (512, 64, 2)}
    assert edges((LOAD, [write(0, **planes)]), (VECTOR, [read(512 + 64), write(256)])) == [(0, 1)]
    assert edges((LOAD, [write(0, **planes)]), (VECTOR, [read(256), write(320)])) == []


def test_repeated_rows_count_once() -> None:
    rows = {"extents": (8, 16), "strides": (0, 2)}
    assert edges((LOAD, [write(32)]), (VECTOR, [read(0, **rows), write(64)])) == []
    one = {"extents": (4, 16), "strides": (32, 0)}
    assert edges((LOAD, [write(96)]), (VECTOR, [read(0, **one), write(256)])) == [(0, 1)]


def test_known_entries_by_class() -> None:
    found = find_edges(stream([(LOAD, [write(0)]), (VECTOR, [read(0), write(64)]), (STORE, [read(64)])]))
    assert found.known.shape == (3, CLASSES)
    assert found.known[1].tolist() == [0, -1, -1, -1, -1, -1, 0, -1, 0, -1]
    assert found.known[2].tolist() == [0, -1, -1, -1, 1, -1, 0, -1, 0, -1]


def test_many_edges() -> None:
    """More edges than the first capacity of the arrays."""
    entries: list[Entry] = []
    for i in range(40):
        entries += [
            (LOAD, [write(0)]),
            (VECTOR, [read(0), write(64)]),
            (STORE, [read(64)]),
            (MOVE, [read(0), read(64)]),
            (SCALAR, [write(0), write(64)]),
        ]
        del i
    assert len(edges(*entries)) > 2 * 40


def test_no_entries() -> None:
    assert edges() == []


@st.composite
def random_streams(
    draw: st.DrawFn, classes: Sequence[int] = (LOAD, STORE, MOVE, MATRIX, VECTOR, SCALAR)
) -> list[Entry]:
    """Loads write, stores read, moves read memory 0 and write memory 1, others do both; near transfers use memory 1.

    So no two loads of different latency write the same bytes, which no core flag could order.
    """
    shapes = st.sampled_from(
        [
            ((16,), (2,)),
            ((3, 16), (64, 2)),
            ((2, 8), (96, 2)),
            ((2, 2, 16), (256, 64, 2)),
            ((4, 16), (0, 2)),
            ((16,), (0,)),
        ]
    )
    places = st.integers(0, 7).map(lambda p: 32 * p)

    def access(written: bool, memory: int = 0) -> Access:
        extents, strides = draw(shapes)
        if written:
            extents, strides = ((16,), (2,)) if 0 in strides else (extents, strides)
        return Access(draw(places), extents, strides, written, memory)

    entries: list[Entry] = []
    for _ in range(draw(st.integers(2, 24))):
        kind = draw(st.sampled_from(list(classes)))
        near = int(kind >= NEAR_LOAD)
        if kind in (LOAD, NEAR_LOAD, OWN_LOAD):
            entries.append((kind, [access(True, near)]))
        elif kind in (STORE, NEAR_STORE, OWN_STORE):
            entries.append((kind, [access(False, near)]))
        elif kind == MOVE:
            entries.append((kind, [access(False), access(True, 1)]))
        else:
            entries.append((kind, [access(False), access(True, draw(st.integers(0, 1)))]))
    return entries


def _nearness(kind: int) -> int:
    """0 for ddr and what is no transfer, 1 for the llb, 2 within the core: the greater, the less latency."""
    return max(kind - NEAR_LOAD + 2, 0) // 2


def completed_before(entries: Sequence[Entry], found: Sequence[tuple[int, int]]) -> list[set[int]]:
    """For each entry those that are complete when it starts, by the manual: flags, and the order of queues."""
    done: list[set[int]] = []
    last: dict[int, int] = {}
    for e, (kind, _) in enumerate(entries):
        queue = int(QUEUE_OF_CLASS[kind])
        mine: set[int] = set()
        if queue in last:
            mine |= done[last[queue]]
            if queue not in DMA:
                mine.add(last[queue])
        for p, consumer in found:
            if consumer == e:
                before = {b for b in range(p) if QUEUE_OF_CLASS[entries[b][0]] == QUEUE_OF_CLASS[entries[p][0]]}
                mine |= done[p] | {p} | {b for b in before if _nearness(entries[b][0]) >= _nearness(entries[p][0])}
        done.append(mine)
        last[queue] = e
    return done


def conflicts(entries: Sequence[Entry]) -> list[tuple[int, int]]:
    """Pairs of different queues that touch a byte in common, of which one writes."""
    touched = [[(a.memory, a.written, a.bytes()) for a in own] for _, own in entries]
    pairs = []
    for e in range(len(entries)):
        for p in range(e):
            if QUEUE_OF_CLASS[entries[p][0]] == QUEUE_OF_CLASS[entries[e][0]]:
                continue
            if any(m == n and (v or w) and x & y for m, v, x in touched[p] for n, w, y in touched[e]):
                pairs.append((p, e))
    return pairs


def all_edges(entries: Sequence[Entry]) -> list[tuple[int, int]]:
    found: Edges = find_edges(stream(entries))
    return list(zip(found.producer.tolist(), found.consumer.tolist(), strict=True))


@drawn(150)
@given(random_streams())
def test_every_conflict_is_ordered(entries: list[Entry]) -> None:
    done = completed_before(entries, all_edges(entries))
    assert [(p, e) for p, e in conflicts(entries) if p not in done[e]] == []


@drawn(100)
@given(random_streams(classes=(LOAD, STORE, VECTOR, MOVE, NEAR_LOAD, NEAR_STORE, OWN_LOAD, OWN_STORE)))
def test_every_conflict_is_ordered_with_two_latencies(entries: list[Entry]) -> None:
    done = completed_before(entries, all_edges(entries))
    assert [(p, e) for p, e in conflicts(entries) if p not in done[e]] == []


@drawn(100)
@given(random_streams())
def test_no_edge_is_implied_by_the_others(entries: list[Entry]) -> None:
    found = all_edges(entries)
    assert len(set(found)) == len(found)
    for edge in found:
        others = [other for other in found if other != edge]
        assert edge[0] not in completed_before(entries, others)[edge[1]]


def test_streams_of_equal_work_have_one_digest() -> None:
    entries = [(LOAD, [write(0, memory=0)]), (VECTOR, [read(0)])]
    assert stream(entries).digest() == stream(entries).digest()
    assert stream(entries).digest() != stream([(LOAD, [write(64)]), (VECTOR, [read(0)])]).digest()
    assert stream(entries).digest() != stream([(LOAD, [write(0)]), (STORE, [read(0)])]).digest()


def test_a_digest_ignores_where_untracked_operands_lie() -> None:
    first, second = (stream([(LOAD, [read(a, memory=-1), write(0)])]) for a in (256, 512))
    assert first.digest() == second.digest()


def detours(*entries: Entry) -> list[tuple[int, int]]:
    return [(int(p), int(c)) for p, c in find_edges(stream(entries)).detours]


def test_a_load_that_reads_what_a_load_wrote_needs_a_detour() -> None:
    assert detours((LOAD, [write(0)]), (LOAD, [write(64), read(0)])) == [(0, 1)]
    assert detours((LOAD, [write(0)]), (VECTOR, [read(0), write(0)]), (LOAD, [write(64), read(0)])) == []


def test_a_near_load_over_a_far_one_needs_a_detour() -> None:
    assert detours((LOAD, [write(0)]), (NEAR_LOAD, [write(0)])) == [(0, 1)]
    assert detours((NEAR_LOAD, [write(0)]), (LOAD, [write(0)])) == []
    assert detours((LOAD, [write(0)]), (LOAD, [write(0)])) == []
    assert detours((LOAD, [write(0)]), (MOVE, [read(0)]), (NEAR_LOAD, [write(0)])) == []


def test_a_detour_proves_the_producer_for_what_follows() -> None:
    entries = (LOAD, [write(0)]), (LOAD, [write(64), read(0)]), (LOAD, [write(128), read(0)])
    assert detours(*entries) == [(0, 1)]


def test_a_relay_stands_before_its_consumer_and_takes_over_its_gate() -> None:
    entries = np.zeros(4, STREAM_ENTRY)
    entries["opcode"], entries["operands"], entries["group"] = [OPCODES["load"].code] * 4, 2, [-1, -1, 7, -1]
    made, gate, source = insert_relays(entries, np.array([-1, -1, 0, 2]), np.array([[1, 2], [0, 2]]))
    assert [BY_CODE[int(c)].name for c in made["opcode"]] == ["load", "load", "wait", "wait", "load", "load"]
    assert made["operands"].tolist() == [2, 2, 0, 0, 2, 2] and made["group"].tolist() == [-1, -1, -1, -1, 7, -1]
    assert gate.tolist() == [-1, -1, -1, -1, 3, 4]
    assert source.tolist() == [-1, -1, 1, 0, -1, -1]
