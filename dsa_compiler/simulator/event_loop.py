"""The event loop of the time simulator: numba kernels over flat arrays, no Python object an entry.

Time moves from instant to instant. An instant takes every event that is due (a phase of an engine ends, a
completion sets flags), lets the queues that can go on start, and rates the transfers anew if the set of flows
or the sharers of a bank changed. Events closer than `_TICK` cycles are one instant, which takes the latest of
their times, so that nothing starts before what it waited for.

`p` is a `LoopInput`, `s` a `LoopState`, `q` a queue, `e` an entry.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from dsa_compiler.isa.compiled import borrow, compiled, kernel
from dsa_compiler.simulator.loop_state import (
    ARRIVING,
    BLOCKED,
    CANDIDATES,
    CHANGED,
    FAILED_ENTRY,
    FAILED_FLAG,
    FLOWS,
    FOLLOWING,
    GROUPED,
    IDLE,
    PENDING,
    STALE,
    STARTED,
    STARTING,
    WORKING,
    LoopInput,
    LoopState,
)
from dsa_compiler.simulator.queues import BARRIER, SET
from dsa_compiler.simulator.sharing import mark_core, settle, share_banks, share_memories

FINISHED, STUCK, OVERFLOW = range(3)
"""How a run of the loop ended: no queue left, queues that wait for ever, a flag set at 15."""

FLAG_LIMIT = 15
_TICK = 1e-9
_NEVER = np.inf


@compiled
def run_segment(owned_input: LoopInput, owned_state: LoopState) -> int:
    """Run from the clock's time until no event is left, each queue to its `stop`; FINISHED, STUCK or OVERFLOW."""
    p, s = _borrow_all(owned_input, owned_state)
    n = s.integers
    now = s.clock[0]
    for q in range(len(s.queue)):
        _take_next(q, now, p, s)
    while True:
        _serve_candidates(now, p, s)
        if n[CHANGED]:
            share_banks(now, p, s)
        if n[STALE]:
            share_memories(now, p, s)
        now = _next_instant(s.due, s.later_time, n[PENDING])
        if now == _NEVER:
            break
        s.clock[0] = now
        while n[PENDING] > 0 and s.later_time[0] <= now:
            if not _apply_sets(_pop(s), p, s):
                return OVERFLOW
        for q in range(len(s.queue)):
            if s.due[q] <= now and not _step(q, now, p, s):
                return OVERFLOW
    for q in range(len(s.queue)):
        if s.queue[q].state != IDLE:
            return STUCK
    return FINISHED


@kernel
def _borrow_all(p: LoopInput, s: LoopState) -> tuple[LoopInput, LoopState]:
    return (
        LoopInput(
            borrow(p.entries), borrow(p.order), borrow(p.members), borrow(p.member_first), borrow(p.rows),
            borrow(p.waiter), borrow(p.bandwidth), p.queues_per_cluster,
        ),
        LoopState(
            borrow(s.queue), borrow(s.due), borrow(s.flags), borrow(s.arrived), borrow(s.done), borrow(s.results),
            borrow(s.later_time), borrow(s.later_entry), borrow(s.flow_queue), borrow(s.candidates), borrow(s.integers),
            borrow(s.clock),
        ),
    )  # fmt: skip


@kernel
def _next_instant(due: np.ndarray, later_time: np.ndarray, pending: int) -> float:
    """The latest of the times within one tick of the earliest event."""
    first = _NEVER if pending == 0 else later_time[0]
    for q in range(len(due)):
        first = due[q] if due[q] < first else first
    if first == _NEVER:
        return first
    bound = first + _TICK
    last = later_time[0] if pending > 0 and later_time[0] <= bound else first
    for q in range(len(due)):
        last = due[q] if last < due[q] <= bound else last
    return last


@kernel
def _step(q: int, now: float, p: LoopInput, s: LoopState) -> bool:
    """The event of q that is due: a barrier's arrival, the end of startup or of work. False: a flag overflowed."""
    state = s.queue[q].state
    if state == ARRIVING:
        s.due[q] = _NEVER
        s.queue[q].state = GROUPED
        _arrive(q, now, p, s)
        return True
    if state == STARTING and s.queue[q].left > 0.0:
        _begin_work(q, now, s)
        return True
    return _finish(q, now, p, s)


@kernel
def _take_next(q: int, now: float, p: LoopInput, s: LoopState) -> None:
    """The next entry of q comes to the head."""
    s.due[q] = _NEVER
    place = s.queue[q].next
    if place >= s.queue[q].stop:
        s.queue[q].state = IDLE
        return
    s.queue[q].next = place + 1
    s.queue[q].entry = p.order[place]
    s.queue[q].arrival = now
    s.queue[q].state = BLOCKED
    _add_candidate(q, s)


@kernel
def _add_candidate(q: int, s: LoopState) -> None:
    if s.queue[q].listed != 0:
        return
    s.queue[q].listed = 1
    count = s.integers[CANDIDATES]
    s.candidates[count] = q
    s.integers[CANDIDATES] = count + 1


