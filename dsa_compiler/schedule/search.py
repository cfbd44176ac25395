"""Find a layer schedule: how many images each layer works on at a time, and what stays in the llb.

Layers are taken in their order; a group is a run of layers with equally many images an instance. Down the network
images only grow (feature maps shrink), so that instances nest: while a group runs, the llb holds what is alive at its
layers, for its images, and for each border further down where images grow, what waits there. A border may also give its
tensors up to ddr, and a layer may work on all images from ddr to ddr. The best of all such plans under the macro
cost is found by dynamic programming from the last layer to the first.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from dsa_compiler.graph.layers import LayerGraph
from dsa_compiler.schedule.cost import LayerCost, call_cycles, image_bytes, layer_cost
from dsa_compiler.schedule.images import batch_of, divide
from dsa_compiler.schedule.layer_schedule import CHIP, Group, LayerSchedule, even_shares
from dsa_compiler.schedule.order import order_instances
from dsa_compiler.schedule.residency import chunks, peak
from dsa_compiler.schedule.timeline import steps_of
from dsa_compiler.target import Target

GRAIN = 64
"""Parts of the llb in which waiting bytes are counted."""
FILLS = (0.97, 0.9, 0.8, 0.65, 0.5)
"""Shares of the llb that a plan may take; a smaller one is tried where placement found no room."""


@dataclass(frozen=True)
class _State:
    """The best way from a layer on: its cost, the bytes that wait further down, and the next layer's state."""

    cycles: float
    waiting: int
    images: int
    cut: bool
    after: _State | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class Facts:
    """What the search looks at; `alive` and `crossing` are bytes of one image at each layer, and behind it."""

    graph: LayerGraph
    target: Target
    images: int
    shares: tuple[int, ...]
    divisible: Sequence[bool]
    costs: Sequence[LayerCost]
    bytes: Mapping[str, int]
    alive: Sequence[int]
    crossing: Sequence[int]

    def length(self, layer: int, images: int) -> float:
        """Expected cycles of a layer on some images of a cluster, from llb to llb."""
        scopes = dict.fromkeys(self.bytes, "llb")
        return call_cycles(self.costs[layer], images, scopes, len(self.shares), self.target)

    def plain_cycles(self) -> float:
        """Expected cycles of one layer after another on the whole chip, from ddr to ddr."""
        return sum(call_cycles(c, self.most, {}, len(self.shares), self.target) for c in self.costs)

    @property
    def most(self) -> int:
        """The largest share of a cluster."""
        return max(self.shares)


def find_schedule(facts: Facts, fill: float = FILLS[0]) -> LayerSchedule:
    """The cheapest schedule that takes the share `fill` of the llb.

    Layers that only bring inputs or take results away run beside others if what they bring early has room too.
    """
    capacity = int(facts.target.memory["llb"].size * fill)
    state = _best(facts, capacity)
    groups, spilled = _groups(facts, state)
    scopes = {t: "llb" for t in facts.bytes if t not in spilled}
    beside = tuple(part for group in groups for part in _with_sides(facts, group, spilled))
    schedule = _schedule(facts, beside, scopes, state.cycles)
    if beside != groups and _peak(facts, schedule) > capacity:
        return _schedule(facts, groups, scopes, state.cycles)
    return schedule


def _schedule(facts: Facts, groups: tuple[Group, ...], scopes: Mapping[str, str], cycles: float) -> LayerSchedule:
    order = order_instances(groups, needs(facts.graph, groups), facts.most)
    return LayerSchedule(facts.images, facts.shares, groups, scopes, order, cycles)


def _peak(facts: Facts, schedule: LayerSchedule) -> int:
    """The most bytes of the llb in use at once."""
    steps = steps_of(schedule, facts.graph, facts.length)
    return peak(chunks(facts.graph, steps, schedule.scopes), facts.bytes)


def gather_facts(graph: LayerGraph, target: Target, refused: frozenset[str]) -> Facts | None:
    """The facts of `graph` on `target`; None if nothing can stay in the llb.

    `refused` names layers that run on the host or on the whole chip.
    """
    images = batch_of(graph)
    if "llb" not in target.memory or images < target.clusters:
        return None
    facts = describe(graph, target, refused, even_shares(images, target.clusters))
    return facts if facts.bytes else None


