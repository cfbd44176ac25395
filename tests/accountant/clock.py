"""The time of a listing: events in a heap, transfers as fluid flows whose rates are filled anew at each change."""

from __future__ import annotations

import heapq
import math
from collections import deque
from dataclasses import dataclass, field

from tests.accountant.costs import Cost, Costs
from tests.accountant.listing_file import ENGINES, Listing, Queue

NEVER = math.inf
CLOSE = 1e-9
FLAG_LIMIT = 15


class AccountError(Exception):
    """The listing does not run to its end: deadlock, or a flag set beyond its limit."""


@dataclass(eq=False)
class Job:
    """What occupies one engine, or for a multicast several: from start to end, then to completion."""

    members: list[int]
    startup: float
    cap: float
    flow: bool
    memories: tuple
    latency: float
    left: float
    rate: float = 0.0
    since: float = 0.0
    share: int = 1
    working: bool = False
    version: int = 0
    finish: float = NEVER


@dataclass(eq=False)
class Line:
    """One queue: the place of its head, and what is unfinished behind it."""

    queue: Queue
    entries: list[int]
    head: int = 0
    busy: bool = False
    arrived: float = 0.0
    ready: bool = False
    open: set[int] = field(default_factory=set)
    pending_sets: deque = field(default_factory=deque)


