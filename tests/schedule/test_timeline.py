"""Time lines of schedules: steps begin where their operands are complete; side groups run beside others."""

from __future__ import annotations

from dsa_compiler.schedule.layer_schedule import CHIP, Group, Instance, LayerSchedule
from dsa_compiler.schedule.order import order_instances
from dsa_compiler.schedule.search import needs
from dsa_compiler.schedule.timeline import Step, latest_complete, steps_of
from tests.schedule.graphs import chain

SHAPE = (4, 8)
GRAPH = chain(SHAPE, SHAPE, SHAPE)


def schedule(*groups: Group, share: int = 4, clusters: int = 1) -> LayerSchedule:
    order = order_instances(groups, needs(GRAPH, groups), share)
    return LayerSchedule(share * clusters, (share,) * clusters, groups, {}, order)


def steps(*groups: Group, share: int = 4) -> list[tuple[int, int, int, float, float]]:
    found = steps_of(schedule(*groups, share=share), GRAPH, lambda layer, images: 10.0 * images)
    return [(s.layer, s.low, s.high, s.start, s.end) for s in found]


def test_layers_of_an_instance_follow_each_other() -> None:
    assert steps(Group(0, 1, 2)) == [(0, 0, 2, 0, 20), (1, 0, 2, 20, 40), (0, 2, 4, 40, 60), (1, 2, 4, 60, 80)]


def test_instances_nest() -> None:
    assert steps(Group(0, 0, 2), Group(1, 1, 4)) == [(0, 0, 2, 0, 20), (0, 2, 4, 20, 40), (1, 0, 4, 40, 80)]


def test_inputs_come_beside_the_instance_before() -> None:
    """The side kernel of the second instance takes the whole stretch of the first one's main kernels."""
    line = steps_of(schedule(Group(0, 0, 2, side=True), Group(1, 1, 2)), GRAPH, lambda layer, images: 10.0 * images)
    assert [(s.side, s.layer, s.low, s.start, s.end) for s in sorted(line, key=lambda s: (s.low, s.layer))] == [
        (True, 0, 0, 0, 20), (False, 1, 0, 20, 40), (True, 0, 2, 20, 40), (False, 1, 2, 40, 60),
    ]  # fmt: skip


def test_results_leave_beside_the_instance_after() -> None:
    """A side kernel at the end begins with its operands; the next instance does not wait for it."""
    line = steps_of(schedule(Group(0, 0, 2), Group(1, 1, 2, side=True)), GRAPH, lambda layer, images: 10.0 * images)
    assert [(s.layer, s.low, s.start, s.end) for s in sorted(line, key=lambda s: (s.low, s.layer))] == [
        (0, 0, 0, 20), (1, 0, 20, 40), (0, 2, 20, 40), (1, 2, 40, 60),
    ]  # fmt: skip


def test_a_group_of_the_chip_has_the_chip_to_itself() -> None:
    line = steps_of(schedule(Group(0, 0, 2), Group(1, 1, CHIP)), GRAPH, lambda layer, images: 10.0 * images)
    assert [(s.layer, s.low, s.high, s.start) for s in line] == [(0, 0, 2, 0), (0, 2, 4, 20), (1, 0, 4, 40)]


def test_a_step_takes_time() -> None:
    """Steps without expected work still have a stretch of their own, in which instructions have their order."""
    line = steps_of(schedule(Group(0, 1, 4)), GRAPH, lambda layer, images: 0.0)
    assert [(s.start, s.end) for s in line] == [(0, 1), (1, 2)]


def test_the_latest_that_is_complete() -> None:
    def step(start: float, end: float) -> Step:
        return Step(0, 0, 0, 1, start, end)

    line = [step(0, 20), step(10, 30), step(20, 25), step(30, 40), step(35, 50)]
    assert latest_complete(line) == [-1, -1, 0, 1, 1]
    assert latest_complete([]) == []


def test_what_is_read_is_complete_before() -> None:
    """A step begins after the steps that wrote its images of what it reads, beside others or not."""
    plan = LayerSchedule(
        4, (4,), (Group(0, 0, 2, side=True), Group(1, 1, 4)), {},
        (Instance(0, 0, 2), Instance(0, 2, 4), Instance(1, 0, 4)),
    )  # fmt: skip
    line = steps_of(plan, GRAPH, lambda layer, images: 7.0 * images)
    for step in line:
        if step.layer == 1:
            writers = [s for s in line if s.layer == 0 and s.low < step.high and step.low < s.high]
            assert writers and all(w.end <= step.start for w in writers)
