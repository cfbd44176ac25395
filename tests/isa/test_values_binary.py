"""Instructions of two or three sources, with a constant, and scaled casts, against scalar Python."""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

INF, NAN = math.inf, math.nan
SHAPES = ((19,), (4, 5), (2, 3, 4))
NUMPY = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
NARROW = {"float8_e4m3fn": ml_dtypes.float8_e4m3fn, "float8_e5m2": ml_dtypes.float8_e5m2}
EDGES = ((0.0, 1.0), (INF, -INF), (INF, INF), (NAN, 1.0), (1.0, NAN), (-0.0, 0.0), (2.5, 0.0), (-7.0, 2.0), (7.0, -2.0),
         (-3.0, -1.5), (0.5, INF), (1.0, 3.0), (65504.0, 65504.0))  # fmt: skip


def wrap(value: int) -> int:
    """An integer modulo 2**32, as int32."""
    return (value + 2**31) % 2**32 - 2**31


def _extreme(pick):
    return lambda x, y: NAN if math.isnan(x) or math.isnan(y) else pick(x, y)


def _div(x: float, y: float) -> float:
    if y != 0:
        return x / y
    return NAN if x == 0 or math.isnan(x) else math.copysign(INF, x) * math.copysign(1, y)


def _fmod(x: float, y: float) -> float:
    return NAN if y == 0 or math.isinf(x) or math.isnan(x) or math.isnan(y) else math.fmod(x, y)


def _mod(x: float, y: float) -> float:
    rest = _fmod(x, y)
    return rest + y if rest and (rest < 0) != (y < 0) else rest


def _floor_div(x: float, y: float) -> float:
    quotient = float(np.float32(_div(x, y)))
    return float(math.floor(quotient)) if math.isfinite(quotient) else quotient


def _pow(x: float, y: float) -> float:
    return float(np.power(np.float64(x), np.float64(y)))


FLOAT = {
    "add": lambda x, y: x + y, "sub": lambda x, y: x - y, "mul": lambda x, y: x * y,
    "max": _extreme(max), "min": _extreme(min), "div": _div, "fmod": _fmod, "mod": _mod, "floor_div": _floor_div,
    "prelu": lambda x, y: x * y if x < 0 else x,
}  # fmt: skip
"""Exact in double precision and rounded once (mod of tiny remainders apart)."""

COMPARE = {
    "eq": lambda x, y: x == y, "ne": lambda x, y: x != y, "lt": lambda x, y: x < y, "le": lambda x, y: x <= y,
    "gt": lambda x, y: x > y, "ge": lambda x, y: x >= y, "logical_and": lambda x, y: x != 0 and y != 0,
    "logical_or": lambda x, y: x != 0 or y != 0, "logical_xor": lambda x, y: (x != 0) != (y != 0),
}  # fmt: skip

INTEGER = {
    "add": lambda x, y: x + y, "sub": lambda x, y: x - y, "mul": lambda x, y: x * y, "max": max, "min": min,
    "bitwise_and": lambda x, y: x & y, "bitwise_or": lambda x, y: x | y, "bitwise_xor": lambda x, y: x ^ y,
    "div": lambda x, y: -1 if y == 0 else math.trunc(x / y),
    "floor_div": lambda x, y: -1 if y == 0 else x // y,
    "mod": lambda x, y: x if y == 0 else x % y,
    "fmod": lambda x, y: x if y == 0 else int(math.fmod(x, y)),
    "shift_left": lambda x, y: x << y if 0 <= y <= 31 else 0,
    "shift_right": lambda x, y: x >> y if 0 <= y <= 31 else -1 if x < 0 else 0,
    "prelu": lambda x, y: x * y if x < 0 else x,
}  # fmt: skip

SCALARS = {
    "add_scalar": "add", "sub_scalar": "sub", "mul_scalar": "mul", "max_scalar": "max", "min_scalar": "min",
    "eq_scalar": "eq", "ne_scalar": "ne", "lt_scalar": "lt", "le_scalar": "le", "gt_scalar": "gt", "ge_scalar": "ge",
    "bitwise_and_scalar": "bitwise_and", "bitwise_or_scalar": "bitwise_or", "shift_left_scalar": "shift_left",
    "shift_right_scalar": "shift_right", "div_scalar": "div", "mod_scalar": "mod", "leaky_relu": "prelu",
}  # fmt: skip

ORACLES = {
    *FLOAT, *COMPARE, *INTEGER, *SCALARS, "pow", "atan2", "rsub_scalar", "rdiv_scalar", "pow_scalar", "clip", "fma",
     "axpy",
    "select", "quantize", "dequantize", "requantize",
}  # fmt: skip


