"""Races and unwritten reads: every byte's last writer and readers, against what each entry can be sure of.

Accesses are taken in the order of the run. A memory is cut into the pieces that the ends of all runs of bytes
leave; each piece remembers who wrote it last and who read it since. Whoever comes next must know that those
are complete.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit

from tests.accountant.listing_file import Listing
from tests.accountant.order import Order
from tests.accountant.runs import Shape

UNWRITTEN, BEFORE = -1, -2
FOUND_LIMIT = 10000
WRITTEN = ("dst", "acc")


@dataclass(frozen=True)
class Hazard:
    """`earlier` and `later` touch the same bytes and nothing orders them; `earlier` is -1 for an unwritten read."""

    kind: str
    memory: tuple
    earlier: int
    later: int

    def __str__(self) -> str:
        place = " ".join(map(str, self.memory))
        if self.kind == "unwritten":
            return f"unwritten read: entry {self.later} in {place}"
        return f"race: {self.kind} of entry {self.later} against entry {self.earlier} in {place}"


class Accesses:
    """All accesses to one memory, in the order of the run, as arrays for the walk."""

    def __init__(self) -> None:
        self.entry: list[int] = []
        self.write: list[bool] = []
        self.shape: list[tuple] = []

    def add(self, entry: int, write: bool, shape: tuple) -> None:
        self.entry.append(entry)
        self.write.append(write)
        self.shape.append(shape)


def _form(operand: dict) -> tuple:
    """address, three extents, three byte strides, bytes of a row: what a walk over runs needs."""
    s = Shape(operand)
    row = s.row_bytes if s.strides[2] else -(-s.bits // 8)
    return (s.address, s.extents[0], s.extents[1], s.strides[0] // 8, s.strides[1] // 8, row)


def find_hazards(listing: Listing, order: Order) -> list[Hazard]:
    """Every pair of unordered accesses, and reads of bytes that nothing wrote, at most `FOUND_LIMIT` a memory."""
    found: list[Hazard] = []
    for memory, accesses in sorted(_collect(listing, order).items()):
        found += _check(memory, accesses, order)
    return found


def _collect(listing: Listing, order: Order) -> dict[tuple, Accesses]:
    memories: dict[tuple, Accesses] = {("ddr",): Accesses()}
    ddr = memories["ddr",]
    for region in [*listing.top.get("inputs", ()), *listing.top.get("constants", ())]:
        if region["bytes"]:
            ddr.add(BEFORE, True, (region["address"], 1, 1, 0, 0, region["bytes"]))
    steps = sorted(listing.top.get("host_steps", ()), key=lambda s: s.get("segment", 0))
    for number in order.clock.order:
        entry = listing.entries[number]
        while steps and steps[0].get("segment", 0) <= entry.get("segment", 0):
            _host_step(ddr, steps.pop(0))
        for operand in sorted(entry.get("operands", ()), key=lambda o: o["role"] in WRITTEN):
            _access(memories, listing, number, operand)
    for step in steps:
        _host_step(ddr, step)
    for region in listing.top.get("outputs", ()):
        if region["bytes"]:
            ddr.add(BEFORE, False, (region["address"], 1, 1, 0, 0, region["bytes"]))
    return {memory: a for memory, a in memories.items() if a.entry}


def _access(memories: dict[tuple, Accesses], listing: Listing, number: int, operand: dict) -> None:
    cluster, core, _ = listing.queue[number]
    scope = operand["scope"]
    memory: tuple = ("ddr",) if scope == "ddr" else ("llb", cluster) if scope == "llb" else (scope, cluster, core)
    accesses = memories.setdefault(memory, Accesses())
    form = _form(operand)
    if operand["role"] != "dst":
        accesses.add(number, False, form)
    if operand["role"] in WRITTEN:
        accesses.add(number, True, form)


def _host_step(ddr: Accesses, step: dict) -> None:
    for key, write in (("inputs", False), ("outputs", True)):
        for region in step.get(key, ()):
            if region["bytes"]:
                ddr.add(BEFORE, write, (region["address"], 1, 1, 0, 0, region["bytes"]))


def _check(memory: tuple, accesses: Accesses, order: Order) -> list[Hazard]:
    forms = np.array(accesses.shape, np.int64)
    entry, write = np.array(accesses.entry, np.int64), np.array(accesses.write)
    owner, low, high = all_runs(forms)
    ends = np.unique(np.concatenate((low, high)))
    first, last = np.searchsorted(ends, low), np.searchsorted(ends, high)
    rows = check_pieces(
        len(ends), entry, write, owner, first, last, order.known, order.column, order.queue, order.place,
        np.array(order.latency), FOUND_LIMIT,
    )  # fmt: skip
    kinds = ("unwritten", "read after write", "write after read", "write after write")
    return [Hazard(kinds[k], memory, int(a), int(b)) for k, a, b in np.unique(rows, axis=0)]


@njit(cache=True)
def all_runs(forms):
    """Contiguous byte ranges of all accesses: the access of each, where it starts and ends."""
    count = 0
    for f in range(len(forms)):
        count += forms[f, 1] * forms[f, 2]
    owner, low, high = np.empty(count, np.int64), np.empty(count, np.int64), np.empty(count, np.int64)
    n = 0
    for f in range(len(forms)):
        begin = n
        for i in range(forms[f, 1]):
            for j in range(forms[f, 2]):
                at = forms[f, 0] + i * forms[f, 3] + j * forms[f, 4]
                if n > begin and at == high[n - 1]:
                    high[n - 1] = at + forms[f, 5]
                else:
                    owner[n], low[n], high[n] = f, at, at + forms[f, 5]
                    n += 1
                if forms[f, 4] == 0:
                    break
            if forms[f, 3] == 0:
                break
    return owner[:n], low[:n], high[:n]


@njit(cache=True)
def _unordered(kind, a, b, known, column, queue, place, latency):
    """Whether `b`, which starts after `a` in this run, could touch a byte before `a` is done with it."""
    if a < 0 or b < 0 or a == b:
        return False
    if known[b, column[a]] >= place[a]:
        return False
    if queue[a] == queue[b]:
        if kind == 2:
            return False
        if kind == 3:
            return latency[a] > latency[b]
        return latency[a] > 0
    return True


@njit(cache=True)
def check_pieces(pieces, entry, write, owner, first, last, known, column, queue, place, latency, limit):
    """Rows (kind, earlier, later): 0 unwritten, 1 read after write, 2 write after read, 3 write after write."""
    writer = np.full(pieces, UNWRITTEN, np.int64)
    head = np.full(pieces, -1, np.int64)
    room = 0
    for r in range(len(owner)):
        if not write[owner[r]]:
            room += last[r] - first[r]
    node_entry, node_next = np.empty(room, np.int64), np.empty(room, np.int64)
    used = 0
    spare = -1
    found = np.empty((limit, 3), np.int64)
    n = 0
    for r in range(len(owner)):
        who = entry[owner[r]]
        for piece in range(first[r], last[r]):
            if write[owner[r]]:
                other = writer[piece]
                if _unordered(3, other, who, known, column, queue, place, latency):
                    n = _note(found, n, 3, other, who)
                node = head[piece]
                while node >= 0:
                    if _unordered(2, node_entry[node], who, known, column, queue, place, latency):
                        n = _note(found, n, 2, node_entry[node], who)
                    after = node_next[node]
                    node_next[node] = spare
                    spare = node
                    node = after
                head[piece] = -1
                writer[piece] = who
            else:
                other = writer[piece]
                if other == UNWRITTEN:
                    n = _note(found, n, 0, -1, who)
                elif _unordered(1, other, who, known, column, queue, place, latency):
                    n = _note(found, n, 1, other, who)
                if who < 0:
                    continue
                node = head[piece]
                while node >= 0 and column[node_entry[node]] != column[who]:
                    node = node_next[node]
                if node >= 0:
                    node_entry[node] = who
                    continue
                if spare >= 0:
                    node = spare
                    spare = node_next[node]
                else:
                    node = used
                    used += 1
                node_entry[node], node_next[node] = who, head[piece]
                head[piece] = node
    return found[:n]


@njit(cache=True)
def _note(found, n, kind, a, b):
    """Add a row unless it is the one just added or there is no room."""
    if n and found[n - 1, 0] == kind and found[n - 1, 1] == a and found[n - 1, 2] == b:
        return n
    if n < len(found):
        found[n, 0], found[n, 1], found[n, 2] = kind, a, b
        n += 1
    return n