@kernel
def _serve_candidates(now: float, p: LoopInput, s: LoopState) -> None:
    """Let the queues whose flags may suffice go on: in order of arrival, then of cluster, core and engine."""
    count = s.integers[CANDIDATES]
    s.integers[CANDIDATES] = 0
    _sort_by_arrival(s.candidates, count, s.queue)
    for i in range(count):
        s.queue[s.candidates[i]].listed = 0
    for i in range(count):
        q = s.candidates[i]
        e = s.queue[q].entry
        if s.queue[q].state != BLOCKED or not _take_flags(e, p, s.flags):
            continue
        if p.entries[e].kind == BARRIER:
            s.queue[q].state = ARRIVING
            s.due[q] = max(now, s.done[q].max())
        elif p.entries[e].group >= 0:
            s.queue[q].state = GROUPED
            _arrive(q, now, p, s)
        else:
            t = p.entries[e]
            _start(q, q, now, t.startup, t.work, t.rate, t.memory, p, s)


@kernel
def _sort_by_arrival(candidates: np.ndarray, count: int, queue: np.ndarray) -> None:
    for i in range(1, count):
        q = candidates[i]
        at = queue[q].arrival
        j = i - 1
        while j >= 0:
            other = queue[candidates[j]].arrival
            if other < at or (other == at and candidates[j] < q):
                break
            candidates[j + 1] = candidates[j]
            j -= 1
        candidates[j + 1] = q


@kernel
def _take_flags(e: int, p: LoopInput, flags: np.ndarray) -> bool:
    """Take all waits of e at once, if every flag has enough."""
    first, count = p.entries[e].wait, p.entries[e].waits
    enough = True
    for i in range(count):
        flags[p.rows[first + i]] -= 1
        enough = enough and flags[p.rows[first + i]] >= 0
    if not enough:
        for i in range(count):
            flags[p.rows[first + i]] += 1
    return enough


@kernel
def _arrive(q: int, now: float, p: LoopInput, s: LoopState) -> None:
    """Queue q is ready for the entry of its group; the last to arrive starts them all."""
    e = s.queue[q].entry
    group = p.entries[e].group
    s.arrived[group] += 1
    first, last = p.member_first[group], p.member_first[group + 1]
    if s.arrived[group] < last - first:
        return
    if p.entries[e].kind == BARRIER:
        for i in range(first, last):
            t = p.entries[p.members[i]]
            _start(t.queue, t.queue, now, t.startup + t.barrier, 0.0, 1.0, np.uint64(0), p, s)
        return
    _start_multicast(first, last, now, p, s)


@kernel
def _start_multicast(first: int, last: int, now: float, p: LoopInput, s: LoopState) -> None:
    """One flow: the longest startup, the most bytes, the least port, every memory that a member uses."""
    startup, work, rate, memory = 0.0, 0.0, _NEVER, np.uint64(0)
    for i in range(first, last):
        t = p.entries[p.members[i]]
        startup = max(startup, t.startup)
        work = max(work, t.work)
        rate = min(rate, t.rate)
        memory |= t.memory
    leader = p.entries[p.members[first]].queue
    for i in range(first, last):
        _start(p.entries[p.members[i]].queue, leader, now, startup, work, rate, memory, p, s)


@kernel
def _start(
    q: int, leader: int, now: float, startup: float, work: float, rate: float, memory: Any, p: LoopInput, s: LoopState
) -> None:
    """The entry at the head of q starts; a member of a multicast follows its leader's events."""
    e = s.queue[q].entry
    s.results[e].start = now
    s.results[e].order = s.integers[STARTED]
    s.integers[STARTED] += 1
    s.queue[q].leader = leader
    s.queue[q].sharers = 1
    s.queue[q].left = work
    s.queue[q].since = now
    s.queue[q].rate = 0.0
    s.queue[q].cap = rate
    s.queue[q].memory = memory
    s.queue[q].banks = p.entries[e].banks
    s.queue[q].state = STARTING if q == leader else FOLLOWING
    s.due[q] = now + startup if q == leader else _NEVER
    if p.entries[e].banks != 0:
        mark_core(q, s)


@kernel
def _begin_work(q: int, now: float, s: LoopState) -> None:
    """The startup is over: a flow joins the others, other work runs at its engine's rate."""
    s.queue[q].state = WORKING
    s.queue[q].since = now
    if s.queue[q].memory == 0:
        s.queue[q].rate = s.queue[q].cap / s.queue[q].sharers
        s.due[q] = now + s.queue[q].left / s.queue[q].rate
        return
    s.queue[q].flow = s.integers[FLOWS]
    s.flow_queue[s.integers[FLOWS]] = q
    s.integers[FLOWS] += 1
    s.integers[STALE] = 1
    s.due[q] = _NEVER


