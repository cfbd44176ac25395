"""Unary instructions against scalar Python, element by element."""

from __future__ import annotations

import math

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

INF, NAN = math.inf, math.nan
SHAPES = ((23,), (4, 6), (2, 3, 5))
EDGES = (0.0, -0.0, 0.5, -0.5, 1.5, 2.5, -1.0, 1.0, 3.75, -2.25, 88.0, -88.0, 1e-3, INF, -INF, NAN, 7.0, -7.5, 0.125)


def guarded(function):
    """A scalar function by IEEE rules: NaN outside the domain, infinity at poles and on overflow."""

    def call(x: float) -> float:
        try:
            return float(function(x))
        except OverflowError:
            return INF
        except (ValueError, ZeroDivisionError):
            return NAN

    return call


def _round(x: float) -> float:
    return x if not math.isfinite(x) else math.copysign(float(round(x)), x)


def _whole(function):
    return lambda x: (
        x if not math.isfinite(x) else math.copysign(float(function(x)), x) if function(x) == 0 else function(x)
    )


def _sign(x: float) -> float:
    return x if math.isnan(x) else float((x > 0) - (x < 0))


def _reciprocal(x: float) -> float:
    return math.copysign(INF, x) if x == 0 else 1 / x


def _log(base):
    return lambda x: -INF if x == 0 else NAN if x < 0 or math.isnan(x) else base(x)


def _sqrt(x: float) -> float:
    return x if x == 0 else math.sqrt(x)


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x > 0 else math.exp(x) / (1 + math.exp(x))


def _softplus(x: float) -> float:
    return math.log1p(math.exp(x)) if x < 30 else x


def _atanh(x: float) -> float:
    return math.copysign(INF, x) if abs(x) == 1 else math.atanh(x)


def _pole(function, minus, plus):
    """A function whose values at the infinities are given."""
    return lambda x: minus if x == -INF else plus if x == INF else function(x)


SIMPLE = {
    "copy": lambda x: x,
    "neg": lambda x: -x,
    "abs": abs,
    "relu": lambda x: x if x > 0 or math.isnan(x) else 0.0,
    "sign": _sign,
    "floor": _whole(math.floor),
    "ceil": _whole(math.ceil),
    "round": _round,
    "trunc": _whole(math.trunc),
    "square": lambda x: x * x,
    "reciprocal": _reciprocal,
    "sqrt": _sqrt,
    "cast": lambda x: x,
}
"""Exact up to the one rounding of the result."""

CLOSE = {
    "exp": _pole(math.exp, 0.0, INF),
    "exp2": _pole(lambda x: 2.0**x, 0.0, INF),
    "log": _log(math.log),
    "log2": _log(math.log2),
    "log1p": lambda x: -INF if x == -1 else math.log1p(x),
    "expm1": math.expm1,
    "rsqrt": lambda x: math.copysign(INF, x) if x == 0 else 0.0 if x == INF else 1 / math.sqrt(x),
    "sin": math.sin,
    "cos": math.cos,
    "tan": math.tan,
    "sinh": _pole(math.sinh, -INF, INF),
    "cosh": math.cosh,
    "tanh": math.tanh,
    "asin": math.asin,
    "acos": math.acos,
    "atan": math.atan,
    "asinh": math.asinh,
    "acosh": math.acosh,
    "atanh": _atanh,
    "sigmoid": _sigmoid,
    "erf": math.erf,
    "gelu": _pole(lambda x: x / 2 * math.erfc(-x / math.sqrt(2)), 0.0, INF),
    "gelu_tanh": _pole(
        lambda x: x / 2 * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))), 0.0, INF
    ),
    "silu": _pole(lambda x: x * _sigmoid(x), 0.0, INF),
    "softplus": _pole(_softplus, 0.0, INF),
    "softsign": _pole(lambda x: x / (1 + abs(x)), -1.0, 1.0),
    "mish": _pole(lambda x: x * math.tanh(_softplus(x)), 0.0, INF),
    "selu": _pole(lambda x: 1.0507009873554805 * (x if x > 0 else 1.6732632423543772 * math.expm1(x)),
                  -1.0507009873554805 * 1.6732632423543772, INF),
}  # fmt: skip
"""Within a few units of float32; 16-bit results within one unit of theirs."""

