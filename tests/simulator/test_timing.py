"""Every rule of the manual's time and order on programs small enough to count by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numba import njit
from numba.core.errors import TypingError

from dsa_compiler.errors import UserError
from dsa_compiler.isa.compiled import borrow
from dsa_compiler.program.builder import Operand
from dsa_compiler.program.tables import Binding, HostStep
from dsa_compiler.simulator.timing import Stretch

approx = pytest.approx


def test_a_queue_runs_in_order_and_engines_in_parallel(script):
    script.add("0.0 vector", "add", startup=8, work=10)
    script.add("0.0 vector", "add", startup=8, work=20)
    script.add("0.0 matrix", "matmul", startup=16, work=4)
    result = script.time()
    assert list(result.start) == [0, 18, 0]
    assert list(result.end) == [18, 46, 20]
    assert result.cycles == 46
    assert result.busy_by_engine()["vector"] == 46
    assert result.busy_share()["matrix"] == approx(20 / 46 / 4)


def test_a_load_completes_its_latency_after_it_leaves_the_engine(script):
    script.add("0.0 load", "load", startup=16, work=640, rate=64, memory="ddr", latency=200)
    script.add("0.0 load", "load", startup=16, work=320, rate=64, memory="llb", latency=40)
    result = script.time()
    assert list(result.end) == approx([26, 26 + 16 + 320 / 60])
    assert list(result.complete) == approx([226, 26 + 16 + 320 / 60 + 40])
    assert result.cycles == 226


def test_a_set_takes_place_at_completion_latency_included(script):
    script.add("0.0 load", "load", startup=16, work=640, rate=64, memory="ddr", latency=200, sets="core:load>vector:0")
    script.add("0.0 vector", "add", startup=8, work=4, waits="core:load>vector:0")
    assert script.time().start[1] == 226


def test_completions_are_not_in_queue_order(script):
    script.add("0.0 load", "load", startup=16, work=64, rate=64, memory="ddr", latency=200, sets="core:load>vector:0")
    script.add("0.0 load", "load", startup=16, work=60, rate=64, memory="llb", latency=40, sets="core:load>vector:1")
    script.add("0.0 vector", "add", work=1, waits="core:load>vector:1")
    result = script.time()
    assert result.complete[0] == 217
    assert result.start[2] == approx(17 + 16 + 1 + 40)


def test_one_core_has_the_port_and_two_share_ddr(script):
    """Two ports of 64 on 100 bytes a cycle: 50 each, then 64 alone."""
    script.add("0.0 load", "load", work=5000, rate=64, memory="ddr")
    script.add("0.1 load", "load", work=11400, rate=64, memory="ddr")
    result = script.time()
    assert result.end[0] == 100
    assert result.end[1] == approx(100 + (11400 - 5000) / 64)


def test_filling_gives_what_a_capped_flow_leaves_to_the_others(script):
    """ddr 100: the llb flow (60 over 1) takes 60 of its memory; ddr flows of caps 16 and 64, 64 get 16, 42, 42."""
    script.add("0.0 load", "load_transpose", work=1600, rate=16, memory="ddr")
    script.add("0.1 load", "load", work=4200, rate=64, memory="ddr")
    script.add("1.0 load", "load", work=4200, rate=64, memory="ddr")
    script.add("1.1 load", "load", work=6000, rate=64, memory="llb")
    result = script.time()
    assert list(result.end) == approx([100, 100, 100, 100])


def test_a_copy_between_memories_is_limited_by_the_tighter(script):
    """llb 60 over two flows is 30 each; the second ddr flow takes the rest of the 100, up to its port."""
    script.add("0 prefetch", "prefetch", work=3000, rate=128, memory="ddr llb")
    script.add("0.0 load", "load", work=3000, rate=64, memory="llb")
    script.add("1.0 load", "load", work=6400, rate=64, memory="ddr")
    result = script.time()
    assert list(result.end) == approx([100, 100, 100])


def test_sharing_is_by_flow(script):
    """A prefetch against three stores has a quarter of ddr."""
    script.add("0 prefetch", "prefetch", work=2500, rate=128, memory="ddr llb")
    for core in ("0.0", "0.1", "1.0"):
        script.add(f"{core} store", "store", work=2500, rate=64, memory="ddr")
    assert list(script.time().end) == approx([100] * 4)


def test_each_cluster_has_its_own_llb(script):
    script.add("0.0 load", "load", work=6000, rate=64, memory="llb")
    script.add("1.0 load", "load", work=6000, rate=64, memory="llb")
    assert list(script.time().end) == approx([100, 100])


def test_startup_uses_no_bandwidth(script):
    script.add("0.0 load", "load", work=3200, rate=64, memory="ddr")
    script.add("0.1 load", "load", startup=50, work=640, rate=64, memory="ddr")
    result = script.time()
    assert list(result.end) == approx([50, 60])


def test_waits_are_taken_together_and_start_is_that_moment(script):
    script.add("0.0 load", "load", work=10, sets="core:load>vector:0")
    script.add("0.0 move", "move_a", work=30, sets="core:move>vector:0")
    script.add("0.0 vector", "add", startup=2, work=5, waits="core:load>vector:0 core:move>vector:0")
    result = script.time()
    assert (result.start[2], result.end[2]) == (30, 37)
    assert result.busy_by_engine()["vector"] == 7


def test_two_waits_for_one_flag_need_a_count_of_two(script):
    script.add("0.0 load", "load", work=10, sets="core:load>vector:0")
    script.add("0.0 load", "load", work=10, sets="core:load>vector:0")
    script.add("0.0 vector", "add", work=5, waits="core:load>vector:0 core:load>vector:0")
    assert script.time().start[2] == 20


def test_a_flag_counts_to_fifteen(script):
    for _ in range(15):
        script.add("0.0 load", "load", work=1, sets="core:load>vector:0")
    for _ in range(15):
        script.add("0.0 vector", "add", work=2, waits="core:load>vector:0")
    assert script.time().cycles == 31


def test_a_set_at_fifteen_traps(script):
    for _ in range(16):
        script.add("0.1 load", "load", work=1, sets="core:load>vector:3")
    with pytest.raises(
        UserError, match=r"flag overflow: entry 15 sets core:load>vector:3 of cluster 0 core 1 while it"
    ):
        script.time()


def test_queues_that_wait_for_one_flag_are_served_in_order_of_arrival(script):
    script.add("0.1 vector", "add", work=5)
    script.add("0.1 vector", "add", work=10, waits="cluster:2")
    script.add("0.0 vector", "add", work=7)
    script.add("0.0 vector", "add", work=10, waits="cluster:2")
    script.add("0.0 load", "load", work=20, sets="cluster:2")
    script.add("0.0 load", "load", work=20, sets="cluster:2")
    result = script.time()
    assert (result.start[1], result.start[3]) == (20, 40)


def test_ties_are_served_by_cluster_core_and_engine(script):
    script.add("1.1 matrix", "matmul", work=1, waits="chip:0")
    script.add("1.0 vector", "add", work=1, waits="chip:0")
    script.add("1.0 matrix", "matmul", work=1, waits="chip:0")
    script.add("0 prefetch", "prefetch", work=1, rate=1, waits="chip:0")
    for _ in range(4):
        script.add("0.0 load", "load", work=10, sets="chip:0")
    assert list(script.time().start[:4]) == [40, 30, 20, 10]


def test_cluster_flags_belong_to_their_cluster(script):
    script.add("0.0 load", "load", work=10, sets="cluster:0")
    script.add("1.0 load", "load", work=30, sets="cluster:0")
    script.add("1 prefetch", "prefetch", work=1, waits="cluster:0")
    script.add("0 prefetch", "prefetch", work=1, waits="cluster:0")
    result = script.time()
    assert (result.start[2], result.start[3]) == (30, 10)


def test_a_chip_flag_joins_clusters(script):
    script.add("0.0 load", "load", work=10, sets="chip:7")
    script.add("1.1 store", "store", work=1, waits="chip:7")
    assert script.time().start[1] == 10


def test_a_set_of_its_own_waits_for_completions_and_lets_the_queue_go_on(script):
    script.add("0.0 load", "load", startup=16, work=640, rate=64, latency=200)
    script.add("0.0 load", "set", startup=1, sets="core:load>vector:0")
    script.add("0.0 load", "load", startup=16, work=64, rate=64, latency=40)
    script.add("0.0 vector", "add", work=1, waits="core:load>vector:0")
    result = script.time()
    assert (result.start[1], result.end[1], result.complete[1]) == (26, 27, 226)
    assert (result.start[2], result.complete[2], result.start[3]) == (27, 84, 226)


def test_wait_and_halt_are_entries(script):
    script.add("0.0 load", "load", work=10, sets="core:load>scalar:0")
    script.add("0.0 scalar", "wait", startup=2, waits="core:load>scalar:0")
    script.add("0.0 scalar", "halt", startup=1)
    result = script.time()
    assert (result.start[1], result.end[1], result.end[2]) == (10, 12, 13)


def barrier(script, place, names, group=0, scope="cluster", **keywords):
    attrs = {"scope": scope, "queues": names}
    return script.add(place, "barrier", group=group, attrs=attrs, **keywords)


def test_a_barrier_stalls_until_all_have_arrived_and_completed(script):
    names = ["core:0:load", "core:1:vector", "prefetch"]
    script.add("0.0 load", "load", work=10, latency=200)
    barrier(script, "0.0 load", names)
    script.add("0.0 load", "load", work=1)
    barrier(script, "0.1 vector", names)
    script.add("0.1 vector", "add", work=1)
    barrier(script, "0 prefetch", names)
    script.add("0.0 vector", "add", work=3)
    result = script.time()
    assert list(result.start) == [0, 210, 260, 210, 260, 210, 0]
    assert list(result.end[[1, 3, 5]]) == [260, 260, 260]
    assert result.busy_by_engine()["load"] == 11


def test_a_barrier_entry_pays_its_flags_too(script):
    barrier(script, "0.0 load", ["core:0:load", "core:0:store"], startup=3)
    barrier(script, "0.0 store", ["core:0:load", "core:0:store"])
    result = script.time()
    assert list(result.end) == [53, 50]
    assert result.busy_by_engine()["load"] == 3


def test_a_chip_barrier(script):
    names = ["cluster:0:core:1:store", "cluster:1:prefetch"]
    script.add("0.1 store", "store", work=7)
    barrier(script, "0.1 store", names, scope="chip")
    barrier(script, "1 prefetch", names, scope="chip")
    assert script.time().cycles == 407


def test_a_name_without_core_or_cluster_means_all(script):
    for place in ("0.0 load", "0.1 load", "1.0 load", "1.1 load"):
        barrier(script, place, ["load"], scope="chip")
    assert script.time().cycles == 400


@pytest.mark.parametrize(
    ("names", "scope", "message"),
    [
        (["core:0:load", "core:0:move"], "cluster", "names a queue that has no entry of it: cluster 0 core 0 move"),
        (["core:1:load"], "cluster", "has an entry in a queue it does not name: cluster 0 core 0 load"),
        (["core:9:load"], "cluster", "names the queue 'core:9:load', which is not in its scope"),
        (["core:x:load"], "cluster", r"names the queue 'core:x:load'; write \[cluster:C:\]\[core:N:\]ENGINE"),
        (["dma"], "cluster", "names the queue 'dma'"),
        (["load"], "core", "a barrier has the scope 'core'; use cluster or chip"),
    ],
)
def test_barriers_that_cannot_be(script, names, scope, message):
    barrier(script, "0.0 load", names, scope=scope)
    if "core:1:load" in names:
        barrier(script, "0.1 load", names, scope=scope)
    with pytest.raises(UserError, match=message):
        script.time()


def test_a_multicast_starts_when_all_are_at_the_head(script):
    """One flow for both receivers; longest startup, most bytes."""
    script.add("0.0 vector", "add", work=5, sets="core:vector>load:0")
    script.add(
        "0.0 load", "load_multicast", startup=10, work=640, rate=64, memory="ddr", group=4, waits="core:vector>load:0"
    )
    script.add("1.1 load", "load_multicast", startup=20, work=600, rate=64, memory="ddr", group=4, latency=200)
    script.add("1.0 load", "load", work=10000, rate=64, memory="ddr")
    result = script.time()
    assert list(result.start[1:3]) == [5, 5]
    join = 5 + 20
    end = join + 640 / 50
    assert list(result.end[1:3]) == approx([end, end])
    assert result.complete[2] == approx(end + 200)
    assert result.busy_by_engine()["load"] == approx(2 * (end - 5) + result.end[3])


def test_a_prefetch_multicast_uses_every_llb(script):
    script.add("0 prefetch", "prefetch_multicast", work=3000, rate=128, memory="ddr llb", group=1)
    script.add("1 prefetch", "prefetch_multicast", work=3000, rate=128, memory="ddr llb", group=1)
    script.add("1.0 load", "load", work=3000, rate=64, memory="llb")
    script.add("0.0 load", "load", work=3000, rate=64, memory="llb")
    assert list(script.time().end) == approx([100, 100, 100, 100])


def test_a_multicast_is_slowed_by_its_worst_receiver(script):
    script.add("0.0 load", "load_multicast", work=640, rate=64, memory="ddr", group=1, banks=[0])
    script.add("0.1 load", "load_multicast", work=640, rate=64, memory="ddr", group=1, banks=[0])
    script.add("0.1 vector", "add", work=100, banks=[0])
    result = script.time()
    assert list(result.end[:2]) == [20, 20]
    assert result.end[2] == 10 + 100
    assert list(result.conflict) == [10, 10, 10]


def test_engines_in_one_bank_share_their_rate(script):
    script.add("0.0 vector", "add", work=10, banks=[1])
    script.add("0.0 move", "move_a", work=2560, rate=256, banks=[1, 2])
    result = script.time()
    assert list(result.end) == [20, 20]
    assert result.conflict_cycles == 20


def test_the_most_sharers_of_any_bank_count(script):
    """Vector in banks 0 and 1 shares 1 with two others: a third of its rate."""
    script.add("0.0 vector", "add", work=10, banks=[0, 1])
    script.add("0.0 move", "move_a", work=10, banks=[1])
    script.add("0.0 scalar", "s_branch", work=10, banks=[1], attrs={"control": 1})
    script.add("0.0 load", "load", work=5, banks=[0])
    result = script.time()
    assert list(result.end) == [30, 30, 30, 10]
    assert result.conflict_cycles == approx(3 * 30 * 2 / 3 + 10 / 2)


def test_banks_of_another_core_do_not_matter(script):
    script.add("0.0 vector", "add", work=10, banks=[1])
    script.add("0.1 vector", "add", work=10, banks=[1])
    assert script.time().conflict_cycles == 0


def test_startup_is_not_slowed_but_counts_as_working(script):
    """Vector works from 0; move is in its startup until 8 and slows vector; then both go at half rate."""
    script.add("0.0 vector", "add", work=10, banks=[0])
    script.add("0.0 move", "move_a", startup=8, work=100, banks=[0])
    result = script.time()
    assert result.end[0] == 20
    assert result.end[1] == 20 + 100 - 6
    assert list(result.conflict) == [10, 6]


def test_blocked_entries_do_not_use_banks(script):
    script.add("0.0 vector", "add", work=10, banks=[0], sets="core:vector>move:0")
    script.add("0.0 move", "move_a", work=10, banks=[0], waits="core:vector>move:0")
    assert list(script.time().end) == [10, 20]


def test_a_rate_limited_by_memory_is_not_slowed_further(script):
    """Four flows share 100: 25 each, less than the slowed port of 32; so no conflict counts for the loads."""
    script.add("0.0 load", "load", work=2500, rate=64, memory="ddr", banks=[0])
    script.add("0.0 vector", "add", work=50, banks=[0])
    for place in ("0.1", "1.0", "1.1"):
        script.add(f"{place} load", "load", work=2500, rate=64, memory="ddr")
    result = script.time()
    assert list(result.end) == approx([100] * 5)
    assert list(result.conflict[:2]) == approx([0, 50])


def test_a_slowed_port_leaves_its_share_to_others(script):
    """The slowed port takes 32 of the 100; the other has its port's 64."""
    script.add("0.0 load", "load", work=3200, rate=64, memory="ddr", banks=[0])
    script.add("0.0 vector", "add", work=50, banks=[0])
    script.add("0.1 load", "load", work=6400, rate=64, memory="ddr")
    result = script.time()
    assert list(result.end) == approx([100, 100, 100])
    assert list(result.conflict) == approx([50, 50, 0])


