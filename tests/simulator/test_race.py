"""Races, ambiguous flags and deadlocks: found without time, and by stretched runs."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from dsa_compiler.errors import UserError
from dsa_compiler.program.builder import Operand
from dsa_compiler.simulator.race import analyse_order, check_order

L1 = "l1"


def box(role, scope, address, extents, strides=None, dtype="float16"):
    return Operand(role, scope, address, dtype, extents, strides)


def load(script, place="0.0", to=0, rows=4, source="ddr", address=0, **keywords):
    dst, src = box("dst", L1, to, (rows, 16)), box("src", source, address, (rows, 16))
    return script.add(f"{place} load", "load", operands=(dst, src), **keywords)


def store(script, place="0.0", at=0, rows=4, target="ddr", address=8192, **keywords):
    dst, src = box("dst", target, address, (rows, 16)), box("src", L1, at, (rows, 16))
    return script.add(f"{place} store", "store", operands=(dst, src), **keywords)


def relu(script, place="0.0", src=0, dst=4096, rows=4, **keywords):
    operands = (box("dst", L1, dst, (rows, 16)), box("src", L1, src, (rows, 16)))
    return script.add(f"{place} vector", "relu", operands=operands, **keywords)


def findings(script):
    report = analyse_order(script.program())
    assert not report.deadlock
    return [(f.kind, *f.entries) for f in report.findings]


def test_a_flag_orders_a_write_and_a_read(script):
    load(script, sets="core:load>vector:0")
    relu(script, waits="core:load>vector:0")
    assert findings(script) == []


def test_a_missing_wait_is_a_race(script):
    load(script)
    relu(script)
    assert findings(script) == [("race", 0, 1)]
    with pytest.raises(UserError) as caught:
        check_order(script.program())
    assert str(caught.value) == (
        "[simulator] race: nothing orders entry 0 (load, cluster 0 core 0 load), which writes dst, and entry 1 (relu, "
        "cluster 0 core 0 vector), which reads src, in l1 of cluster 0 core 0 between bytes 0 and 127; "
        "order the two entries by flags"
    )


def test_overwriting_what_is_still_read_is_a_race(script):
    load(script, sets="core:load>vector:0")
    relu(script, waits="core:load>vector:0")
    load(script)
    assert findings(script) == [("race", 1, 2)]


def test_overwriting_after_a_flag_back_is_none(script):
    load(script, sets="core:load>vector:0")
    relu(script, waits="core:load>vector:0", sets="core:vector>load:0")
    load(script, waits="core:vector>load:0")
    assert findings(script) == []


def test_reads_need_no_order(script):
    relu(script, dst=4096)
    store(script, at=0)
    assert findings(script) == []


def test_other_bytes_need_no_order(script):
    load(script, to=0)
    relu(script, src=128, dst=4096)
    assert findings(script) == []


def test_other_cores_have_other_memories(script):
    load(script, "0.0")
    relu(script, "0.1")
    assert findings(script) == []


def test_a_flag_proves_earlier_entries_of_no_greater_latency(script):
    load(script, to=0, source="ddr")
    load(script, to=512, source="ddr", sets="core:load>vector:0")
    relu(script, src=0, waits="core:load>vector:0")
    assert findings(script) == []


def test_a_flag_of_lower_latency_proves_nothing_of_higher(script):
    load(script, to=0, source="ddr")
    script.add("0 prefetch", "prefetch", operands=(box("dst", "llb", 0, (4, 16)), box("src", "ddr", 0, (4, 16))),
               sets="cluster:0")  # fmt: skip
    load(script, to=512, source="llb", waits="cluster:0", sets="core:load>vector:0")
    relu(script, src=0, waits="core:load>vector:0")
    assert findings(script) == [("race", 0, 3)]


@pytest.mark.parametrize(("first", "second", "expected"), [("ddr", "llb", 1), ("llb", "ddr", 0), ("ddr", "ddr", 0)])
def test_two_writes_of_a_queue_need_a_flag_if_the_first_is_slower(script, first, second, expected):
    load(script, to=0, source=first)
    load(script, to=0, source=second)
    assert len(findings(script)) == expected


def test_a_queue_may_overwrite_what_it_read(script):
    """A store reads until it leaves the engine; the next store of the queue starts after that."""
    load(script, source="llb", address=0, to=0, sets="core:load>store:0")
    store(script, at=0, target="llb", address=0, waits="core:load>store:0")
    assert findings(script) == []


def test_a_queue_may_not_read_what_it_has_not_completed(script):
    out, back = box("dst", "ddr", 0, (4, 16)), box("src", "llb", 0, (4, 16))
    script.add("0 prefetch", "prefetch", operands=(box("dst", "llb", 0, (4, 16)), box("src", "ddr", 512, (4, 16))))
    script.add("0 prefetch", "prefetch", operands=(out, back))
    assert findings(script) == [("race", 0, 1)]


def test_a_set_of_its_own_proves_everything_before_it(script):
    load(script, to=0, source="ddr")
    load(script, to=512, source="llb")
    script.add("0.0 load", "set", sets="core:load>vector:0")
    load(script, to=1024, source="llb")
    relu(script, src=0, waits="core:load>vector:0")
    relu(script, src=512, dst=8192)
    assert findings(script) == []
    relu(script, src=1024, dst=8192)
    assert findings(script) == [("race", 3, 6)]


def test_knowledge_passes_through_queues(script):
    load(script, sets="core:load>scalar:0")
    script.add("0.0 scalar", "wait", waits="core:load>scalar:0", sets="core:scalar>vector:0")
    relu(script, waits="core:scalar>vector:0")
    assert findings(script) == []


def test_strided_operands_that_interleave_do_not_meet(script):
    left = box("dst", "ddr", 0, (8, 16), (64, 2))
    right = box("dst", "ddr", 32, (8, 16), (64, 2))
    script.add("0.0 store", "store", operands=(left, box("src", L1, 0, (8, 16))))
    script.add("0.1 store", "store", operands=(right, box("src", L1, 0, (8, 16))))
    assert findings(script) == []


def test_strided_operands_that_touch_by_a_byte_do(script):
    left = box("dst", "ddr", 0, (8, 16), (64, 2))
    right = box("dst", "ddr", 31, (8, 33), (64, 1), "int8")
    script.add("0.0 store", "store", operands=(left, box("src", L1, 0, (8, 16))))
    script.add("0.1 store", "store", operands=(right, box("src", L1, 0, (8, 33), (64, 1), "int8")))
    assert findings(script) == [("race", 0, 1)]


def test_a_barrier_orders_all_of_its_queues(script):
    store(script, "0.0", address=8192)
    names = {"scope": "chip", "queues": ["cluster:0:core:0:store", "cluster:1:core:1:load"]}
    script.add("0.0 store", "barrier", group=0, attrs=names)
    script.add("1.1 load", "barrier", group=0, attrs=names)
    load(script, "1.1", address=8192)
    assert findings(script) == []
    load(script, "0.1", address=8192)
    assert findings(script) == [("race", 0, 4)]


def test_a_barrier_knows_what_its_members_learned(script):
    load(script, "0.0", sets="core:load>vector:0")
    names = {"scope": "cluster", "queues": ["core:0:vector", "core:0:move"]}
    script.add("0.0 vector", "barrier", group=0, attrs=names, waits="core:load>vector:0")
    script.add("0.0 move", "barrier", group=0, attrs=names)
    script.add("0.0 move", "move_a", operands=(box("dst", "l0a", 0, (4, 16)), box("src", L1, 0, (4, 16))))
    assert findings(script) == []


def multicast(script, place, to, group, **keywords):
    dst, src = box("dst", L1, to, (4, 16)), box("src", "ddr", 0, (4, 16))
    return script.add(f"{place} load", "load_multicast", operands=(dst, src), group=group, **keywords)


def test_members_of_a_multicast_start_together(script):
    """Core 1's vector result is known to core 0's load through the group."""
    relu(script, "0.1", src=0, dst=4096, sets="core:vector>load:0")
    multicast(script, "0.0", 0, 1)
    multicast(script, "0.1", 4096, 1, waits="core:vector>load:0")
    assert findings(script) == []


def test_each_receiver_of_a_multicast_is_ordered_by_its_own_flags(script):
    multicast(script, "0.0", 0, 1, sets="core:load>vector:0")
    multicast(script, "0.1", 0, 1)
    relu(script, "0.0", waits="core:load>vector:0")
    relu(script, "0.1")
    assert findings(script) == [("race", 1, 3)]


def test_a_segment_orders_everything(script):
    load(script)
    relu(script, segment=1)
    assert findings(script) == []


def test_a_counter_of_several_setters_proves_all_of_them(script):
    """Both cores count up one flag; who takes two knows both."""
    store(script, "0.0", address=8192, target="llb", sets="cluster:0")
    store(script, "0.1", address=9216, target="llb", sets="cluster:0")
    src = box("src", "llb", 8192, (16, 64))
    script.add("0 prefetch", "prefetch", operands=(box("dst", "ddr", 0, (16, 64)), src), waits="cluster:0 cluster:0")
    assert findings(script) == []


def test_one_token_of_two_setters_proves_neither(script):
    store(script, "0.0", address=8192, target="llb", sets="cluster:0")
    store(script, "0.1", address=9216, target="llb", sets="cluster:0")
    src = box("src", "llb", 8192, (4, 16))
    script.add("0 prefetch", "prefetch", operands=(box("dst", "ddr", 0, (4, 16)), src), waits="cluster:0")
    assert findings(script) == [("race", 0, 2)]


def test_one_setter_and_several_waiters(script):
    """The prefetch sets once for each core; every token is of the same entry."""
    dst, src = box("dst", "llb", 0, (4, 16)), box("src", "ddr", 0, (4, 16))
    script.add("0 prefetch", "prefetch", operands=(dst, src), sets="cluster:0 cluster:0")
    load(script, "0.0", source="llb", waits="cluster:0")
    load(script, "0.1", source="llb", waits="cluster:0")
    assert findings(script) == []


def test_a_wait_that_may_take_a_later_set(script):
    """The second prefetch sets the flag again before anyone surely took the first token for each core."""
    for address in (0, 4096):
        dst, src = box("dst", "llb", address, (4, 16)), box("src", "ddr", 0, (4, 16))
        script.add("0 prefetch", "prefetch", operands=(dst, src), sets="cluster:0 cluster:0")
    for core, address in itertools.product(("0.0", "0.1"), (0, 4096)):
        load(script, core, source="llb", to=address, address=address, waits="cluster:0")
    assert {k for k, *_ in findings(script)} == {"race"}


def test_a_wait_whose_set_is_not_certain_is_ambiguous(script):
    """Two queues set cluster:0; nothing makes the second set come after the wait for the first."""
    script.add("0.0 load", "wait", waits="cluster:0")
    script.add("0.1 vector", "wait", sets="cluster:0")
    script.add("0.0 scalar", "wait", sets="cluster:1")
    script.add("0.1 scalar", "wait", sets="cluster:1")
    script.add("0.1 store", "wait", waits="cluster:1", sets="cluster:0")
    assert findings(script) == [("ambiguous flag", 0, 4)]
    message = (
        r"entry 0 \(wait, cluster 0 core 0 load\) waits for cluster:0 of cluster 0 and may take the set of entry 4"
    )
    with pytest.raises(UserError, match=message):
        check_order(script.program())


def test_a_flag_may_overflow(script):
    for _ in range(16):
        script.add("0.0 load", "wait", sets="core:load>vector:0")
    for _ in range(16):
        script.add("0.0 vector", "wait", waits="core:load>vector:0")
    assert findings(script) == [("flag overflow", 15)]
    with pytest.raises(
        UserError, match=r"flag overflow: entry 15 \(wait, cluster 0 core 0 load\) may set core:load>ve"
    ):
        check_order(script.program())


def test_a_flag_that_is_taken_in_between_does_not(script):
    for _ in range(40):
        script.add("0.0 load", "wait", sets="core:load>vector:0", waits="" if _ < 8 else "core:vector>load:0")
        script.add("0.0 vector", "wait", waits="core:load>vector:0", sets="core:vector>load:0" if _ < 32 else "")
    assert findings(script) == []


def test_flags_that_end_raised_are_told(script):
    script.add("0.0 load", "wait", sets="core:load>vector:3 core:load>vector:3")
    script.add("0.0 vector", "wait", waits="core:load>vector:3")
    report = analyse_order(script.program())
    assert (report.findings, report.raised) == ((), ("core:load>vector:3 of cluster 0 core 0",))


def test_deadlock_is_found_without_time(script):
    script.add("0.0 load", "wait", waits="core:vector>load:0", sets="core:load>vector:0")
    script.add("0.0 vector", "wait", waits="core:load>vector:0", sets="core:vector>load:0")
    with pytest.raises(UserError) as caught:
        check_order(script.program())
    assert "deadlock: cluster 0 core 0 load at entry 0 waits for core:vector>load:0 of cluster 0 core 0 (at 0);" in str(
        caught.value
    )


def test_a_deadlock_of_groups_is_found_without_time(script):
    multicast(script, "0.0", 0, 1)
    multicast(script, "0.0", 512, 2)
    multicast(script, "0.1", 0, 2)
    multicast(script, "0.1", 512, 1)
    report = analyse_order(script.program())
    assert "cluster 0 core 0 load at entry 0 waits for its group: 1 of 2 are ready, not entries 3" in report.deadlock


def test_a_flag_that_nobody_sets_is_a_deadlock(script):
    script.add("0.0 vector", "wait", waits="core:load>vector:0")
    assert "waits for core:load>vector:0" in analyse_order(script.program()).deadlock


def pipeline(script, tiles=6):
    """load -> relu -> store over two buffers each, with every flag needed."""
    for i in range(tiles):
        k = i % 2
        free, first, last = f"core:vector>load:{k}", i < 2, i >= tiles - 2
        load(script, to=512 * k, address=128 * i, waits="" if first else free, sets=f"core:load>vector:{k}")
        relu(script, src=512 * k, dst=4096 + 512 * k, sets=f"core:vector>store:{k}" + ("" if last else f" {free}"),
             waits=f"core:load>vector:{k}" + ("" if first else f" core:store>vector:{k}"))  # fmt: skip
        store(script, at=4096 + 512 * k, address=8192 + 128 * i, waits=f"core:vector>store:{k}",
              sets="" if last else f"core:store>vector:{k}")  # fmt: skip


def test_a_pipeline_is_clean(script):
    pipeline(script)
    assert findings(script) == []


def test_every_flag_of_a_pipeline_is_missed_when_it_is_removed(script, part):
    """A wait and its set go together: nothing deadlocks, so a race must be found."""
    pipeline(script)
    program = script.program()
    for tile, pair in itertools.product(range(6), range(4)):
        cut = without_token(program, tile, pair)
        if cut is not None:
            report = analyse_order(cut)
            assert report.findings, (tile, pair)


def without_token(program, tile, pair):
    """The program without the n-th set and the n-th wait of one pair of engines, or None if there is none."""
    from dataclasses import replace

    flags = program.flags
    kinds = np.unique(flags[["source", "target"]])
    if pair >= len(kinds):
        return None
    entries = program.entries.copy()
    mine = (flags["source"] == kinds[pair]["source"]) & (flags["target"] == kinds[pair]["target"])
    for first, count in (("wait", "waits"), ("set", "sets")):
        users = [
            (e, r)
            for e in range(len(entries))
            for r in range(entries[first][e], entries[first][e] + entries[count][e])
            if mine[r]
        ]
        if tile >= len(users):
            return None
        entry, row = users[tile]
        last = entries[first][entry] + entries[count][entry] - 1
        flags = flags.copy()
        flags[[row, last]] = flags[[last, row]]
        mine[[row, last]] = mine[[last, row]]
        entries[count][entry] -= 1
    return replace(program, entries=entries, flags=flags)


def random_accesses(script, rng, count):
    """Loads, vector operations and stores on a few overlapping buffers; flags between them in one global order."""
    made = []
    free = {}
    for _ in range(count):
        core, engine = rng.choice(["0.0", "0.1"]), rng.choice(["load", "vector", "store"])
        near, far, memory = 512 * rng.integers(0, 3), 512 * rng.integers(0, 4), str(rng.choice(["ddr", "llb"]))
        rows = int(rng.integers(2, 18))
        waits = [f for c, target, f in made if c == core and target == engine and rng.random() < 0.7][:4]
        made = [m for m in made if m[2] not in waits or m[0] != core]
        sets = []
        for target in ("load", "vector", "store"):
            key = (core, engine, target)
            if target != engine and free.get(key, 0) < 8 and rng.random() < 0.6:
                sets.append(f"core:{engine}>{target}:{free.get(key, 0)}")
                made.append((core, target, sets[-1]))
                free[key] = free.get(key, 0) + 1
        flags = {"waits": " ".join(waits), "sets": " ".join(sets)}
        if engine == "load":
            load(script, core, to=int(near), rows=rows, source=memory, address=int(far), **flags)
        elif engine == "store":
            store(script, core, at=int(near), rows=rows, target=memory, address=int(far), **flags)
        else:
            relu(script, core, src=int(near), dst=int(512 * rng.integers(0, 3)), rows=2, **flags)


def races_by_reachability(program):
    """All racing pairs: every conflicting pair of entries, and paths of starts, ends and completions."""
    entries, operands = program.entries, program.operands
    count = len(entries)
    start, end, done = (list(range(k, 3 * count, 3)) for k in range(3))
    edges = {node: set() for node in range(3 * count)}
    latency, touched = [], []
    for e in range(count):
        rows = operands[entries["operand"][e] : entries["operand"][e] + entries["operands"][e]]
        latency.append(max({0: 200, 1: 40}.get(int(r["scope"]), 0) for r in rows))
        touched.append([])
        for r in rows:
            where = (
                0 if r["scope"] == 0 else 1 + int(entries["core"][e]) * int(r["scope"] == 2) + 7 * int(r["scope"] == 1)
            )
            size = int(r["extents"][0] * r["extents"][1] * 2)
            touched[e].append((where, int(r["address"]), int(r["address"]) + size, int(r["role"]) == 0))
        edges[start[e]].add(end[e])
        edges[end[e]].add(done[e])
    queues, flags = {}, {}
    for e in range(count):
        queues.setdefault((int(entries["core"][e]), int(entries["engine"][e])), []).append(e)
        for f in program.flags[entries["set"][e] : entries["set"][e] + entries["sets"][e]]:
            flags[(int(entries["core"][e]), *f.tolist())] = e
    for e in range(count):
        for f in program.flags[entries["wait"][e] : entries["wait"][e] + entries["waits"][e]]:
            edges[done[flags[(int(entries["core"][e]), *f.tolist())]]].add(start[e])
    for queue in queues.values():
        for place, e in enumerate(queue):
            for later in queue[place + 1 :]:
                edges[end[e]].add(start[later])
                if latency[e] == 0:
                    edges[done[e]].add(start[later])
                if latency[e] <= latency[later]:
                    edges[done[e]].add(done[later])
    reach = {}
    for e in range(count):
        seen, todo = set(), [done[e]]
        while todo:
            node = todo.pop()
            if node not in seen:
                seen.add(node)
                todo += edges[node]
        reach[e] = {other for other in range(count) if start[other] in seen}
    place = {e: (q, i) for q, queue in queues.items() for i, e in enumerate(queue)}
    found = set()
    for a, b in itertools.combinations(range(count), 2):
        if b in reach[a] or a in reach[b]:
            continue
        for x, y in itertools.product(touched[a], touched[b]):
            if x[0] != y[0] or x[1] >= y[2] or y[1] >= x[2] or not (x[3] or y[3]):
                continue
            in_queue = place[a][0] == place[b][0]
            if in_queue and (not x[3] or (y[3] and latency[a] <= latency[b])):
                continue
            found.add((a, b))
    return found


@pytest.mark.parametrize("seed", range(60))
def test_random_programs_have_the_races_that_reachability_finds(script, seed):
    """Replaced accesses hide later pairs, so pairs are a subset; whether there is one must agree."""
    rng = np.random.default_rng(seed)
    random_accesses(script, rng, int(rng.integers(4, 14)))
    program = script.program()
    report = analyse_order(program)
    expected = races_by_reachability(program)
    assert not report.deadlock
    assert {f.entries for f in report.findings} <= expected
    assert bool(report.findings) == bool(expected)
