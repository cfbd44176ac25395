"""What each emission pass is worth: models compiled with one pass after the other switched off."""

from __future__ import annotations

from dataclasses import dataclass

import click

import dsa_compiler as dsac
from ci.bench.cases import PART_ONE, part_one
from ci.bench.figures import Figure, Findings
from dsa_compiler.options import EMISSION_PASSES, CompileOptions

FEW = ("mnist-8", "cct_2_32_32_128_op20", "SqueezeNet_fp16", "ultraface_slim_320_simplified", "mobilenet_v2", "bert2")
WANTED = 3
SLOWER = 1.001
"""Times as many cycles from which on a pass is said to matter."""


@dataclass(frozen=True)
class Outcome:
    """A model with one pass (or none, "") switched off; `error` where it does not compile."""

    model: str
    disabled: str
    macs_share: float | None = None
    element_share: float | None = None
    cycles: float = float("nan")
    host_steps: int = 0
    error: str = ""

    def worse_than(self, other: Outcome) -> bool:
        """Whether less is emitted, it takes longer, or it does not compile any more; never if `other` does not."""
        if other.error:
            return False
        shares = ((self.macs_share, other.macs_share), (self.element_share, other.element_share))
        less = any(mine is not None and base is not None and mine < base - 1e-6 for mine, base in shares)
        return bool(self.error) or less or self.cycles > other.cycles * SLOWER or self.host_steps > other.host_steps


def compile_without(name: str, disabled: str, part: str) -> Outcome:
    """One model without one pass, in float16."""
    options = CompileOptions(precision="float16", disabled_passes=frozenset([disabled] if disabled else []))
    try:
        report = dsac.compile(part_one(name), part, options=options).report
    except dsac.DsacError as error:
        return Outcome(name, disabled, error=f"{type(error).__name__}: {error}")
    return Outcome(
        name, disabled, report["macs_emitted_share"], report["element_ops_emitted_share"], report["cycles"],
        len(report["host_steps"]),
    )  # fmt: skip


def measure(every: bool, chosen: tuple[str, ...], passes: tuple[str, ...], part: str) -> Findings:
    """Emitted shares and cycles with each pass switched off in turn; steps on the CPU count in the cycles."""
    names = chosen or (PART_ONE if every else FEW)
    found = Findings(
        f"emission passes switched off in turn, float16, {part}",
        ("model", "without", "MACs emitted", "element ops emitted", "cycles", "times as many", "host steps", "error"),
    )
    matters: dict[str, list[str]] = {name: [] for name in passes or EMISSION_PASSES}
    for name in names:
        base = compile_without(name, "", part)
        found.rows.append(_row(base, base))
        click.echo(f"{name}: {base.cycles:,.0f} {base.error}", err=True)
        for disabled, models in matters.items():
            outcome = compile_without(name, disabled, part)
            found.rows.append(_row(outcome, base))
            click.echo(f"  without {disabled}: {outcome.cycles:,.0f} cycles, {outcome.host_steps} host steps", err=True)
            if outcome.worse_than(base):
                models.append(name)
    for disabled, models in matters.items():
        found.figures.append(Figure(f"models to which {disabled} matters", len(models), WANTED))
        found.notes.append(f"{disabled} matters to: {', '.join(models) or 'none'}")
    return found


def _row(outcome: Outcome, base: Outcome) -> tuple[str, str, float | None, float | None, float, float, int, str]:
    return (
        outcome.model, outcome.disabled or "nothing", outcome.macs_share, outcome.element_share, outcome.cycles,
        outcome.cycles / base.cycles, outcome.host_steps, outcome.error,
    )  # fmt: skip