def test_a_host_step_starts_when_everything_is_complete(script, part):
    script.add("0.0 load", "load", work=10, latency=200, sets="core:load>vector:0")
    script.add("0.1 vector", "add", work=30)
    script.add("0.0 vector", "add", work=5, segment=1, waits="core:load>vector:0")
    binding = Binding("x", 0, (8, 4), "float32")
    script.builder.host_steps.append(HostStep(1, "NonZero", "n", (binding,), (binding,), 40, "no instruction", b""))
    script.builder.host_steps.append(HostStep(2, "TopK", "m", (), (), 4, "no instruction", b""))
    result = script.time()
    host = 1000 + 256 / 16 + 10
    assert [(h.step, h.start, h.end) for h in result.host] == [(0, 210, 210 + host), (1, 215 + host, 1216 + host)]
    assert result.start[2] == 210 + host
    assert result.cycles == 215 + host + 1001


def test_segments_without_a_host_step_run_out_too(script):
    script.add("0.0 load", "load", work=10, latency=200)
    script.add("0.0 vector", "add", work=30, segment=3)
    assert script.time().start[1] == 210


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            [("0.0 load", "load", {"segment": 1}), ("0.0 load", "load", {})],
            "entry 1 of segment 0 follows a later segment",
        ),
        (
            [("0.0 load", "halt", {}), ("0.0 load", "load", {})],
            "entry 1 follows a halt in the queue of cluster 0 core 0 load",
        ),
        ([("3.0 load", "load", {})], "entry 0 is in the queue of cluster 3 core 0 load, which small does not have"),
        (
            [("0.0 load", "load", {"waits": "core:load>load:8"})],
            "entry 0 uses core flag 8, which its queue does not have",
        ),
        ([("0 prefetch", "prefetch", {"sets": "core:load>move:0"})], "entry 0 uses core flag 0, which its queue"),
        (
            [("0.0 load", "load", {"group": 2})] * 2,
            "group 2 has two entries in the queue of cluster 0 core 0 load, one",
        ),
    ],
)
def test_programs_that_cannot_be(script, lines, message):
    for place, op, keywords in lines:
        script.add(place, op, **keywords)
    with pytest.raises(UserError, match=message):
        script.time()


