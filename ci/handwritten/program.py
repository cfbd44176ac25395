"""A hand-written program: its text, what it computes, and how near it comes to its own bound."""

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
    """`text` prints the program; `share` is how much of its own bound it must reach; `tolerance` is relative to the
    reference's greatest value."""

    name: str
    share: float
    text: Callable[[], str]
    inputs: Callable[[np.random.Generator], Arrays]
    reference: Callable[[Arrays], Arrays]
    tolerance: float = 2e-3

    def error(self, inputs: Arrays, outputs: Arrays) -> float:
        """The greatest error of any output, relative to the reference's greatest value."""
        worst = 0.0
        for name, expected in self.reference(inputs).items():
            got = outputs[name].astype(np.float64)
            worst = max(worst, float(np.abs(got - expected).max() / np.abs(expected).max()))
        return worst


@dataclass(frozen=True)
class Bound:
    """The busiest of a program's own engines and memories, with the cycles that it needs at its full rate."""

    name: str
    cycles: float


def own_bound(program: Program, timing: Timing) -> Bound:
    """Engines at their full rate, startups and flag costs included; memories at their bandwidth."""
    costs = entry_costs(program)
    cycles = costs["startup"] + costs["work"] / costs["rate"]
    queues, totals = np.unique(timing.queues.queue, return_inverse=True)
    busiest = int(np.argmax(np.bincount(totals, cycles)))
    engine = int(program.entries["engine"][timing.queues.queue == queues[busiest]][0])
    names = {code: name for name, code in ENGINE_CODE.items()}
    bounds = [Bound(names[engine], float(np.bincount(totals, cycles)[busiest]))]
    for memory, count in (("ddr", 1), ("llb", program.target.clusters)):
        moved = timing.traffic.get((memory, "read"), 0.0) + timing.traffic.get((memory, "written"), 0.0)
        if moved:
            bounds.append(Bound(memory, moved / count / program.target.memory[memory].bandwidth))
    return max(bounds, key=lambda b: b.cycles)


def mac_utilization(program: Program, cycles: float, dtype: str = "float16") -> float:
    """Useful multiply-accumulates over the part's peak times the cycles."""
    peak = program.target.engine.matrix.macs_per_cycle(dtype) * program.target.cores
    return program.macs / peak / cycles
