"""Compile the kernels that a layer schedule asks for: one for each layer and number of images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from dsa_compiler.assemble.allocate import part_of
from dsa_compiler.compilation import Compilation, CompiledLayer, Slice, Work
from dsa_compiler.graph.layers import Layer, LayerGraph
from dsa_compiler.schedule.images import Division, divide, slice_layer, slice_tensor
from dsa_compiler.schedule.layer_schedule import CHIP, LayerSchedule
from dsa_compiler.schedule.timeline import Step, latest_complete
from dsa_compiler.target import Memory, Target


@dataclass
class ScheduledKernels:
    """The kernels of a schedule, each compiled once; `refused` collects layers that ended up on the host."""

    work: Compilation
    schedule: LayerSchedule
    steps: Sequence[Step]
    refused: set[str] = field(default_factory=set)
    _made: dict[tuple[int, int, bool], list[CompiledLayer]] = field(default_factory=dict)
    _rows: dict[tuple[int, int, int], int] = field(default_factory=dict)

    def compile_steps(self) -> list[Work]:
        """The program's kernels and host steps in order; not all of them if `refused` is not empty afterwards."""
        works: list[Work] = []
        last: dict[int, int] = {}
        instances: Counter[int] = Counter()
        main = 0
        for number, (step, before) in enumerate(zip(self.steps, latest_complete(self.steps), strict=True)):
            wide = before >= 0 and self.schedule.groups[self.steps[before].group].images == CHIP
            region = self._region(step.side)
            for place, work in self._works(number, step, wide):
                after = len(works) - 1 if place else last.get(before, -1)
                turn = bool(main % 2) and not step.side
                works.append(
                    replace(work, after=after, instance=instances[step.layer], from_top=turn, region=region)
                )
                main += not step.side
            instances[step.layer] += 1
            last[number] = len(works) - 1
        return works

    def _region(self, side: bool) -> tuple[int, int] | None:
        """The part of L1 that kernels beside others have, or that is left to the others; None for all of it."""
        if not any(group.side for group in self.schedule.groups):
            return None
        memory = self.work.target.memory["l1"]
        border = memory.size - side_bytes(memory)
        return (border, memory.size) if side else (0, border)

    def _works(self, number: int, step: Step, after_chip: bool) -> Iterator[tuple[int, Work]]:
        """The works of a step; those of a layer in several kernels are numbered from 0 on, and follow one another."""
        if self.schedule.groups[step.group].images == CHIP:
            pieces = self._pieces(step.layer, CHIP)
            for place, compiled in enumerate(pieces):
                row = self._row(step.layer, len(pieces), place)
                yield place, _spread(Work(row, compiled, number), step, place, len(pieces))
            return
        for count, clusters in self._counts(step).items():
            pieces = self._pieces(step.layer, count, step.side)
            if any(c.trace is None for c in pieces):
                self.refused.add(self.work.graph.layers[step.layer].name)
                return
            for place, compiled in enumerate(pieces):
                row = self._row(step.layer, len(pieces), place)
                wide = after_chip and not place
                work = Work(row, compiled, number, tuple(clusters), step.low, count, wide)
                yield place, _spread(work, step, place, len(pieces))

    def _counts(self, step: Step) -> dict[int, list[int]]:
        """Clusters by the number of images of theirs in this instance."""
        counts: dict[int, list[int]] = {}
        for cluster, share in enumerate(self.schedule.shares):
            count = min(step.high, share) - min(step.low, share)
            if count:
                counts.setdefault(count, []).append(cluster)
        return counts

    def _row(self, layer: int, pieces: int, place: int) -> int:
        """The row in reports of one of the kernels that a layer is made of."""
        return self._rows.setdefault((layer, pieces, place), len(self._rows))

    def _pieces(self, number: int, count: int, side: bool = False) -> list[CompiledLayer]:
        """The kernels of a layer for `count` images, `CHIP` for all of them on all clusters.

        One at the `side` stays in its part of L1.
        """
        key = (number, count, side)
        if key not in self._made:
            graph, layer = self.work.graph, self.work.graph.layers[number]
            if count == CHIP:
                self._made[key] = self.work.compile_joined(layer, Slice(graph, self.work.target), number)
            else:
                part, sliced = slice_of(layer, graph, self.schedule, count)
                view = cluster_view(self.work.target, part, sliced, len(self.schedule.shares), self._region(side))
                where = Slice(sliced, view)
                self._made[key] = self.work.compile_joined(part, where, number)
        return self._made[key]


def side_bytes(memory: Memory) -> int:
    """Bytes of L1 for kernels beside others: an eighth, in whole banks."""
    unit = memory.bank_bytes if memory.banks > 1 else memory.alignment
    return -(-memory.size // 8 // unit) * unit


def _spread(work: Work, step: Step, place: int, pieces: int) -> Work:
    """`work` on its part of the step's stretch of time."""
    length = (step.end - step.start) / pieces
    return replace(work, start=step.start + place * length, end=step.start + (place + 1) * length)


def slice_of(layer: Layer, graph: LayerGraph, schedule: LayerSchedule, count: int) -> tuple[Layer, LayerGraph]:
    """The layer for `count` images, its parts likewise, and the tensors that they touch."""
    tensors = dict(graph.tensors)

    def sliced(one: Layer, division: Division) -> Layer:
        for view, axis in zip((*one.inputs, one.output), (*division.inputs, division.output), strict=True):
            if axis is not None and graph.tensors[view.tensor].value is None:
                scope = schedule.scopes.get(view.tensor, "ddr")
                tensors[view.tensor] = slice_tensor(graph.tensors[view.tensor], schedule.images, count, scope)
        return slice_layer(one, division, schedule.images, count)

    divisions = [divide(one, graph, schedule.images) for one in (layer, *layer.parts)]
    known = [d for d in divisions if d is not None]
    parts = [sliced(one, d) for one, d in zip((layer, *layer.parts), known, strict=False)]
    whole = replace(parts[0], parts=tuple(parts[1:]) if len(known) == len(divisions) else ())
    return whole, replace(graph, tensors=tensors)


def cluster_view(
    target: Target, layer: Layer, graph: LayerGraph, clusters: int, region: tuple[int, int] | None
) -> Target:
    """The part as a kernel for one cluster sees it: its cores, and for `ddr` the memory of most of its activations.

    What several clusters read at once from ddr has its share of the bandwidth; `constants` is the ddr from which all
    clusters read weights together. A kernel in a region of L1 sees that. Addresses and instructions do not
    depend on any of this.
    """
    tensors = [graph.tensors[v.tensor] for v in (*layer.inputs, *layer.outputs)]
    near = sum(t.size for t in tensors if t.scope == "llb")
    far = sum(t.size for t in tensors if t.scope == "ddr" and t.value is None)
    ddr, llb = target.memory["ddr"], target.memory.get("llb")
    if llb is not None and near >= far:
        seen = replace(ddr, bandwidth=llb.bandwidth, latency=llb.latency)
    else:
        seen = replace(ddr, bandwidth=ddr.bandwidth / clusters)
    memory = {**target.memory, "ddr": seen, "constants": ddr}
    if region is not None:
        memory["l1"] = part_of(memory["l1"], region[1] - region[0])
    return replace(target, clusters=1, memory=memory)