def test_a_deadlock_names_queues_entries_and_flags(script):
    script.add("0.0 load", "load", work=5)
    script.add("0.0 load", "load", work=5, waits="core:vector>load:1")
    script.add("0.0 vector", "add", work=5, waits="core:load>vector:2", sets="core:vector>load:1")
    with pytest.raises(UserError) as caught:
        script.time()
    text = str(caught.value)
    assert "deadlock at cycle 5" in text
    assert "cluster 0 core 0 load at entry 1 waits for core:vector>load:1 of cluster 0 core 0 (at 0)" in text
    assert "cluster 0 core 0 vector at entry 2 waits for core:load>vector:2" in text


def test_a_deadlock_of_groups(script):
    script.add("0.0 load", "load_multicast", group=1)
    script.add("0.0 load", "load_multicast", group=2)
    script.add("0.1 load", "load_multicast", group=2)
    script.add("0.1 load", "load_multicast", group=1)
    with pytest.raises(UserError, match="load at entry 0 waits for its group: 1 of 2 are ready, not entries 3"):
        script.time()


def test_traffic_counts_a_multicast_once_for_its_source(script):
    src, dst = Operand("src", "ddr", 0, "float32", (16,)), Operand("dst", "llb", 0, "float32", (16,))
    l1, llb = Operand("dst", "l1", 0, "float32", (16,)), Operand("src", "llb", 0, "float32", (16,))
    out = Operand("dst", "ddr", 0, "float32", (16,))
    script.add("0 prefetch", "prefetch_multicast", work=64, rate=128, memory="ddr llb", group=1, operands=(dst, src))
    script.add("1 prefetch", "prefetch_multicast", work=64, rate=128, memory="ddr llb", group=1, operands=(dst, src))
    script.add("0.0 load", "load", work=96, rate=64, memory="llb", operands=(l1, llb))
    script.add(
        "0.0 store", "store", work=128, rate=64, memory="ddr", operands=(out, Operand("src", "l1", 0, "float32", (16,)))
    )
    assert script.time().traffic == {
        ("ddr", "read"): 64, ("ddr", "written"): 128, ("llb", "read"): 96, ("llb", "written"): 128,
    }  # fmt: skip