def pair(shape: tuple[int, ...], dtype: str, seed: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Edge pairs, then random ones."""
    size = int(np.prod(shape))
    rng = np.random.default_rng(seed)
    edges = np.array(EDGES)
    x = np.concatenate([edges[:, 0], rng.normal(0, 4, size)])[:size].reshape(shape).astype({**NUMPY, **NARROW}[dtype])
    y = np.concatenate([edges[:, 1], rng.normal(0, 4, size)])[:size].reshape(shape).astype({**NUMPY, **NARROW}[dtype])
    return x, y


def each(function, x, y) -> np.ndarray:
    """A scalar function on pairs of elements, in double precision."""
    left, right = np.asarray(x).astype(np.float64).ravel().tolist(), np.asarray(y).astype(np.float64).ravel().tolist()
    return np.array([function(a, b) for a, b in zip(left, right, strict=True)], np.float64).reshape(np.shape(x))


@pytest.mark.parametrize("shape", SHAPES, ids=len)
@pytest.mark.parametrize("dtype", sorted((*NUMPY, *NARROW)))
@pytest.mark.parametrize("op", sorted(FLOAT))
def test_floats(isa, op, dtype, shape):
    x, y = pair(shape, dtype)
    result = isa.run(op, {"src": (x, dtype), "src2": (y, dtype)}, dst=(shape, dtype)).astype(np.float32)
    with np.errstate(all="ignore"):
        expected = each(FLOAT[op], x, y).astype(np.float32).astype(x.dtype).astype(np.float32)
    tolerance = 1e-6 if op == "mod" else 0
    np.testing.assert_allclose(result, expected, rtol=tolerance)


@pytest.mark.parametrize("shape", SHAPES, ids=len)
@pytest.mark.parametrize("op", sorted(COMPARE))
def test_comparisons(isa, op, shape):
    x, y = pair(shape, "float32")
    result = isa.run(op, {"src": (x, "float32"), "src2": (y, "float32")}, dst=(shape, "bool"))
    np.testing.assert_array_equal(result, each(COMPARE[op], x, y).astype(bool))
    whole = isa.run(op, {"src": ([3, -1, 0], "int8"), "src2": ([3, 2, 255], "uint8")}, dst=((3,), "int32"))
    assert whole.tolist() == [int(COMPARE[op](a, b)) for a, b in ((3, 3), (-1, 2), (0, 255))]


@pytest.mark.parametrize("op", sorted(INTEGER))
def test_integers(isa, op):
    small = [0, 1, -1, 5, -7, 127, -128, 3]
    x, y = np.meshgrid(small, [1, -1, 2, -3, 0, 31, 32, -128])
    expected = [
        [wrap(INTEGER[op](a, b)) for a, b in zip(p, q, strict=True)]
        for p, q in zip(x.tolist(), y.tolist(), strict=True)
    ]
    for dtype in ("int8", "int16", "int32"):
        result = isa.run(op, {"src": (x, dtype), "src2": (y, dtype)}, dst=(x.shape, "int32"))
        assert result.tolist() == expected, dtype
    narrow = isa.run(op, {"src": (x, "int8"), "src2": (y, "int8")}, dst=(x.shape, "uint8"))
    assert narrow.tolist() == [[v % 256 for v in row] for row in expected]


def test_integer_arithmetic_wraps_at_32_bits(isa):
    big = [2**31 - 1, -(2**31), 2**30]
    assert isa.run("add", {"src": (big, "int32"), "src2": (big, "int32")}, dst=((3,), "int32")).tolist() == [
        -2,
        0,
        -(2**31),
    ]
    assert isa.run("mul", {"src": (big, "int32"), "src2": (big, "int32")}, dst=((3,), "int32")).tolist() == [1, 0, 0]
    least = {"src": ([-(2**31)], "int32"), "src2": ([-1], "int32")}
    assert isa.run("div", least, dst=((1,), "int32")).tolist() == [-(2**31)]
    assert isa.run("fmod", least, dst=((1,), "int32")).tolist() == [0]


def test_bitwise_on_truth_values(isa):
    x, y = [True, True, False, False], [True, False, True, False]
    for op, expected in (("bitwise_and", [1, 0, 0, 0]), ("bitwise_or", [1, 1, 1, 0]), ("bitwise_xor", [0, 1, 1, 0])):
        result = isa.run(op, {"src": (x, "bool"), "src2": (y, "bool")}, dst=((4,), "bool"))
        assert result.tolist() == [bool(v) for v in expected]


def test_mixed_sources_are_computed_in_float32(isa):
    result = isa.run("mul", {"src": ([3, -5], "int8"), "src2": ([0.5, 1.5], "float16")}, dst=((2,), "float32"))
    assert result.tolist() == [1.5, -7.5]
    result = isa.run("add", {"src": ([2049.0], "float16"), "src2": ([1.0], "float16")}, dst=((1,), "float32"))
    assert result.tolist() == [2049.0]  # 2049 is 2048 in float16


@pytest.mark.parametrize("dtype", sorted(NUMPY))
def test_pow_and_atan2(isa, dtype):
    x, y = pair((4, 5), dtype)
    unit = {"float32": 2.0**-20, "float16": 2.0**-10, "bfloat16": 2.0**-7}[dtype]
    with np.errstate(all="ignore"):
        power = each(_pow, x, y).astype(np.float32).astype(NUMPY[dtype]).astype(np.float32)
        angle = each(math.atan2, x, y).astype(np.float32)
    sources = {"src": (x, dtype), "src2": (y, dtype)}
    np.testing.assert_allclose(
        isa.run("pow", sources, dst=((4, 5), dtype)).astype(np.float32), power, rtol=unit, atol=1e-6
    )
    np.testing.assert_allclose(isa.run("atan2", sources, dst=((4, 5), dtype)).astype(np.float32), angle, rtol=unit)


def test_integer_powers(isa):
    x, y = [2, -3, 0, 7, 2, -1, -1, 1, 0, 5], [10, 3, 0, 0, 31, -3, -2, -9, -1, -1]
    expected = [1024, -27, 1, 1, -(2**31), -1, 1, 1, 0, 0]
    assert isa.run("pow", {"src": (x, "int32"), "src2": (y, "int32")}, dst=((10,), "int32")).tolist() == expected


# with a constant


@pytest.mark.parametrize("value", [2.5, -3.0, 0.0, "inf", "nan"])
@pytest.mark.parametrize("op", sorted(o for o in SCALARS if SCALARS[o] in FLOAT or SCALARS[o] in COMPARE))
def test_float_scalars(isa, op, value):
    x, _ = pair((4, 5), "float32")
    function = {**FLOAT, **COMPARE}[SCALARS[op]]
    result = isa.run(op, {"src": (x, "float32")}, {"value": value}, ((4, 5), "float32"))
    with np.errstate(all="ignore"):
        expected = each(function, x, np.full((4, 5), float(value))).astype(np.float32)
    np.testing.assert_allclose(result, expected, rtol=1e-6 if op == "mod_scalar" else 0)


@pytest.mark.parametrize("value", [3, -2, 1])
@pytest.mark.parametrize("op", sorted(SCALARS))
def test_whole_scalars(isa, op, value):
    x = [0, 1, -1, 100, -100, 2**31 - 1, -(2**31)]
    function = {**INTEGER, **COMPARE}[SCALARS[op]]
    result = isa.run(op, {"src": (x, "int32")}, {"value": value}, ((7,), "int32"))
    assert result.tolist() == [wrap(int(function(v, value))) for v in x]


def test_a_float_constant_makes_whole_sources_float(isa):
    assert isa.run("mul_scalar", {"src": ([3, -3], "int32")}, {"value": 0.5}, ((2,), "float32")).tolist() == [1.5, -1.5]
    assert isa.run("mul_scalar", {"src": ([3, -3], "int32")}, {"value": 0.5}, ((2,), "int32")).tolist() == [1, -1]


def test_reversed_scalars(isa):
    x = {"src": ([2.0, -4.0, 0.0], "float16")}
    assert isa.run("rsub_scalar", x, {"value": 1.0}, ((3,), "float16")).tolist() == [-1, 5, 1]
    assert isa.run("rdiv_scalar", x, {"value": 1.0}, ((3,), "float16")).tolist() == [0.5, -0.25, INF]
    assert isa.run("rdiv_scalar", {"src": ([3, -2, 0], "int8")}, {"value": 7}, ((3,), "int32")).tolist() == [2, -3, -1]
    assert isa.run("pow_scalar", x, {"value": 2}, ((3,), "float32")).tolist() == [4, 16, 0]
    assert isa.run("pow_scalar", {"src": ([3, -2], "int8")}, {"value": 3}, ((2,), "int32")).tolist() == [27, -8]
    assert isa.run("leaky_relu", x, {"value": 0.25}, ((3,), "float32")).tolist() == [2, -1, 0]


def test_clip(isa):
    x = [-5.0, 0.5, 7.0, INF, NAN]
    result = isa.run("clip", {"src": (x, "float32")}, {"low": 0, "high": 6}, ((5,), "float16"))
    np.testing.assert_array_equal(result, np.array([0, 0.5, 6, 6, NAN], np.float16))
    above = isa.run("clip", {"src": (x, "float32")}, {"low": 1.0, "high": "inf"}, ((5,), "float32"))
    np.testing.assert_array_equal(above, np.array([1, 1, 7, INF, NAN], np.float32))
    whole = isa.run("clip", {"src": ([-9, 3, 99], "int32")}, {"low": -4, "high": 50}, ((3,), "int8"))
    assert whole.tolist() == [-4, 3, 50]
    mixed = isa.run("clip", {"src": ([-9, 3, 99], "int32")}, {"low": 0, "high": 5.5}, ((3,), "float32"))
    assert mixed.tolist() == [0, 3, 5.5]


# ternary


@pytest.mark.parametrize("shape", SHAPES, ids=len)
def test_ternary(isa, shape):
    rng = np.random.default_rng(8)
    x, y, z = (rng.integers(-9, 9, shape).astype(np.float16) for _ in range(3))
    sources = {"src": (x, "float16"), "src2": (y, "float16"), "src3": (z, "float16")}
    exact = x.astype(int) * y.astype(int) + z.astype(int)
    assert isa.run("fma", sources, dst=(shape, "float32")).tolist() == exact.tolist()
    axpy = isa.run("axpy", {k: sources[k] for k in ("src", "src2")}, {"value": -3}, (shape, "float16"))
    assert axpy.tolist() == (x.astype(int) * -3 + y.astype(int)).tolist()
    mask = rng.integers(0, 2, shape).astype(bool)
    chosen = isa.run(
        "select", {"src": (x, "float16"), "src2": (y, "float16"), "src3": (mask, "bool")}, dst=(shape, "float16")
    )
    np.testing.assert_array_equal(chosen[mask], x[mask])
    np.testing.assert_array_equal(chosen[~mask], y[~mask])


def test_ternary_integers_wrap(isa):
    sources = {"src": ([2**16, 3], "int32"), "src2": ([2**16, 4], "int32"), "src3": ([5, -5], "int32")}
    assert isa.run("fma", sources, dst=((2,), "int32")).tolist() == [5, 7]
    assert isa.run("axpy", {k: sources[k] for k in ("src", "src2")}, {"value": 2}, ((2,), "int32")).tolist() == [
        3 * 2**16,
        10,
    ]


def test_select_takes_no_part_of_what_it_does_not_choose(isa):
    sources = {"src": ([1.0, NAN], "float32"), "src2": ([INF, 2.0], "float32"), "src3": ([True, False], "bool")}
    assert isa.run("select", sources, dst=((2,), "float32")).tolist() == [1.0, 2.0]


# scaled casts


def _onnx(op, inputs, opset=21):
    """One ONNX operator by the reference implementation."""
    names = [f"x{i}" for i in range(len(inputs))]
    infos = [onnx.helper.make_tensor_value_info(n, onnx.helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
             for n, v in zip(names, inputs, strict=True)]  # fmt: skip
    out = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.UNDEFINED, None)
    graph = onnx.helper.make_graph([onnx.helper.make_node(op, names, ["y"])], "g", infos, [out])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)])
    return ReferenceEvaluator(model).run(None, dict(zip(names, inputs, strict=True)))[0]


@pytest.mark.parametrize(("dtype", "zero"), [("int8", -3), ("uint8", 130)])
def test_quantize_as_onnx_does(isa, dtype, zero):
    rng = np.random.default_rng(9)
    x = np.concatenate([rng.normal(0, 20, 30), [0.25, 0.75, 1.25, -0.25, 1e9, -1e9]]).astype(np.float32)
    scale = np.full(36, 0.5, np.float32)
    result = isa.run(
        "quantize", {"src": (x, "float32"), "src2": (scale, "float32")}, {"zero_point": zero}, ((36,), dtype)
    )
    expected = _onnx("QuantizeLinear", [x, np.float32(0.5), np.array(zero, dtype)])
    np.testing.assert_array_equal(result, expected)
    back = isa.run(
        "dequantize", {"src": (result, dtype), "src2": (scale, "float32")}, {"zero_point": zero}, ((36,), "float32")
    )
    np.testing.assert_array_equal(back, _onnx("DequantizeLinear", [result, np.float32(0.5), np.array(zero, dtype)]))


def test_quantize_to_int4(isa):
    sources = {"src": ([3.5, -3.5, 2.5, 100.0], "float16"), "src2": ([1.0] * 4, "float16")}
    assert isa.run("quantize", sources, {"zero_point": 0}, ((4,), "int4")).tolist() == [4, -4, 2, 7]


def test_requantize_rounds_half_to_even_then_saturates(isa):
    sums = [5, 7, -5, -7, 1000, -1000, 2, 2**30]
    scale = [0.5] * 8
    sources = {"src": (sums, "int32"), "src2": (scale, "float32")}
    assert isa.run("requantize", sources, {"zero_point": 1}, ((8,), "int8")).tolist() == [
        3,
        5,
        -1,
        -3,
        127,
        -128,
        2,
        127,
    ]
    assert isa.run("requantize", sources, {"zero_point": 128}, ((8,), "uint8")).tolist() == [
        130, 132, 126, 124, 255, 0, 129, 255,
    ]  # fmt: skip
