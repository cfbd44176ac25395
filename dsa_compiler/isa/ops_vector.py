"""Elementwise instructions of the vector engine: unary, binary, with a constant, ternary, and casts.

Every operand has its own dtype; floats are computed in float32, whole operands in int32 (`isa.elementwise`).
"""

from __future__ import annotations

import numpy as np

from dsa_compiler.isa import elementwise as e
from dsa_compiler.isa import special
from dsa_compiler.isa.declare import FLOATING, INTEGERS, NUMERIC, VALUE, WHOLE, vector_dst, vector_src
from dsa_compiler.isa.definition import Arrays, Attrs, AttrSpec, OpDef, Semantics
from dsa_compiler.isa.shapes import same_extents

_ALPHA = AttrSpec("alpha", "float")
_ZERO = AttrSpec("zero_point", "int")


def _unary(code: int, name: str, semantics: Semantics, doc: str, cost: str = "simple", src: tuple[str, ...] = (),
           attrs: tuple[AttrSpec, ...] = (), tags: frozenset[str] = frozenset(), dst: tuple[str, ...] = ()) -> OpDef:
    return OpDef(name, code, "vector", cost, (vector_dst(dst), vector_src(dtypes=src)), semantics, doc, attrs,
                 check=same_extents, tags=tags | {"unary", "elementwise"})  # fmt: skip


def _activation(code: int, name: str, function: e.Unary, doc: str, cost: str = "transcendental") -> OpDef:
    return _unary(code, name, e.on_float(function), doc, cost)


def _binary(code: int, name: str, semantics: Semantics, doc: str, cost: str = "simple",
            src: tuple[str, ...] = ()) -> OpDef:
    return OpDef(name, code, "vector", cost, (vector_dst(), vector_src(dtypes=src), vector_src("src2", src)), semantics,
                 doc, check=same_extents, tags=frozenset({"binary", "elementwise"}))  # fmt: skip


def _scalar(code: int, name: str, function: e.Binary, doc: str, cost: str = "simple",
            src: tuple[str, ...] = ()) -> OpDef:
    value = AttrSpec("value", "int") if src == WHOLE else VALUE
    return OpDef(name, code, "vector", cost, (vector_dst(), vector_src(dtypes=src)), e.with_value(function), doc,
                 (value,), check=same_extents, tags=frozenset({"scalar", "elementwise"}))  # fmt: skip


def _same(arrays: Arrays, attrs: Attrs) -> np.ndarray:
    return arrays["src"]


UNARY = (
    _unary(0x40, "copy", _same, "src, in the result's dtype."),
    _unary(0x41, "neg", e.on_source(np.negative), "-src."),
    _unary(0x42, "abs", e.on_source(np.abs), "The magnitude."),
    _unary(0x43, "relu", e.on_source(e.relu), "The greater of src and 0."),
    _unary(0x44, "sign", e.on_source(np.sign), "-1, 0 or 1."),
    _unary(0x45, "floor", e.on_source(e.exact(np.floor)), "Rounded down."),
    _unary(0x46, "ceil", e.on_source(e.exact(np.ceil)), "Rounded up."),
    _unary(0x47, "round", e.on_source(e.exact(np.rint)), "Rounded half to even."),
    _unary(0x48, "trunc", e.on_source(e.exact(np.trunc)), "Rounded towards zero."),
    _unary(0x49, "square", e.on_source(np.square), "src * src."),
    _unary(0x4A, "logical_not", e.on_source(e.truth(np.logical_not)), "Whether src is 0."),
    _unary(0x4B, "bitwise_not", e.invert, "Every bit inverted.", src=WHOLE),
    _unary(0x4C, "is_nan", e.on_source(e.never(np.isnan)), "Whether src is NaN."),
    _unary(0x4D, "is_inf", e.on_source(e.never(np.isinf)), "Whether src is infinite."),
    _unary(0x4E, "is_finite", e.on_source(e.finite), "Whether src is neither infinite nor NaN."),
    _activation(0x50, "reciprocal", np.reciprocal, "1 / src.", "divide"),
    _activation(0x51, "exp", np.exp, "e to the src."),
    _activation(0x52, "exp2", np.exp2, "2 to the src."),
    _activation(0x53, "log", np.log, "Natural logarithm."),
    _activation(0x54, "log2", np.log2, "Logarithm to base 2."),
    _activation(0x55, "log1p", np.log1p, "log(1 + src)."),
    _activation(0x56, "expm1", np.expm1, "e to the src, less 1."),
    _activation(0x57, "sqrt", np.sqrt, "Square root."),
    _activation(0x58, "rsqrt", lambda x: np.reciprocal(np.sqrt(x)), "1 / sqrt(src)."),
    _activation(0x59, "sin", np.sin, "Sine."),
    _activation(0x5A, "cos", np.cos, "Cosine."),
    _activation(0x5B, "tan", np.tan, "Tangent."),
    _activation(0x5C, "sinh", np.sinh, "Hyperbolic sine."),
    _activation(0x5D, "cosh", np.cosh, "Hyperbolic cosine."),
    _activation(0x5E, "tanh", np.tanh, "Hyperbolic tangent."),
    _activation(0x5F, "asin", np.arcsin, "Inverse sine."),
    _activation(0x60, "acos", np.arccos, "Inverse cosine."),
    _activation(0x61, "atan", np.arctan, "Inverse tangent."),
    _activation(0x62, "asinh", np.arcsinh, "Inverse hyperbolic sine."),
    _activation(0x63, "acosh", np.arccosh, "Inverse hyperbolic cosine."),
    _activation(0x64, "atanh", np.arctanh, "Inverse hyperbolic tangent."),
    _activation(0x65, "sigmoid", e.sigmoid, "1 / (1 + exp(-src))."),
    _activation(0x66, "erf", special.erf, "The error function."),
    _activation(0x67, "gelu", special.gelu, "src / 2 * (1 + erf(src / sqrt(2)))."),
    _activation(0x68, "gelu_tanh", e.gelu_tanh, "The tanh form of gelu."),
    _activation(0x69, "silu", e.silu, "src * sigmoid(src)."),
    _activation(0x6A, "softplus", e.softplus, "log(1 + exp(src))."),
    _activation(0x6B, "softsign", e.softsign, "src / (1 + abs(src))."),
    _activation(0x6C, "mish", e.mish, "src * tanh(softplus(src))."),
    _unary(0x6D, "elu", e.elu, "src where positive, else alpha * (exp(src) - 1).", "transcendental", attrs=(_ALPHA,)),
    _activation(0x6E, "selu", e.selu, "The self-normalising elu."),
)

