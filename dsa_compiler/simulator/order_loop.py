"""Runs the queues without time and carries vector clocks: what is known to be complete, what is unordered.

Each queue runs until a wait, a group or a barrier stops it. A flag that one queue sets and one takes is a chain:
the n-th wait knows what the n-th set knew. A wait for a shared flag goes only when nothing else can, so that it
sees every set that may come before it; it knows the sets that must have come, however the others fell.

`p` is an `OrderInput`, `s` an `OrderState`, `q` a queue, `e` an entry, `f` a dense flag, `g` a shared flag.
"""

from __future__ import annotations

import numpy as np

from dsa_compiler.isa.compiled import borrow, compiled, kernel
from dsa_compiler.simulator.accesses import covers, share_a_byte
from dsa_compiler.simulator.order_state import (
    AMBIGUOUS,
    DEFERRED,
    FOUND,
    FREE,
    HALTED,
    MOST_FINDINGS,
    MOST_SHARED,
    MOST_TOKENS,
    NODES,
    OVERFLOWS,
    RACE,
    STEPS,
    OrderInput,
    OrderState,
)
from dsa_compiler.simulator.queues import BARRIER

COMPLETE, STUCK, GIVEN_UP = range(3)
"""How a run ended: every queue at its stop, some blocked for ever, too many findings to go on."""

_FLOOR_STEPS = 2048
_ALL = np.iinfo(np.int32).max


@compiled
def run_order(owned_input: OrderInput, owned_state: OrderState) -> int:
    """Run every queue to its `stop`; COMPLETE, STUCK or GIVEN_UP."""
    p, s = _borrow_all(owned_input, owned_state)
    while s.integers[HALTED] == 0:
        moved = False
        for q in range(len(s.queue)):
            while s.integers[HALTED] == 0 and _step(q, p, s):
                moved = True
        if moved:
            s.integers[DEFERRED] = 0
        elif s.integers[DEFERRED] == 0:
            s.integers[DEFERRED] = 1
        else:
            break
    if s.integers[HALTED] != 0:
        return GIVEN_UP
    for q in range(len(s.queue)):
        if s.queue[q].next < s.queue[q].stop:
            return STUCK
    return COMPLETE


@kernel
def _borrow_all(p: OrderInput, s: OrderState) -> tuple[OrderInput, OrderState]:
    return (
        OrderInput(
            borrow(p.entries), borrow(p.order), borrow(p.members), borrow(p.member_first), borrow(p.rows),
            borrow(p.own), borrow(p.accesses), borrow(p.page_first), borrow(p.page_shift), borrow(p.page_written),
        ),
        OrderState(
            borrow(s.queue), borrow(s.known), borrow(s.counts), borrow(s.floor), borrow(s.flags), borrow(s.tokens),
            borrow(s.takers), borrow(s.clocks), borrow(s.free), borrow(s.shared), borrow(s.shared_sets),
            borrow(s.shared_waits), borrow(s.arrived), borrow(s.page_head), borrow(s.nodes), borrow(s.findings),
            borrow(s.integers),
        ),
    )  # fmt: skip


@kernel
def _step(q: int, p: OrderInput, s: OrderState) -> bool:
    """The next entry of q, if nothing stops it."""
    if s.queue[q].next >= s.queue[q].stop or s.queue[q].grouped != 0:
        return False
    e = p.order[s.queue[q].next]
    if p.entries[e].waits > 0 and not _take_flags(q, e, p, s):
        return False
    s.integers[STEPS] += 1
    if s.integers[STEPS] % _FLOOR_STEPS == 0:
        _raise_floor(p, s)
    if p.entries[e].group < 0:
        _execute(q, e, p, s)
        return True
    s.queue[q].grouped = 1
    group = p.entries[e].group
    s.arrived[group] += 1
    if s.arrived[group] == p.member_first[group + 1] - p.member_first[group]:
        _release(group, p, s)
    return True


@kernel
def _raise_floor(p: OrderInput, s: OrderState) -> None:
    """What every queue knows that has entries left."""
    for c in range(len(s.floor)):
        s.floor[c] = _ALL
    for q in range(len(s.queue)):
        if s.queue[q].next < s.queue[q].last:
            _meet(s.floor, s.known[q])


@kernel
def _meet(into: np.ndarray, clock: np.ndarray) -> None:
    for c in range(len(into)):
        into[c] = min(into[c], clock[c])


