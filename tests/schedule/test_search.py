"""The search for groups: within its capacity, cuts where nothing fits, any batch on any number of clusters."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import models
from dsa_compiler.graph.layers import LayerGraph
from dsa_compiler.placing import place_chunks
from dsa_compiler.schedule.cost import call_cycles, image_bytes, layer_cost
from dsa_compiler.schedule.layer_schedule import CHIP, LayerSchedule
from dsa_compiler.schedule.residency import chunks, peak
from dsa_compiler.schedule.search import Facts, find_schedule, gather_facts
from dsa_compiler.schedule.timeline import steps_of
from dsa_compiler.target import Target
from tests.lower.drawing import drawn
from tests.lower.parts import changed, part
from tests.schedule.graphs import chain, graph_of

KIB = 1024


def small_llb(size: int, name: str = "npu-v1") -> Target:
    return changed(part(name), **{"memory.llb.size": size})


def facts_of(graph: LayerGraph, target: Target, refused: frozenset[str] = frozenset()) -> Facts:
    facts = gather_facts(graph, target, refused)
    assert facts is not None
    return facts


def found(graph: LayerGraph, target: Target, **chosen: Any) -> tuple[LayerSchedule, Facts]:
    facts = facts_of(graph, target)
    return find_schedule(facts, **chosen), facts


def require_sound(schedule: LayerSchedule, facts: Facts, capacity: float) -> None:
    """Every layer in one group, every image once, and never more in the llb than the capacity."""
    layers = [n for group in schedule.groups for n in group.layers]
    assert layers == list(range(len(facts.graph.layers)))
    for number in range(len(schedule.groups)):
        mine = [i for i in schedule.order if i.group == number]
        assert [i.low for i in mine] == [0, *(i.high for i in mine[:-1])] and mine[-1].high == schedule.most
    line = steps_of(schedule, facts.graph, facts.length)
    assert peak(chunks(facts.graph, line, schedule.scopes), facts.bytes) <= capacity
    for group in schedule.groups:
        own = [facts.graph.layers[n] for n in group.layers]
        touched = {v.tensor for layer in own for v in (*layer.inputs, *layer.outputs)}
        assert group.images != CHIP or not touched & set(schedule.scopes)
    assert all(facts.graph.tensors[t].role == "activation" for t in schedule.scopes)


@drawn(60)
@given(
    st.lists(st.sampled_from([1, 2, 4, 8, 16, 64]), min_size=2, max_size=9),
    st.sampled_from([1, 4, 5, 7, 8, 12, 13]),
    st.sampled_from([8, 32, 64, 200]),
    st.sampled_from(["npu-bench", "npu-v1", "npu-v2"]),
    st.integers(0, 3),
)
def test_never_more_than_its_capacity(rows: list[int], batch: int, llb: int, name: str, branch: int) -> None:
    target = small_llb(llb * KIB, name)
    if batch < target.clusters:
        return
    extra = [(1, len(rows) - 2)] if branch and len(rows) > 3 else []
    graph = chain(*[(batch, r * 16, 32) for r in rows], extra=extra)
    facts = gather_facts(graph, target, frozenset())
    if facts is None:
        assert len(rows) == 2, "all activations of a chain are local"
        return
    for fill in (0.97, 0.5):
        require_sound(find_schedule(facts, fill), facts, llb * KIB * fill)


def test_everything_stays_where_it_fits() -> None:
    graph = chain((8, 16, 32), (8, 16, 32), (8, 16, 32), (8, 16, 32))
    schedule, _ = found(graph, part("npu-v1"))
    assert len(schedule.groups) == 1 and schedule.groups[0].images == 2
    assert schedule.scopes == {"t1": "llb", "t2": "llb"} and schedule.cycles > 0


def test_tensors_stand_in_the_order_of_the_network() -> None:
    """Whatever the hashes of their names: equal schedules are equal files."""
    schedule, _ = found(chain(*[(8, 16, 32)] * 40), part("npu-v1"))
    assert list(schedule.scopes) == [f"t{n}" for n in range(1, 39)]


def test_large_layers_work_on_fewer_images() -> None:
    """Feature maps that shrink: few images at the beginning, all of them at the end."""
    graph = chain(*[(16, rows * 64, 32) for rows in (16, 16, 16, 2, 2, 1)])
    schedule, facts = found(graph, small_llb(140 * KIB))
    assert schedule.groups[0].images < schedule.groups[-1].images == 4
    assert "t1" in schedule.scopes and "t4" in schedule.scopes
    require_sound(schedule, facts, 0.97 * 140 * KIB)


def test_what_fits_nowhere_goes_through_ddr() -> None:
    """One tensor in the middle has 128 KiB an image, the llb 64: its layers work from ddr, the others do not."""
    graph = chain(*[(4, rows, 32) for rows in (64, 64, 64, 2048, 64, 64, 64)])
    schedule, facts = found(graph, small_llb(64 * KIB))
    assert "t5" in schedule.scopes and set(schedule.scopes) <= {"t1", "t5"}
    require_sound(schedule, facts, 64 * KIB)


def test_nothing_fits() -> None:
    graph = chain(*[(4, 2048, 32)] * 4)
    schedule, _ = found(graph, small_llb(64 * KIB))
    assert schedule.scopes == {} and {g.images for g in schedule.groups} == {CHIP}


def test_a_part_without_an_llb() -> None:
    graph = chain((4, 16, 32), (4, 16, 32), (4, 16, 32))
    assert gather_facts(graph, part("npu-edge"), frozenset()) is None


def test_fewer_images_than_clusters() -> None:
    graph = chain((3, 16, 32), (3, 16, 32), (3, 16, 32))
    assert gather_facts(graph, part("npu-v1"), frozenset()) is None
    assert gather_facts(graph, part("npu-v2"), frozenset()) is not None


@pytest.mark.parametrize(("batch", "name", "shares"), [(7, "npu-v1", (2, 2, 2, 1)), (5, "npu-v2", (3, 2))])
def test_primes(batch: int, name: str, shares: tuple[int, ...]) -> None:
    for llb in (16, 40, 8192):
        schedule, facts = found(graph_of(models.build("tiny_cnn", batch=batch), name), small_llb(llb * KIB, name))
        assert schedule.shares == shares and schedule.images == batch
        require_sound(schedule, facts, 0.97 * llb * KIB)


def test_a_refused_layer_runs_on_the_chip_from_ddr() -> None:
    graph = chain(*[(8, 16, 32)] * 6)
    facts = facts_of(graph, part("npu-v1"), frozenset({"layer2"}))
    schedule = find_schedule(facts)
    (group,) = (g for g in schedule.groups if 2 in g.layers)
    assert group.images == CHIP and set(schedule.scopes) == {"t1", "t4"}
    assert gather_facts(graph, part("npu-v1"), frozenset(f"layer{n}" for n in range(5))) is None


@pytest.mark.parametrize(("llb", "side"), [(180, []), (240, [0]), (280, [0, 5])])
def test_layers_at_the_ends_run_beside_others(llb: int, side: list[int]) -> None:
    """The first layer only brings inputs, the last only takes results away; what waits there needs room."""
    graph = chain(*[(16, 1024, 32)] * 4, *[(16, 128, 32)] * 3)
    schedule, _ = found(graph, small_llb(llb * KIB))
    assert [n for group in schedule.groups if group.side for n in group.layers] == side


def test_places_are_found_at_some_fill() -> None:
    target = small_llb(96 * KIB)
    facts = facts_of(graph_of(models.build("tiny_cnn", batch=8)), target)
    schedule = find_schedule(facts, 0.5)
    llb = place_chunks(schedule, steps_of(schedule, facts.graph, facts.length), facts.graph, target)
    assert 0 < llb.size <= target.memory["llb"].size


def test_costs_grow_with_images_and_distance() -> None:
    graph = graph_of(models.build("tiny_cnn", batch=4))
    target = part("npu-v1")
    for layer in graph.layers:
        cost = layer_cost(layer, graph, 4, target)
        near = dict.fromkeys(cost.activations, "llb")
        assert call_cycles(cost, 1, near, 4, target) <= call_cycles(cost, 2, near, 4, target)
        assert call_cycles(cost, 64, near, 4, target) <= call_cycles(cost, 64, {}, 4, target)
        assert (cost.macs > 0) == (layer.kind in ("conv2d", "matmul"))


def test_bytes_of_an_image_count_padded_rows() -> None:
    graph = chain((2, 3, 10), (2, 3, 10), (2, 3, 10))
    target = part("npu-v1")
    rows = target.memory["ddr"].alignment
    assert image_bytes(graph, "t1", 2, target) % 3 == 0 and image_bytes(graph, "t1", 2, target) >= 3 * 20
    assert image_bytes(graph, "t0", 2, target) == 3 * 20, f"inputs are dense whatever {rows} is"
