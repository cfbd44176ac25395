"""Races, flags used ambiguously, and deadlocks, found from the program alone: no time, no values.

Two accesses of which one writes must be ordered by flags, barriers or multicasts, or by their queue: an entry
starts when those before it have left the engine, so it may overwrite what they read, and writes complete in
order among equal latencies. "A flag proves its own entry and those before it in the queue with no greater
latency."
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dsa_compiler.errors import UserError
from dsa_compiler.isa.cost import entry_costs
from dsa_compiler.isa.definition import ROLES
from dsa_compiler.isa.table import BY_CODE
from dsa_compiler.program.tables import Program
from dsa_compiler.simulator.memories import memory_name
from dsa_compiler.simulator.order_loop import COMPLETE, STUCK, run_order
from dsa_compiler.simulator.order_state import (
    FOUND,
    OVERFLOWS,
    RACE,
    STEPS,
    OrderInput,
    OrderState,
    new_order_state,
    order_input,
)
from dsa_compiler.simulator.queues import FlagSpace, Queues, build_queues, queue_name, segment_ends

_NAMED = 6


@dataclass(frozen=True)
class Finding:
    """Something that no flag orders. `kind` is race, overflow or ambiguous; `entries` in the order found."""

    kind: str
    entries: tuple[int, ...]
    message: str


@dataclass(frozen=True)
class OrderReport:
    """What `analyse_order` found; `deadlock` names the blocked queues or is empty.

    `raised`: flags that end above 0, if the analysis reached the end. The manual allows it, but where waits and
    sets are meant to be even it tells of a wait too few.
    """

    findings: tuple[Finding, ...]
    deadlock: str
    raised: tuple[str, ...]
    entries_run: int


def check_order(program: Program) -> None:
    """Raise `UserError` for a deadlock, a race, a flag that may overflow or be taken for another's set."""
    report = analyse_order(program)
    if report.deadlock:
        raise UserError(
            f"deadlock: {report.deadlock}",
            where="simulator",
            action="let another entry set the flags, or reach the group, that these queues wait for",
        )
    if report.findings:
        first = report.findings[0]
        more = f" (and {len(report.findings) - 1} more such findings)" if len(report.findings) > 1 else ""
        action = "order the two entries by flags" if first.kind == "race" else "wait before the flag is used again"
        raise UserError(f"{first.kind}: {first.message}{more}", where="simulator", action=action)


def analyse_order(program: Program, *, costs: np.ndarray | None = None, queues: Queues | None = None) -> OrderReport:
    """Every race and ambiguous flag (up to sixteen), and the deadlock if there is one."""
    costs = entry_costs(program) if costs is None else costs
    queues = build_queues(program) if queues is None else queues
    inputs, flags, shared = order_input(program, queues, costs["latency"])
    state = new_order_state(inputs, queues, shared)
    segment_of = program.entries["segment"][queues.order]
    outcome = COMPLETE
    for segment in queues.segments:
        state.queue["stop"] = segment_ends(segment_of, queues.first, segment)
        outcome = run_order(inputs, state)
        if outcome != COMPLETE:
            break
        _complete_all(inputs, state)
    found = state.findings[: state.integers[FOUND]]
    return OrderReport(
        findings=tuple(_finding(program, queues, inputs, flags, row) for row in found),
        deadlock=_deadlock(queues, inputs, state, flags) if outcome == STUCK else "",
        raised=_raised(program, state, flags) if outcome == COMPLETE else (),
        entries_run=int(state.integers[STEPS]),
    )


def _raised(program: Program, state: OrderState, flags: np.ndarray) -> tuple[str, ...]:
    space = FlagSpace(program.target)
    left = np.flatnonzero(state.flags["sets"] > state.flags["takes"])
    return tuple(space.name(int(flag)) for flag in flags[left])


def _complete_all(inputs: OrderInput, state: OrderState) -> None:
    """Between segments every entry is complete, and every queue knows it."""
    there = inputs.own >= 0
    state.floor[inputs.own[there]] = state.counts[there]
    state.known[:] = state.floor


def _finding(program: Program, queues: Queues, inputs: OrderInput, flags: np.ndarray, row: np.ndarray) -> Finding:
    first, second = int(row["first"]), int(row["second"])
    if row["kind"] == RACE:
        pair = sorted([(first, int(row["first_access"])), (second, int(row["second_access"]))])
        return Finding("race", (pair[0][0], pair[1][0]), _race(program, queues, inputs, pair))
    flag = FlagSpace(program.target).name(int(flags[row["flag"]]))
    if row["kind"] == OVERFLOWS:
        text = f"{_entry(program, queues, second)} may set {flag} while it stands at 15"
        return Finding("flag overflow", (second,), text)
    text = (
        f"{_entry(program, queues, first)} waits for {flag} and may take the set of {_entry(program, queues, second)}"
    )
    return Finding("ambiguous flag", (first, second), text)


def _race(program: Program, queues: Queues, inputs: OrderInput, pair: list[tuple[int, int]]) -> str:
    accesses = [inputs.accesses[access] for _, access in pair]
    low, high = max(int(a["low"]) for a in accesses), min(int(a["high"]) for a in accesses) - 1
    memory = memory_name(program.target, int(accesses[0]["memory"]))
    parts = [
        f"{_entry(program, queues, entry)}, which {_deed(program, access)}"
        for (entry, _), access in zip(pair, accesses, strict=True)
    ]
    return f"nothing orders {parts[0]}, and {parts[1]}, in {memory} between bytes {low} and {high}"


def _deed(program: Program, access: np.ndarray) -> str:
    verb = "writes" if access["writes"] else "reads"
    return f"{verb} {ROLES[program.operands['role'][access['operand']]]}"


def _entry(program: Program, queues: Queues, entry: int) -> str:
    name = BY_CODE[int(program.entries["opcode"][entry])].name
    return f"entry {entry} ({name}, {queue_name(queues.target, int(queues.queue[entry]))})"


def _deadlock(queues: Queues, inputs: OrderInput, state: OrderState, flags: np.ndarray) -> str:
    space = FlagSpace(queues.target)
    blocked = np.flatnonzero(state.queue["next"] < state.queue["stop"])
    lines = [_blocked(int(q), queues, inputs, state, flags, space) for q in blocked[:_NAMED]]
    if len(blocked) > _NAMED:
        lines.append(f"and {len(blocked) - _NAMED} more queues")
    return "; ".join(lines)


def _blocked(
    queue: int, queues: Queues, inputs: OrderInput, state: OrderState, flags: np.ndarray, space: FlagSpace
) -> str:
    entry = int(inputs.order[state.queue["next"][queue]])
    row = inputs.entries[entry]
    where = f"{queue_name(queues.target, queue)} at entry {entry}"
    if state.queue["grouped"][queue] == 0:
        rows = inputs.rows[row["wait"] : row["wait"] + row["waits"]]
        left = state.flags["sets"] - state.flags["takes"]
        names = ", ".join(dict.fromkeys(f"{space.name(int(flags[f]))} (at {left[f]})" for f in rows))
        return f"{where} waits for {names}"
    group = int(row["group"])
    members = queues.members[queues.member_first[group] : queues.member_first[group + 1]]
    heads = inputs.order[np.minimum(state.queue["next"][queues.queue[members]], len(inputs.order) - 1)]
    missing = members[(heads != members) | (state.queue["grouped"][queues.queue[members]] == 0)]
    names = ", ".join(str(int(m)) for m in missing[:_NAMED])
    return f"{where} waits for its group: {state.arrived[group]} of {len(members)} are ready, not entries {names}"
