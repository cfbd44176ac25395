"""The time line of a schedule: when each layer of each instance begins and ends, in units of expected work.

The program's order follows it: of two kernels that share a stretch of time, instructions take turns. Kernels follow one
another where the results that they read are complete. Those of side groups run beside the others: one that needs no
results of others takes the whole stretch of the instance before the one that it feeds, one at the end of the network
begins with the results that it takes away.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dsa_compiler.graph.layers import LayerGraph
from dsa_compiler.schedule.layer_schedule import CHIP, Group, Instance, LayerSchedule

Length = Callable[[int, int], float]
"""(layer, images) -> expected work."""


@dataclass(frozen=True)
class Step:
    """A layer on the images [low, high) of each cluster's share, from `start` to `end`, beside others if `side`."""

    layer: int
    group: int
    low: int
    high: int
    start: float
    end: float
    side: bool = False


def steps_of(schedule: LayerSchedule, graph: LayerGraph, length: Length) -> list[Step]:
    """The steps of a schedule in the order in which they begin."""
    line = _TimeLine(graph, schedule, length)
    for instance in schedule.order:
        line.add(instance)
    return sorted(line.steps, key=lambda s: (s.start, not s.side))


class _TimeLine:
    """Steps so far; when main and side kernels end, when the last main instance began, when results are there."""

    def __init__(self, graph: LayerGraph, schedule: LayerSchedule, length: Length) -> None:
        self.graph, self.schedule, self.length = graph, schedule, length
        self.steps: list[Step] = []
        self.free, self.side_free, self.began = 0.0, 0.0, 0.0
        self.complete: dict[str, list[tuple[int, int, float]]] = {}

    def add(self, instance: Instance) -> None:
        """The steps of an instance."""
        group = self.schedule.groups[instance.group]
        if group.side:
            self._beside(group, instance)
            return
        if group.images == CHIP:
            self.free = max(self.free, self.side_free)
        self.began = self.free
        for layer in group.layers:
            start = max(self.free, self._inputs_complete(layer, instance.low, instance.high))
            self.free = start + self._length(layer, instance)
            self._step(layer, instance, start, self.free)
        if group.images == CHIP:
            self.side_free = self.free

    def _beside(self, group: Group, instance: Instance) -> None:
        work = sum(self._length(layer, instance) for layer in group.layers)
        room = self.free - max(self.began, self.side_free)
        waits = self._inputs_complete(group.first, instance.low, instance.high) > 0.0
        slower = 1.0 if waits else max(1.0, room / work)
        now = max(self.side_free, self.began if slower > 1.0 else 0.0)
        for layer in group.layers:
            start = max(now, self._inputs_complete(layer, instance.low, instance.high))
            now = start + self._length(layer, instance) * slower
            self._step(layer, instance, start, now)
        self.side_free = now

    def _length(self, layer: int, instance: Instance) -> float:
        return max(self.length(layer, instance.high - instance.low), 1.0)

    def _step(self, layer: int, instance: Instance, start: float, end: float) -> None:
        for view in self.graph.layers[layer].outputs:
            self.complete.setdefault(view.tensor, []).append((instance.low, instance.high, end))
        side = self.schedule.groups[instance.group].side
        self.steps.append(Step(layer, instance.group, instance.low, instance.high, start, end, side))

    def _inputs_complete(self, layer: int, low: int, high: int) -> float:
        ends = [
            end
            for view in self.graph.layers[layer].inputs
            for a, b, end in self.complete.get(view.tensor, ())
            if a < high and low < b
        ]
        return max(ends, default=0.0)


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