def describe(graph: LayerGraph, target: Target, refused: frozenset[str], shares: tuple[int, ...]) -> Facts:
    """The facts of `graph` on `target` whose clusters have `shares` of the images, whether of use or not."""
    images = sum(shares)
    divisible = [layer.name not in refused and divide(layer, graph, images) is not None for layer in graph.layers]
    local = _local_tensors(graph, divisible)
    sizes = {t: image_bytes(graph, t, images, target) for t in graph.tensors if t in local}
    alive, crossing = _liveness(graph, sizes)
    costs = [layer_cost(layer, graph, images, target) for layer in graph.layers]
    return Facts(graph, target, images, shares, divisible, costs, sizes, alive, crossing)


def _local_tensors(graph: LayerGraph, divisible: Sequence[bool]) -> set[str]:
    """Activations that only divisible layers write and read."""
    names = {n for n, t in graph.tensors.items() if t.role == "activation"}
    for layer, mine in zip(graph.layers, divisible, strict=True):
        if not mine:
            names -= {v.tensor for v in (*layer.inputs, *layer.outputs)}
    used = {v.tensor for layer in graph.layers for v in (*layer.inputs, *layer.outputs)}
    return names & used


def _spans(graph: LayerGraph, names: Iterable[str]) -> dict[str, tuple[int, int]]:
    """First and last layer that touches each tensor."""
    wanted = set(names)
    result: dict[str, tuple[int, int]] = {}
    for n, layer in enumerate(graph.layers):
        for view in (*layer.inputs, *layer.outputs):
            if view.tensor in wanted:
                result[view.tensor] = (result.get(view.tensor, (n, n))[0], n)
    return result


def _liveness(graph: LayerGraph, sizes: Mapping[str, int]) -> tuple[list[int], list[int]]:
    """Bytes of one image alive at each layer, and crossing to the next."""
    count = len(graph.layers)
    alive, crossing = [0] * count, [0] * count
    for tensor, (first, last) in _spans(graph, sizes).items():
        for n in range(first, last + 1):
            alive[n] += sizes[tensor]
            crossing[n] += sizes[tensor] if n < last else 0
    return alive, crossing


# ---- dynamic programming -------------------------------------------------------------------------------------
def _best(facts: Facts, capacity: int) -> _State:
    """The cheapest plan from the first layer on."""
    sizes = _instance_sizes(facts.most)
    states: dict[int, list[_State]] = {}
    for n in reversed(range(len(facts.graph.layers))):
        found: dict[int, list[_State]] = {}
        if facts.divisible[n]:
            for images in sizes:
                found[images] = _pareto(_with_images(facts, n, images, states, capacity), capacity)
        found[CHIP] = _pareto(_from_ddr(facts, n, states), capacity)
        states = found
    return min((s for some in states.values() for s in some), key=lambda s: s.cycles)


