"""Elementwise operators as TIR expressions: what one element of a layer's result is.

Floats narrower than float32 are widened where they are read and the result is rounded where it is stored, as
the vector engine does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tvm import tirx

from dsa_compiler.errors import Infeasible
from dsa_compiler.graph.layers import OpCall
from dsa_compiler.lower.tir import Expr, cast, constant

NARROW_FLOATS = frozenset({"float16", "bfloat16", "float8_e4m3fn", "float8_e5m2"})


def computation_dtype(dtype: str) -> str:
    """The dtype in which elements of `dtype` are computed."""
    return "float32" if dtype in NARROW_FLOATS else dtype


def _dtype(x: Expr) -> str:
    return str(x.ty.dtype)


def _like(x: Expr, value: float) -> Expr:
    return constant(value, _dtype(x))


def _one(x: Expr) -> Expr:
    return _like(x, 1.0)


def _sigmoid(x: Expr, _: Mapping[str, Any]) -> Expr:
    return tirx.sigmoid(x)


def _gelu(x: Expr, _: Mapping[str, Any]) -> Expr:
    return _like(x, 0.5) * x * (_one(x) + tirx.erf(x * _like(x, math.sqrt(0.5))))


def _gelu_tanh(x: Expr, _: Mapping[str, Any]) -> Expr:
    inner = x + _like(x, 0.044715) * x * x * x
    return _like(x, 0.5) * x * (_one(x) + tirx.tanh(_like(x, math.sqrt(2 / math.pi)) * inner))


def _selu(x: Expr, _: Mapping[str, Any]) -> Expr:
    alpha, scale = 1.6732632423543772, 1.0507009873554805
    low = _like(x, alpha) * (tirx.exp(tirx.min(x, _like(x, 0.0))) - _one(x))
    return _like(x, scale) * tirx.Select(x > _like(x, 0.0), x, low)


def _leaky_relu(x: Expr, attrs: Mapping[str, Any]) -> Expr:
    return tirx.max(x, _like(x, 0.0)) + _like(x, float(attrs.get("alpha", 0.01))) * tirx.min(x, _like(x, 0.0))


def _softplus(x: Expr, _: Mapping[str, Any]) -> Expr:
    return tirx.max(x, _like(x, 0.0)) + tirx.log(_one(x) + tirx.exp(_like(x, 0.0) - tirx.abs(x)))


def _power(x: Expr, exponent: Expr) -> Expr:
    """x ** exponent; a cube as a product, since TVM warns of powers from 3 on."""
    if isinstance(exponent, tirx.FloatImm) and float(exponent.value) == 3.0:
        return x * x * x
    return tirx.pow(x, exponent)


def _round(x: Expr, _: Mapping[str, Any]) -> Expr:
    return tirx.nearbyint(x)


def _plain(function: Callable[[Expr], Expr]) -> Callable[[Expr, Mapping[str, Any]], Expr]:
    return lambda x, _: function(x)


def _sign(x: Expr, _: Mapping[str, Any]) -> Expr:
    zero = _like(x, 0)
    return tirx.Select(x > zero, _one(x), tirx.Select(x < zero, _like(x, -1), zero))


def _floating(x: Expr) -> bool:
    return _dtype(x).startswith(("float", "bfloat"))


def _floor_divide(a: Expr, b: Expr) -> Expr:
    return tirx.floor(a / b) if _floating(a) else tirx.floordiv(a, b)


def _floor_mod(a: Expr, b: Expr) -> Expr:
    return a - tirx.floor(a / b) * b if _floating(a) else tirx.floormod(a, b)


def _remainder(a: Expr, b: Expr) -> Expr:
    """The remainder with the sign of the dividend."""
    return a - tirx.trunc(a / b) * b if _floating(a) else tirx.truncmod(a, b)


def _exclusive(a: Expr, b: Expr) -> Expr:
    return tirx.And(tirx.Or(a, b), tirx.Not(tirx.And(a, b)))


def _bits(integers: Callable[[Expr, Expr], Expr], truths: Callable[[Expr, Expr], Expr]) -> Callable[..., Expr]:
    return lambda a, b: truths(a, b) if _dtype(a) == "bool" else integers(a, b)


UNARY: Mapping[str, Callable[[Expr, Mapping[str, Any]], Expr]] = {
    "nn.relu": lambda x, _: tirx.max(x, _like(x, 0)),
    "sigmoid": _sigmoid,
    "nn.silu": lambda x, a: x * _sigmoid(x, a),
    "nn.gelu": _gelu,
    "nn.gelu_tanh": _gelu_tanh,
    "nn.selu": _selu,
    "nn.leakyrelu": _leaky_relu,
    "nn.softplus": _softplus,
    "round": _round,
    "sign": _sign,
    "negative": lambda x, _: _like(x, 0) - x,
    "square": lambda x, _: x * x,
    "logical_not": _plain(tirx.Not),
    "bitwise_not": lambda x, _: tirx.Not(x) if _dtype(x) == "bool" else tirx.BitwiseNot(x),
    "isfinite": _plain(tirx.isfinite),
    "isinf": _plain(tirx.isinf),
    "rsqrt": lambda x, _: _one(x) / tirx.sqrt(x),
    **{
        name: _plain(getattr(tirx, name))
        for name in (
            "abs", "exp", "log", "sqrt", "tanh", "erf", "floor", "ceil", "trunc", "sin", "cos", "tan", "sinh", "cosh",
            "asin", "acos", "atan", "asinh", "acosh", "atanh", "isnan",
        )
    },
}  # fmt: skip

BINARY: Mapping[str, Callable[[Expr, Expr], Expr]] = {
    "add": lambda a, b: a + b,
    "subtract": lambda a, b: a - b,
    "multiply": lambda a, b: a * b,
    "divide": lambda a, b: a / b if _dtype(a).startswith("float") else tirx.truncdiv(a, b),
    "maximum": tirx.max,
    "minimum": tirx.min,
    "power": _power,
    "floor_divide": _floor_divide,
    "floor_mod": _floor_mod,
    "mod": _remainder,
    "atan2": tirx.atan2,
    "bitwise_and": _bits(lambda a, b: a & b, tirx.And),
    "bitwise_or": _bits(lambda a, b: a | b, tirx.Or),
    "bitwise_xor": _bits(lambda a, b: a ^ b, _exclusive),
    "left_shift": lambda a, b: a << b,
    "right_shift": lambda a, b: a >> b,
    "logical_xor": _exclusive,
    "greater": lambda a, b: a > b,
    "greater_equal": lambda a, b: a >= b,
    "less": lambda a, b: a < b,
    "less_equal": lambda a, b: a <= b,
    "equal": lambda a, b: tirx.EQ(a, b),
    "not_equal": lambda a, b: tirx.NE(a, b),
    "logical_and": tirx.And,
    "logical_or": tirx.Or,
}


def supports(op: str) -> bool:
    """Whether `apply` has an expression for the operator."""
    return op in UNARY or op in BINARY or op in ("clip", "where", "astype", "nn.prelu", "ewise_fma")


def apply(call: OpCall, args: Sequence[Expr]) -> Expr:
    """The element of `call`'s result from those of its arguments, in the computation dtype.

    Raises `Infeasible` for an operator without an expression.
    """
    if call.op == "astype":
        return cast(args[0], computation_dtype(call.dtype))
    if call.op == "where":
        return tirx.Select(cast(args[0], "bool"), args[1], args[2])
    if call.op == "clip":
        low, high = call.attrs.get("min"), call.attrs.get("max")
        return _clip(args[0], *(args[1:] if len(args) == 3 else (_bound(args[0], low), _bound(args[0], high))))
    if call.op == "nn.prelu":
        zero = _like(args[0], 0.0)
        return tirx.max(args[0], zero) + args[1] * tirx.min(args[0], zero)
    if call.op == "ewise_fma":
        return args[0] * args[1] + args[2]
    if call.op in UNARY:
        return UNARY[call.op](args[0], call.attrs)
    if call.op in BINARY:
        return BINARY[call.op](args[0], cast(args[1], _dtype(args[0])))
    raise Infeasible(f"operator {call.op}", 1, 0, where="lower.expression")


def _bound(x: Expr, value: float | None) -> Expr | None:
    if value is None or math.isinf(value):
        return None
    return _like(x, value)


def _clip(x: Expr, low: Expr | None, high: Expr | None) -> Expr:
    x = x if low is None else tirx.max(x, low)
    return x if high is None else tirx.min(x, high)