def test_stretched_times_keep_the_order_of_equal_latencies(script):
    """The second load's latency is not stretched, but it may not complete before the first."""
    script.add("0.0 load", "load", work=10, latency=200)
    script.add("0.0 load", "load", work=10, latency=200)
    script.add("0.0 load", "load", work=10, latency=40)
    result = script.time(Stretch(np.array([1.0, 1.0, 1.0]), np.array([3.0, 1.0, 1.0])))
    assert list(result.complete) == [610, 610, 70]


def test_an_empty_program_takes_no_time(script):
    assert script.time().cycles == 0


def test_many_entries_on_many_queues_agree_with_a_plain_simulation(script):
    """Random flags and flows against an event loop written out in plain Python."""
    rng = np.random.default_rng(7)
    stages = ("load", "move", "vector", "store")
    for core in ("0.0", "0.1", "1.0", "1.1"):
        for i in range(40):
            for place, engine in enumerate(stages):
                waits = f"core:{stages[place - 1]}>{engine}:{i % 4}" if place else ""
                sets = f"core:{engine}>{stages[place + 1]}:{i % 4}" if place < 3 else ""
                flow = engine in ("load", "store")
                memory = rng.choice(["ddr", "llb"]) if flow else ""
                script.add(
                    f"{core} {engine}", {"load": "load", "move": "move_a", "vector": "add", "store": "store"}[engine],
                    startup=int(rng.integers(0, 20)), work=int(rng.integers(0, 900)), rate=64 if flow else 1,
                    memory=memory, waits=waits, sets=sets, banks=[int(rng.integers(0, 4))], latency=0,
                )  # fmt: skip
    result = script.time()
    expected = plain_simulation(script)
    np.testing.assert_allclose(result.end, expected, rtol=1e-9)


