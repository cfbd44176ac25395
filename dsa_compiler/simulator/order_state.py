"""What the analysis of order reads and changes: flat arrays in two named tuples, as for the event loop.

A clock counts, for each class (a queue and a completion latency), how many of its entries are known to be
complete. Within a class entries complete in queue order, so a count says which. A `set` that stands alone
completes after every earlier entry of its queue and belongs to the queue's class of the greatest latency.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from dsa_compiler.program.tables import Program
from dsa_compiler.simulator.accesses import list_accesses
from dsa_compiler.simulator.queues import SET, Queues

ORDERED_ENTRY = np.dtype(
    [
        ("queue", np.int64),
        ("group", np.int64),
        ("wait", np.int64),         # first row in `rows`
        ("set", np.int64),
        ("access", np.int64),       # first row in `accesses`
        ("accesses", np.int32),
        ("waits", np.int32),
        ("sets", np.int32),
        ("kind", np.int32),
        ("level", np.int32),        # rank of its latency in the program; of a set, the queue's greatest
        ("number", np.int32),       # its class
        ("place", np.int32),        # in its class, from 1
        ("at_once", np.int32),      # completes when it leaves its engine
        ("shared", np.int32),       # waits for a shared flag
    ]
)  # fmt: skip

QUEUE_PROGRESS = np.dtype(
    [
        ("next", np.int64),         # place in `order`
        ("stop", np.int64),         # after the last entry of the segment
        ("last", np.int64),         # after the last entry of all
        ("grouped", np.int64),      # waits for the rest of its group
    ]
)  # fmt: skip

FLAG_USE = np.dtype(
    [
        ("sets", np.int64),         # so far
        ("takes", np.int64),
        ("shared", np.int64),       # its place among the shared flags, -1 for a chain
    ]
)  # fmt: skip

SHARED_FLAG = np.dtype(
    [
        ("flag", np.int64),
        ("sets", np.int64),         # remembered in `shared_sets`
        ("settled", np.int64),      # sets that every queue knows of
        ("waits", np.int64),        # remembered in `shared_waits`
        ("base", np.int64),         # tokens of the waits that every queue knows of
    ]
)  # fmt: skip

SHARED_USE = np.dtype([("entry", np.int64), ("value", np.int64)])
"""A set and the clock of its completion, or a wait and its tokens."""

LIST_NODE = np.dtype([("access", np.int64), ("next", np.int64)])

FINDING = np.dtype(
    [
        ("kind", np.int64),
        ("first", np.int64),        # entry; -1 of an overflow
        ("second", np.int64),       # entry
        ("first_access", np.int64),
        ("second_access", np.int64),
        ("flag", np.int64),         # dense number, -1 of a race
    ]
)  # fmt: skip

RACE, OVERFLOWS, AMBIGUOUS = range(3)
"""Kinds of findings: unordered accesses, a flag that may be set at 15, a wait that may take a later set."""

MOST_TOKENS = 15
MOST_SHARED = 64
"""Sets and waits of a shared flag that are remembered because not every queue knows of them."""

MOST_FINDINGS = 16
_PAGES_OF_MEAN = 8
FOUND, FREE, NODES, STEPS, DEFERRED, HALTED, INTEGERS = range(7)
"""Places in `OrderState.integers`: findings, unused clocks, list nodes, entries done, whether shared waits may go, and
whether the analysis cannot go on."""


class OrderInput(NamedTuple):
    """What the analysis reads.

    order, members, member_first: see `Queues`; rows: dense flag of each flag row; own[q, level]: class of a queue's
    entries, or -1; page_first[m], page_shift[m]: a memory's pages; page_written: whether any entry writes there.
    """

    entries: np.ndarray
    order: np.ndarray
    members: np.ndarray
    member_first: np.ndarray
    rows: np.ndarray
    own: np.ndarray
    accesses: np.ndarray
    page_first: np.ndarray
    page_shift: np.ndarray
    page_written: np.ndarray


class OrderState(NamedTuple):
    """What the analysis changes.

    known[q]: clock of what is complete when the queue's next entry starts; counts[q, level]: entries done; floor:
    what every queue knows that has entries left; tokens[f, 15]: clocks of sets not yet taken; takers[f, 15]: the
    entries that took the flag last; clocks: a pool, of which `free` names the unused rows; arrived[g]: members of a
    group that are ready; page_head, nodes: lists of live accesses by page.
    """

    queue: np.ndarray
    known: np.ndarray
    counts: np.ndarray
    floor: np.ndarray
    flags: np.ndarray
    tokens: np.ndarray
    takers: np.ndarray
    clocks: np.ndarray
    free: np.ndarray
    shared: np.ndarray
    shared_sets: np.ndarray
    shared_waits: np.ndarray
    arrived: np.ndarray
    page_head: np.ndarray
    nodes: np.ndarray
    findings: np.ndarray
    integers: np.ndarray


def order_input(program: Program, queues: Queues, latency: np.ndarray) -> tuple[OrderInput, np.ndarray, np.ndarray]:
    """The input of the analysis, the part's number of each dense flag, and its number among the shared ones or -1."""
    accesses, first_access = list_accesses(program)
    flags, rows = np.unique(queues.flag, return_inverse=True)
    rows = rows.reshape(-1).astype(np.int64)
    entries, own = _entries(program, queues, latency)
    entries["access"], entries["accesses"] = first_access[:-1], np.diff(first_access)
    shared = _shared_flags(entries, rows, len(flags))
    waiter, flag = _uses(entries, rows, "wait", "waits")
    entries["shared"][waiter[shared[flag] >= 0]] = 1
    page_first, shift, written = _pages(accesses)
    return (
        OrderInput(
            entries=entries,
            order=queues.order,
            members=queues.members,
            member_first=queues.member_first,
            rows=rows,
            own=own,
            accesses=accesses,
            page_first=page_first,
            page_shift=shift,
            page_written=written,
        ),
        flags,
        shared,
    )


