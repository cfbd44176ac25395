"""A hand-written program and how near it comes to its bounds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from dsa_compiler.isa.cost import entry_costs
from dsa_compiler.program.tables import ENGINE_CODE, Program
from dsa_compiler.simulator.timing import Timing

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Handwritten:
    """`text` prints the program; `share` is how much of its own bound it must reach; `ideal`, in cycles, is the
    bound of the work itself where it is not the busiest engine's; `tolerance` is of the greatest value."""

    name: str
    share: float
    text: Callable[[], str]
    inputs: Callable[[np.random.Generator], Arrays]
    reference: Callable[[Arrays], Arrays]
    tolerance: float = 2e-3


@dataclass(frozen=True)
class Bound:
    """The busiest of a program's own engines and memories, with the cycles that it needs at its full rate."""

    name: str
    cycles: float


def own_bound(program: Program, timing: Timing) -> Bound:
    """Engines at their full rate with startups and flag costs; memories at their bandwidth."""
    costs = entry_costs(program)
    cycles = costs["startup"] + costs["work"] / costs["rate"]
    entries = program.entries
    queues = (entries["cluster"].astype(np.int64) * 64 + entries["core"] + 1) * 8 + entries["engine"]
    keys, place = np.unique(queues, return_inverse=True)
    totals = np.bincount(place, cycles)
    busiest = int(np.argmax(totals))
    engine = int(keys[busiest]) % 8
    bounds = [Bound(next(n for n, c in ENGINE_CODE.items() if c == engine), float(totals[busiest]))]
    for memory, clusters in (("ddr", 1), ("llb", program.target.clusters)):
        moved = timing.traffic.get((memory, "read"), 0.0) + timing.traffic.get((memory, "written"), 0.0)
        if moved:
            bounds.append(Bound(memory, moved / clusters / program.target.memory[memory].bandwidth))
    return max(bounds, key=lambda b: b.cycles)