def plain_simulation(script):
    """Fixed small steps are avoided: the same rules with dictionaries, all rates found anew at each event."""
    program, costs = script.program(), script.costs()
    entries = program.entries
    queues: dict[tuple[int, int, int], list[int]] = {}
    for e, row in enumerate(entries):
        queues.setdefault((int(row["cluster"]), int(row["core"]), int(row["engine"])), []).append(e)
    key = {e: q for q, es in queues.items() for e in es}
    name = {}
    for e, row in enumerate(entries):
        for what, first, count in (("w", row["wait"], row["waits"]), ("s", row["set"], row["sets"])):
            rows = program.flags[first : first + count]
            name[e, what] = [(key[e][:2], int(f["source"]), int(f["target"]), int(f["number"])) for f in rows]
    count: dict[object, int] = {}
    running: dict[object, list[float]] = {}
    end = np.zeros(len(entries))
    now = 0.0
    while any(queues.values()):
        for q, es in queues.items():
            if es and q not in running and all(count.get(f, 0) >= 1 for f in name[es[0], "w"]):
                for f in name[es[0], "w"]:
                    count[f] -= 1
                running[q] = [es[0], float(costs["startup"][es[0]]), float(costs["work"][es[0]])]
        rate = plain_rates(running, costs, program.target)
        step = min(r[1] if r[1] > 0 else (r[2] / rate[q] if r[2] else 0.0) for q, r in running.items())
        now += step
        for q, r in list(running.items()):
            if r[1] > 0:
                r[1] = max(0.0, r[1] - step) if r[1] - step > 1e-9 else 0.0
            elif r[2] > 0:
                r[2] = r[2] - step * rate[q] if r[2] - step * rate[q] > 1e-7 else 0.0
            if r[1] == 0 and r[2] == 0:
                e = int(r[0])
                end[e] = now
                for f in name[e, "s"]:
                    count[f] = count.get(f, 0) + 1
                del running[q]
                queues[q].pop(0)
    return end


