"""The time of a program by the rules of the manual ("Order", "Time", "Accounting, in detail").

What the manual leaves open, and what is done here:

* A member of a multicast, and an entry of a barrier, takes its own waits when they suffice and then waits for
  the others of its group.
* A barrier's cost is stall: it delays the entry's end but is not occupied time.
* A `set` that stands alone leaves its engine after its cost; the flags change when all earlier entries are
  complete, and the queue goes on meanwhile.
* Bank sharing slows a transposing load's `transpose_rate` as it does a port.
* A multicast counts its bytes once for its source memory, once for each llb that it writes, and its conflict
  cycles once for each receiver.
* Where segments change without a host step, every queue still runs out and completes first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from dsa_compiler.errors import UserError
from dsa_compiler.isa.cost import entry_costs
from dsa_compiler.isa.definition import ROLE_CODE
from dsa_compiler.program.tables import SCOPE_CODE, HostStep, Program
from dsa_compiler.simulator.event_loop import FINISHED, OVERFLOW, run_segment
from dsa_compiler.simulator.loop_state import (
    BLOCKED,
    FAILED_ENTRY,
    FAILED_FLAG,
    IDLE,
    TIMED_ENTRY,
    LoopInput,
    LoopState,
    new_state,
)
from dsa_compiler.simulator.queues import (
    BARRIER,
    FlagSpace,
    Queues,
    barrier_scope,
    build_queues,
    queue_name,
    queues_per_cluster,
    segment_ends,
)
from dsa_compiler.target import CORE_ENGINES, ENGINES, Target

_NAMED = 6
"""Blocked queues that a deadlock's message names."""


@dataclass(frozen=True)
class Stretch:
    """Factors of at least 1 by entry: of startup and work, and of the completion latency."""

    duration: np.ndarray
    latency: np.ndarray


@dataclass(frozen=True)
class HostTime:
    """When a host step ran, in cycles."""

    step: int
    start: float
    end: float


@dataclass(frozen=True)
class Timing:
    """The outcome of a run. Times in cycles.

    start, end: the engine's occupation by entry; complete: when results are visible; order: place of the start
    among all starts; busy: occupied time of each queue (flag costs included, waiting not); conflict: cycles by
    entry; traffic: bytes by (memory, direction), memory "ddr" or "llb", direction "read" or "written".
    """

    queues: Queues
    start: np.ndarray
    end: np.ndarray
    complete: np.ndarray
    order: np.ndarray
    busy: np.ndarray
    conflict: np.ndarray
    cycles: float
    traffic: Mapping[tuple[str, str], float]
    host: tuple[HostTime, ...]

    @property
    def conflict_cycles(self) -> float:
        """Sum over all entries."""
        return float(self.conflict.sum())

    def busy_by_engine(self) -> dict[str, float]:
        """Occupied cycles of each kind of engine, summed over the part."""
        target = self.queues.target
        busy = self.busy.reshape(target.clusters, queues_per_cluster(target))
        cores = busy[:, :-1].reshape(target.cores, len(CORE_ENGINES)).sum(0)
        return dict(zip(ENGINES, [*map(float, cores), float(busy[:, -1].sum())], strict=True))

    def busy_share(self) -> dict[str, float]:
        """Occupied share of the run of each kind of engine, over all engines of that kind in the part."""
        target, length = self.queues.target, max(self.cycles, 1e-9)
        number = dict.fromkeys(CORE_ENGINES, target.cores) | {"prefetch": target.clusters}
        return {engine: cycles / (number[engine] * length) for engine, cycles in self.busy_by_engine().items()}

    @property
    def overlap(self) -> float:
        """Mean number of engines that are occupied at once while any is; 1.0 would be a serial run."""
        used = (self.end > self.start) & (self.queues.kind != BARRIER)
        if not used.any():
            return 0.0
        starts, ends = self.start[used], self.end[used]
        times = np.concatenate([starts, ends])
        order = np.argsort(times, kind="stable")
        active = np.cumsum(np.repeat([1, -1], len(starts))[order])[:-1]
        length = np.diff(times[order])
        occupied = float(length[active > 0].sum())
        return float((active * length).sum()) / occupied if occupied else 0.0

    def busy_by_queue(self) -> dict[str, float]:
        """Occupied cycles of each queue that was used, by its name."""
        used = np.flatnonzero(np.diff(self.queues.first))
        return {queue_name(self.queues.target, int(q)): float(self.busy[q]) for q in used}


