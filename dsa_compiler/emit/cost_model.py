"""CostModel: what a plan costs by the instruction table's own costs, at the greatest extents."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from dsa_compiler.emit import tir
from dsa_compiler.emit.nest import Axis
from dsa_compiler.emit.plan import Placed, Plan
from dsa_compiler.isa.cost import CostRules
from dsa_compiler.isa.dtypes import item_bytes
from dsa_compiler.target import Target


@dataclass(frozen=True)
class _Operand:
    """An operand as the table's costs read it: an address for every place is enough to count bursts."""

    role: str
    scope: str
    dtype: str
    extents: tuple[int, ...]
    strides: tuple[int, ...]
    address: int = 0

    def byte_strides(self) -> tuple[int, ...]:
        """Strides in bytes."""
        return tuple(s * item_bytes(self.dtype) for s in self.strides)


class CostModel:
    """Ranks plans of one nest by the cycles that their engine is occupied."""

    def __init__(self, target: Target) -> None:
        self.rules = CostRules(target)
        self.target = target

    def cheapest(self, plans: Iterable[Plan], axes: Sequence[Axis]) -> Plan | None:
        """The plan of the fewest cycles; the first of equals; None without plans."""
        found = list(plans)
        if len(found) < 2:
            return found[0] if found else None
        return min(found, key=lambda p: self.cycles(p, axes))

    def cycles(self, plan: Plan, axes: Sequence[Axis]) -> float:
        """Cycles of a plan, its loops counted at their greatest extents."""
        operands = [_operand(o) for o in plan.operands]
        attrs = {name: _attribute(name, value) for name, value in plan.attrs.items()}
        cost = self.rules.instruction(plan.opcode, operands, attrs)
        return prod(axes[n].bound for n in plan.outer) * cost.alone(self.target)


def _operand(operand: Placed) -> _Operand:
    bounds = tuple(max(1, b) for b in operand.bounds)
    return _Operand(operand.role, operand.access.scope, operand.access.dtype, bounds, operand.strides)


def _attribute(name: str, value: Any) -> Any:
    """An attribute with expressions taken for 0 (pads) or 1 (counts)."""
    if isinstance(value, (list, tuple)):
        return [_attribute(name, v) for v in value]
    if isinstance(value, (bool, int, float, str)):
        return value
    known = tir.constant(value)
    return known if known is not None else 0 if name == "pad" else 1