def plain_rates(running, costs, target):
    sharers = {}
    for q, r in running.items():
        mask = int(costs["banks"][int(r[0])])
        near = [int(costs["banks"][int(o[0])]) for p, o in running.items() if p[:2] == q[:2]]
        sharers[q] = max([1, *(sum(bool(m & bit) for m in near) for bit in (1, 2, 4, 8) if mask & bit)])
    rate = {q: float(costs["rate"][int(r[0])]) / sharers[q] for q, r in running.items()}
    flows = {q for q, r in running.items() if r[1] == 0 and r[2] > 0 and costs["flow"][int(r[0])]}
    uses = {q: "ddr" if costs["ddr"][int(running[q][0])] else ("llb", q[0]) for q in flows}
    free = {"ddr": target.memory["ddr"].bandwidth}
    free |= {("llb", c): target.memory["llb"].bandwidth for c in range(target.clusters)}
    while flows:
        level = {m: free[m] / sum(uses[q] == m for q in flows) for m in {uses[q] for q in flows}}
        least = min(level.values())
        stopped = [q for q in flows if rate[q] <= least] or [q for q in flows if level[uses[q]] == least]
        for q in stopped:
            rate[q] = min(rate[q], least)
            free[uses[q]] -= rate[q]
        flows -= set(stopped)
    return rate


def test_a_part_of_too_many_clusters(part, script):
    script = type(script)(replace(part, clusters=64))
    script.add("0.0 load", "load", work=1)
    with pytest.raises(UserError, match="small has 64 clusters; use at most 63"):
        script.time()


def test_borrow_takes_arrays_alone():
    with pytest.raises(TypingError, match="borrow takes an array, not int64"):
        njit(lambda x: borrow(x))(1)
