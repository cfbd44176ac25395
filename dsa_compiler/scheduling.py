"""Layer schedules from outside: the schedule that a compilation would take, and one that the user gives."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from onnx import ModelProto

from dsa_compiler.errors import Infeasible, UserError
from dsa_compiler.frontend import load_model
from dsa_compiler.graph import LayerGraph
from dsa_compiler.options import CompileOptions
from dsa_compiler.placing import LlbPlan, Placing, place_chunks
from dsa_compiler.schedule.check import check_schedule
from dsa_compiler.schedule.cost import image_bytes
from dsa_compiler.schedule.images import batch_of
from dsa_compiler.schedule.layer_schedule import CHIP, Group, Instance, LayerSchedule, even_shares
from dsa_compiler.schedule.residency import chunks, peak
from dsa_compiler.schedule.schedule_file import plain_schedule, read_schedule
from dsa_compiler.schedule.search import Facts, describe
from dsa_compiler.schedule.text import schedule_lines
from dsa_compiler.schedule.timeline import Step, steps_of
from dsa_compiler.target import Target, load_target


@dataclass(frozen=True)
class GivenSchedule:
    """A schedule from the user for a graph, with its steps and places in llb."""

    schedule: LayerSchedule
    steps: list[Step]
    llb: LlbPlan


def given_schedule(given: Path | LayerSchedule, graph: LayerGraph, target: Target) -> GivenSchedule:
    """The schedule that the user wants for `graph`.

    Raises `UserError` saying where it cannot be obeyed.
    """
    if isinstance(given, LayerSchedule):
        schedule = given
        check_schedule(schedule, graph, target)
    else:
        schedule = read_schedule(given, graph, target)
    steps = steps_of(schedule, graph, _facts(schedule, graph, target).length)
    try:
        llb = place_chunks(schedule, steps, graph, target) if schedule.scopes else LlbPlan({}, 0)
    except Infeasible as reason:
        raise UserError(
            f"it needs {reason.needed} bytes of llb at its peak, {target.name} has {reason.available}",
            where="schedule", action="use fewer images an instance, or leave some tensors in ddr",
        ) from reason  # fmt: skip
    return GivenSchedule(schedule, steps, llb)


def refused_layers(names: set[str]) -> UserError:
    """The error for layers that the cores of a cluster cannot carry."""
    return UserError(
        f"no kernel for the cores of one cluster carries {', '.join(sorted(names))}",
        where="schedule",
        action="put each into a group with images 'chip'",
    )


def layer_by_layer(graph: LayerGraph, target: Target) -> LayerSchedule:
    """The schedule of a graph that has none of use: every layer on the chip, from ddr to ddr."""
    images = batch_of(graph)
    shares = even_shares(images, target.clusters)
    return LayerSchedule(images, shares, (Group(0, len(graph.layers) - 1, CHIP),), {}, (Instance(0, 0, max(shares)),))


def _facts(schedule: LayerSchedule, graph: LayerGraph, target: Target) -> Facts:
    return describe(graph, target, frozenset(), schedule.shares)


@dataclass(frozen=True)
class SchedulePlan:
    """The schedule of a model on a part, for people and files."""

    schedule: LayerSchedule
    graph: LayerGraph
    target: Target

    def plain(self) -> dict[str, Any]:
        """As JSON values: the file's, and `llb_peak_bytes`."""
        return {**plain_schedule(self.schedule, self.graph), "llb_peak_bytes": self.llb_peak_bytes()}

    def lines(self) -> Iterator[str]:
        """As text for people."""
        return schedule_lines(self.schedule, self.graph, self.group_cycles(), self.image_bytes(), self.llb_peak_bytes())

    def llb_peak_bytes(self) -> int:
        """The most bytes of llb that are alive at one time in a cluster."""
        return peak(chunks(self.graph, self._steps(), self.schedule.scopes), self.image_bytes())

    def image_bytes(self) -> dict[str, int]:
        """Bytes of one image of each tensor in llb."""
        images = self.schedule.images
        return {t: image_bytes(self.graph, t, images, self.target) for t in self.schedule.scopes}

    def group_cycles(self) -> list[float]:
        """Expected cycles of all instances of each group on a cluster."""
        facts, result = _facts(self.schedule, self.graph, self.target), [0.0] * len(self.schedule.groups)
        for step in self._steps():
            result[step.group] += facts.length(step.layer, step.high - step.low)
        return result

    def _steps(self) -> list[Step]:
        facts = _facts(self.schedule, self.graph, self.target)
        return steps_of(self.schedule, self.graph, facts.length)


def plan_schedule(
    model: str | Path | bytes | ModelProto, target: str | Path | Target, options: CompileOptions,
    progress: Callable[[str], None] = lambda step: None,
) -> SchedulePlan:  # fmt: skip
    """The layer schedule of a model under `options`; that of the user if there is one, checked.

    Kernels are compiled, as what they refuse changes the schedule. Raises `UserError` for what cannot be accepted.
    """
    from dsa_compiler.placement import place_layers

    part = load_target(target)
    proto = load_model(model, shapes=dict(options.shapes), batch=options.batch, values=options.values)
    placed = place_layers(proto, part, replace(options, graph_schedule="llb"), progress)
    graph = placed.work.graph
    found = next((c.placing.schedule for c in placed.candidates if c.placing.schedule is not None), None)
    return SchedulePlan(found or layer_by_layer(graph, part), graph, part)


def schedule_summary(placing: Placing) -> dict[str, Any] | None:
    """What a program's `info` keeps of its schedule, None without one."""
    schedule = placing.schedule
    if schedule is None:
        return None
    return {
        "images": schedule.images, "shares": list(schedule.shares), "groups": len(schedule.groups),
        "instances": len(schedule.order), "tensors_in_llb": len(schedule.scopes),
        "activations": sum(t.role == "activation" for t in placing.graph.tensors.values()),
        "images_an_instance": ["chip" if g.images == CHIP else g.images for g in schedule.groups],
        "expected_cycles": schedule.cycles,
    }  # fmt: skip
