"""What engines share: L1 banks, and the bandwidth of ddr and llb (max-min fair, by progressive filling).

`p` is a `LoopInput`, `s` a `LoopState`, `q` a queue.
"""

from __future__ import annotations

import numpy as np

from dsa_compiler.isa.compiled import kernel
from dsa_compiler.simulator.loop_state import CHANGED, FLOWS, STALE, WORKING, LoopInput, LoopState

_ENGINES_OF_CORE = 6
_SLACK = 1e-12


@kernel
def mark_core(q: int, s: LoopState) -> None:
    """Note that banks of q's core changed hands."""
    home = s.queue[q].home
    if home >= 0:
        s.queue[home].changed = 1
        s.integers[CHANGED] = 1


@kernel
def settle(q: int, now: float, s: LoopState) -> None:
    """Book the work done, and the conflict, since the rate or the sharers of q last changed."""
    elapsed = now - s.queue[q].since
    s.queue[q].since = now
    if s.queue[q].state != WORKING:
        return
    s.queue[q].left = max(0.0, s.queue[q].left - elapsed * s.queue[q].rate)
    n = s.queue[q].sharers
    if n > 1 and s.queue[q].rate >= s.queue[q].cap / n * (1.0 - _SLACK):
        s.queue[q].conflict += elapsed * (1.0 - 1.0 / n)


@kernel
def share_banks(now: float, p: LoopInput, s: LoopState) -> None:
    """Count anew the sharers of every working instruction's banks on the cores where that changed."""
    s.integers[CHANGED] = 0
    for home in range(len(s.queue)):
        if s.queue[home].changed == 0:
            continue
        s.queue[home].changed = 0
        for q in range(home, home + _ENGINES_OF_CORE):
            if s.queue[q].banks != 0:
                _share_banks_of(q, now, p, s)


@kernel
def _share_banks_of(q: int, now: float, p: LoopInput, s: LoopState) -> None:
    group = p.entries[s.queue[q].entry].group
    n = _sharers(q, s.queue) if group < 0 else _worst_sharers(group, p, s.queue)
    leader = s.queue[q].leader
    if n == s.queue[leader].sharers:
        return
    settle(leader, now, s)
    s.queue[leader].sharers = n
    if s.queue[leader].flow >= 0:
        s.integers[STALE] = 1
    elif s.queue[leader].state == WORKING:
        s.queue[leader].rate = s.queue[leader].cap / n
        s.due[leader] = now + s.queue[leader].left / s.queue[leader].rate


@kernel
def _sharers(q: int, queue: np.ndarray) -> int:
    """The most engines of the core that work in one bank of q's instruction."""
    banks = queue[q].banks
    home = queue[q].home
    others = np.uint64(0)
    for other in range(home, home + _ENGINES_OF_CORE):
        if other != q:
            others |= queue[other].banks
    shared = banks & others
    most = 1
    while shared != 0:
        bit = shared & (~shared + np.uint64(1))
        shared ^= bit
        count = 0
        for other in range(home, home + _ENGINES_OF_CORE):
            if (queue[other].banks & bit) != 0:
                count += 1
        most = max(most, count)
    return most


@kernel
def _worst_sharers(group: int, p: LoopInput, queue: np.ndarray) -> int:
    """The sharers of a multicast: those of its worst receiver."""
    most = 1
    for i in range(p.member_first[group], p.member_first[group + 1]):
        q = p.entries[p.members[i]].queue
        if queue[q].home >= 0 and queue[q].banks != 0:
            most = max(most, _sharers(q, queue))
    return most


@kernel
def share_memories(now: float, p: LoopInput, s: LoopState) -> None:
    """Rate all flows anew; a flow whose rate changed gets another end."""
    s.integers[STALE] = 0
    count = s.integers[FLOWS]
    rates = np.full(count, -1.0)
    _fill(p.bandwidth, s.flow_queue[:count], s.queue, rates)
    for i in range(count):
        q = s.flow_queue[i]
        if rates[i] != s.queue[q].rate:
            settle(q, now, s)
            s.queue[q].rate = rates[i]
            s.due[q] = now + s.queue[q].left / rates[i]


@kernel
def _fill(bandwidth: np.ndarray, flows: np.ndarray, queue: np.ndarray, rates: np.ndarray) -> None:
    """Raise all rates together; a flow stops at its cap, or when one of its memories is used up.

    rates: -1 where the flow still rises.
    """
    free = bandwidth.copy()
    users = np.zeros(len(bandwidth), np.int64)
    for q in flows:
        _use(queue[q].memory, users, free, 0.0, 1)
    left = len(flows)
    while left > 0:
        level, tight = _lowest_level(free, users)
        stopped = _stop_capped(level, flows, queue, rates, users, free)
        if stopped == 0:
            stopped = _stop_users(tight, level, flows, queue, rates, users, free)
        left -= stopped


@kernel
def _lowest_level(free: np.ndarray, users: np.ndarray) -> tuple[float, int]:
    """The share in the memory that gives the least to each flow that still rises, and that memory."""
    level, tight = np.inf, 0
    for m in range(len(free)):
        if users[m] > 0 and free[m] / users[m] < level:
            level, tight = free[m] / users[m], m
    return level, tight


@kernel
def _stop_capped(
    level: float, flows: np.ndarray, queue: np.ndarray, rates: np.ndarray, users: np.ndarray, free: np.ndarray
) -> int:
    """Stop the flows whose cap is no more than `level`; how many."""
    stopped = 0
    for i in range(len(flows)):
        q = flows[i]
        cap = queue[q].cap / queue[q].sharers
        if rates[i] < 0.0 and cap <= level:
            rates[i] = cap
            _use(queue[q].memory, users, free, cap, -1)
            stopped += 1
    return stopped


@kernel
def _stop_users(
    tight: int, level: float, flows: np.ndarray, queue: np.ndarray, rates: np.ndarray, users: np.ndarray,
    free: np.ndarray,
) -> int:  # fmt: skip
    """Stop the flows that use the memory `tight` at `level`; how many."""
    bit = np.uint64(1) << np.uint64(tight)
    stopped = 0
    for i in range(len(flows)):
        memory = queue[flows[i]].memory
        if rates[i] < 0.0 and (memory & bit) != 0:
            rates[i] = level
            _use(memory, users, free, level, -1)
            stopped += 1
    return stopped


@kernel
def _use(memory: int, users: np.ndarray, free: np.ndarray, rate: float, change: int) -> None:
    """Change the number of users of a flow's memories and take its rate off what is free there."""
    m, rest = 0, np.uint64(memory)
    while rest != 0:
        if (rest & np.uint64(1)) != 0:
            users[m] += change
            free[m] = max(0.0, free[m] - rate)
        rest >>= np.uint64(1)
        m += 1