TESTS = {
    "logical_not": lambda x: x == 0,
    "is_nan": math.isnan,
    "is_inf": math.isinf,
    "is_finite": math.isfinite,
}

ORACLES = {*SIMPLE, *CLOSE, *TESTS, "elu", "bitwise_not", "cast_saturate"}

FLOATS = ("float32", "float16", "bfloat16")


def source(shape: tuple[int, ...], seed: int, edges: tuple[float, ...] = EDGES) -> np.ndarray:
    """Edge values, then random ones."""
    size = int(np.prod(shape))
    rng = np.random.default_rng(seed)
    return (
        np.concatenate([edges, rng.normal(0, 3, size)])[:size].reshape(shape) if size < 40 else rng.normal(0, 3, shape)
    )


def rounded(values, dtype: str, numpy) -> np.ndarray:
    """float64 values rounded to float32 and from there to dtype."""
    with np.errstate(all="ignore"):
        return np.asarray(values, np.float64).astype(np.float32).astype(numpy[dtype])


def apply(function, x: np.ndarray) -> np.ndarray:
    """A guarded scalar function on every element."""
    call = guarded(function)
    return np.array([call(v) for v in x.astype(np.float64).ravel().tolist()]).reshape(x.shape)


@pytest.fixture
def numpy_types():
    import ml_dtypes

    return {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16,
            "float8_e4m3fn": ml_dtypes.float8_e4m3fn, "float8_e5m2": ml_dtypes.float8_e5m2}  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES, ids=len)
@pytest.mark.parametrize("dtype", (*FLOATS, "float8_e4m3fn", "float8_e5m2"))
@pytest.mark.parametrize("op", sorted(SIMPLE))
def test_exact(isa, numpy_types, op, dtype, shape):
    x = source(shape, 1).astype(numpy_types[dtype])
    result = isa.run(op, {"src": (x, dtype)}, dst=(shape, dtype))
    expected = rounded(apply(SIMPLE[op], x), dtype, numpy_types)
    np.testing.assert_array_equal(result.astype(np.float32), expected.astype(np.float32))
    if op != "relu":
        assert not np.any(np.signbit(result) != np.signbit(expected), where=~np.isnan(expected.astype(np.float32)))


@pytest.mark.parametrize("shape", SHAPES, ids=len)
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("op", sorted(CLOSE))
def test_close(isa, numpy_types, op, dtype, shape):
    x = source(shape, 2).astype(numpy_types[dtype])
    result = isa.run(op, {"src": (x, dtype)}, dst=(shape, dtype)).astype(np.float64)
    with np.errstate(all="ignore"):
        expected = apply(CLOSE[op], x).astype(np.float32).astype(np.float64)
    unit = {"float32": 2.0**-21, "float16": 2.0**-10, "bfloat16": 2.0**-7}[dtype]
    limit = float(np.finfo(np.float16).max) if dtype == "float16" else float(np.finfo(np.float32).max)
    expected = np.where(np.abs(expected) > limit, np.copysign(INF, expected), expected)
    np.testing.assert_allclose(result, expected, rtol=unit, atol=2e-7 if dtype != "float16" else 1e-6)


def test_mixed_dtypes(isa):
    """Computation in float32 whatever the operands' dtypes: exp(12) overflows float16, not float32."""
    x = np.array([12.0, 1.0], np.float16)
    wide = isa.run("exp", {"src": (x, "float16")}, dst=((2,), "float32"))
    np.testing.assert_allclose(wide, [math.exp(12), math.e], rtol=1e-6)
    assert isa.run("exp", {"src": (x, "float16")}, dst=((2,), "float16"))[0] == INF
    np.testing.assert_allclose(isa.run("sqrt", {"src": ([4, 9], "int32")}, dst=((2,), "float32")), [2, 3])


