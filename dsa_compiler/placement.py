"""What runs where: layers with their kernels, and the nodes that the CPU runs because no kernel carries them.

A layer that no choice fits, that no instruction carries or that a pass fails on gives its nodes to host steps, which
the front end joins into as few and as large ones as it can; the rest of the graph is then built around them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from onnx import ModelProto

from dsa_compiler.compilation import Compilation, CompiledLayer, Work
from dsa_compiler.errors import Infeasible, InternalError
from dsa_compiler.graph.attention import fuse_attention
from dsa_compiler.graph.build import build_graph
from dsa_compiler.graph.join_copies import join_copies
from dsa_compiler.lower.footprint import check_footprint
from dsa_compiler.lower.lower import lacking
from dsa_compiler.lower.storage import plan_storage
from dsa_compiler.options import CompileOptions
from dsa_compiler.placing import Placing, place_chunks
from dsa_compiler.schedule.search import FILLS, find_schedule, gather_facts
from dsa_compiler.schedule.timeline import steps_of
from dsa_compiler.scheduled_kernels import ScheduledKernels
from dsa_compiler.scheduling import given_schedule, refused_layers
from dsa_compiler.target import Target

Progress = Callable[[str], None]

SURE = 0.6
"""Of the time of one layer after another: below this expected time a schedule is taken without timing both."""


@dataclass(frozen=True)
class Candidate:
    """Kernels in an order, with what their addresses follow from."""

    works: list[Work]
    placing: Placing


@dataclass(frozen=True)
class Placed:
    """The work on a graph, and the candidates of which the faster program is wanted: at least one."""

    work: Compilation
    candidates: list[Candidate]


def place_layers(proto: ModelProto, part: Target, options: CompileOptions, progress: Progress) -> Placed:
    """The work on the graph of `proto`, and its layers, each with a kernel or as a host step.

    Raises `UserError` for a model that cannot be accepted.
    """
    reasons: dict[str, str] = {}
    feedback: Counter[str] = Counter()
    while True:
        progress("graph")
        graph = build_graph(proto, options.precision, lacking, reasons)
        check_footprint(graph, part)
        graph = plan_storage(join_copies(fuse_attention(graph)), part)
        placed = Placed(Compilation(graph, part, options, feedback), [])
        scheduled = _schedule_of(placed.work, progress)
        if scheduled is not None:
            placed.candidates.append(scheduled[0])
        if scheduled is None or not scheduled[1]:
            progress(f"kernels of {len(graph.layers)} layers")
            placed.candidates.append(Candidate(placed.work.compile_layers(), Placing(graph, part)))
        layers = [work.compiled for candidate in placed.candidates for work in candidate.works]
        left = _left_to_host(layers)
        if left.keys() <= reasons.keys():
            break
        reasons |= left
        feedback["host"] += 1
    _require_kernels(layers)
    return placed


def _schedule_of(work: Compilation, progress: Progress) -> tuple[Candidate, bool] | None:
    """The kernels of the user's schedule, of one that is searched for, or None; see `_scheduled`."""
    if work.options.schedule is None:
        return None if work.options.graph_schedule == "none" else _scheduled(work, progress)
    given = given_schedule(work.options.schedule, work.graph, work.target)
    progress(f"kernels of {len(work.graph.layers)} layers")
    kernels = ScheduledKernels(work, given.schedule, given.steps)
    works = kernels.compile_steps()
    if kernels.refused:
        raise refused_layers(kernels.refused)
    return Candidate(works, Placing(work.graph, work.target, given.schedule, given.llb)), True


def _scheduled(work: Compilation, progress: Progress) -> tuple[Candidate, bool] | None:
    """The kernels of a layer schedule, and whether it need not be compared with one layer after another; None where
    none is of use.

    What the cores of a cluster cannot carry, or finds no room in the llb, is told to the search, which decides again.
    """
    refused: set[str] = set()
    fills = list(FILLS)
    while fills:
        facts = gather_facts(work.graph, work.target, frozenset(refused))
        if facts is None:
            return None
        progress("layer schedule")
        schedule = find_schedule(facts, fills[0])
        steps = steps_of(schedule, work.graph, facts.length)
        try:
            llb = place_chunks(schedule, steps, work.graph, work.target)
        except Infeasible as reason:
            work.feedback[reason.limit] += 1
            fills.pop(0)
            continue
        progress(f"kernels of {len(work.graph.layers)} layers")
        kernels = ScheduledKernels(work, schedule, steps)
        works = kernels.compile_steps()
        if not kernels.refused:
            sure = work.options.graph_schedule != "auto" or schedule.cycles < SURE * facts.plain_cycles()
            return Candidate(works, Placing(work.graph, work.target, schedule, llb)), sure
        work.feedback["layers refused"] += len(kernels.refused)
        refused |= kernels.refused
    return None


def _left_to_host(layers: list[CompiledLayer]) -> dict[str, str]:
    """The nodes of layers without a stream, and why; host layers of the graph have theirs already."""
    failed = [c for c in layers if c.trace is None and c.layer.kind != "host"]
    return {node: c.host_reason for c in failed for node in c.layer.nodes}


def _require_kernels(layers: list[CompiledLayer]) -> None:
    """Raise `InternalError` for a layer that has neither a kernel nor nodes that the host could run."""
    for compiled in layers:
        if compiled.kernel is None and compiled.layer.kind != "host":
            raise InternalError(compiled.host_reason, where=compiled.layer.name)