BINARY = (
    _binary(0x80, "add", e.on_pair(np.add), "src + src2."),
    _binary(0x81, "sub", e.on_pair(np.subtract), "src - src2."),
    _binary(0x82, "mul", e.on_pair(np.multiply), "src * src2."),
    _binary(0x83, "max", e.on_pair(np.maximum), "The greater."),
    _binary(0x84, "min", e.on_pair(np.minimum), "The less."),
    _binary(0x85, "logical_and", e.on_pair(e.truth(np.logical_and)), "Whether both differ from 0."),
    _binary(0x86, "logical_or", e.on_pair(e.truth(np.logical_or)), "Whether either differs from 0."),
    _binary(0x87, "logical_xor", e.on_pair(e.truth(np.logical_xor)), "Whether one alone differs from 0."),
    _binary(0x88, "bitwise_and", e.bits(np.bitwise_and), "Bits set in both.", src=WHOLE),
    _binary(0x89, "bitwise_or", e.bits(np.bitwise_or), "Bits set in either.", src=WHOLE),
    _binary(0x8A, "bitwise_xor", e.bits(np.bitwise_xor), "Bits set in one alone.", src=WHOLE),
    _binary(0x8B, "shift_left", e.on_pair(e.shift_left), "src shifted left by src2 bits.", src=INTEGERS),
    _binary(0x8C, "shift_right", e.on_pair(e.shift_right), "src shifted right by src2 bits, keeping its sign.",
            src=INTEGERS),
    _binary(0x8D, "eq", e.on_pair(np.equal), "src = src2."),
    _binary(0x8E, "ne", e.on_pair(np.not_equal), "src differs from src2."),
    _binary(0x8F, "lt", e.on_pair(np.less), "src < src2."),
    _binary(0x90, "le", e.on_pair(np.less_equal), "src <= src2."),
    _binary(0x91, "gt", e.on_pair(np.greater), "src > src2."),
    _binary(0x92, "ge", e.on_pair(np.greater_equal), "src >= src2."),
    _binary(0x93, "prelu", e.on_pair(e.prelu), "src where not negative, else src * src2."),
    _binary(0x94, "div", e.on_pair(e.divide), "src / src2; integers truncate.", "divide"),
    _binary(0x95, "mod", e.on_pair(e.modulo), "The remainder with src2's sign.", "divide"),
    _binary(0x96, "fmod", e.on_pair(e.remainder), "The remainder with src's sign.", "divide"),
    _binary(0x97, "floor_div", e.on_pair(e.floor_divide), "src / src2 rounded down.", "divide"),
    _binary(0x98, "pow", e.on_pair(e.power), "src to the src2.", "transcendental"),
    _binary(0x99, "atan2", e.on_floats(np.arctan2), "The angle of (src2, src).", "transcendental"),
)  # fmt: skip