@pytest.mark.parametrize("op", sorted(TESTS))
def test_truth(isa, op):
    x = source((23,), 3).astype(np.float32)
    result = isa.run(op, {"src": (x, "float32")}, dst=((23,), "bool"))
    assert result.tolist() == [bool(TESTS[op](v)) for v in x.tolist()]
    whole = isa.run(op, {"src": ([0, 3, -1], "int8")}, dst=((3,), "float16"))
    assert whole.tolist() == [float(bool(TESTS[op](float(v)))) for v in (0, 3, -1)]


@pytest.mark.parametrize(
    ("op", "expected"),
    [
        ("neg", [128, -127, 0, 1, -5]), ("abs", [128, 127, 0, 1, 5]), ("relu", [0, 127, 0, 0, 5]),
        ("sign", [-1, 1, 0, -1, 1]), ("square", [16384, 16129, 0, 1, 25]), ("bitwise_not", [127, -128, -1, 0, -6]),
        ("floor", [-128, 127, 0, -1, 5]), ("copy", [-128, 127, 0, -1, 5]),
    ],
)  # fmt: skip
def test_integers_are_computed_in_32_bits_and_wrap(isa, op, expected):
    x = [-128, 127, 0, -1, 5]
    assert isa.run(op, {"src": (x, "int8")}, dst=((5,), "int32")).tolist() == expected
    narrow = isa.run(op, {"src": (x, "int8")}, dst=((5,), "int8")).tolist()
    assert narrow == [(v + 128) % 256 - 128 for v in expected]


def test_bitwise_not_of_truth(isa):
    assert isa.run("bitwise_not", {"src": ([True, False], "bool")}, dst=((2,), "bool")).tolist() == [False, True]


def test_abs_of_the_least_integer_wraps(isa):
    assert isa.run("abs", {"src": ([-(2**31)], "int32")}, dst=((1,), "int32")).tolist() == [-(2**31)]


@pytest.mark.parametrize("alpha", [1.0, 0.25])
def test_elu(isa, alpha):
    x = source((4, 6), 4).astype(np.float32)
    expected = apply(lambda v: v if v > 0 or math.isnan(v) else alpha * math.expm1(v), x)
    result = isa.run("elu", {"src": (x, "float32")}, {"alpha": alpha}, ((4, 6), "float32"))
    np.testing.assert_allclose(result, expected, rtol=2e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("op", "onnx_op", "attrs"),
    [
        ("gelu", "Gelu", {}), ("gelu_tanh", "Gelu", {"approximate": "tanh"}), ("mish", "Mish", {}),
        ("selu", "Selu", {}), ("softplus", "Softplus", {}), ("softsign", "Softsign", {}), ("sigmoid", "Sigmoid", {}),
        ("erf", "Erf", {}), ("round", "Round", {}), ("sign", "Sign", {}),
    ],
)  # fmt: skip
def test_onnx_reference(isa, op, onnx_op, attrs):
    x = np.linspace(-6, 6, 97, dtype=np.float32)
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node(onnx_op, ["x"], ["y"], **attrs)], "g",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [97])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [97])],
    )  # fmt: skip
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)])
    expected = ReferenceEvaluator(model).run(None, {"x": x})[0]
    np.testing.assert_allclose(
        isa.run(op, {"src": (x, "float32")}, dst=((97,), "float32")), expected, rtol=2e-5, atol=1e-6
    )


# casts: hand-encoded bits


@pytest.mark.parametrize(
    ("dtype", "values", "bits"),
    [
        ("float16", [1.0, 2049.0, 2051.0, 65519.0, 65520.0, 2.0**-25, 3 * 2.0**-25, -0.0],
         [0x3C00, 0x6800, 0x6802, 0x7BFF, 0x7C00, 0x0000, 0x0002, 0x8000]),
        ("bfloat16", [1.0, 257.0, 259.0, 3.39e38, 1.0 + 2.0**-8, 1.0 + 3 * 2.0**-8],
         [0x3F80, 0x4380, 0x4382, 0x7F7F, 0x3F80, 0x3F82]),
        ("float8_e4m3fn", [1.0, 17.0, 19.0, 448.0, 464.0, 465.0, INF], [0x38, 0x58, 0x5A, 0x7E, 0x7E, 0x7F, 0x7F]),
        ("float8_e5m2", [1.0, 9.0, 11.0, 57344.0, 61440.0, -INF], [0x3C, 0x48, 0x4A, 0x7B, 0x7C, 0xFC]),
    ],
)  # fmt: skip
def test_cast_rounds_half_to_even(isa, dtype, values, bits):
    result = isa.run("cast", {"src": (values, "float32")}, dst=((len(values),), dtype))
    assert [f"{b:#06x}" for b in result.view(f"u{result.dtype.itemsize}").tolist()] == [f"{b:#06x}" for b in bits]