def _instance_sizes(most: int) -> list[int]:
    """Images that an instance may have: the shares of equal parts, halved again and again."""
    sizes, parts = set(), 1
    while parts <= 2 * most:
        sizes.add(-(-most // parts))
        parts *= 2
    return sorted(sizes | {d for d in range(1, most + 1) if most % d == 0})


def _with_images(
    facts: Facts, n: int, images: int, after: Mapping[int, Sequence[_State]], capacity: int
) -> list[_State]:
    """States of layer n in instances of `images` images."""
    scopes = dict.fromkeys(facts.bytes, "llb")
    count = len(facts.shares)
    cycles = call_cycles(facts.costs[n], images, scopes, count, facts.target) * facts.most / images
    here = facts.alive[n] * images
    if not after:
        return [_State(cycles, 0, images, False)] if here <= capacity else []
    made = []
    for size, states in after.items():
        for state in states:
            cut = size == CHIP or not (size % images == 0 or (size == facts.most and size >= images))
            if cut:
                total = cycles + state.cycles + _cut_cycles(facts, n)
                waiting, held = 0, here
            else:
                total = cycles + state.cycles
                grows = facts.crossing[n] * size if size != images else 0
                waiting = state.waiting + grows
                held = here + waiting - (facts.crossing[n] * images if grows else 0)
            if held <= capacity:
                made.append(_State(total, waiting, images, cut, state))
            if not cut and size != CHIP and here <= capacity:
                made.append(_State(cycles + state.cycles + _cut_cycles(facts, n), 0, images, True, state))
    return made


def _from_ddr(facts: Facts, n: int, after: Mapping[int, Sequence[_State]]) -> list[_State]:
    """States of layer n from ddr to ddr, on all images at once."""
    cycles = call_cycles(facts.costs[n], facts.most, {}, len(facts.shares), facts.target)
    if not after:
        return [_State(cycles, 0, CHIP, True)]
    return [_State(cycles + s.cycles, 0, CHIP, True, s) for some in after.values() for s in some]


def _cut_cycles(facts: Facts, n: int) -> float:
    """Cycles of ddr for writing what crosses to the layer after n, and reading it twice, as branches do."""
    return 3.0 * facts.crossing[n] * facts.images / facts.target.memory["ddr"].bandwidth


def _pareto(states: Iterable[_State], capacity: int) -> list[_State]:
    """The states of which none is cheaper with as few bytes waiting."""
    grain = max(1, capacity // GRAIN)
    best: dict[int, _State] = {}
    for state in states:
        level = math.ceil(state.waiting / grain)
        if level not in best or state.cycles < best[level].cycles:
            best[level] = state
    kept: list[_State] = []
    for level in sorted(best):
        if not kept or best[level].cycles < kept[-1].cycles:
            kept.append(best[level])
    return kept


def _groups(facts: Facts, state: _State | None) -> tuple[tuple[Group, ...], set[str]]:
    """The groups of a plan, and the tensors that it gives up to ddr."""
    groups: list[Group] = []
    cuts: list[int] = []
    n = 0
    while state is not None:
        joined = groups and groups[-1].images == state.images and state.images != CHIP and n - 1 not in cuts
        if joined:
            groups[-1] = Group(groups[-1].first, n, state.images)
        else:
            groups.append(Group(n, n, state.images))
        if state.cut:
            cuts.append(n)
        state, n = state.after, n + 1
    spans = _spans(facts.graph, facts.bytes)
    spilled = {t for t, (first, last) in spans.items() if any(first <= c < last for c in cuts)}
    for group in groups:
        if group.images == CHIP:
            for layer in group.layers:
                spilled |= {v.tensor for v in (*facts.graph.layers[layer].inputs, *facts.graph.layers[layer].outputs)}
    return tuple(groups), spilled


def _with_sides(facts: Facts, group: Group, spilled: set[str]) -> list[Group]:
    """The group with its first and last layers apart if all that they do is to bring inputs, or take outputs away."""
    if group.images == CHIP or group.images == facts.most:
        return [group]
    first, last = group.first, group.last
    while first < last and _moves(facts, first, "input", spilled):
        first += 1
    while last > first and _moves(facts, last, "output", spilled):
        last -= 1
    parts = [(group.first, first - 1, True), (first, last, False), (last + 1, group.last, True)]
    return [Group(low, high, group.images, side) for low, high, side in parts if low <= high]


def _moves(facts: Facts, number: int, role: str, spilled: set[str]) -> bool:
    """Whether a layer without products works between the model's inputs, or outputs, and the llb."""
    layer, tensors = facts.graph.layers[number], facts.graph.tensors
    far, near = (layer.inputs, layer.outputs) if role == "input" else (layer.outputs, layer.inputs)
    ends = all(tensors[v.tensor].role in (role, "constant") for v in far)
    local = all(
        v.tensor in facts.bytes and v.tensor not in spilled for v in near if tensors[v.tensor].role != "constant"
    )
    return layer.kind in ("elementwise", "movement") and ends and local


def needs(graph: LayerGraph, groups: Sequence[Group]) -> list[frozenset[int]]:
    """The groups whose results each group reads."""
    owner: dict[str, set[int]] = {}
    for number, group in enumerate(groups):
        for layer in group.layers:
            for view in graph.layers[layer].outputs:
                owner.setdefault(view.tensor, set()).add(number)
    result = []
    for number, group in enumerate(groups):
        read = {v.tensor for n in group.layers for v in graph.layers[n].inputs}
        result.append(frozenset(g for t in read for g in owner.get(t, ()) if g < number))
    return result
