"""The time line of a schedule: when each layer of each instance begins and ends, in units of expected work.

The program's order follows it: of two kernels that share a stretch of time, instructions take turns. Kernels of one
way follow one another; those of the other way stand half a kernel apart, so that one computes while the other drains
and fills. A kernel begins where the results that it reads are complete.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from dsa_compiler.graph.layers import LayerGraph
from dsa_compiler.schedule.layer_schedule import CHIP, Group, Instance, LayerSchedule

Length = Callable[[int, int], float]
"""(layer, images) -> expected work."""


@dataclass(frozen=True)
class Step:
    """A layer on the images [low, high) of each cluster's share, from `start` to `end`; `way` 1 is a second half."""

    layer: int
    group: int
    low: int
    high: int
    start: float
    end: float
    way: int = 0


def steps_of(schedule: LayerSchedule, graph: LayerGraph, length: Length) -> list[Step]:
    """The steps of a schedule in the order in which they begin."""
    line = _TimeLine(graph, schedule, length)
    for instance in schedule.order:
        line.add(instance)
    return sorted(line.steps, key=lambda s: (s.start, s.way))


class _TimeLine:
    """Steps so far; when each way is free, and when results are complete."""

    def __init__(self, graph: LayerGraph, schedule: LayerSchedule, length: Length) -> None:
        self.graph, self.schedule, self.length = graph, schedule, length
        self.steps: list[Step] = []
        self.free = [0.0, 0.0]
        self.last_group = -1
        self.complete: dict[str, list[tuple[int, int, float]]] = {}

    def add(self, instance: Instance) -> None:
        """The steps of an instance, both its halves."""
        group = self.schedule.groups[instance.group]
        if instance.group != self.last_group or group.images == CHIP:
            self.free = [max(self.free)] * 2
        self.last_group = instance.group
        halves = list(_halves(group, instance))
        for way, (low, high) in enumerate(halves):
            if way:
                lead = self.length(group.first, high - low) / 2
                first = next(s.start for s in reversed(self.steps) if s.way == 0 and s.layer == group.first)
                self.free[1] = max(self.free[1], first + lead)
            for layer in group.layers:
                self._step(layer, instance.group, low, high, way)
        if len(halves) == 1:
            self.free = [self.free[0]] * 2

    def _step(self, layer: int, group: int, low: int, high: int, way: int) -> None:
        work = self.graph.layers[layer]
        start = max(self.free[way], self._inputs_complete(layer, low, high))
        end = start + max(self.length(layer, high - low), 1.0)
        for view in work.outputs:
            self.complete.setdefault(view.tensor, []).append((low, high, end))
        self.free[way] = end
        self.steps.append(Step(layer, group, low, high, start, end, way))

    def _inputs_complete(self, layer: int, low: int, high: int) -> float:
        ends = [
            end
            for view in self.graph.layers[layer].inputs
            for a, b, end in self.complete.get(view.tensor, ())
            if a < high and low < b
        ]
        return max(ends, default=0.0)


def _halves(group: Group, instance: Instance) -> Iterator[tuple[int, int]]:
    count = instance.high - instance.low
    if group.ways == 1 or count < 2 or group.images == CHIP:
        yield instance.low, instance.high
        return
    middle = instance.low + -(-count // 2)
    yield instance.low, middle
    yield middle, instance.high


def latest_complete(steps: Sequence[Step]) -> list[int]:
    """For each step, the step of greatest end that ends before it begins; -1 without."""
    by_end = sorted(range(len(steps)), key=lambda i: (steps[i].end, i))
    ends = [steps[i].end for i in by_end]
    result, place = [], 0
    for step in steps:
        while place < len(ends) and ends[place] <= step.start:
            place += 1
        result.append(by_end[place - 1] if place else -1)
    return result
