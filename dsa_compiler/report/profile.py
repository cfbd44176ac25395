"""A run in time, for reading: layers, engines, and every entry with its start and end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dsa_compiler.isa.cost import entry_costs
from dsa_compiler.program.tables import Program
from dsa_compiler.report.summary import build_report
from dsa_compiler.simulator.timing import Timing, time_program


@dataclass(frozen=True)
class Profile:
    """`report` as in `Executable.report`; `timing` holds start, end and completion of each entry in cycles."""

    program: Program
    timing: Timing
    report: dict[str, Any]

    @classmethod
    def of(cls, program: Program) -> Profile:
        """Run `program` in time."""
        timing = time_program(program, costs=entry_costs(program))
        return cls(program, timing, build_report(program, timing))

    @property
    def cycles(self) -> float:
        """Cycles of the run."""
        return self.timing.cycles

    @property
    def layers(self) -> list[dict[str, Any]]:
        """A row for each layer, in order."""
        rows: list[dict[str, Any]] = self.report["layers"]
        return rows

    def entries_of(self, layer: str) -> npt.NDArray[Any]:
        """Numbers of the program's entries that belong to `layer`."""
        wanted = [number for number, name in enumerate(self.program.kernels) if name == layer]
        return np.flatnonzero(np.isin(self.program.entries["kernel"], wanted))
