"""The networks of GraphTurbo, or those of batch 1, with and without layer schedules, beside published figures."""

from __future__ import annotations

from pathlib import Path

import click

from ci.bench.figures import Figure, Findings
from dsa_compiler.zoo import SETS, Outcome, record, run_set

RESULTS = Path(__file__).resolve().parents[2] / "models" / "results" / "sets"


def measure(
    chosen: str, networks: tuple[str, ...], schedules: tuple[str, ...], part: str | None, batch: int | None,
    recorded: bool,
) -> Findings:  # fmt: skip
    """Compile and time the networks of a set by each schedule."""
    outcomes = run_set(
        SETS[chosen], networks=networks, schedules=schedules, target=part, batch=batch,
        progress=lambda step: click.echo(step, err=True),
    )  # fmt: skip
    if recorded:
        record(SETS[chosen], outcomes, RESULTS)
    return findings(chosen, outcomes)


def findings(chosen: str, outcomes: list[Outcome]) -> Findings:
    """A row for each network and schedule, a figure for each network at its own batch."""
    columns = ("network", "batch", "part", "schedule", "cycles", "per second", "published", "wanted", "matrix busy",
               "efficiency", "compile s")  # fmt: skip
    found = Findings(f"{chosen}: float16, time only", columns)
    for outcome in outcomes:
        entry = outcome.entry
        for schedule, run in outcome.runs.items():
            found.rows.append((
                entry.name, outcome.batch, outcome.target, schedule, run.cycles, run.rate, entry.published,
                entry.wanted, run.matrix_busy, run.efficiency, run.compile_s,
            ))  # fmt: skip
        if outcome.batch == entry.batch:
            what = f"{entry.name}: {'cycles' if entry.in_cycles else 'samples a second'}"
            value = outcome.best.cycles if entry.in_cycles else outcome.best.rate
            found.figures.append(Figure(what, value, entry.wanted, at_least=not entry.in_cycles))
    return found
