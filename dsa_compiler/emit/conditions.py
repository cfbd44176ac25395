"""Conditions that are linear in one loop variable, as bounds on it."""

from __future__ import annotations

from dataclasses import dataclass

from tvm import tirx
from tvm.tirx import Var

from dsa_compiler.emit import tir


@dataclass(frozen=True)
class Bound:
    """`lower <= var` and `var < upper`; None where that side is open."""

    lower: tir.Expr | None
    upper: tir.Expr | None


def bound_on(condition: tir.Expr, var: Var) -> Bound | None:
    """The bound that a comparison puts on `var`, exactly; None where it is no single interval."""
    if isinstance(condition, (tirx.LT, tirx.LE)):
        return _solve(condition.b - condition.a, var, isinstance(condition, tirx.LT))
    if isinstance(condition, (tirx.GT, tirx.GE)):
        return _solve(condition.a - condition.b, var, isinstance(condition, tirx.GT))
    if isinstance(condition, tirx.EQ):
        return _solve_equal(condition, var)
    return None


def _solve(difference: tir.Expr, var: Var, strict: bool) -> Bound | None:
    """Solve `difference > 0` (strict) or `difference >= 0` for `var`."""
    form = tir.linear(difference, [var])
    slope = None if form is None else tir.constant(form[0][0])
    if form is None or not slope:
        return None
    rest = form[1] - int(strict)
    if slope > 0:  # var >= ceil(-rest / slope)
        return Bound(-rest if slope == 1 else -tirx.floordiv(rest, slope), None)
    return Bound(None, rest + 1 if slope == -1 else tirx.floordiv(rest, -slope) + 1)


def _solve_equal(condition: tirx.EQ, var: Var) -> Bound | None:
    form = tir.linear(condition.a - condition.b, [var])
    slope = None if form is None else tir.constant(form[0][0])
    if form is None or slope not in (1, -1):
        return None
    place = -form[1] if slope == 1 else form[1]
    return Bound(place, place + 1)
