"""Chunks of tensors in the llb, the bytes that they need, and their places."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsa_compiler.errors import Infeasible
from dsa_compiler.placing import place_chunks
from dsa_compiler.schedule.layer_schedule import Group, LayerSchedule
from dsa_compiler.schedule.order import order_instances
from dsa_compiler.schedule.residency import Chunk, chunks, peak
from dsa_compiler.schedule.search import needs
from dsa_compiler.schedule.timeline import Step, steps_of
from tests.lower.drawing import drawn
from tests.lower.parts import changed, part
from tests.schedule.graphs import chain

IMAGE = (4, 32, 32)
"""Four images of 32 rows of 64 bytes: 2 KiB an image in float16."""
GRAPH = chain(IMAGE, IMAGE, IMAGE, IMAGE)
LLB = {"t1": "llb", "t2": "llb"}


def schedule(*groups: Group, scopes: dict[str, str] | None = None) -> LayerSchedule:
    order = order_instances(groups, needs(GRAPH, groups), 4)
    return LayerSchedule(4, (4,), groups, LLB if scopes is None else scopes, order)


def steps(plan: LayerSchedule) -> list[Step]:
    return steps_of(plan, GRAPH, lambda layer, images: 10.0 * images)


def found(plan: LayerSchedule) -> list[tuple[str, int, int, float, float]]:
    return [(c.tensor, c.low, c.high, c.first, c.last) for c in chunks(GRAPH, steps(plan), plan.scopes)]


def test_a_chunk_lives_from_its_writer_to_its_last_reader() -> None:
    assert found(schedule(Group(0, 2, 4))) == [("t1", 0, 4, 0, 80), ("t2", 0, 4, 40, 120)]


def test_instances_have_chunks_of_their_own() -> None:
    assert found(schedule(Group(0, 2, 2))) == [
        ("t1", 0, 2, 0, 40), ("t2", 0, 2, 20, 60), ("t1", 2, 4, 60, 100), ("t2", 2, 4, 80, 120),
    ]  # fmt: skip


def test_what_one_instance_reads_at_once_is_one_chunk() -> None:
    """Two instances write t1, one reads both: they lie beside each other, needed from the first write on."""
    assert found(schedule(Group(0, 0, 2), Group(1, 2, 4)))[0] == ("t1", 0, 4, 0, 80)


def test_instances_that_do_not_divide_each_other_are_joined() -> None:
    plan = schedule(Group(0, 0, 3), Group(1, 2, 2))
    assert [c[1:3] for c in found(plan) if c[0] == "t1"] == [(0, 4)]
    assert [c[1:3] for c in found(plan) if c[0] == "t2"] == [(0, 2), (2, 4)]


def test_a_branch_keeps_what_it_reads() -> None:
    graph = chain(IMAGE, IMAGE, IMAGE, IMAGE, extra=[(1, 2)])
    line = steps_of(schedule(Group(0, 2, 4)), graph, lambda layer, images: 10.0 * images)
    assert [(c.tensor, c.last) for c in chunks(graph, line, LLB)] == [("t1", 120), ("t2", 120)]


def test_tensors_in_ddr_have_no_chunks() -> None:
    assert {c[0] for c in found(schedule(Group(0, 2, 2), scopes={"t2": "llb"}))} == {"t2"}
    assert found(schedule(Group(0, 2, 2), scopes={})) == []


def test_peak() -> None:
    sizes = {"a": 10, "b": 100}
    assert peak([Chunk("a", 0, 2, 0, 5), Chunk("b", 0, 1, 4, 6)], sizes) == 120
    assert peak([Chunk("a", 0, 2, 0, 5), Chunk("b", 0, 1, 5, 6)], sizes) == 100, "what ends gives way to what begins"
    assert peak([], sizes) == 0


def placed(plan: LayerSchedule, size: int = 1 << 20) -> dict[str, list[tuple[Chunk, int]]]:
    target = changed(part("npu-bench"), **{"memory.llb.size": size})
    plan_of = place_chunks(plan, steps(plan), GRAPH, target)
    assert plan_of.size <= size
    return {t: list(mine) for t, mine in plan_of.chunks.items()}


def test_chunks_take_turns_at_a_place() -> None:
    """t1 and t2 of two images take 4 KiB each; those of the next two images lie where the first lay."""
    places = {(t, c.low): a for t, mine in placed(schedule(Group(0, 2, 2)), 8 << 10).items() for c, a in mine}
    assert places["t1", 0] == places["t1", 2] and places["t2", 0] == places["t2", 2]
    assert abs(places["t1", 0] - places["t2", 0]) == 4 << 10


def test_an_image_lies_within_its_chunk() -> None:
    target = part("npu-bench")
    plan = schedule(Group(0, 2, 2))
    llb = place_chunks(plan, steps(plan), GRAPH, target)
    assert llb.address("t1", 1, 2048) == llb.address("t1", 0, 2048) + 2048
    assert llb.address("t1", 3, 2048) == llb.address("t1", 2, 2048) + 2048


def test_too_little_room() -> None:
    with pytest.raises(Infeasible, match="llb") as caught:
        placed(schedule(Group(0, 2, 2)), 4 << 10)
    assert caught.value.limit == "llb"


@drawn(60)
@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4), st.booleans())
def test_chunks_that_live_together_never_overlap(first: int, second: int, third: int, side: bool) -> None:
    groups = [Group(n, n, i, side=side and n == 0) for n, i in enumerate((first, second, third))]
    plan = schedule(*groups)
    line = steps(plan)
    llb = place_chunks(plan, line, GRAPH, part("npu-bench"))
    everything = [(c, a, a + (c.high - c.low) * 2048) for mine in llb.chunks.values() for c, a in mine]
    assert llb.size >= peak([c for c, _, _ in everything], dict.fromkeys(LLB, 2048))
    for i, (c, low, high) in enumerate(everything):
        for d, start, end in everything[i + 1 :]:
            assert not (c.first < d.last and d.first < c.last) or high <= start or end <= low
    for step in line:  # every image that a step touches lies in one chunk
        for view in (*GRAPH.layers[step.layer].inputs, *GRAPH.layers[step.layer].outputs):
            if view.tensor in LLB:
                assert any(c.low <= step.low and step.high <= c.high for c, _ in llb.chunks[view.tensor])
