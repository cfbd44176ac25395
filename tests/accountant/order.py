"""What each entry can be sure of when it starts: for every queue, how far its entries are complete.

Knowledge is a vector with one place for each pair of a queue and a completion latency met in it, since entries
of one queue and one latency complete in order, and others need not. A flag proves what its setter knows and
has done; which sets a wait proves follows from counting, not from the times of one run: the wait had k
flags, so a set is proven if fewer than k others could have come before the wait without it.
"""

from __future__ import annotations

import bisect

import numpy as np
from numba import njit

from tests.accountant.clock import Clock
from tests.accountant.listing_file import Listing, Queue

NEAR = 32
"""Sets looked at before the last that a take may prove; earlier ones were proven by earlier takes."""


class Order:
    """`known[i, column]`: entries of that queue and latency up to this place (counted from 1) are complete
    when entry i starts."""

    def __init__(self, listing: Listing, clock: Clock) -> None:
        self.listing, self.clock = listing, clock
        self.latency = [c.latency for c in clock.cost]
        self.queues = list(listing.entries_of)
        number = {q: i for i, q in enumerate(self.queues)}
        self.queue = np.array([number[q] for q in listing.queue], np.int64)
        self.place = np.array(listing.place, np.int64) + 1
        self._columns()
        self._flags()
        self.known = np.zeros((0, 0), np.int32)
        self._settle()

    def _columns(self) -> None:
        """A column for each queue and latency; `column[i]` is entry i's own."""
        pairs = sorted(set(zip(self.queue.tolist(), self.latency, strict=True)))
        index = {pair: i for i, pair in enumerate(pairs)}
        self.column = np.array([index[p] for p in zip(self.queue.tolist(), self.latency, strict=True)], np.int64)
        first = [bisect.bisect_left(pairs, (q,)) for q in range(len(self.queues))]
        self.first = np.array([*first, len(pairs)], np.int64)
        self.column_latency = np.array([p[1] for p in pairs])

    def _flags(self) -> None:
        """Of each flag its setters by queue, in order, and its takes in the order of the run."""
        self.setters: dict[tuple, dict[int, list[int]]] = {}
        self.takers: dict[tuple, dict[int, list[int]]] = {}
        for numbers in self.listing.entries_of.values():
            for i in numbers:
                for table, flags in ((self.setters, self.clock.sets[i]), (self.takers, self.clock.waits[i])):
                    for flag in flags:
                        table.setdefault(flag, {}).setdefault(int(self.queue[i]), []).append(i)

    # -- counting flags

    def _settle(self) -> None:
        """Simple flags first; then those whose count needs what is known already, until nothing is added."""
        plain = [f for f in self.takers if self._is_plain(f)]
        proofs = {f: self._plain_proofs(f) for f in plain}
        others = [f for f in self.takers if f not in proofs]
        for flag in others:
            proofs[flag] = {}
        self._spread(proofs)
        while others:
            before = int(self.known.sum(dtype=np.int64))
            for flag in others:
                proofs[flag] = self._counted_proofs(flag)
            self._spread(proofs)
            if int(self.known.sum(dtype=np.int64)) == before:
                break

    def _is_plain(self, flag: tuple) -> bool:
        """One queue sets it, with one latency, and one queue takes it: the k-th take proves the k-th set."""
        setters = self.setters.get(flag, {})
        if len(setters) != 1 or len(self.takers[flag]) != 1:
            return False
        (numbers,) = setters.values()
        return len({self.latency[i] for i in numbers}) == 1 and not any(self._stands_alone(i) for i in numbers)

    def _stands_alone(self, i: int) -> bool:
        return self.listing.entries[i]["op"] == "set"

    def _plain_proofs(self, flag: tuple) -> dict[int, list[int]]:
        (sets,), (takes,) = self.setters[flag].values(), self.takers[flag].values()
        proofs: dict[int, list[int]] = {}
        for k, taker in enumerate(takes):
            if k < len(sets):
                proofs[taker] = [sets[k]]
        return proofs

    def _counted_proofs(self, flag: tuple) -> dict[int, list[int]]:
        """For each taker the sets, the last of each queue and latency, that it proves."""
        setters, proofs = self.setters.get(flag, {}), {}
        for queue, takes in self.takers[flag].items():
            for k, taker in enumerate(takes):
                count = k + 1 + sum(self._earlier(q, t, taker) for q, t in self.takers[flag].items() if q != queue)
                possible = {q: self._possible(s, taker) for q, s in setters.items()}
                total = sum(possible.values())
                proven: list[int] = []
                for q, sets in setters.items():
                    proven += self._proven(sets[: possible[q]], count - (total - possible[q]))
                proofs[taker] = proven
        return proofs

    def _earlier(self, queue: int, takes: list[int], taker: int) -> int:
        """Takes by another queue that are surely before this one."""
        known = self._known_of(taker, queue)
        return bisect.bisect_right([int(self.place[t]) for t in takes], known)

    def _known_of(self, entry: int, queue: int) -> int:
        """Entries of `queue` that had surely started when `entry` starts, as a place."""
        if queue == self.queue[entry]:
            return int(self.place[entry]) - 1
        return int(self.known[entry, self.first[queue] : self.first[queue + 1]].max())

    def _possible(self, sets: list[int], taker: int) -> int:
        """Sets of one queue, from its first on, that may come before the take: those not known to follow it."""
        queue, place = int(self.queue[taker]), int(self.place[taker])
        low, high = 0, len(sets)
        while low < high:
            middle = (low + high) // 2
            setter = sets[middle]
            follows = setter == taker or self._known_of(setter, queue) >= place
            low, high = (low, middle) if follows else (middle + 1, high)
        return low

    def _proven(self, sets: list[int], count: int) -> list[int]:
        """Of one queue's possible sets those proven by `count` flags that must be theirs."""
        end = min(count, len(sets))
        if end <= 0:
            return []
        if len({(self.latency[s], self._stands_alone(s)) for s in sets}) == 1:
            return [sets[end - 1]]
        last: dict[tuple, int] = {}
        for i in range(max(0, end - NEAR), end):
            if i + sum(1 for later in sets[i + 1 :] if self._overtakes(later, sets[i])) < count:
                last[self.latency[sets[i]], self._stands_alone(sets[i])] = sets[i]
        return list(last.values())

    def _overtakes(self, later: int, setter: int) -> bool:
        return self.latency[later] < self.latency[setter] and not self._stands_alone(later)

    # -- spreading knowledge

    def _spread(self, proofs: dict[tuple, dict[int, list[int]]]) -> None:
        """Recompute `known` in the order of the run from what each wait proves."""
        count = len(self.latency)
        by_entry: list[list[int]] = [[] for _ in range(count)]
        for proof in proofs.values():
            for taker, proven in proof.items():
                by_entry[taker] += proven
        sizes = np.array([len(p) for p in by_entry], np.int64)
        first = np.concatenate(([0], np.cumsum(sizes)))
        flat = np.array([s for p in by_entry for s in p], np.int64)
        groups, group_of, barrier = self._groups()
        alone = np.array([self._stands_alone(i) for i in range(count)])
        self.known = spread(
            np.array(self.clock.order, np.int64), self.queue, self.place, self.column, self.first,
            self.column_latency, np.array(self.latency), first, flat, alone, groups[0], groups[1], group_of, barrier,
            self._floors(), np.array([e.get("segment", 0) for e in self.listing.entries], np.int64),
        )  # fmt: skip

    def _groups(self) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray, np.ndarray]:
        """Members of each group one after another with their first places; each entry's group; barriers."""
        count = len(self.latency)
        group_of, barrier = np.full(count, -1, np.int64), np.zeros(count, np.bool_)
        members: list[int] = []
        first = [0]
        for number, group in enumerate(self.listing.groups().values()):
            for i in group:
                group_of[i] = number
                barrier[i] = self.listing.entries[i]["op"] == "barrier"
            members += group
            first.append(len(members))
        return (np.array(members, np.int64), np.array(first, np.int64)), group_of, barrier

    def _floors(self) -> np.ndarray:
        """For each segment number, the entries of each queue in earlier segments: all complete before it."""
        segments = [e.get("segment", 0) for e in self.listing.entries]
        floors = np.zeros((max(segments, default=0) + 1, len(self.queues)), np.int64)
        for i, segment in enumerate(segments):
            floors[segment + 1 :, self.queue[i]] += 1
        return floors

    def queue_of(self, i: int) -> Queue:
        return self.listing.queue[i]