@kernel
def _join(into: np.ndarray, clock: np.ndarray) -> None:
    for c in range(len(into)):
        into[c] = max(into[c], clock[c])


@kernel
def _copy(into: np.ndarray, clock: np.ndarray) -> None:
    for c in range(len(into)):
        into[c] = clock[c]


@kernel
def _knows(clock: np.ndarray, e: int, entries: np.ndarray) -> bool:
    """Whether entry e is complete by that clock."""
    return bool(clock[entries[e].number] >= entries[e].place)


@kernel
def _take_flags(q: int, e: int, p: OrderInput, s: OrderState) -> bool:
    """Take the waits of e together and learn what their sets knew, if every flag has enough."""
    t = p.entries[e]
    if t.shared and s.integers[DEFERRED] == 0:
        return False
    enough = True
    for i in range(t.waits):
        s.flags[p.rows[t.wait + i]].takes += 1
    for i in range(t.waits):
        f = p.rows[t.wait + i]
        enough = enough and s.flags[f].takes <= s.flags[f].sets
    for i in range(t.waits):
        s.flags[p.rows[t.wait + i]].takes -= 1
    if not enough:
        return False
    for i in range(t.waits):
        f = p.rows[t.wait + i]
        if s.flags[f].shared >= 0:
            _take_shared(q, e, s.flags[f].shared, p, s)
        else:
            _take_token(q, e, f, s)
        s.flags[f].takes += 1
    if t.shared:
        s.integers[DEFERRED] = 0
    return True


@kernel
def _take_token(q: int, e: int, f: int, s: OrderState) -> None:
    place = s.flags[f].takes % MOST_TOKENS
    clock = s.tokens[f, place]
    _join(s.known[q], s.clocks[clock])
    _free_clock(clock, s.free, s.integers)
    s.takers[f, place] = e


@kernel
def _free_clock(clock: int, free: np.ndarray, integers: np.ndarray) -> None:
    free[integers[FREE]] = clock
    integers[FREE] += 1


@kernel
def _new_clock(q: int, e: int, p: OrderInput, s: OrderState) -> int:
    """A clock of what is complete when e is: what its start knew, and its queue's entries of no greater latency."""
    s.integers[FREE] -= 1
    clock = s.free[s.integers[FREE]]
    _copy(s.clocks[clock], s.known[q])
    _add_own(s.clocks[clock], p.own[q], s.counts[q], p.entries[e].level)
    return int(clock)


@kernel
def _add_own(clock: np.ndarray, own: np.ndarray, counts: np.ndarray, level: int) -> None:
    """Add to a clock the entries of a queue up to a latency."""
    for i in range(level + 1):
        if own[i] >= 0:
            clock[own[i]] = counts[i]


@kernel
def _release(group: int, p: OrderInput, s: OrderState) -> None:
    """All members are there: they start together and know what any of them knew."""
    first, last = p.member_first[group], p.member_first[group + 1]
    barrier = p.entries[p.members[first]].kind == BARRIER
    head = p.entries[p.members[first]].queue
    for i in range(first, last):
        q = p.entries[p.members[i]].queue
        if barrier:
            _add_own(s.known[q], p.own[q], s.counts[q], p.own.shape[1] - 1)
        _join(s.known[head], s.known[q])
    for i in range(first, last):
        q = p.entries[p.members[i]].queue
        _copy(s.known[q], s.known[head])
        s.queue[q].grouped = 0
    for i in range(first, last):
        _execute(p.entries[p.members[i]].queue, p.members[i], p, s)


@kernel
def _execute(q: int, e: int, p: OrderInput, s: OrderState) -> None:
    """Compare the accesses of e with the live ones, count it complete, set its flags."""
    t = p.entries[e]
    for i in range(t.accesses):
        _access(q, e, t.access + i, p, s)
    s.counts[q, t.level] += 1
    if t.at_once:
        s.known[q, p.own[q, t.level]] = s.counts[q, t.level]
    s.queue[q].next += 1
    for i in range(t.sets):
        f = p.rows[t.set + i]
        if s.flags[f].shared >= 0:
            _set_shared(q, e, f, s.flags[f].shared, p, s)
        else:
            _set_token(q, e, f, p, s)


