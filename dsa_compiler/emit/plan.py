"""What a recogniser proposes: an instruction, the loops around it, and when it may run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dsa_compiler.emit import tir
from dsa_compiler.emit.nest import Access, Axis
from dsa_compiler.emit.vector_engine import Fit, Part


@dataclass(frozen=True)
class Placed:
    """An operand of the instruction: extents, their greatest values, and strides in elements, outermost first."""

    role: str
    access: Access
    base: tuple[tir.Expr, ...]
    extents: tuple[tir.Expr | int, ...]
    bounds: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(frozen=True)
class Plan:
    """One instruction in loops over `outer` (numbers of the nest's axes).

    `needs` are extents that must be positive for the instruction to run, where they are not so by themselves;
    `otherwise` is what runs in its place if they are not.
    """

    opcode: str
    operands: tuple[Placed, ...]
    attrs: Mapping[str, Any] = field(default_factory=dict)
    outer: tuple[int, ...] = ()
    needs: tuple[tir.Expr, ...] = ()
    otherwise: Plan | None = None


def placed(part: Part, fit: Fit, number: int) -> Placed:
    """Operand `number` of a fit, starting where its access does."""
    return Placed(
        part.role,
        part.access,
        part.access.base,
        tuple(g.extent for g in fit.groups),
        tuple(g.bound for g in fit.groups),
        tuple(int(g.strides[number]) for g in fit.groups),
    )


def outer_axes(plan: Plan, axes: tuple[Axis, ...]) -> tuple[Axis, ...]:
    """The loops around a plan's instruction."""
    return tuple(axes[n] for n in plan.outer)