SCALAR = (
    _scalar(0xA0, "add_scalar", np.add, "src + value."),
    _scalar(0xA1, "sub_scalar", np.subtract, "src - value."),
    _scalar(0xA2, "rsub_scalar", lambda x, v: v - x, "value - src."),
    _scalar(0xA3, "mul_scalar", np.multiply, "src * value."),
    _scalar(0xA4, "max_scalar", np.maximum, "The greater of src and value."),
    _scalar(0xA5, "min_scalar", np.minimum, "The less of src and value."),
    _scalar(0xA6, "eq_scalar", np.equal, "src = value."),
    _scalar(0xA7, "ne_scalar", np.not_equal, "src differs from value."),
    _scalar(0xA8, "lt_scalar", np.less, "src < value."),
    _scalar(0xA9, "le_scalar", np.less_equal, "src <= value."),
    _scalar(0xAA, "gt_scalar", np.greater, "src > value."),
    _scalar(0xAB, "ge_scalar", np.greater_equal, "src >= value."),
    _scalar(0xAC, "bitwise_and_scalar", np.bitwise_and, "Bits set in both.", src=WHOLE),
    _scalar(0xAD, "bitwise_or_scalar", np.bitwise_or, "Bits set in either.", src=WHOLE),
    _scalar(0xAE, "shift_left_scalar", e.shift_left, "src shifted left by value bits.", src=WHOLE),
    _scalar(0xAF, "shift_right_scalar", e.shift_right, "src shifted right by value bits, keeping its sign.", src=WHOLE),
    _scalar(0xB0, "div_scalar", e.divide, "src / value; integers truncate.", "divide"),
    _scalar(0xB1, "rdiv_scalar", lambda x, v: e.divide(np.broadcast_to(v, x.shape), x), "value / src.", "divide"),
    _scalar(0xB2, "mod_scalar", e.modulo, "The remainder with value's sign.", "divide"),
    _scalar(0xB3, "pow_scalar", e.power, "src to the value.", "transcendental"),
    _scalar(0xB4, "leaky_relu", e.prelu, "src where not negative, else src * value."),
    _unary(0xB5, "clip", e.clip, "src held between low and high.",
           attrs=(AttrSpec("low", "float"), AttrSpec("high", "float"))),
)  # fmt: skip

TERNARY = (
    OpDef("fma", 0xB8, "vector", "simple", (vector_dst(), vector_src(), vector_src("src2"), vector_src("src3")), e.fma,
          "src * src2 + src3.", check=same_extents, tags=frozenset({"ternary", "elementwise"})),
    OpDef("axpy", 0xB9, "vector", "simple", (vector_dst(), vector_src(), vector_src("src2")), e.axpy,
          "src * value + src2.", (VALUE,), check=same_extents, tags=frozenset({"ternary", "elementwise"})),
    OpDef("select", 0xBA, "vector", "simple",
          (vector_dst(), vector_src(), vector_src("src2"), vector_src("src3", ("bool",))), e.select,
          "src where src3 is true, else src2.", check=same_extents, tags=frozenset({"ternary", "elementwise"})),
)  # fmt: skip

_QUANTA = ("int8", "uint8", "int4")
_WIDE_QUANTA = (*_QUANTA, "int16", "int32")
_SATURATE = frozenset({"saturate", "cast"})


def _scaled(code: int, name: str, semantics: Semantics, doc: str, cost: str, dtypes: tuple[tuple[str, ...], ...],
            tags: frozenset[str]) -> OpDef:
    dst, src, scale = dtypes
    return OpDef(name, code, "vector", cost, (vector_dst(dst), vector_src(dtypes=src), vector_src("src2", scale)),
                 semantics, doc, (_ZERO,), check=same_extents, tags=tags | {"elementwise"})  # fmt: skip


CAST = (
    _unary(0xC0, "cast", _same, "src in the result's dtype: integers wrap, floats truncate and saturate.",
           tags=frozenset({"cast"})),
    _unary(0xC1, "cast_saturate", _same, "src in the result's dtype, saturated.", tags=_SATURATE, dst=NUMERIC),
    _scaled(0xC2, "quantize", e.quantize, "round(src / src2) + zero_point, saturated.", "divide",
            (_WIDE_QUANTA, FLOATING, FLOATING), _SATURATE),
    _scaled(0xC3, "dequantize", e.dequantize, "(src - zero_point) * src2.", "simple",
            (FLOATING, _WIDE_QUANTA, FLOATING), frozenset({"cast"})),
    _scaled(0xC4, "requantize", e.requantize, "round(src * src2) + zero_point, saturated.", "simple",
            (_WIDE_QUANTA[:4], ("int32",), ("float32",)), _SATURATE),
)  # fmt: skip

VECTOR = (*UNARY, *BINARY, *SCALAR, *TERNARY, *CAST)
