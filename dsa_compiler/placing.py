"""From compiled kernels to a program: places of tensors in ddr and llb, then levels 4 to 5."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dsa_compiler.assemble.calls import ClusterPlace, KernelCall
from dsa_compiler.assemble.host_step import outline_host_layer, outline_layer
from dsa_compiler.assemble.link import link
from dsa_compiler.assemble.memory import DdrPlan, Lifetime, check_ddr, place_lifetimes, place_tensors
from dsa_compiler.compilation import Work
from dsa_compiler.errors import Infeasible
from dsa_compiler.graph import Layer, LayerGraph
from dsa_compiler.lower.binding import LoweredKernel, Parameter, stored_bytes
from dsa_compiler.program.tables import Binding, HostStep, Program
from dsa_compiler.schedule.cost import image_bytes
from dsa_compiler.schedule.layer_schedule import LayerSchedule
from dsa_compiler.schedule.residency import Chunk, chunks
from dsa_compiler.schedule.timeline import Step
from dsa_compiler.target import Target


@dataclass(frozen=True)
class LlbPlan:
    """Chunks of tensors in the llb of every cluster, with their addresses."""

    chunks: Mapping[str, Sequence[tuple[Chunk, int]]]
    size: int

    def address(self, tensor: str, low: int, image_bytes: int) -> int:
        """Where image `low` of a cluster's share of `tensor` lies."""
        chunk, start = next((c, a) for c, a in self.chunks[tensor] if c.low <= low < c.high)
        return start + (low - chunk.low) * image_bytes


def place_chunks(schedule: LayerSchedule, steps: Sequence[Step], graph: LayerGraph, target: Target) -> LlbPlan:
    """Places in the llb for the chunks of a schedule.

    Raises `Infeasible` if they need more than the part's llb.
    """
    found = chunks(graph, steps, schedule.scopes)
    sizes = {t: image_bytes(graph, t, schedule.images, target) for t in schedule.scopes}
    moments = {t: n for n, t in enumerate(sorted({c.first for c in found} | {c.last for c in found}))}
    lives = [
        Lifetime(
            f"{c.tensor}@{c.low}", (c.high - c.low) * sizes[c.tensor], moments[c.first], moments[c.last] - 1
        )
        for c in found
    ]
    memory = target.memory["llb"]
    addresses, size = place_lifetimes(lives, memory.alignment)
    if size > memory.size:
        raise Infeasible("llb", size, memory.size, where="placing")
    by_tensor: dict[str, list[tuple[Chunk, int]]] = {}
    for chunk, life in zip(found, lives, strict=True):
        by_tensor.setdefault(chunk.tensor, []).append((chunk, addresses[life.name]))
    return LlbPlan(by_tensor, size)


