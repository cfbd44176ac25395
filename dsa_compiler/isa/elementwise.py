"""Values of elementwise instructions. Floats are computed in float32 and rounded once by the caller; whole sources
are computed in int32, modulo 2**32.

What the manual leaves open, as hardware does it: integer division truncates and division by zero gives -1, its
remainder the dividend (RISC-V); a shift by an amount outside 0 to 31 shifts everything out; max, min, relu and clip
give NaN where a source is NaN (IEEE 754-2019 maximum); `round` goes half to even.
"""

# mypy: disable-error-code="no-any-return"
from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from dsa_compiler.isa.convert import INT32, common, to_float, widen
from dsa_compiler.isa.definition import Arrays, Attrs, Semantics

Unary = Callable[[np.ndarray], np.ndarray]
Binary = Callable[[np.ndarray, np.ndarray], np.ndarray]


def on_source(function: Unary) -> Semantics:
    """An instruction of one source, in its computing type."""
    return lambda arrays, attrs: function(widen(arrays["src"]))


def on_float(function: Unary) -> Semantics:
    """An instruction of one source, in float32."""
    return lambda arrays, attrs: function(to_float(arrays["src"]))


def on_pair(function: Binary) -> Semantics:
    """An instruction of two sources, in their common computing type."""
    return lambda arrays, attrs: function(*common(arrays["src"], arrays["src2"]))


def on_floats(function: Binary) -> Semantics:
    """An instruction of two sources, in float32."""
    return lambda arrays, attrs: function(to_float(arrays["src"]), to_float(arrays["src2"]))


def with_value(function: Binary) -> Semantics:
    """An instruction of a source and `value`: whole if both are, else float32."""

    def semantics(arrays: Arrays, attrs: Attrs) -> np.ndarray:
        src, value = meet(widen(arrays["src"]), attrs["value"])
        return function(src, value)

    return semantics


def meet(src: np.ndarray, value: Any) -> tuple[np.ndarray, Any]:
    """A widened source and a constant in one type; a constant that is written whole leaves whole sources whole."""
    if src.dtype == INT32 and isinstance(value, int):
        return src, np.int64(value).astype(INT32)
    return to_float(src), np.float32(value)


def exact(function: Unary) -> Unary:
    """Rounding functions leave integers as they are."""
    return lambda x: x if x.dtype == INT32 else function(x)


