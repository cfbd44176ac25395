"""The public face of the simulator: values and time of a program in one call."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from dsa_compiler.errors import UserError
from dsa_compiler.isa.validate import validate_program
from dsa_compiler.program.tables import Program
from dsa_compiler.simulator.race import check_order
from dsa_compiler.simulator.stretch import random_stretch
from dsa_compiler.simulator.timing import Timing, time_program
from dsa_compiler.simulator.values import run_values


@dataclass(frozen=True)
class SimulationResult:
    """The outcome of a simulation. `outputs` by name; None of a time-only run.

    `overlap` is the mean number of engines that are occupied at once: 1.0 would be a serial run.
    """

    outputs: dict[str, np.ndarray] | None
    timing: Timing
    time_ms: float

    @property
    def cycles(self) -> float:
        """Cycles from the first entry's start to the last completion, host steps included."""
        return self.timing.cycles

    @property
    def busy(self) -> dict[str, float]:
        """Occupied share of each kind of engine, over all engines of that kind in the part."""
        return self.timing.busy_share()

    @property
    def traffic(self) -> Mapping[tuple[str, str], float]:
        """Bytes by (memory, "read" or "written")."""
        return self.timing.traffic

    @property
    def conflict_cycles(self) -> float:
        """Cycles lost where engines worked in one L1 bank."""
        return self.timing.conflict_cycles

    @property
    def overlap(self) -> float:
        """Mean number of engines occupied at once while any is."""
        return self.timing.overlap


def simulate(
    program: Program,
    inputs: Mapping[str, np.ndarray] | None = None,
    *,
    values: bool = True,
    race_seed: int | None = None,
    check: bool = True,
) -> SimulationResult:
    """Run `program`: in time alone (`values` False), or in values and time, which gives the same cycles.

    race_seed: race mode; durations and latencies are stretched at random, so cycles are not the program's.
    check: first look for illegal entries, deadlocks and races (once is enough for a program).
    Raises `UserError` for inputs that do not fit and for every trap of the manual.
    """
    if values and inputs is None and program.inputs:
        raise UserError(
            "no inputs were given", where="simulator", action="give one array for each input, or values=False"
        )
    if check:
        validate_program(program)
        check_order(program)
    stretch = None if race_seed is None else random_stretch(program, race_seed)
    timing = time_program(program, stretch=stretch.times if stretch else None)
    outputs = None
    if values:
        outputs = run_values(program, timing, inputs or {}, read_early=stretch.read_early if stretch else None)
    return SimulationResult(outputs, timing, timing.cycles / (program.target.clock_ghz * 1e6))