def _entries(program: Program, queues: Queues, latency: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """ORDERED_ENTRY rows without accesses, and the class of each (queue, level)."""
    result = np.zeros(len(program.entries), ORDERED_ENTRY)
    for name in ("wait", "waits", "set", "sets"):
        result[name] = program.entries[name]
    result["queue"], result["group"], result["kind"] = queues.queue, queues.group, queues.kind
    levels, level = np.unique(latency, return_inverse=True)
    level = level.reshape(-1)
    top = np.zeros(len(queues.first), np.int64)
    np.maximum.at(top, queues.queue, level)
    result["level"] = np.where(queues.kind == SET, top[queues.queue], level)
    if len(levels):
        result["at_once"] = levels[result["level"]] == 0
    width = max(1, len(levels))
    used, number = np.unique(queues.queue * width + result["level"], return_inverse=True)
    own = np.full((len(queues.first) - 1) * width, -1, np.int64)
    own[used] = np.arange(len(used))
    result["number"] = number.reshape(-1)
    result["place"] = _places(number.reshape(-1), queues.order)
    return result, own.reshape(-1, width)


def _places(number: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Place of each entry within its class, from 1, in queue order."""
    sort = order[np.argsort(number[order], kind="stable")]
    classes = number[sort]
    place = np.empty(len(sort), np.int64)
    place[sort] = np.arange(len(sort)) - np.searchsorted(classes, classes) + 1
    return place


def _shared_flags(entries: np.ndarray, rows: np.ndarray, flags: int) -> np.ndarray:
    """A number for each flag that is shared, else -1.

    A flag is a chain if one queue sets it, in the order of its completions, and one queue waits for it.
    """
    setter, flag = _uses(entries, rows, "set", "sets")
    waiter, waited = _uses(entries, rows, "wait", "waits")
    queue = entries["queue"]
    shared = _several(queue[setter], flag, flags) | _several(queue[waiter], waited, flags)
    shared |= np.bincount(flag, minlength=flags) == 0
    sort = np.argsort(flag, kind="stable")
    falls = (np.diff(flag[sort]) == 0) & (np.diff(entries["level"][setter][sort]) < 0)
    shared[flag[sort][1:][falls]] = True
    return np.asarray(np.where(shared, np.cumsum(shared) - 1, -1))


def _uses(entries: np.ndarray, rows: np.ndarray, first: str, count: str) -> tuple[np.ndarray, np.ndarray]:
    """Entry and dense flag of each set, or of each wait."""
    counts = entries[count].astype(np.int64)
    owner = np.repeat(np.arange(len(entries)), counts)
    inside = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
    return owner, rows[entries[first][owner] + inside]


def _several(queue: np.ndarray, flag: np.ndarray, flags: int) -> np.ndarray:
    """Whether several queues use a flag."""
    low = np.full(flags, np.iinfo(np.int64).max)
    high = np.full(flags, -1, np.int64)
    np.minimum.at(low, flag, queue)
    np.maximum.at(high, flag, queue)
    return np.asarray((high >= 0) & (low != high))


def _pages(accesses: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pages about as large as the usual operand of each memory, and which of them are written.

    Operands of wide strides make pages larger, so that they do not lie on too many.
    """
    memory, low, high = accesses["memory"].astype(np.int64), accesses["low"].copy(), accesses["high"].copy()
    memories = int(memory.max(initial=0)) + 1
    shift = np.full(memories, 12, np.int64)
    count = np.zeros(memories, np.int64)
    order = np.argsort(memory, kind="stable")
    spans, ends = (high - low)[order], high[order]
    bounds = np.searchsorted(memory[order], np.arange(memories + 1))
    for m in np.flatnonzero(np.diff(bounds)):
        there = slice(bounds[m], bounds[m + 1])
        usual = max(int(np.median(spans[there])), int(spans[there].mean()) // _PAGES_OF_MEAN)
        shift[m] = min(20, max(8, usual.bit_length()))
        count[m] = (int(ends[there].max()) >> int(shift[m])) + 1
    first = np.concatenate([[0], np.cumsum(count)]).astype(np.int64)
    writes = accesses["writes"] != 0
    base, bits = first[memory[writes]], shift[memory[writes]]
    size = int(first[-1]) + 1
    marks = np.bincount(base + (low[writes] >> bits), minlength=size)
    marks -= np.bincount(base + ((high[writes] - 1) >> bits) + 1, minlength=size)
    return first, shift, (np.cumsum(marks) > 0).astype(np.uint8)


def new_order_state(p: OrderInput, queues: Queues, shared: np.ndarray) -> OrderState:
    """The state before the first entry; `shared` as `order_input` gives it."""
    count, flags = len(queues.first) - 1, len(shared)
    classes = int(p.own.max(initial=-1)) + 1
    several = np.flatnonzero(shared >= 0)
    pool = flags * MOST_TOKENS + len(several) * MOST_SHARED + 1
    bits = p.page_shift[p.accesses["memory"]]
    nodes = int((((p.accesses["high"] - 1) >> bits) - (p.accesses["low"] >> bits) + 1).sum()) + 1
    queue = np.zeros(count, QUEUE_PROGRESS)
    queue["next"], queue["last"] = queues.first[:-1], queues.first[1:]
    uses = np.zeros(flags, FLAG_USE)
    uses["shared"] = shared
    shared_flags = np.zeros(len(several), SHARED_FLAG)
    shared_flags["flag"] = several
    integers = np.zeros(INTEGERS, np.int64)
    integers[FREE] = pool
    return OrderState(
        queue=queue,
        known=np.zeros((count, classes), np.int32),
        counts=np.zeros(p.own.shape, np.int32),
        floor=np.zeros(classes, np.int32),
        flags=uses,
        tokens=np.zeros((flags, MOST_TOKENS), np.int64),
        takers=np.zeros((flags, MOST_TOKENS), np.int64),
        clocks=np.empty((pool, classes), np.int32),
        free=np.arange(pool),
        shared=shared_flags,
        shared_sets=np.zeros((len(several), MOST_SHARED), SHARED_USE),
        shared_waits=np.zeros((len(several), MOST_SHARED), SHARED_USE),
        arrived=np.zeros(len(queues.member_first), np.int64),
        page_head=np.full(len(p.page_written), -1, np.int64),
        nodes=np.empty(nodes, LIST_NODE),
        findings=np.zeros(MOST_FINDINGS, FINDING),
        integers=integers,
    )