@njit(cache=True)
def _join(into, other):
    for i in range(len(into)):
        if other[i] > into[i]:
            into[i] = other[i]


@njit(cache=True)
def spread(
    order, queue, place, column, first, column_latency, latency, proof_first, proofs, alone, members, member_first,
    group_of, barrier, floors, segment,
):  # fmt: skip
    """Knowledge of every entry at its start."""
    count, width = len(order), len(column_latency)
    known = np.zeros((count, width), np.int32)
    last = np.full(len(first) - 1, -1, np.int64)
    done_group = np.zeros(len(member_first), np.bool_)
    for entry in order:
        if group_of[entry] >= 0 and done_group[group_of[entry]]:
            continue
        if group_of[entry] >= 0:
            lo, hi = member_first[group_of[entry]], member_first[group_of[entry] + 1]
            done_group[group_of[entry]] = True
            batch = members[lo:hi]
        else:
            batch = np.array([entry])
        row = np.zeros(width, np.int32)
        for member in batch:
            own = queue[member]
            if last[own] >= 0:
                _join(row, known[last[own]])
            for q in range(floors.shape[1]):
                for c in range(first[q], first[q + 1]):
                    row[c] = max(row[c], floors[segment[member], q])
            for c in range(first[own], first[own + 1]):
                if column_latency[c] == 0 or barrier[member]:
                    row[c] = max(row[c], place[member] - 1)
            for p in range(proof_first[member], proof_first[member + 1]):
                setter = proofs[p]
                _join(row, known[setter])
                from_queue = queue[setter]
                for c in range(first[from_queue], first[from_queue + 1]):
                    if alone[setter] or column_latency[c] <= latency[setter]:
                        row[c] = max(row[c], place[setter])
        for member in batch:
            own = queue[member]
            known[member] = row
            last[own] = member
    return known
