"""The elementwise part of a layer as one expression of its anchor's result and its other operands."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from dsa_compiler.graph.layers import Layer, OpCall
from dsa_compiler.lower.expression import apply, computation_dtype
from dsa_compiler.lower.requantize import requantizations
from dsa_compiler.lower.tir import Expr, cast, constant

VECTOR_FREE = frozenset({"astype", "copy"})
TRANSCENDENTAL = frozenset(
    {
        "exp", "log", "sqrt", "rsqrt", "sin", "cos", "tan", "sinh", "cosh", "tanh", "asin", "acos", "atan", "asinh",
        "acosh", "atanh", "erf", "sigmoid", "power", "nn.silu", "nn.gelu", "nn.gelu_tanh", "nn.selu", "nn.softplus",
    }
)  # fmt: skip
"""Operators that the vector engine takes several cycles a vector for."""


@dataclass(frozen=True)
class Chain:
    """`value(anchor, operands)` is one element of the result; `operands` are the layer's inputs `inputs`, in order.

    `operations` counts vector instructions, roughly (one for a requantisation), `transcendental` the slow ones among
    them. `identity` says that nothing is computed, `slow_first` that the anchor itself is the operand of a slow one.
    """

    value: Callable[[Expr | None, Sequence[Expr]], Expr]
    inputs: tuple[int, ...]
    operations: int
    transcendental: int = 0
    slow_first: bool = False

    @property
    def identity(self) -> bool:
        """Whether the result is the anchor's, but for its dtype."""
        return self.operations == 0


def chain_after(layer: Layer, start: int) -> Chain:
    """All that the layer's result needs but call `start`, whose result is the anchor (-1: no anchor)."""
    calls = layer.calls
    needed = _needed(calls, start)
    used = sorted({int(v) for n in needed for k, v in calls[n].args if k == "input"})
    places: Mapping[int, int] = {number: place for place, number in enumerate(used)}

    def value(anchor: Expr | None, operands: Sequence[Expr]) -> Expr:
        results: dict[int, Expr] = {}
        if anchor is not None:
            results[start] = anchor
        for number in needed:
            results[number] = _element(calls[number], results, operands, places)
        return results[len(calls) - 1]

    joined = [r for r in requantizations(calls) if set(r.calls) <= set(needed)]
    within = {n for r in joined for n in r.calls}
    operations = len(joined) + sum(calls[n].op not in VECTOR_FREE for n in needed if n not in within)
    slow = [calls[n] for n in needed if calls[n].op in TRANSCENDENTAL]
    return Chain(value, tuple(used), operations, len(slow), any(("call", start) in c.args for c in slow))


def _needed(calls: Sequence[OpCall], start: int) -> list[int]:
    """The calls that the last one depends on, itself included, without `start` and what only it needs."""
    found: set[int] = set()
    open_ = [len(calls) - 1]
    while open_:
        number = open_.pop()
        if number == start or number in found:
            continue
        found.add(number)
        open_ += [int(v) for k, v in calls[number].args if k == "call"]
    return sorted(found)


def _element(call: OpCall, results: Mapping[int, Expr], operands: Sequence[Expr], places: Mapping[int, int]) -> Expr:
    raw = [_argument(kind, value, results, operands, places) for kind, value in call.args]
    known = [r for r in raw if r is not None]
    chosen = call.op == "where" and len(known) < 2  # the condition alone is no number
    dtype = computation_dtype(call.dtype) if chosen or not known else str(known[-1].ty.dtype)
    args = [r if r is not None else constant(v, dtype) for r, (_, v) in zip(raw, call.args, strict=True)]
    return args[0] if call.op == "copy" else apply(call, args)


def _argument(
    kind: str, value: float, results: Mapping[int, Expr], operands: Sequence[Expr], places: Mapping[int, int]
) -> Expr | None:
    """The expression of an argument in its computation dtype; None for a number, whose dtype others decide."""
    if kind == "call":
        return results[int(value)]
    if kind == "input":
        element = operands[places[int(value)]]
        return cast(element, computation_dtype(str(element.ty.dtype)))
    return None
