"""Flags for dependences: numbers in turn, classes apart, counts that cannot pass 15."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import dsa_compiler.assemble.flags as flags_module
from dsa_compiler.assemble.dependences import CLASSES, QUEUE_OF_CLASS, Edges, find_edges
from dsa_compiler.assemble.flags import COUNT_LIMIT, FlagUses, assign_flags
from dsa_compiler.errors import Infeasible
from tests.assemble.test_dependences import (
    LOAD,
    MOVE,
    NEAR_LOAD,
    STORE,
    VECTOR,
    Entry,
    completed_before,
    conflicts,
    read,
    stream,
    write,
)
from tests.lower.drawing import drawn


def assigned(entries: list[Entry], flags: int = 4) -> tuple[FlagUses, FlagUses, Edges]:
    made = stream(entries)
    found = find_edges(made)
    return *assign_flags(made.klass, found, flags), found


def pipeline(count: int, slots: int = 2) -> list[Entry]:
    """Loads and stores around a vector engine, with a ring of buffers."""
    entries: list[Entry] = []
    for i in range(count):
        a, b = 64 * (i % slots), 2048 + 64 * (i % slots)
        entries += [(LOAD, [write(a)]), (VECTOR, [read(a), write(b)]), (STORE, [read(b)])]
    return entries


def most_ahead(sets: FlagUses, waits: FlagUses, order: list[int]) -> int:
    """The highest count of any flag when entries complete in `order` and a wait comes just before its entry."""
    counts: dict[tuple[int, int, int], int] = {}
    highest = 0
    for entry in order:
        for uses, step in ((waits, -1), (sets, 1)):
            for i in np.flatnonzero(uses.entry == entry):
                key = int(uses.source[i]), int(uses.target[i]), int(uses.number[i])
                counts[key] = counts.get(key, 0) + step
                highest = max(highest, counts[key])
    return highest


def test_sets_and_waits_are_pairs() -> None:
    sets, waits, found = assigned(pipeline(6))
    assert np.array_equal(sets.entry, found.producer) and np.array_equal(waits.entry, found.consumer)
    for name in ("source", "target", "number"):
        assert np.array_equal(getattr(sets, name), getattr(waits, name))
    pairs = set(zip(sets.source.tolist(), sets.target.tolist(), strict=True))
    assert pairs == {(LOAD, VECTOR), (VECTOR, STORE), (STORE, VECTOR), (VECTOR, LOAD)}
    assert all(a != b for a, b in pairs)


def test_numbers_are_used_in_turn() -> None:
    sets, _, _ = assigned(pipeline(10), flags=4)
    mine = sets.number[(sets.source == LOAD) & (sets.target == VECTOR)]
    assert mine.tolist() == [i % 4 for i in range(10)]


def test_latencies_have_flags_of_their_own() -> None:
    """A near and a far load to one engine: their sets may come in the other order."""
    entries: list[Entry] = [(LOAD, [write(0)]), (NEAR_LOAD, [write(64)]), (VECTOR, [read(0), read(64), write(128)])] * 3
    sets, _, found = assigned(entries, flags=6)
    near = np.isin(found.producer % 3, [1])
    assert set(sets.number[near].tolist()) & set(sets.number[~near & (sets.source == LOAD)].tolist()) == set()
    assert set(sets.number.tolist()) <= set(range(6))


def test_a_producer_far_ahead_waits_for_its_consumer() -> None:
    """Every load has a place of its own: nothing but the flag's limit stops the loads from running ahead."""
    entries: list[Entry] = []
    for i in range(60):
        entries += [(LOAD, [write(32 * i)]), (VECTOR, [read(32 * i), write(2048)])]
    for flags in (1, 2, 4):
        sets, waits, found = assigned(entries, flags=flags)
        require_counts_are_safe(entries, sets, waits)
        assert len(found.producer) == 60
        assert len(sets.entry) == 60 + max(0, 60 - COUNT_LIMIT * flags)


def test_a_long_ring_waits_for_later_producers() -> None:
    """The vector engine frees thirty places ahead of the loads: more than one flag counts, so loads wait for less."""
    entries = pipeline(100, slots=30)
    sets, waits, found = assigned(entries, flags=1)
    require_counts_are_safe(entries, sets, waits)
    assert len(sets.entry) != len(found.producer)


def test_a_ring_needs_no_more_flags() -> None:
    entries = pipeline(60, slots=7)
    sets, waits, found = assigned(entries, flags=1)
    require_counts_are_safe(entries, sets, waits)
    assert len(sets.entry) == len(found.producer)


def require_counts_are_safe(entries: list[Entry], sets: FlagUses, waits: FlagUses) -> None:
    """All conflicts are ordered; a flag's sets and waits pair up; set k knows that wait k - 15 has been taken."""
    pairs = list(zip(sets.entry.tolist(), waits.entry.tolist(), strict=True))
    done = completed_before(entries, pairs)
    assert [(p, e) for p, e in conflicts(entries) if p not in done[e]] == []
    keys = sets.source * 10_000 + sets.target * 1000 + sets.number
    for key in np.unique(keys):
        producers, consumers = sets.entry[keys == key], waits.entry[keys == key]
        order = np.argsort(consumers, kind="stable")
        producers, consumers = producers[order], consumers[order]
        assert (np.diff(producers) >= 0).all(), "sets of a flag come in another order than its waits"
        for k in range(COUNT_LIMIT, len(producers)):
            before, setter = int(consumers[k - COUNT_LIMIT]), int(producers[k])
            same_queue = QUEUE_OF_CLASS[entries[before][0]] == QUEUE_OF_CLASS[entries[setter][0]] and before <= setter
            assert before in done[setter] or same_queue