@kernel
def _set_token(q: int, e: int, f: int, p: OrderInput, s: OrderState) -> None:
    """One more set of a chain; the wait fifteen sets before must come first."""
    if s.flags[f].sets - s.flags[f].takes >= MOST_TOKENS:
        _report(OVERFLOWS, -1, e, -1, -1, f, s.findings, s.integers)
        s.integers[HALTED] = 1
        return
    clock = _new_clock(q, e, p, s)
    place = s.flags[f].sets % MOST_TOKENS
    if s.flags[f].sets >= MOST_TOKENS:
        taker = s.takers[f, place]
        if p.entries[taker].queue != q and not _knows(s.clocks[clock], taker, p.entries):
            _report(OVERFLOWS, -1, e, -1, -1, f, s.findings, s.integers)
    s.tokens[f, place] = clock
    s.flags[f].sets += 1


@kernel
def _prune_shared(g: int, p: OrderInput, s: OrderState) -> None:
    """Forget sets and waits that every queue knows of; count them."""
    kept = 0
    for i in range(s.shared[g].sets):
        if _knows(s.floor, s.shared_sets[g, i].entry, p.entries):
            _free_clock(s.shared_sets[g, i].value, s.free, s.integers)
            s.shared[g].settled += 1
        else:
            s.shared_sets[g, kept].entry = s.shared_sets[g, i].entry
            s.shared_sets[g, kept].value = s.shared_sets[g, i].value
            kept += 1
    s.shared[g].sets = kept
    kept = 0
    for i in range(s.shared[g].waits):
        if _knows(s.floor, s.shared_waits[g, i].entry, p.entries):
            s.shared[g].base += s.shared_waits[g, i].value
        else:
            s.shared_waits[g, kept].entry = s.shared_waits[g, i].entry
            s.shared_waits[g, kept].value = s.shared_waits[g, i].value
            kept += 1
    s.shared[g].waits = kept


@kernel
def _tokens_taken(clock: np.ndarray, q: int, g: int, p: OrderInput, s: OrderState) -> int:
    """Tokens of the waits that queue q, or that clock, knows to have been taken."""
    total = s.shared[g].base
    for i in range(s.shared[g].waits):
        e = s.shared_waits[g, i].entry
        if p.entries[e].queue == q or _knows(clock, e, p.entries):
            total += s.shared_waits[g, i].value
    return int(total)


@kernel
def _take_shared(q: int, e: int, g: int, p: OrderInput, s: OrderState) -> None:
    """Take a token and learn what those sets knew that must have come."""
    last = s.shared[g].waits - 1
    if last >= 0 and s.shared_waits[g, last].entry == e:
        s.shared_waits[g, last].value += 1
    else:
        if s.shared[g].waits >= MOST_SHARED:
            _raise_floor(p, s)
            _prune_shared(g, p, s)
        if s.shared[g].waits >= MOST_SHARED:
            _report(AMBIGUOUS, s.shared_waits[g, 0].entry, e, -1, -1, s.shared[g].flag, s.findings, s.integers)
            s.integers[HALTED] = 1
            return
        last = s.shared[g].waits
        s.shared_waits[g, last].entry, s.shared_waits[g, last].value = e, 1
        s.shared[g].waits += 1
    taken = _tokens_taken(s.known[q], q, g, p, s)
    while _learn_one(q, g, taken, p, s):
        pass


@kernel
def _learn_one(q: int, g: int, taken: int, p: OrderInput, s: OrderState) -> bool:
    """Find a set that must be among the first `taken`, not known yet, and learn what it knew."""
    known = s.shared[g].settled
    for i in range(s.shared[g].sets):
        if _knows(s.known[q], s.shared_sets[g, i].entry, p.entries):
            known += 1
    for i in range(s.shared[g].sets):
        if _knows(s.known[q], s.shared_sets[g, i].entry, p.entries):
            continue
        others = 0
        for j in range(s.shared[g].sets):
            later = i == j or _knows(s.clocks[s.shared_sets[g, j].value], s.shared_sets[g, i].entry, p.entries)
            if not later and not _knows(s.known[q], s.shared_sets[g, j].entry, p.entries):
                others += 1
        if others < taken - known:
            _join(s.known[q], s.clocks[s.shared_sets[g, i].value])
            return True
    return False


