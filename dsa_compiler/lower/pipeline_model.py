"""A small simulation of one kernel's pipeline: loads, products, epilogues and stores of a core among equals.

All cores are taken to be in step, so one stands for all; the ddr is shared by the distinct flows of their loads
and stores. It sees what sums by resource cannot: how long the first load delays the first product, how coarse
loads stall the engines, and loads and stores that meet in memory.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np

LONGEST = 768
"""Steps that are simulated; a longer kernel goes on at the pace of the second half of them."""


@dataclass(frozen=True)
class Steps:
    """The steps of one core in order, one for each l0 tile. Bytes count at one core's port.

    `flows`: distinct transfers of a load over the chip; `after`: the step whose end frees the slot that the load
    of this step fills, -1 if it is free; `early`: the share of a step's work that has to wait for the last part
    of its load only; `clash`: bytes that the load falls behind where products wait for it, because the moves to l0
    read the bank that it writes.
    """

    load: np.ndarray
    flows: np.ndarray
    after: np.ndarray
    early: np.ndarray
    clash: np.ndarray
    work: np.ndarray
    vector: np.ndarray
    store: np.ndarray


@dataclass(frozen=True)
class Machine:
    """What is shared: ports and ddr in bytes a cycle, latency, cores that store, slots of result tiles."""

    load_port: float
    store_port: float
    ddr: float
    latency: float
    cores: int
    slots: int


def simulate_steps(steps: Steps, machine: Machine, total: int) -> float:
    """Cycles of a kernel of `total` steps, of which `steps` are the first."""
    ends = _run(
        steps.load, steps.flows, steps.after, steps.early, steps.clash, steps.work, steps.vector, steps.store,
        machine.load_port, machine.store_port, machine.ddr, machine.latency, machine.cores, machine.slots,
    )  # fmt: skip
    count = len(ends)
    if count == 0:
        return 0.0
    half = count // 2
    pace = (ends[-1] - ends[half]) / max(count - 1 - half, 1)
    return float(ends[-1] + (total - count) * pace)


@numba.njit(cache=True)
def _run(load, flows, after, early, clash, work, vector, store, load_port, store_port, ddr, latency, cores, slots):  # type: ignore[no-untyped-def]
    count = work.shape[0]
    loaded = np.zeros(count)  # when the load of a step is there
    worked = np.zeros(count)  # when its products end
    stored = np.full(count, -1.0)  # when its result is in memory
    now = 0.0
    li, si = 0, 0  # next load and store
    load_left, store_left = -1.0, -1.0
    load_ready, store_ready = 0.0, 0.0
    computed = 0
    finished = np.zeros(count)  # when the epilogue ends
    previous_work, previous_vector = 0.0, 0.0
    while si < count:
        # products and epilogues of every step whose load is known to have arrived
        while computed < li:
            i = computed
            if store[i] > 0 and i >= slots and stored[i - slots] < 0:
                break
            start = max(previous_work, loaded[i] - early[i] * work[i])
            worked[i] = max(start + work[i], loaded[i] + (1.0 - early[i]) * work[i])
            previous_work = worked[i]
            begin = max(worked[i], previous_vector)
            if i >= slots:
                begin = max(begin, stored[i - slots])
            finished[i] = begin + vector[i]
            previous_vector = finished[i]
            computed += 1
        # start what can start
        if load_left < 0 and li < count:
            if load[li] <= 0:
                loaded[li] = now if li == 0 else loaded[li - 1]
                li += 1
                continue
            gate = after[li]
            if gate < computed:
                load_ready = max(now, worked[gate] if gate >= 0 else 0.0)
                if load_ready <= now:
                    late = computed == li and now >= previous_work
                    load_left = load[li] + (clash[li] if late else 0.0)
        if store_left < 0 and si < computed:
            store_ready = max(now, finished[si])
            if store_ready <= now:
                store_left = store[si]
        loading, storing = load_left >= 0, store_left >= 0
        load_rate, store_rate = 0.0, 0.0
        if loading or storing:
            total = (flows[li] if loading else 0) + (cores if storing else 0)
            if loading:
                load_rate = min(load_port, ddr / total)
            if storing:
                store_rate = min(store_port, ddr / total)
            if loading and storing:
                spare = ddr - load_rate * flows[li] - store_rate * cores
                if load_rate < load_port and spare > 0:
                    load_rate = min(load_port, load_rate + spare / flows[li])
                elif store_rate < store_port and spare > 0:
                    store_rate = min(store_port, store_rate + spare / cores)
        # advance to the next event
        step = 1e30
        if loading:
            step = min(step, load_left / load_rate)
        elif li < count and after[li] < computed and load_ready > now:
            step = min(step, load_ready - now)
        if storing:
            step = min(step, store_left / store_rate)
        elif si < computed and store_ready > now:
            step = min(step, store_ready - now)
        if step > 1e29:
            break
        now += step
        if loading:
            load_left -= step * load_rate
            if load_left <= 1e-6:
                loaded[li] = now + latency
                li += 1
                load_left = -1.0
        if storing:
            store_left -= step * store_rate
            if store_left <= 1e-6:
                stored[si] = now + latency
                si += 1
                store_left = -1.0
    return stored
