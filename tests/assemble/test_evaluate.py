"""Index expressions over many iterations at once, against the same arithmetic in Python."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tvm import tirx

from dsa_compiler.assemble.evaluate import evaluate
from dsa_compiler.errors import InternalError
from dsa_compiler.lower.tir import buffer, integer
from tests.lower.drawing import drawn

X, Y = tirx.Var("x", "int64"), tirx.Var("y", "int64")
XS, YS = np.array([-7, -1, 0, 3, 8, 100]), np.array([3, -2, 5, 3, -8, 7])
ENV = {X: XS, Y: YS}

OPERATIONS: dict[str, tuple[Callable[[Any, Any], Any], Callable[[int, int], int]]] = {
    "add": (lambda a, b: a + b, lambda a, b: a + b),
    "subtract": (lambda a, b: a - b, lambda a, b: a - b),
    "multiply": (lambda a, b: a * b, lambda a, b: a * b),
    "floor division": (tirx.floordiv, lambda a, b: a // b),
    "floor remainder": (tirx.floormod, lambda a, b: a % b),
    "truncating division": (tirx.truncdiv, lambda a, b: math.trunc(a / b)),
    "truncating remainder": (tirx.truncmod, lambda a, b: int(math.fmod(a, b))),
    "minimum": (tirx.min, min),
    "maximum": (tirx.max, max),
    "less": (lambda a, b: a < b, lambda a, b: a < b),
    "less or equal": (lambda a, b: a <= b, lambda a, b: a <= b),
    "greater": (lambda a, b: a > b, lambda a, b: a > b),
    "greater or equal": (lambda a, b: a >= b, lambda a, b: a >= b),
    "equal": (tirx.EQ, lambda a, b: a == b),
    "not equal": (tirx.NE, lambda a, b: a != b),
    "and": (lambda a, b: tirx.And(a > 0, b > 0), lambda a, b: a > 0 and b > 0),
    "or": (lambda a, b: tirx.Or(a > 0, b > 0), lambda a, b: a > 0 or b > 0),
    "not": (lambda a, b: tirx.Not(a > b), lambda a, b: not a > b),
    "select": (lambda a, b: tirx.Select(a < b, a, b * 2), lambda a, b: a if a < b else b * 2),
    "if": (lambda a, b: tirx.if_then_else(a < b, a, b * 2), lambda a, b: a if a < b else b * 2),
    "likely": (lambda a, b: tirx.likely(a < b), lambda a, b: a < b),
    "cast": (lambda a, b: tirx.Cast("int32", a) + tirx.Cast("int32", b), lambda a, b: a + b),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_operation(name: str) -> None:
    made, meaning = OPERATIONS[name]
    assert evaluate(made(X, Y), ENV).tolist() == [meaning(int(x), int(y)) for x, y in zip(XS, YS, strict=True)]


def test_constants() -> None:
    assert evaluate(integer(-5), {}) == -5
    assert evaluate(7, {}) == 7
    assert evaluate(tirx.const(0.5, "float32"), {}) == 0.5
    assert evaluate(X, ENV) is XS


@st.composite
def expressions(draw: st.DrawFn, depth: int = 3) -> tuple[Any, Callable[[int, int], int]]:
    """A tree of total operations and its meaning."""
    if depth == 0 or draw(st.integers(0, 4)) == 0:
        number = draw(st.integers(-20, 20))
        return draw(st.sampled_from([(X, lambda x, y: x), (Y, lambda x, y: y), (integer(number), lambda x, y: number)]))
    (left, f), (right, g) = draw(expressions(depth - 1)), draw(expressions(depth - 1))
    made, meaning = OPERATIONS[
        draw(st.sampled_from(["add", "subtract", "multiply", "minimum", "maximum", "select", "if"]))
    ]
    if draw(st.booleans()):
        divisor = draw(st.integers(1, 9))
        return (
            tirx.floordiv(made(left, right), integer(divisor)) + tirx.floormod(left, integer(divisor)),
            lambda x, y: meaning(f(x, y), g(x, y)) // divisor + f(x, y) % divisor,
        )
    return made(left, right), lambda x, y: meaning(f(x, y), g(x, y))


@drawn(100)
@given(expressions())
def test_any_expression(case: tuple[Any, Callable[[int, int], int]]) -> None:
    made, meaning = case
    actual = np.broadcast_to(evaluate(made, ENV), XS.shape)
    assert actual.tolist() == [meaning(int(x), int(y)) for x, y in zip(XS, YS, strict=True)]


def test_variables_of_other_loops() -> None:
    with pytest.raises(InternalError, match=r"^\[assemble.expand\] z is no tile loop's variable$"):
        evaluate(X + tirx.Var("z", "int64"), ENV)


def test_what_is_no_index() -> None:
    with pytest.raises(
        InternalError, match=r"^\[assemble.expand\] TensorLoad b\[T.int64\(0\)\] is no index expression$"
    ):
        evaluate(buffer("b", (4,), "int32")[integer(0)], {})
    with pytest.raises(InternalError, match=r"is no index expression"):
        evaluate(tirx.exp(tirx.const(1.0, "float32")), {})
