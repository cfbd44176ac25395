"""Elementwise operators: each result element depends on one element of each (broadcast) operand."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

from dsa_compiler.operators.operator import Array, Attrs, Evaluate, Operator

_ERF = np.frompyfunc(math.erf, 1, 1)


def erf(x: Array) -> Array:
    """Return the error function of `x`, rounded to the dtype of `x`."""
    return np.asarray(_ERF(x.astype(np.float64)), dtype=np.float64).astype(x.dtype)


def sigmoid(x: Array) -> Array:
    """Return 1 / (1 + exp(-x)) without overflow, exact to the last digits for large negative `x` too."""
    e = np.exp(-np.abs(x))
    return np.asarray(np.where(x >= 0, 1, e) / (1 + e), x.dtype)


def softplus(x: Array) -> Array:
    """Return log(1 + exp(x)) without overflow."""
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


def _gelu(x: Array) -> Array:
    return np.asarray(0.5 * x * (1 + erf(x * np.asarray(math.sqrt(0.5), x.dtype))), x.dtype)


def _gelu_tanh(x: Array) -> Array:
    return np.asarray(0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))), x.dtype)


def _selu(x: Array) -> Array:
    alpha, scale = 1.6732632423543772, 1.0507009873554805
    return np.asarray(scale * np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0))), x.dtype)


def _divide(a: Array, b: Array) -> Array:
    """Divide; integers round towards zero."""
    if a.dtype.kind in "iu":
        return np.asarray(np.trunc(a.astype(np.float64) / b), a.dtype)
    return np.asarray(a / b)


def _round(x: Array) -> Array:
    return np.rint(x)


_UNARY: Mapping[str, Callable[[Array], Array]] = {
    "abs": np.abs, "acos": np.arccos, "acosh": np.arccosh, "asin": np.arcsin, "asinh": np.arcsinh,
    "atan": np.arctan, "atanh": np.arctanh, "bitwise_not": np.invert, "ceil": np.ceil, "cos": np.cos,
    "cosh": np.cosh, "erf": erf, "exp": np.exp, "floor": np.floor, "isfinite": np.isfinite, "isinf": np.isinf,
    "isnan": np.isnan, "log": np.log, "logical_not": np.logical_not, "negative": np.negative,
    "nn.gelu": _gelu, "nn.gelu_tanh": _gelu_tanh, "nn.relu": lambda x: np.maximum(x, 0), "nn.selu": _selu,
    "nn.silu": lambda x: x * sigmoid(x), "round": _round, "rsqrt": lambda x: np.asarray(1 / np.sqrt(x), x.dtype),
    "sigmoid": sigmoid, "sign": np.sign, "sin": np.sin, "sinh": np.sinh, "sqrt": np.sqrt, "square": np.square,
    "tan": np.tan, "tanh": np.tanh, "trunc": np.trunc,
}  # fmt: skip

_BINARY: Mapping[str, Callable[[Array, Array], Array]] = {
    "add": np.add, "atan2": np.arctan2, "bitwise_and": np.bitwise_and, "bitwise_or": np.bitwise_or,
    "bitwise_xor": np.bitwise_xor, "divide": _divide, "equal": np.equal, "floor_divide": np.floor_divide,
    "floor_mod": np.mod, "greater": np.greater, "greater_equal": np.greater_equal, "left_shift": np.left_shift,
    "less": np.less, "less_equal": np.less_equal, "logical_and": np.logical_and, "logical_or": np.logical_or,
    "logical_xor": np.logical_xor, "maximum": np.maximum, "minimum": np.minimum, "mod": np.fmod,
    "multiply": np.multiply, "not_equal": np.not_equal, "power": np.power, "right_shift": np.right_shift,
    "subtract": np.subtract,
}  # fmt: skip


def _unary(fn: Callable[[Array], Array]) -> Evaluate:
    return lambda args, attrs: fn(args[0])


def _binary(fn: Callable[[Array, Array], Array]) -> Evaluate:
    return lambda args, attrs: fn(args[0], args[1])


def _clip(args: tuple[Array, ...], attrs: Attrs) -> Array:
    return np.clip(args[0], attrs["min"], attrs["max"]).astype(args[0].dtype)


def _prelu(args: tuple[Array, ...], attrs: Attrs) -> Array:
    x, slope = args
    shape = [1] * x.ndim
    shape[attrs.get("axis", -1)] = slope.size
    return np.asarray(np.where(x >= 0, x, x * slope.reshape(shape)))


def _softplus(args: tuple[Array, ...], attrs: Attrs) -> Array:
    beta, threshold = attrs.get("beta", 1.0), attrs.get("threshold", 20.0)
    x = args[0] * beta
    return np.asarray(np.where(x > threshold, args[0], softplus(x) / beta), args[0].dtype)


def _special() -> dict[str, Evaluate]:
    return {
        "astype": lambda args, attrs: args[0].astype(np.dtype(attrs["dtype"])),
        "clip": lambda args, attrs: _clip(tuple(args), attrs),
        "ewise_fma": lambda args, attrs: args[0] * args[1] + args[2],
        "nn.leakyrelu": lambda args, attrs: np.asarray(
            np.where(args[0] >= 0, args[0], args[0] * attrs["alpha"]), args[0].dtype
        ),
        "nn.prelu": lambda args, attrs: _prelu(tuple(args), attrs),
        "nn.softplus": lambda args, attrs: _softplus(tuple(args), attrs),
        "where": lambda args, attrs: np.where(args[0], args[1], args[2]),
    }


def elementwise_operators() -> list[Operator]:
    """Return every elementwise operator."""
    semantics = {name: _unary(fn) for name, fn in _UNARY.items()}
    semantics |= {name: _binary(fn) for name, fn in _BINARY.items()}
    semantics |= _special()
    return [Operator(name, "elementwise", fn) for name, fn in semantics.items()]
