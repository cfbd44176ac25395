"""What the event loop reads and changes: flat arrays in two named tuples, which numba passes as they are."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from dsa_compiler.simulator.queues import Queues, queues_per_cluster
from dsa_compiler.target import CORE_ENGINES

IDLE, BLOCKED, GROUPED, ARRIVING, STARTING, WORKING, FOLLOWING = range(7)
"""States of a queue: empty; waits for flags; for its group; a barrier's earlier entries; startup; work; member."""

TIMED_ENTRY = np.dtype(
    [
        ("startup", np.float64),    # startup, flag costs and control together
        ("work", np.float64),       # bytes, or cycles at full rate
        ("rate", np.float64),       # cap: bytes a cycle of the port, or 1 cycle a cycle
        ("latency", np.float64),
        ("barrier", np.float64),    # cost of the barrier: stalled, not occupied
        ("banks", np.uint64),       # L1 banks touched
        ("memory", np.uint64),      # bit 0 ddr, bit 1 + c the llb of cluster c; 0 takes no share
        ("queue", np.int64),
        ("group", np.int64),
        ("wait", np.int64),         # first row in `rows`
        ("set", np.int64),
        ("waits", np.int32),
        ("sets", np.int32),
        ("kind", np.int32),
        ("level", np.int32),        # place of the latency among the program's distinct latencies, ascending
    ]
)  # fmt: skip

QUEUE_STATE = np.dtype(
    [
        ("arrival", np.float64),    # when the entry came to the head
        ("left", np.float64),       # work left at `since`
        ("since", np.float64),
        ("rate", np.float64),       # of the work, now
        ("cap", np.float64),        # port or engine rate with no bank shared
        ("busy", np.float64),
        ("conflict", np.float64),   # conflict cycles of the entry at the head
        ("banks", np.uint64),       # banks in use, 0 when not working
        ("memory", np.uint64),
        ("entry", np.int64),
        ("next", np.int64),         # place in `order`
        ("stop", np.int64),
        ("leader", np.int64),       # queue that carries a multicast's flow
        ("home", np.int64),         # first queue of the core, -1 for prefetch
        ("sharers", np.int32),      # n of the manual; of a leader the worst of its members'
        ("state", np.int32),
        ("flow", np.int32),         # place among the flows, -1 without
        ("changed", np.int32),      # home queues only: the core's banks changed hands
        ("listed", np.int32),       # is among the candidates
    ]
)  # fmt: skip

ENTRY_RESULT = np.dtype(
    [
        ("start", np.float64),
        ("end", np.float64),
        ("complete", np.float64),
        ("conflict", np.float64),
        ("order", np.int64),        # place of the start among all starts
    ]
)  # fmt: skip
"""Start and end of the engine's occupation, and the completion, in cycles."""

FLOWS, PENDING, STARTED, CANDIDATES, STALE, CHANGED, FAILED_ENTRY, FAILED_FLAG, INTEGERS = range(9)
"""Places in `LoopState.integers`: flows, completions to come, starts, queues to look at, flows to rate anew,
cores whose banks changed, and where a flag overflowed."""


class LoopInput(NamedTuple):
    """What the loop reads.

    entries: TIMED_ENTRY; order: entries by queue; members, member_first: see `Queues`; rows: flag number of each
    flag row; waiter: see `FlagSpace.waiter`; bandwidth: of ddr and of each llb, inf without limit.
    """

    entries: np.ndarray
    order: np.ndarray
    members: np.ndarray
    member_first: np.ndarray
    rows: np.ndarray
    waiter: np.ndarray
    bandwidth: np.ndarray
    queues_per_cluster: int


class LoopState(NamedTuple):
    """What the loop changes.

    queue: QUEUE_STATE; due[q]: time of the queue's next event; flags: counts; arrived[g]: members of a group that
    are ready; done[q, level]: latest completion of the queue's entries of that latency; results: ENTRY_RESULT;
    later_time, later_entry: heap of completions that set flags; flow_queue[i]: queue of flow i; candidates:
    queues to look at; clock[0]: the time.
    """

    queue: np.ndarray
    due: np.ndarray
    flags: np.ndarray
    arrived: np.ndarray
    done: np.ndarray
    results: np.ndarray
    later_time: np.ndarray
    later_entry: np.ndarray
    flow_queue: np.ndarray
    candidates: np.ndarray
    integers: np.ndarray
    clock: np.ndarray


def new_state(queues: Queues, flags: int, levels: int) -> LoopState:
    """The state before the first entry: every queue empty, every flag 0, the clock at 0."""
    count, entries, target = len(queues.first) - 1, len(queues.queue), queues.target
    queue = np.zeros(count, QUEUE_STATE)
    queue["flow"] = -1
    queue["home"] = _home_queues(count, queues_per_cluster(target))
    return LoopState(
        queue=queue,
        due=np.full(count, np.inf),
        flags=np.zeros(flags, np.int64),
        arrived=np.zeros(len(queues.member_first), np.int64),
        done=np.zeros((count, levels)),
        results=np.zeros(entries, ENTRY_RESULT),
        later_time=np.zeros(entries + 1),
        later_entry=np.zeros(entries + 1, np.int64),
        flow_queue=np.zeros(count + 1, np.int64),
        candidates=np.zeros(count, np.int64),
        integers=np.zeros(INTEGERS, np.int64),
        clock=np.zeros(1),
    )


def _home_queues(count: int, per_cluster: int) -> np.ndarray:
    number = np.arange(count)
    place = number % per_cluster
    home = number - place % len(CORE_ENGINES)
    return np.where(place == per_cluster - 1, -1, home)
