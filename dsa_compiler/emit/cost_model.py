"""CostModel: what a plan costs by the instruction table's own costs, at the greatest extents."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import prod

from dsa_compiler.emit.nest import Axis
from dsa_compiler.emit.plan import Plan
from dsa_compiler.isa.dtypes import item_bytes
from dsa_compiler.target import Target


class CostModel:
    """Ranks plans of one nest by cycles of their engine."""

    def __init__(self, target: Target) -> None:
        self.target = target

    def cheapest(self, plans: Iterable[Plan], axes: Sequence[Axis]) -> Plan | None:
        """The plan of the fewest cycles; the first of equals; None without plans."""
        found = list(plans)
        if len(found) < 2:
            return found[0] if found else None
        return min(found, key=lambda p: self.cycles(p, axes))

    def cycles(self, plan: Plan, axes: Sequence[Axis]) -> float:
        """Cycles of a plan, its loops counted at their greatest extents."""
        calls = prod(axes[n].bound for n in plan.outer)
        startup = 16.0
        work = max(
            prod(o.bounds[:-1]) * (1 + -(-o.bounds[-1] * item_bytes(o.access.dtype) // 64)) for o in plan.operands
        )
        return calls * (startup + work)