@kernel
def _finish(q: int, now: float, p: LoopInput, s: LoopState) -> bool:
    """The work of q, and of the members that follow it, is over. False if a flag overflowed."""
    settle(q, now, s)
    if s.queue[q].flow >= 0:
        _remove_flow(q, s)
    e = s.queue[q].entry
    group = p.entries[e].group
    if group < 0 or p.entries[e].kind == BARRIER:
        return _leave(q, now, p, s)
    conflict = s.queue[q].conflict
    for i in range(p.member_first[group], p.member_first[group + 1]):
        member = p.entries[p.members[i]].queue
        s.queue[member].conflict = conflict
        if not _leave(member, now, p, s):
            return False
    return True


@kernel
def _remove_flow(q: int, s: LoopState) -> None:
    last = s.integers[FLOWS] - 1
    place = s.queue[q].flow
    moved = s.flow_queue[last]
    s.flow_queue[place] = moved
    s.queue[moved].flow = place
    s.queue[q].flow = -1
    s.integers[FLOWS] = last
    s.integers[STALE] = 1


@kernel
def _leave(q: int, now: float, p: LoopInput, s: LoopState) -> bool:
    """The entry at the head leaves its engine and completes a latency later. False if a flag overflowed."""
    e = s.queue[q].entry
    t = p.entries[e]
    s.results[e].end = now
    s.results[e].conflict = s.queue[q].conflict
    s.queue[q].busy += now - s.results[e].start - t.barrier
    s.queue[q].conflict = 0.0
    if s.queue[q].banks != 0:
        s.queue[q].banks = 0
        mark_core(q, s)
    complete = _completion(q, now, t.latency, t.level, t.kind, s.done)
    s.results[e].complete = complete
    good = True
    if t.sets > 0 and complete <= now:
        good = _apply_sets(e, p, s)
    elif t.sets > 0:
        _push(complete, e, s)
    _take_next(q, now, p, s)
    return good


@kernel
def _completion(q: int, now: float, latency: float, level: int, kind: int, done: np.ndarray) -> float:
    """When an entry that leaves now completes: after earlier ones of no greater latency; a `set`, after all."""
    complete = now + latency
    for i in range(done.shape[1] if kind == SET else level + 1):
        complete = max(complete, done[q, i])
    if kind != SET:
        done[q, level] = complete
    return complete


@kernel
def _apply_sets(e: int, p: LoopInput, s: LoopState) -> bool:
    """Count up the flags that e sets and note the queues that wait for them. False at the sixteenth."""
    first = p.entries[e].set
    for i in range(p.entries[e].sets):
        flag = p.rows[first + i]
        if s.flags[flag] >= FLAG_LIMIT:
            s.integers[FAILED_ENTRY] = e
            s.integers[FAILED_FLAG] = flag
            return False
        s.flags[flag] += 1
        _note_waiters(flag, p, s)
    return True


@kernel
def _note_waiters(flag: int, p: LoopInput, s: LoopState) -> None:
    """Make candidates of the queues that wait for a flag: one for a core flag, else any of the cluster or chip."""
    target = p.waiter[flag]
    if target >= 0:
        if s.queue[target].state == BLOCKED:
            _add_candidate(target, s)
        return
    low = (-1 - target) * p.queues_per_cluster
    high = low + p.queues_per_cluster
    if low >= len(s.queue):
        low, high = 0, len(s.queue)
    for q in range(low, high):
        if s.queue[q].state == BLOCKED and _waits_for(s.queue[q].entry, flag, p):
            _add_candidate(q, s)


@kernel
def _waits_for(e: int, flag: int, p: LoopInput) -> bool:
    first = p.entries[e].wait
    found = False
    for i in range(p.entries[e].waits):
        found = found or p.rows[first + i] == flag
    return found


@kernel
def _push(time: float, entry: int, s: LoopState) -> None:
    """Add a completion to the heap, which is ordered by time, then entry."""
    times, entries = s.later_time, s.later_entry
    i = s.integers[PENDING]
    s.integers[PENDING] = i + 1
    while i > 0:
        parent = (i - 1) >> 1
        if times[parent] < time or (times[parent] == time and entries[parent] < entry):
            break
        times[i], entries[i] = times[parent], entries[parent]
        i = parent
    times[i], entries[i] = time, entry


@kernel
def _pop(s: LoopState) -> int:
    """Take the earliest completion from the heap."""
    times, entries = s.later_time, s.later_entry
    top = entries[0]
    size = s.integers[PENDING] - 1
    s.integers[PENDING] = size
    time, entry = times[size], entries[size]
    i = 0
    while 2 * i + 1 < size:
        child = 2 * i + 1
        right = child + 1
        if right < size and (
            times[right] < times[child] or (times[right] == times[child] and entries[right] < entries[child])
        ):
            child = right
        if time < times[child] or (time == times[child] and entry < entries[child]):
            break
        times[i], entries[i] = times[child], entries[child]
        i = child
    times[i], entries[i] = time, entry
    return int(top)
