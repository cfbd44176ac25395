"""Nests of the form `acc = op(acc, rest)`: reductions, windows, products."""

from __future__ import annotations

from dataclasses import dataclass

from dsa_compiler.emit.expression import Apply, Load, Node
from dsa_compiler.emit.nest import Access

REDUCING = {
    "add": "reduce_sum", "max": "reduce_max", "min": "reduce_min", "mul": "reduce_prod",
    "logical_or": "reduce_any", "logical_and": "reduce_all",
}  # fmt: skip
"""Operations that reduce, and the reductions that they are."""


@dataclass(frozen=True)
class Accumulation:
    """`acc = op(acc, rest)`; a product added is `add` with `rest` a `mul`."""

    op: str
    acc: Load
    rest: Node


def accumulation(value: Node, store: Access, loads: tuple[Access, ...]) -> Accumulation | None:
    """How a folded value accumulates into the element that it is stored to; None where it does not."""
    if not isinstance(value, Apply):
        return None
    if value.op == "fma":
        return _of("add", value.args[2], Apply("mul", value.args[:2], value.dtype), store, loads)
    if value.op == "axpy":
        rest = Apply("mul_scalar", value.args[:1], value.dtype, value.params)
        return _of("add", value.args[1], rest, store, loads)
    if value.op in REDUCING and len(value.args) == 2:
        a, b = value.args
        return _of(value.op, a, b, store, loads) or _of(value.op, b, a, store, loads)
    return None


def _of(op: str, acc: Node, rest: Node, store: Access, loads: tuple[Access, ...]) -> Accumulation | None:
    if isinstance(acc, Load) and loads[acc.slot].same_place(store):
        return Accumulation(op, acc, rest)
    return None


def reduced_axes(store: Access) -> list[int]:
    """The axes along which the store does not move."""
    return [n for n, s in enumerate(store.strides) if isinstance(s, int) and s == 0]