@dataclass(frozen=True)
class Placing:
    """What addresses follow from: the graph, the part, and the schedule with its places in llb, if there is one."""

    graph: LayerGraph
    target: Target
    schedule: LayerSchedule | None = None
    llb: LlbPlan | None = None

    def program(self, works: Sequence[Work], *, macs: int, info: Mapping[str, Any]) -> Program:
        """The program of compiled kernels, in their order.

        Raises `UserError` if it needs more ddr than the part has, `Infeasible` if flags or scratchpads run out.
        """
        plan = place_tensors(self._lifetimes(works), self.target)
        calls: list[KernelCall] = []
        steps: list[HostStep] = []
        segment = 0
        place: dict[int, int] = {}
        for number, work in enumerate(works):
            compiled = work.compiled
            if compiled.trace is None:
                segment += bool(calls and calls[-1].segment == segment)
                steps.append(self._host_step(work, plan, segment))
            else:
                place[number] = len(calls)
                calls.append(self._call(work, plan, segment, place.get(work.after, -1)))
        check_ddr(plan.size, self.target)
        stream = link(calls, self.target)
        rows = {w.row: w.compiled.layer for w in reversed(works)}
        layers = [rows[n] for n in sorted(rows)]
        return Program(
            target=self.target, entries=stream.entries, operands=stream.operands, flags=stream.flags,
            attrs=stream.attrs, nodes=tuple("+".join(layer.nodes) for layer in layers),
            kernels=tuple(layer.name for layer in layers),
            inputs=self._bindings(self.graph.inputs, plan), outputs=self._bindings(self.graph.outputs, plan),
            constants=tuple(plan.constants), host_steps=tuple(steps), ddr_bytes=plan.size, macs=macs, info=dict(info),
        )  # fmt: skip

    def _host_step(self, work: Work, plan: DdrPlan, segment: int) -> HostStep:
        compiled = work.compiled
        if compiled.kernel is None:
            return outline_host_layer(compiled.layer, self.graph, plan, segment)
        addresses = self._addresses(compiled.kernel, plan, None, 0)
        return outline_layer(compiled.layer, compiled.kernel, addresses, segment, compiled.host_reason)

    def _call(self, work: Work, plan: DdrPlan, segment: int, after: int) -> KernelCall:
        kernel, trace = work.compiled.kernel, work.compiled.trace
        assert kernel is not None and trace is not None  # what has neither is a host step
        places = tuple(ClusterPlace(c, self._addresses(kernel, plan, c, work.low)) for c in work.clusters)
        addresses = () if places else self._addresses(kernel, plan, None, 0)
        return KernelCall(
            trace, addresses, self._constant(kernel), work.row, segment, work.row, places,
            after, work.chip_wide, work.instance, work.start, work.end, work.from_top, work.region,
        )  # fmt: skip

    def _addresses(self, kernel: LoweredKernel, plan: DdrPlan, cluster: int | None, low: int) -> tuple[int, ...]:
        """Where the parameters of a kernel lie; constants join the plan."""
        return tuple(self._address(p, plan, cluster, low) for p in kernel.parameters)

    def _address(self, parameter: Parameter, plan: DdrPlan, cluster: int | None, low: int) -> int:
        name = parameter.tensor
        value = parameter.value if not name else self.graph.tensors[name].value
        if value is not None:
            return plan.add_constant(value, self.target.memory["ddr"].alignment)
        if cluster is None or self.schedule is None or self.llb is None:
            return plan.address[name]
        size = image_bytes(self.graph, name, self.schedule.images, self.target)
        if name in self.schedule.scopes:
            return self.llb.address(name, low, size)
        return plan.address[name] + (self.schedule.starts()[cluster] + low) * size

    def _constant(self, kernel: LoweredKernel) -> tuple[bool, ...]:
        """Which parameters nothing in the program writes."""
        tensors = [self.graph.tensors.get(p.tensor) for p in kernel.parameters]
        return tuple(t is None or t.role in ("constant", "input") for t in tensors)

    def _lifetimes(self, works: Sequence[Work]) -> list[Lifetime]:
        """When each tensor in ddr that is no constant is needed.

        Inputs and outputs are all the time; so is every tensor under a schedule, whose clusters are not in step.
        """
        spans = _spans([w.compiled.layer for w in works])
        scopes = self.schedule.scopes if self.schedule is not None else {}
        end = len(works)
        result = []
        for name, tensor in self.graph.tensors.items():
            if tensor.value is not None or tensor.role == "constant" or name in scopes:
                continue
            whole = tensor.role in ("input", "output") or (self.schedule is not None and name in spans)
            if whole or name in spans:
                first, last = (0, end) if whole else spans[name]
                result.append(Lifetime(name, stored_bytes(tensor, self.target), first, last if whole else last + 1))
        return result

    def _bindings(self, names: tuple[str, ...], plan: DdrPlan) -> tuple[Binding, ...]:
        tensors = [self.graph.tensors[n] for n in names]
        return tuple(Binding(t.name, plan.address[t.name], t.shape, t.dtype) for t in tensors)


def _spans(layers: Sequence[Layer]) -> dict[str, tuple[int, int]]:
    """First and last place at which each tensor is touched."""
    result: dict[str, tuple[int, int]] = {}
    for step, layer in enumerate(layers):
        for view in (*layer.inputs, *layer.outputs):
            result[view.tensor] = (result.get(view.tensor, (step, step))[0], step)
    return result
