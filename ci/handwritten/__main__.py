"""`python -m ci.handwritten`: assemble, check and run the ten programs, and print how near each is to its bound.

Exits 1 if one is wrong, races, or falls short.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from ci.handwritten.program import Handwritten, mac_utilization, own_bound
from ci.handwritten.programs import PROGRAMS
from dsa_compiler.errors import UserError
from dsa_compiler.isa.validate import validate_program
from dsa_compiler.program.assembler import parse_program
from dsa_compiler.program.encoding import check_program_size, program_bytes
from dsa_compiler.program.tables import Program
from dsa_compiler.simulator.machine import simulate
from dsa_compiler.simulator.race import check_order
from dsa_compiler.simulator.timing import time_program


@dataclass(frozen=True)
class Outcome:
    """A row of the table; `error` is None where values were not computed, `fault` empty where all is well."""

    name: str
    entries: int
    program_bytes: int
    cycles: float
    bound: str
    bound_cycles: float
    share: float
    wanted: float
    mac_utilization: float
    error: float | None
    fault: str


def measure(written: Handwritten, values: bool, seeds: int) -> Outcome:
    """Run one program."""
    program = parse_program(written.text(), written.name)
    timing = time_program(program)
    bound = own_bound(program, timing)
    share = bound.cycles / timing.cycles
    error, fault = None, ""
    try:
        validate_program(program)
        check_order(program)
        check_program_size(program)
        error = values_error(written, program, seeds) if values else None
    except UserError as problem:
        fault = str(problem)
    if share < written.share:
        fault = fault or f"reaches {share:.3f} of its bound, and {written.share} is wanted"
    if error is not None and error > written.tolerance:
        fault = fault or f"is wrong by {error:.2e} of the greatest value"
    return Outcome(
        written.name, len(program), max(program_bytes(program).values()), timing.cycles, bound.name, bound.cycles,
        share, written.share, mac_utilization(program, timing.cycles), error, fault,
    )  # fmt: skip


def values_error(written: Handwritten, program: Program, seeds: int) -> float:
    """The greatest relative error; raises `UserError` if race mode changes a bit."""
    inputs = written.inputs(np.random.default_rng(0))
    outputs = simulate(program, inputs, check=False).outputs or {}
    for seed in range(seeds):
        other = simulate(program, inputs, check=False, race_seed=seed).outputs or {}
        if any((outputs[name].view(np.uint8) != other[name].view(np.uint8)).any() for name in outputs):
            raise UserError(f"race mode with seed {seed} gives other bits", where=written.name)
    return written.error(inputs, outputs)


def show(outcomes: list[Outcome]) -> None:
    """Print the table and the faults."""
    table = Table("program", "entries", "bytes a core", "cycles", "bound", "cycles", "share", "wanted", "MACs", "error")
    for o in outcomes:
        table.add_row(
            o.name, str(o.entries), str(o.program_bytes), f"{o.cycles:.0f}", o.bound, f"{o.bound_cycles:.0f}",
            f"{o.share:.4f}", f"{o.wanted:.2f}", f"{o.mac_utilization:.3f}",
            "" if o.error is None else f"{o.error:.1e}",
        )  # fmt: skip
    console = Console(width=120)
    console.print(table)
    for o in outcomes:
        if o.fault:
            console.print(f"{o.name}: {o.fault}", style="red")


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m ci.handwritten", description=__doc__)
    parser.add_argument("names", nargs="*", help="programs, by the beginning of their names; all without")
    parser.add_argument("--time-only", action="store_true", help="compute no values")
    parser.add_argument("--seeds", type=int, default=0, help="runs in race mode")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--write", type=Path, help="write the assembler text of each into this folder, and run nothing")
    args = parser.parse_args()
    chosen = [p for p in PROGRAMS if not args.names or any(p.name.startswith(n) for n in args.names)]
    if args.write:
        args.write.mkdir(parents=True, exist_ok=True)
        for written in chosen:
            (args.write / f"{written.name.replace(' ', '_')}.s").write_text(written.text())
        return 0
    outcomes = [measure(written, not args.time_only, args.seeds) for written in chosen]
    if args.json:
        print(json.dumps([asdict(o) for o in outcomes], indent=1))
    else:
        show(outcomes)
    return 1 if any(o.fault for o in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