@drawn(60)
@given(
    st.lists(
        st.tuples(st.sampled_from([LOAD, STORE, VECTOR, MOVE]), st.integers(0, 29), st.integers(0, 29)),
        min_size=80,
        max_size=200,
    ),
    st.sampled_from([1, 2, 4]),
)
def test_any_stream_with_few_flags(drawn_entries: list[tuple[int, int, int]], flags: int) -> None:
    entries: list[Entry] = []
    for kind, a, b in drawn_entries:
        if kind == LOAD:
            entries.append((kind, [write(32 * a)]))
        elif kind == STORE:
            entries.append((kind, [read(32 * a)]))
        else:
            entries.append((kind, [read(32 * a), write(32 * b, memory=int(kind == MOVE))]))
    sets, waits, _ = assigned(entries, flags)
    require_counts_are_safe(entries, sets, waits)


def bursts(random: Random) -> list[Entry]:
    """Each engine works through all places before the next one starts, mostly in the same order."""
    entries: list[Entry] = []
    for _ in range(random.choice([2, 3, 5])):
        places = random.choice([10, 30, 50])
        for kind in random.choice([[LOAD, VECTOR, STORE], [LOAD, MOVE], [LOAD, VECTOR, MOVE], [LOAD, STORE, VECTOR]]):
            for i in range(places):
                near = 32 * (i if random.random() < 0.9 else random.randrange(places))
                far = 2048 + near
                made = {
                    LOAD: [write(near)],
                    VECTOR: [read(near), write(far)] if random.random() < 0.7 else [read(far), write(near)],
                    STORE: [read(random.choice([near, far]))],
                    MOVE: [read(near), write(32 * (i % 3), memory=1)],
                }
                entries.append((kind, made[kind]))
                if random.random() < 0.05:
                    entries.append((LOAD, [write(32 * random.randrange(places))]))
    return entries


@drawn(30)
@given(st.integers(0, 10**6), st.sampled_from([1, 2]))
def test_any_bursts_with_few_flags(seed: int, flags: int) -> None:
    """Fifteen times the flags are not enough to count what runs ahead: some wait more, others for later producers."""
    entries = bursts(Random(seed))
    sets, waits, _ = assigned(entries, flags)
    require_counts_are_safe(entries, sets, waits)


def test_producers_far_ahead_share_flags() -> None:
    """All loads come before all that waits for them: consumers wait for a later load, which proves the others."""
    edges = COUNT_LIMIT * 2 + 3
    klass = np.array([LOAD] * edges + [VECTOR] * edges)
    producer, consumer = np.arange(edges), np.arange(edges) + edges
    known = np.full((2 * edges, CLASSES), -1, np.int32)
    sets, waits = assign_flags(klass, Edges(producer, consumer, known), 2)
    assert len(sets.entry) <= COUNT_LIMIT * 2
    proven = np.full(2 * edges, -1)
    proven[waits.entry] = sets.entry
    proven = np.maximum.accumulate(proven)
    assert (proven[consumer] >= producer).all()
    assert (sets.entry < waits.entry).all()


def test_no_flag_at_all_is_refused() -> None:
    klass = np.array([LOAD, VECTOR])
    edges = Edges(np.array([0]), np.array([1]), np.full((2, CLASSES), -1, np.int32))
    with pytest.raises(Infeasible, match=r"^\[assemble.flags\] flags: 1 needed, 0 available$") as caught:
        assign_flags(klass, edges, 0)
    assert caught.value.limit == "flags"


def test_what_no_round_resolves_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flags_module, "MOST_ROUNDS", 1)
    entries: list[Entry] = []
    for i in range(40):
        entries += [(LOAD, [write(32 * i)]), (VECTOR, [read(32 * i), write(2048)])]
    with pytest.raises(Infeasible, match=r"^\[assemble.flags\] flags: 40 needed, 15 available$"):
        assigned(entries, flags=1)


def test_fifteen_ahead_on_each_flag_are_allowed() -> None:
    edges = COUNT_LIMIT * 2
    klass = np.array([LOAD] * edges + [VECTOR] * edges)
    producer, consumer = np.arange(edges), np.arange(edges) + edges
    sets, waits = assign_flags(klass, Edges(producer, consumer, np.full((2 * edges, CLASSES), -1, np.int32)), 2)
    assert most_ahead(sets, waits, list(range(2 * edges))) == COUNT_LIMIT


def test_a_ring_keeps_counts_low() -> None:
    """Two slots: the load of step i waits for step i - 2, whatever the number of steps."""
    entries = pipeline(100)
    sets, waits, _ = assigned(entries, flags=1)
    loads = [e for e, (k, _) in enumerate(entries) if k == LOAD]
    others = [e for e, (k, _) in enumerate(entries) if k != LOAD]
    assert most_ahead(sets, waits, loads[:2] + others[:1]) <= 2
    assert most_ahead(sets, waits, list(range(len(entries)))) <= COUNT_LIMIT


def test_classes_without_a_flag_each_are_refused_or_shared_fairly() -> None:
    entries: list[Entry] = [
        (LOAD, [write(0)]),
        (NEAR_LOAD, [write(64)]),
        (VECTOR, [read(0), read(64), write(128)]),
        (MOVE, [read(128)]),
    ]
    sets, _, _ = assigned(entries, flags=2)
    assert sets.number.max() < 2


def test_no_edges() -> None:
    sets, waits, _ = assigned([(LOAD, [write(0)])])
    assert len(sets.entry) == len(waits.entry) == 0