def truth(function: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    """A function of truth values: whatever differs from zero is true."""
    return lambda *sources: function(*(s != 0 for s in sources))


def bits(function: Binary) -> Semantics:
    """A bitwise instruction: truth values stay truth values, integers are widened with their sign."""

    def semantics(arrays: Arrays, attrs: Attrs) -> np.ndarray:
        src, src2 = arrays["src"], arrays["src2"]
        if src.dtype == np.bool_ and src2.dtype == np.bool_:
            return function(src, src2)
        return function(widen(src), widen(src2))

    return semantics


def invert(arrays: Arrays, attrs: Attrs) -> np.ndarray:
    """Every bit inverted."""
    src = arrays["src"]
    return np.invert(src if src.dtype == np.bool_ else widen(src))


def never(test: Unary) -> Unary:
    """A test of floats that integers never meet."""
    return lambda x: np.zeros(x.shape, np.bool_) if x.dtype == INT32 else test(x)


def finite(x: np.ndarray) -> np.ndarray:
    """Whether the element is neither infinite nor NaN."""
    return np.ones(x.shape, np.bool_) if x.dtype == INT32 else np.isfinite(x)


def relu(x: np.ndarray) -> np.ndarray:
    """The greater of x and 0."""
    return np.maximum(x, x.dtype.type(0))


def sigmoid(x: np.ndarray) -> np.ndarray:
    """1 / (1 + e**-x)."""
    return np.reciprocal(np.float32(1) + np.exp(-x))


def silu(x: np.ndarray) -> np.ndarray:
    """x * sigmoid(x); 0 at minus infinity."""
    return np.where(x == -np.inf, np.float32(0), x / (np.float32(1) + np.exp(-x)))


def softplus(x: np.ndarray) -> np.ndarray:
    """log(1 + e**x), without overflow."""
    return np.maximum(x, np.float32(0)) + np.log1p(np.exp(-np.abs(x)))


def softsign(x: np.ndarray) -> np.ndarray:
    """x / (1 + |x|); the sign at the infinities."""
    return np.where(np.isinf(x), np.sign(x), x / (np.float32(1) + np.abs(x)))


def mish(x: np.ndarray) -> np.ndarray:
    """x * tanh(softplus(x)); 0 at minus infinity."""
    return np.where(x == -np.inf, np.float32(0), x * np.tanh(softplus(x)))


def gelu_tanh(x: np.ndarray) -> np.ndarray:
    """The tanh form of gelu; 0 at minus infinity."""
    inner = np.float32(math.sqrt(2 / math.pi)) * (x + np.float32(0.044715) * x * x * x)
    return np.where(x == -np.inf, np.float32(0), np.float32(0.5) * x * (np.float32(1) + np.tanh(inner)))


def elu(arrays: Arrays, attrs: Attrs) -> np.ndarray:
    """x where positive, else alpha * (e**x - 1)."""
    x = to_float(arrays["src"])
    return np.where(x > 0, x, np.float32(attrs["alpha"]) * np.expm1(x))


def selu(x: np.ndarray) -> np.ndarray:
    """The self-normalising elu, with ONNX's constants."""
    alpha, gamma = 1.6732632423543772848170429916717, 1.0507009873554804934193349852946
    return np.float32(gamma) * np.where(x > 0, x, np.float32(alpha) * np.expm1(x))


def divide(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """x / y; integers truncate."""
    if x.dtype != INT32:
        return x / y
    quotient = _floor_divide(x, y)
    inexact = (quotient * _nonzero(y) != x) & ((x < 0) != (y < 0)) & (y != 0)
    return (quotient + inexact).astype(INT32)


def floor_divide(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """x / y rounded down."""
    return _floor_divide(x, y) if x.dtype == INT32 else np.floor(x / y)


def _nonzero(y: np.ndarray) -> np.ndarray:
    return np.where(y == 0, INT32.type(1), y)


def _floor_divide(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Integers rounded down; -1 for a divisor of 0."""
    quotient = np.floor_divide(x.astype(np.int64), _nonzero(y)).astype(INT32)
    return np.where(y == 0, INT32.type(-1), quotient)


def modulo(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The remainder with the divisor's sign; of integers by zero, x."""
    return np.where(y == 0, x, np.mod(x, _nonzero(y))) if x.dtype == INT32 else np.mod(x, y)


def remainder(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The remainder with the dividend's sign; of integers by zero, x."""
    return np.where(y == 0, x, np.fmod(x, _nonzero(y))) if x.dtype == INT32 else np.fmod(x, y)


def power(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """x to the y; integers modulo 2**32, rounded towards zero for negative y (0 ** -1 is 0)."""
    if x.dtype != INT32:
        return np.power(x, y)
    odd = np.where(y % 2 == 0, INT32.type(1), INT32.type(-1))
    below = np.where(x == 1, INT32.type(1), np.where(x == -1, odd, INT32.type(0)))
    return np.where(y < 0, below, np.power(x, np.maximum(y, INT32.type(0))))


def shift_left(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """x times 2**y, modulo 2**32."""
    return np.where((y < 0) | (y > 31), INT32.type(0), np.left_shift(x, y & 31))


def shift_right(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """x by 2**y rounded down (sources of uint8 are not negative)."""
    return np.right_shift(x, np.where((y < 0) | (y > 31), INT32.type(31), y))


def prelu(x: np.ndarray, slope: np.ndarray) -> np.ndarray:
    """x where not negative, else slope * x."""
    return np.where(x < 0, x * slope, x)


def clip(arrays: Arrays, attrs: Attrs) -> np.ndarray:
    """x held between low and high."""
    x, low = meet(widen(arrays["src"]), attrs["low"])
    x, high = meet(x, attrs["high"])
    return np.minimum(np.maximum(x, low.astype(x.dtype)), high)


def fma(arrays: Arrays, attrs: Attrs) -> np.ndarray:
    """src * src2 + src3, rounded after the product and after the sum."""
    x, y, z = common(arrays["src"], arrays["src2"], arrays["src3"])
    return x * y + z


def axpy(arrays: Arrays, attrs: Attrs) -> np.ndarray:
    """src * value + src2."""
    x, y = common(arrays["src"], arrays["src2"])
    x, value = meet(x, attrs["value"])
    return x * value + y


def select(arrays: Arrays, attrs: Attrs) -> np.ndarray:
    """src where src3 is true, else src2."""
    return np.where(arrays["src3"] != 0, *common(arrays["src"], arrays["src2"]))


def quantize(arrays: Arrays, attrs: Attrs) -> np.ndarray:
    """round(src / src2) + zero_point."""
    return np.rint(to_float(arrays["src"]) / to_float(arrays["src2"])) + np.float32(attrs["zero_point"])


def dequantize(arrays: Arrays, attrs: Attrs) -> np.ndarray:
    """(src - zero_point) * src2."""
    whole = widen(arrays["src"]) - INT32.type(attrs["zero_point"])
    return to_float(whole) * to_float(arrays["src2"])


def requantize(arrays: Arrays, attrs: Attrs) -> np.ndarray:
    """round(src * src2) + zero_point."""
    return np.rint(to_float(arrays["src"]) * to_float(arrays["src2"])) + np.float32(attrs["zero_point"])