def host_cycles(target: Target, step: HostStep) -> float:
    """Cycles of one host step."""
    host = target.host
    return host.call_latency + (step.bytes_in + step.bytes_out) / host.bandwidth + step.operations / host.ops


def time_program(
    program: Program,
    *,
    costs: np.ndarray | None = None,
    queues: Queues | None = None,
    stretch: Stretch | None = None,
) -> Timing:
    """Simulate the time of `program`; `costs` (isa.cost.COST rows) and `queues` are computed where not given.

    Raises `UserError` for a deadlock, naming the blocked queues, for a flag set at 15, and for what
    `build_queues` refuses.
    """
    costs = entry_costs(program) if costs is None else costs
    queues = build_queues(program) if queues is None else queues
    inputs = _loop_input(program, costs, queues, stretch)
    levels = int(inputs.entries["level"].max(initial=0)) + 1
    state = new_state(queues, FlagSpace(program.target).size, levels)
    host = tuple(_run_all(program, queues, inputs, state))
    results = state.results
    return Timing(
        queues=queues,
        start=results["start"],
        end=results["end"],
        complete=results["complete"],
        order=results["order"],
        busy=state.queue["busy"],
        conflict=results["conflict"],
        cycles=float(state.clock[0]),
        traffic=traffic(program, costs, queues),
        host=host,
    )


def _loop_input(program: Program, costs: np.ndarray, queues: Queues, stretch: Stretch | None) -> LoopInput:
    entries, target = program.entries, program.target
    timed = np.zeros(len(entries), TIMED_ENTRY)
    for name in ("startup", "work", "rate", "latency", "banks"):
        timed[name] = costs[name]
    timed["memory"] = _memories(program, costs)
    timed["queue"], timed["group"], timed["kind"] = queues.queue, queues.group, queues.kind
    for name in ("wait", "set", "waits", "sets"):
        timed[name] = entries[name]
    timed["level"] = np.unique(costs["latency"], return_inverse=True)[1]
    timed["barrier"] = _barrier_costs(program, queues)
    if stretch is not None:
        timed["startup"] *= stretch.duration
        timed["work"] *= stretch.duration
        timed["latency"] *= stretch.latency
    bandwidth = [target.memory["ddr"].bandwidth] + [
        target.memory["llb"].bandwidth if target.has_llb else 0.0 for _ in range(target.clusters)
    ]
    return LoopInput(
        entries=timed,
        order=queues.order,
        members=queues.members,
        member_first=queues.member_first,
        rows=queues.flag,
        waiter=FlagSpace(target).waiter(),
        bandwidth=np.array([b or np.inf for b in bandwidth]),
        queues_per_cluster=queues_per_cluster(target),
    )


def _memories(program: Program, costs: np.ndarray) -> np.ndarray:
    """Bit 0 for ddr and bit 1 + c for the llb of the entry's cluster, where the entry is a flow."""
    if program.target.clusters > 63:
        raise UserError(
            f"{program.target.name} has {program.target.clusters} clusters", where="simulator", action="use at most 63"
        )
    llb = np.uint64(2) << program.entries["cluster"].astype(np.uint64)
    ddr = np.where(costs["ddr"] != 0, np.uint64(1), np.uint64(0))
    memory = ddr | np.where(costs["llb"] != 0, llb, np.uint64(0))
    return np.where(costs["flow"] != 0, memory, np.uint64(0))


def _barrier_costs(program: Program, queues: Queues) -> np.ndarray:
    """Cycles that each barrier entry adds once all have arrived; 0 for other entries."""
    sync = program.target.sync
    cost = np.zeros(len(program.entries))
    barriers = np.flatnonzero(queues.kind == BARRIER)
    number = program.entries["attrs"][barriers]
    for attrs in np.unique(number):
        scope = barrier_scope(program.attrs[attrs])
        cost[barriers[number == attrs]] = sync.cluster_barrier if scope == "cluster" else sync.chip_barrier
    return cost


def _run_all(program: Program, queues: Queues, inputs: LoopInput, state: LoopState) -> list[HostTime]:
    """Run segment after segment, each after its host steps."""
    host = []
    segment_of = program.entries["segment"][queues.order]
    bounds = queues.first.copy()
    state.queue["next"] = bounds[:-1]
    for segment in queues.segments:
        for index, step in enumerate(program.host_steps):
            if step.segment == segment:
                start = float(state.clock[0])
                state.clock[0] += host_cycles(program.target, step)
                host.append(HostTime(index, start, float(state.clock[0])))
        state.queue["stop"] = segment_ends(segment_of, queues.first, segment)
        outcome = run_segment(inputs, state)
        if outcome != FINISHED:
            raise _failure(outcome, program, queues, inputs, state)
        state.clock[0] = max(float(state.clock[0]), float(state.done.max(initial=0.0)))
    return host


