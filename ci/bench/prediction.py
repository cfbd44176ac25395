"""Cycles that the tiling model predicts of kernels, beside those of the simulator."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ci.bench.figures import Figure, Findings
from ci.bench.kernels import KINDS, PARTS, Estimate, draw, estimate
from ci.bench.layers import short_tiling

ERROR, CORRELATION = 0.10, 0.95


def measure(count: int, seed: int, worst: int) -> Findings:
    """Kernels drawn at random over kinds, shapes, precisions and parts, each with the tiling that is chosen."""
    random = np.random.default_rng(seed)
    drawn = [estimate(draw(random)) for _ in range(count)]
    made = [e for e in drawn if e is not None]
    found = Findings(
        f"predicted against simulated cycles, {count} kernels, seed {seed}",
        ("kernels of", "number", "median error", "90 %", "greatest", "rank correlation", "predicted / simulated"),
    )
    found.rows.append(_row("all", made))
    found.rows += [_row(kind, [e for e in made if e.kernel.kind == kind]) for kind in KINDS]
    found.rows += [_row(part, [e for e in made if e.kernel.part == part]) for part in PARTS]
    errors = [e.error for e in made]
    found.figures.append(Figure("median error", float(np.median(errors)), ERROR, at_least=False))
    correlation = rank_correlation([e.predicted for e in made], [e.simulated for e in made])
    found.figures.append(Figure("rank correlation", correlation, CORRELATION))
    if len(made) < count:
        found.notes.append(f"{count - len(made)} kernels have no tiling that can be built.")
    for each in sorted(made, key=lambda e: -e.error)[:worst]:
        found.notes.append(_described(each))
    return found


def _row(name: str, found: Sequence[Estimate]) -> tuple[str, int, float, float, float, float, float]:
    if not found:
        nan = float("nan")
        return name, 0, nan, nan, nan, nan, nan
    errors = np.array([e.error for e in found])
    predicted, simulated = (np.array([getattr(e, name) for e in found]) for name in ("predicted", "simulated"))
    return (
        name, len(found), float(np.median(errors)), float(np.quantile(errors, 0.9)), float(errors.max()),
        rank_correlation(predicted, simulated), float(np.median(predicted / simulated)),
    )  # fmt: skip


def _described(each: Estimate) -> str:
    p, t, tiling = each.kernel.problem, each.kernel.traffic, short_tiling(str(each.tiling))
    shape = f"{p.batches} x {p.images} x {p.height} x {p.width} x {p.channels} to {p.out_channels}"
    return (
        f"{each.error:.2f}: predicted {each.predicted:,.0f}, simulated {each.simulated:,.0f}: {each.kernel.kind} "
        f"{shape} {p.dtype} extras={t.extras} vector_ops={t.vector_ops} on {each.kernel.part}, {tiling}"
    )


def rank_correlation(first: Sequence[float] | np.ndarray, second: Sequence[float] | np.ndarray) -> float:
    """Spearman's coefficient; equal values share the mean of their ranks. NaN if one sequence is constant."""
    a, b = _ranks(np.asarray(first, float)), _ranks(np.asarray(second, float))
    a, b = a - a.mean(), b - b.mean()
    spread = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum()) / spread if spread else float("nan")


def _ranks(values: np.ndarray) -> np.ndarray:
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(count)
    ranks: np.ndarray = (last - (count - 1) / 2)[place]
    return ranks