@pytest.mark.parametrize(
    ("dtype", "bits"), [("float16", [0x7BFF, 0xFBFF]), ("bfloat16", [0x7F7F, 0xFF7F]), ("float8_e4m3fn", [0x7E, 0xFE]),
                        ("float8_e5m2", [0x7B, 0xFB])],
)  # fmt: skip
def test_cast_saturate_keeps_floats_finite(isa, dtype, bits):
    result = isa.run("cast_saturate", {"src": ([INF, -3.4e38], "float32")}, dst=((2,), dtype))
    assert result.view(f"u{result.dtype.itemsize}").tolist() == bits


def test_casts_of_floats_to_integers_truncate_and_saturate(isa):
    values = [2.9, -2.9, 127.9, 128.0, -128.9, -129.5, INF, -INF, NAN, 300.0, 3e9, -3e9]
    clipped = {
        "int8": [2, -2, 127, 127, -128, -128, 127, -128, 0, 127, 127, -128],
        "uint8": [2, 0, 127, 128, 0, 0, 255, 0, 0, 255, 255, 0],
        "int16": [2, -2, 127, 128, -128, -129, 32767, -32768, 0, 300, 32767, -32768],
        "int32": [2, -2, 127, 128, -128, -129, 2**31 - 1, -(2**31), 0, 300, 2**31 - 1, -(2**31)],
        "int4": [2, -2, 7, 7, -8, -8, 7, -8, 0, 7, 7, -8],
    }
    for dtype, expected in clipped.items():
        for op in ("cast", "cast_saturate"):
            assert isa.run(op, {"src": (values, "float32")}, dst=((12,), dtype)).tolist() == expected, dtype
    assert isa.run("cast", {"src": ([0.0, -0.0, 0.1, NAN], "float32")}, dst=((4,), "bool")).tolist() == [
        False, False, True, True,
    ]  # fmt: skip


def test_casts_of_integers_wrap_or_saturate(isa):
    values = [300, -300, 200, -129, 2**31 - 1, 127, 9, -9]
    assert isa.run("cast", {"src": (values, "int32")}, dst=((8,), "int8")).tolist() == [
        44,
        -44,
        -56,
        127,
        -1,
        127,
        9,
        -9,
    ]
    assert isa.run("cast", {"src": (values, "int32")}, dst=((8,), "uint8")).tolist() == [
        44,
        212,
        200,
        127,
        255,
        127,
        9,
        247,
    ]
    assert isa.run("cast", {"src": (values, "int32")}, dst=((8,), "int4")).tolist() == [-4, 4, -8, -1, -1, -1, -7, 7]
    assert isa.run("cast_saturate", {"src": (values, "int32")}, dst=((8,), "int8")).tolist() == [
        127, -128, 127, -128, 127, 127, 9, -9,
    ]  # fmt: skip
    assert isa.run("cast_saturate", {"src": (values, "int32")}, dst=((8,), "uint8")).tolist() == [
        255, 0, 200, 0, 255, 127, 9, 0,
    ]  # fmt: skip
    assert isa.run("cast_saturate", {"src": (values, "int32")}, dst=((8,), "int4")).tolist() == [
        7,
        -8,
        7,
        -8,
        7,
        7,
        7,
        -8,
    ]
    assert isa.run("cast", {"src": ([2**24 + 1, -7], "int32")}, dst=((2,), "float32")).tolist() == [2.0**24, -7.0]
    assert isa.run("cast", {"src": ([True, False], "bool")}, dst=((2,), "float16")).tolist() == [1.0, 0.0]