def _failure(outcome: int, program: Program, queues: Queues, inputs: LoopInput, state: LoopState) -> UserError:
    space = FlagSpace(program.target)
    if outcome == OVERFLOW:
        entry, flag = int(state.integers[FAILED_ENTRY]), int(state.integers[FAILED_FLAG])
        return UserError(
            f"flag overflow: entry {entry} sets {space.name(flag)} while it stands at 15",
            where="simulator",
            action="wait for the flag before it is set again",
        )
    blocked = np.flatnonzero(state.queue["state"] != IDLE)
    lines = [_blocked_line(int(q), queues, inputs, state, space) for q in blocked[:_NAMED]]
    if len(blocked) > _NAMED:
        lines.append(f"and {len(blocked) - _NAMED} more queues")
    return UserError(
        f"deadlock at cycle {state.clock[0]:.0f}: " + "; ".join(lines),
        where="simulator",
        action="let another entry set the flags, or reach the group, that these queues wait for",
    )


def _blocked_line(queue: int, queues: Queues, inputs: LoopInput, state: LoopState, space: FlagSpace) -> str:
    entry = int(state.queue[queue]["entry"])
    row = inputs.entries[entry]
    where = f"{queue_name(space.target, queue)} at entry {entry}"
    if state.queue[queue]["state"] == BLOCKED:
        rows = inputs.rows[row["wait"] : row["wait"] + row["waits"]]
        names = ", ".join(dict.fromkeys(f"{space.name(int(f))} (at {state.flags[f]})" for f in rows))
        return f"{where} waits for {names}"
    group = int(row["group"])
    members = queues.members[queues.member_first[group] : queues.member_first[group + 1]]
    there = state.queue[queues.queue[members]]
    missing = members[(there["entry"] != members) | (there["state"] == BLOCKED) | (there["state"] == IDLE)]
    entries = ", ".join(str(int(m)) for m in missing[:_NAMED])
    return f"{where} waits for its group: {state.arrived[group]} of {len(members)} are ready, not entries {entries}"


def traffic(program: Program, costs: np.ndarray, queues: Queues) -> dict[tuple[str, str], float]:
    """Bytes that flows read from and write to ddr and llb, whole bursts as they are charged."""
    flow = np.flatnonzero(costs["flow"] != 0)
    source, destination = _end_scopes(program, flow)
    work = costs["work"][flow]
    first, work = _once_a_group(queues, flow, work)
    result = {}
    for memory in ("ddr", "llb"):
        code = SCOPE_CODE[memory]
        result[memory, "read"] = float(work[first & (source == code)].sum())
        written = destination == code if memory == "llb" else first & (destination == code)
        result[memory, "written"] = float(work[written].sum())
    return result


def _once_a_group(queues: Queues, flow: np.ndarray, work: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Whether each flow entry is the first of its multicast, and its bytes: the most of any member."""
    group = queues.group[flow]
    first = np.ones(len(flow), bool)
    most = work.copy()
    grouped = np.flatnonzero(group >= 0)
    if len(grouped):
        greatest = np.zeros(len(queues.member_first))
        np.maximum.at(greatest, group[grouped], work[grouped])
        most[grouped] = greatest[group[grouped]]
        first[grouped] = flow[grouped] == queues.members[queues.member_first[group[grouped]]]
    return first, most


def _end_scopes(program: Program, flow: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scope codes of the source (255 without one) and destination of each flow entry."""
    operands = program.operands
    first, count = program.entries["operand"][flow], program.entries["operands"][flow].astype(np.int64)
    source = np.full(len(flow), 255, np.int64)
    destination = np.full(len(flow), 255, np.int64)
    for place in range(int(count.max(initial=0))):
        there = np.flatnonzero(count > place)
        rows = operands[first[there] + place]
        is_source, is_destination = rows["role"] == ROLE_CODE["src"], rows["role"] == ROLE_CODE["dst"]
        source[there[is_source]] = rows["scope"][is_source]
        destination[there[is_destination]] = rows["scope"][is_destination]
    return source, destination