@kernel
def _set_shared(q: int, e: int, f: int, g: int, p: OrderInput, s: OrderState) -> None:
    """One more set of a shared flag: no wait that came before may have meant it, and its count stays in bounds."""
    if s.shared[g].sets >= MOST_SHARED:
        _raise_floor(p, s)
        _prune_shared(g, p, s)
    if s.shared[g].sets >= MOST_SHARED:
        _report(OVERFLOWS, -1, e, -1, -1, f, s.findings, s.integers)
        s.integers[HALTED] = 1
        return
    clock = _new_clock(q, e, p, s)
    if not _follows_all_sets(clock, g, p, s):
        for i in range(s.shared[g].waits):
            w = s.shared_waits[g, i].entry
            if p.entries[w].queue != q and not _knows(s.clocks[clock], w, p.entries):
                _report(AMBIGUOUS, w, e, -1, -1, f, s.findings, s.integers)
    if s.flags[f].sets + 1 - _tokens_taken(s.clocks[clock], q, g, p, s) > MOST_TOKENS:
        _report(OVERFLOWS, -1, e, -1, -1, f, s.findings, s.integers)
    last = s.shared[g].sets
    s.shared_sets[g, last].entry, s.shared_sets[g, last].value = e, clock
    s.shared[g].sets += 1
    s.flags[f].sets += 1


@kernel
def _follows_all_sets(clock: int, g: int, p: OrderInput, s: OrderState) -> bool:
    follows = True
    for i in range(s.shared[g].sets):
        follows = follows and _knows(s.clocks[clock], s.shared_sets[g, i].entry, p.entries)
    return follows


@kernel
def _access(q: int, e: int, k: int, p: OrderInput, s: OrderState) -> None:
    """Compare access k of e with the live accesses of its pages, and make it one of them."""
    a = p.accesses[k]
    shift, base = p.page_shift[a.memory], p.page_first[a.memory]
    for page in range(a.low >> shift, ((a.high - 1) >> shift) + 1):
        if p.page_written[base + page] == 0:
            continue
        _visit_page(q, e, k, page, base + page, shift, p, s)
        node = s.integers[NODES]
        s.integers[NODES] = node + 1
        s.nodes[node].access = k
        s.nodes[node].next = s.page_head[base + page]
        s.page_head[base + page] = node


@kernel
def _visit_page(q: int, e: int, k: int, page: int, head: int, shift: int, p: OrderInput, s: OrderState) -> None:
    """Report the page's accesses that conflict with access k, and drop those that can conflict no more."""
    a = p.accesses[k]
    before = -1
    node = s.page_head[head]
    while node >= 0:
        following = s.nodes[node].next
        other = s.nodes[node].access
        b = p.accesses[other]
        drop = _knows(s.floor, b.entry, p.entries)
        if not drop and b.entry != e:
            conflict = a.writes != 0 or b.writes != 0
            known = _knows(s.known[q], b.entry, p.entries)
            if conflict and not known and page == max(a.low, b.low) >> shift:
                _compare(q, e, k, other, p, s)
            replaces = a.writes != 0 or b.writes == 0
            drop = replaces and (known or p.entries[e].number == p.entries[b.entry].number) and covers(a, b)
        if not drop:
            before = node
        elif before < 0:
            s.page_head[head] = following
        else:
            s.nodes[before].next = following
        node = following


@kernel
def _compare(q: int, e: int, k: int, other: int, p: OrderInput, s: OrderState) -> None:
    """Report a race of two accesses that no flag orders, unless their queue does."""
    a, b = p.accesses[k], p.accesses[other]
    if p.entries[b.entry].queue == q and (
        b.writes == 0 or (a.reads == 0 and p.entries[b.entry].level <= p.entries[e].level)
    ):
        return
    if share_a_byte(a, b):
        _report(RACE, b.entry, e, other, k, -1, s.findings, s.integers)


@kernel
def _report(
    kind: int, first: int, second: int, first_access: int, second_access: int, flag: int,
    findings: np.ndarray, integers: np.ndarray,
) -> None:  # fmt: skip
    """Keep a finding, each pair of entries once."""
    found = integers[FOUND]
    if found >= MOST_FINDINGS:
        integers[HALTED] = 1
        return
    for i in range(found):
        f = findings[i]
        if f.first == first and f.second == second and f.kind == kind and f.flag == flag:
            return
    findings[found].kind = kind
    findings[found].first = first
    findings[found].second = second
    findings[found].first_access = first_access
    findings[found].second_access = second_access
    findings[found].flag = flag
    integers[FOUND] = found + 1