class Clock:
    """Runs a listing; afterwards `start`, `end`, `done` hold each entry's times, `order` the order of starts."""

    def __init__(self, listing: Listing, costs: Costs) -> None:
        self.listing, self.target = listing, listing.target
        self.cost: list[Cost] = [costs.of(e) for e in listing.entries]
        count = len(listing.entries)
        self.start, self.end, self.done = [NEVER] * count, [NEVER] * count, [NEVER] * count
        self.order: list[int] = []
        self.lines = {q: Line(q, numbers) for q, numbers in listing.entries_of.items()}
        self.waits = [[listing.flag(i, f) for f in e.get("waits", ())] for i, e in enumerate(listing.entries)]
        self.sets = [[listing.flag(i, f) for f in e.get("sets", ())] for i, e in enumerate(listing.entries)]
        self.group_members = listing.groups()
        self.group_left = {g: len(m) for g, m in self.group_members.items()}
        self.flags: dict[tuple, int] = {}
        self.blocked: dict[tuple, list[Line]] = {}
        self.heap: list[tuple] = []
        self.ticket = 0
        self.flows: list[Job] = []
        self.stale = False
        self.now = 0.0
        self.on_core: dict[tuple[int, int], list[tuple[Job, int]]] = {}
        self.bandwidth = self._bandwidths()
        self.conflict = 0.0
        self.carried: dict[tuple, float] = {}
        self.segment = 0
        self.unfinished = 0
        self.host_time = 0.0

    def _bandwidths(self) -> dict[tuple, float]:
        memory = self.target["memory"]
        result = {("ddr", 0): memory["ddr"].get("bandwidth", 0)}
        for cluster in range(self.target["clusters"]):
            result["llb", cluster] = memory.get("llb", {}).get("bandwidth", 0)
        return {key: value for key, value in result.items() if value}

    # -- the run

    def run(self) -> float:
        """Cycles of the whole program, host steps included."""
        for segment in self._segments():
            self._host_steps(segment)
            self.segment = segment
            self._release()
            self._drain()
            stuck = [line for line in self.lines.values() if self._unstarted(line)]
            if stuck:
                raise AccountError(self._deadlock(stuck))
        return self.now

    def _unstarted(self, line: Line) -> bool:
        """Whether a queue still holds entries of the segment that has just run."""
        if line.head >= len(line.entries):
            return False
        return self.listing.entries[line.entries[line.head]].get("segment", 0) <= self.segment

    def _segments(self) -> list[int]:
        used = {e.get("segment", 0) for e in self.listing.entries}
        return sorted(used | {s.get("segment", 0) for s in self.listing.top.get("host_steps", ())})

    def _host_steps(self, segment: int) -> None:
        host = self.target["host"]
        for step in self.listing.top.get("host_steps", ()):
            if step.get("segment", 0) == segment:
                moved = step.get("bytes_in", 0) + step.get("bytes_out", 0)
                cost = host["call_latency"] + moved / host["bandwidth"] + step.get("operations", 0) / host["ops"]
                self.now += cost
                self.host_time += cost

    def _release(self) -> None:
        for line in self.lines.values():
            line.arrived = self.now
            self._try(line)

    def _drain(self) -> None:
        """Handle events until nothing is under way."""
        while True:
            if self.stale:
                self._fill_rates()
            while self.heap and self.heap[0][4] != self.heap[0][3].version:
                heapq.heappop(self.heap)
            flow = min((f.finish for f in self.flows), default=NEVER)
            at = min(flow, self.heap[0][0] if self.heap else NEVER)
            if at == NEVER:
                break
            self.now = at
            for job in [f for f in self.flows if f.finish <= at + CLOSE]:
                self._worked(job)
            while self.heap and self.heap[0][0] <= at + CLOSE:
                _, _, action, job, version = heapq.heappop(self.heap)
                if version == job.version:
                    action(job)

    def _at(self, time: float, action, job: Job) -> None:
        self.ticket += 1
        heapq.heappush(self.heap, (time, self.ticket, action, job, job.version))

    # -- heads of queues

    def _try(self, line: Line) -> None:
        """Let the head of a queue take its flags and start, if it can."""
        if line.busy or line.ready or line.head >= len(line.entries):
            return
        number = line.entries[line.head]
        entry = self.listing.entries[number]
        if entry.get("segment", 0) != self.segment:
            return
        if not self._take(number):
            for flag in self.waits[number]:
                if line not in self.blocked.setdefault(flag, []):
                    self.blocked[flag].append(line)
            return
        for flag in self.waits[number]:
            if line in self.blocked.get(flag, ()):
                self.blocked[flag].remove(line)
        line.ready = True
        self._gather(line, number, entry)

    def _take(self, number: int) -> bool:
        need: dict[tuple, int] = {}
        for flag in self.waits[number]:
            need[flag] = need.get(flag, 0) + 1
        if any(self.flags.get(flag, 0) < count for flag, count in need.items()):
            return False
        for flag, count in need.items():
            self.flags[flag] -= count
        return True

    def _gather(self, line: Line, number: int, entry: dict) -> None:
        """Start an entry whose flags are there; one of a group when the whole group is there."""
        if entry["op"] == "barrier" and line.open:
            line.pending_sets.append(("barrier", number))
            return
        group = entry.get("group")
        if group is None or group < 0:
            self._begin([number])
            return
        self.group_left[group] -= 1
        if self.group_left[group] == 0:
            self._begin(self.group_members[group])

    def _begin(self, members: list[int]) -> None:
        barrier = self.listing.entries[members[0]]["op"] == "barrier"
        if barrier:
            for number in members:
                self._occupy(self._job([number]))
        else:
            self._occupy(self._job(members))

    def _job(self, members: list[int]) -> Job:
        costs = [self.cost[m] for m in members]
        memories = sorted(
            {(s, 0 if s == "ddr" else self.listing.queue[m][0]) for m in members for s in self.cost[m].scopes}
        )
        return Job(
            members=members,
            startup=max(c.startup for c in costs),
            cap=min(c.cap for c in costs),
            flow=costs[0].flow,
            memories=tuple(memories),
            latency=max(c.latency for c in costs),
            left=max(c.work for c in costs),
        )

    def _occupy(self, job: Job) -> None:
        for number in job.members:
            line = self.lines[self.listing.queue[number]]
            line.busy, line.ready = True, False
            self.start[number] = self.now
            self.order.append(number)
            line.open.add(number)
            self.unfinished += 1
            self._touch_banks(job, number, True)
        self._at(self.now + job.startup, self._started, job)

    # -- banks

    def _touch_banks(self, job: Job, number: int, enter: bool) -> None:
        mask = self.cost[number].banks
        if not mask:
            return
        here = self.on_core.setdefault(self.listing.queue[number][:2], [])
        if enter:
            here.append((job, mask))
        else:
            here.remove((job, mask))
        for other, theirs in here:
            if theirs & mask:
                self._set_share(other)

    def _set_share(self, job: Job) -> None:
        share = max(self._crowd(number) for number in job.members)
        if share == job.share:
            return
        if job.working:
            self._settle(job)
        job.share = share
        if job.flow:
            self.stale = True
        elif job.working:
            self._schedule(job)

    def _crowd(self, number: int) -> int:
        """The most engines that work in one of the entry's banks."""
        mask = self.cost[number].banks
        others = [theirs for _, theirs in self.on_core.get(self.listing.queue[number][:2], ()) if theirs & mask]
        most, bank = 1, 0
        while mask >> bank and len(others) > 1:
            if mask >> bank & 1:
                most = max(most, sum(1 for theirs in others if theirs >> bank & 1))
            bank += 1
        return most

    # -- work

    def _started(self, job: Job) -> None:
        job.working, job.since = True, self.now
        if job.flow and job.left > 0:
            self.flows.append(job)
            self.stale = True
            return
        self._schedule(job)

    def _schedule(self, job: Job) -> None:
        """Work that no memory limits: at its own pace, divided by those who share its banks."""
        job.version += 1
        self._at(self.now + max(job.left, 0.0) * job.share, self._worked, job)

    def _settle(self, job: Job) -> None:
        """Charge the work done since the last change."""
        passed = self.now - job.since
        job.since = self.now
        if job.flow:
            job.left -= passed * job.rate
            slowed = job.share > 1 and job.rate >= job.cap / job.share * (1 - CLOSE)
        else:
            job.left -= passed / job.share
            slowed = job.share > 1
        if slowed:
            self.conflict += passed * (1 - 1 / job.share) * len(job.members)

    def _worked(self, job: Job) -> None:
        """The engine is free; what was written shows after the latency."""
        self._settle(job)
        if job.flow and job in self.flows:
            self.flows.remove(job)
            self.stale = True
        for number in job.members:
            self.end[number] = self.now
            line = self.lines[self.listing.queue[number]]
            line.busy, line.arrived = False, self.now
            line.head += 1
            self._touch_banks(job, number, False)
        job.version += 1
        if job.latency > 0:
            self._at(self.now + job.latency, self._complete, job)
        else:
            self._complete(job)
        for number in job.members:
            self._try(self.lines[self.listing.queue[number]])

    def _complete(self, job: Job) -> None:
        for number in job.members:
            line = self.lines[self.listing.queue[number]]
            if self.listing.entries[number]["op"] == "set":
                line.pending_sets.append(("set", number))
            else:
                self._finish(line, number)
            self._late(line)

    def _finish(self, line: Line, number: int) -> None:
        line.open.discard(number)
        self.unfinished -= 1
        self.done[number] = self.now
        for flag in self.sets[number]:
            self._raise(number, flag)

    def _late(self, line: Line) -> None:
        """Sets and barriers that stand alone and wait for all entries before them."""
        while line.pending_sets:
            kind, number = line.pending_sets[0]
            mine = {number} if kind == "set" else set()
            before = self.listing.place[number]
            if any(self.listing.place[o] < before for o in line.open - mine):
                return
            line.pending_sets.popleft()
            if kind == "set":
                self._finish(line, number)
            else:
                self._gather(line, number, self.listing.entries[number])

    def _raise(self, number: int, flag: tuple) -> None:
        if self.flags.get(flag, 0) >= FLAG_LIMIT:
            raise AccountError(f"entry {number} sets {flag[-1]}, which is at {FLAG_LIMIT}")
        self.flags[flag] = self.flags.get(flag, 0) + 1
        for line in sorted(self.blocked.get(flag, ()), key=lambda b: (b.arrived, b.queue)):
            if not self.flags[flag]:
                break
            self._try(line)

    # -- rates

    def _fill_rates(self) -> None:
        """Max-min fair rates: all rise together until their port or a memory of theirs is full."""
        self.stale = False
        free = dict(self.bandwidth)
        users = dict.fromkeys(free, 0)
        rising = sorted(((f.cap / f.share, i, f) for i, f in enumerate(self.flows)), key=lambda item: item[:2])
        for _, _, flow in rising:
            for memory in flow.memories:
                if memory in users:
                    users[memory] += 1
        while rising:
            level, full = min(((free[m] / n, m) for m, n in users.items() if n), default=(NEVER, None))
            at_port = [item for item in rising if item[0] <= level]
            level = max(level, 0.0)
            chosen = at_port or [item for item in rising if full in item[2].memories]
            for cap, _, flow in chosen:
                rate = cap if at_port else level
                for memory in flow.memories:
                    if memory in users:
                        free[memory] -= rate
                        users[memory] -= 1
                self._set_rate(flow, rate)
            gone = {id(item[2]) for item in chosen}
            rising = [item for item in rising if id(item[2]) not in gone]

    def _set_rate(self, flow: Job, rate: float) -> None:
        if rate == flow.rate:
            return
        self._settle(flow)
        flow.rate = rate
        flow.finish = self.now + max(flow.left, 0.0) / rate

    def barrier_price(self, entry: dict) -> float:
        """What a barrier costs beyond its flags."""
        return self.target["sync"].get(f"{entry.get('attrs', {}).get('scope', 'cluster')}_barrier", 0)

    # -- words

    def _deadlock(self, stuck: list[Line]) -> str:
        words = []
        for line in stuck[:8]:
            number = line.entries[line.head]
            flags = [f[-1] for f in self.waits[number] if not self.flags.get(f)]
            words.append(
                f"{self.listing.name(line.queue)} at entry {number}, waiting for {', '.join(flags) or 'its group'}"
            )
        return "deadlock: " + "; ".join(words)


def busy_time(clock: Clock) -> dict[str, float]:
    """Occupied time by kind of engine, all of its engines together; a barrier's own cost is a stall."""
    result = dict.fromkeys(ENGINES, 0.0)
    for number, (_, _, engine) in enumerate(clock.listing.queue):
        entry = clock.listing.entries[number]
        result[ENGINES[engine]] += clock.end[number] - clock.start[number]
        if entry["op"] == "barrier":
            result[ENGINES[engine]] -= clock.barrier_price(entry)
    return result
