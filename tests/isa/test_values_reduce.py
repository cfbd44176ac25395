"""Reductions and scans against loops."""

from __future__ import annotations

import itertools
import math

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

NAN, INF = math.nan, math.inf
AXIS = {"row": -1, "column": -2, "plane": -3}


def _fold(step):
    def fold(values):
        result = values[0]
        for value in values[1:]:
            result = step(result, value)
        return result

    return fold


REDUCTIONS = {
    "reduce_sum": sum,
    "reduce_max": max,
    "reduce_min": min,
    "reduce_prod": math.prod,
    "reduce_sumsq": lambda v: sum(x * x for x in v),
    "reduce_absmax": lambda v: max(abs(x) for x in v),
    "reduce_any": lambda v: any(x != 0 for x in v),
    "reduce_all": lambda v: all(x != 0 for x in v),
    "arg_max": lambda v: v.index(max(v)),
    "arg_min": lambda v: v.index(min(v)),
}
SCANS = {
    "cumsum": lambda v: list(itertools.accumulate(v)),
    "cumprod": lambda v: list(itertools.accumulate(v, lambda a, b: a * b)),
    "cummax": lambda v: list(itertools.accumulate(v, max)),
    "cummin": lambda v: list(itertools.accumulate(v, min)),
}
ORACLES = {*REDUCTIONS, *SCANS}
RANKS = [
    ((7,), "row"),
    ((4, 6), "row"),
    ((4, 6), "column"),
    ((3, 4, 5), "row"),
    ((3, 4, 5), "column"),
    ((3, 4, 5), "plane"),
]


def reduced(function, x: np.ndarray, axis: int) -> np.ndarray:
    """A function of lists along an axis, which stays with extent 1."""
    lines = np.moveaxis(x, axis, -1)
    flat = [function(line) for line in lines.reshape(-1, lines.shape[-1]).tolist()]
    return np.expand_dims(np.array(flat).reshape(lines.shape[:-1]), axis)


@pytest.mark.parametrize(("shape", "reduce"), RANKS)
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int32", "int8", "uint8"])
@pytest.mark.parametrize("op", sorted(REDUCTIONS))
def test_reduction(isa, op, dtype, shape, reduce):
    x = np.random.default_rng(1).integers(0 if dtype == "uint8" else -3, 4, shape)
    expected = reduced(REDUCTIONS[op], x, AXIS[reduce])
    out = "int32" if op.startswith("arg") or "int" in dtype else "float32"
    result = isa.run(op, {"src": (x, dtype)}, {"reduce": reduce}, (expected.shape, out))
    np.testing.assert_array_equal(result, expected)


def test_sums_of_halves_accumulate_in_float32(isa):
    x = np.array([[2048.0] + [1.0] * 7], np.float16)
    assert isa.run("reduce_sum", {"src": (x, "float16")}, {"reduce": "row"}, ((1, 1), "float16")).item() == 2056
    assert isa.run("reduce_sum", {"src": (x, "float16")}, {"reduce": "row"}, ((1, 1), "float32")).item() == 2055
    squares = isa.run("reduce_sumsq", {"src": (x, "float16")}, {"reduce": "row"}, ((1, 1), "float32"))
    assert squares.item() == 2048**2 + 7


def test_integer_sums_wrap(isa):
    x = [2**31 - 1, 1, 5]
    assert isa.run("reduce_sum", {"src": (x, "int32")}, {"reduce": "row"}, ((1,), "int32")).item() == -(2**31) + 5
    assert isa.run("reduce_sum", {"src": ([127, 127], "int8")}, {"reduce": "row"}, ((1,), "int32")).item() == 254
    assert isa.run("reduce_sum", {"src": ([127, 127], "int8")}, {"reduce": "row"}, ((1,), "int8")).item() == -2


def test_special_values(isa):
    def run(op, values, out="float32"):
        return isa.run(op, {"src": (values, "float32")}, {"reduce": "row"}, ((1,), out)).item()

    assert math.isnan(run("reduce_max", [1.0, NAN, 3.0]))
    assert math.isnan(run("reduce_min", [1.0, NAN, 3.0]))
    assert run("reduce_max", [-INF, -INF]) == -INF
    assert math.isnan(run("reduce_sum", [INF, -INF]))
    assert run("reduce_absmax", [-INF, 3.0]) == INF
    assert run("arg_max", [1.0, NAN, 3.0], "int32") == 1
    assert run("arg_min", [2.0, -INF, -INF], "int32") == 1
    assert run("reduce_any", [0.0, -0.0], "bool") is False
    assert run("reduce_any", [0.0, NAN], "bool") is True
    assert run("reduce_all", [1.0, 0.0], "bool") is False


@pytest.mark.parametrize(("op", "node"), [("arg_max", "ArgMax"), ("arg_min", "ArgMin")])
def test_ties_as_onnx_has_them(isa, op, node):
    x = np.array([[1, 3, 3, 0, 0], [2, 2, 2, 2, 2]], np.float32)
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node(node, ["x"], ["y"], axis=1, keepdims=1)], "g",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, (2, 5))],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.INT64, (2, 1))],
    )  # fmt: skip
    expected = ReferenceEvaluator(onnx.helper.make_model(graph)).run(None, {"x": x})[0]
    assert isa.run(op, {"src": (x, "float32")}, {"reduce": "row"}, ((2, 1), "int32")).tolist() == expected.tolist()


@pytest.mark.parametrize(
    ("shape", "axis"), [((6,), 0), ((3, 5), 0), ((3, 5), 1), ((2, 3, 4), 0), ((2, 3, 4), 1), ((2, 3, 4), 2)]
)
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int32", "int8"])
@pytest.mark.parametrize("op", sorted(SCANS))
def test_scan(isa, op, dtype, shape, axis):
    x = np.random.default_rng(2).integers(-2, 3, shape)
    lines = np.moveaxis(x, axis, -1)
    scanned = np.array([SCANS[op](line) for line in lines.reshape(-1, shape[axis]).tolist()]).reshape(lines.shape)
    out = "int32" if "int" in dtype else "float32"
    result = isa.run(op, {"src": (x, dtype)}, {"axis": axis}, (shape, out))
    np.testing.assert_array_equal(result, np.moveaxis(scanned, -1, axis))


def test_scans_of_halves_and_narrow_integers(isa):
    x = np.array([2048.0, 1.0, 1.0, 1.0], np.float16)
    assert isa.run("cumsum", {"src": (x, "float16")}, {"axis": 0}, ((4,), "float16")).tolist() == [
        2048,
        2048,
        2050,
        2052,
    ]
    assert isa.run("cumsum", {"src": ([127, 1], "int8")}, {"axis": 0}, ((2,), "int8")).tolist() == [127, -128]
    high = isa.run("cummax", {"src": ([1.0, NAN, 2.0], "float32")}, {"axis": 0}, ((3,), "float32"))
    np.testing.assert_array_equal(high, np.array([1, NAN, NAN], np.float32))
