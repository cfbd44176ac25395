"""Random quantised layers through the whole toolchain, against ONNX's reference (its products do not saturate)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import dsa_compiler as dsac
import models
from ci.quantized import integer_share
from tests.lower.drawing import drawn

PARTS = st.sampled_from(["npu-v1", "npu-v2", "npu-edge", "npu-bench"])
SIGNS = st.sampled_from(["int8", "uint8"])
EXTENTS = st.sampled_from([1, 3, 5, 8, 13, 17])
CHANNELS = st.sampled_from([1, 3, 5, 8, 16, 19, 33])


@dataclass(frozen=True)
class Grid:
    """How values are quantised."""

    dtype: str
    scale: float
    zero: int


@st.composite
def grids(draw: st.DrawFn, scale: float = 0.03) -> Grid:
    dtype = draw(SIGNS)
    limits = np.iinfo(dtype)
    zero = draw(st.sampled_from([0, limits.max // 2 + 1, limits.min, limits.max, 7]))
    return Grid(dtype, scale, min(zero, limits.max))


def whole(shape: tuple[int, ...], dtype: str, seed: int) -> np.ndarray:
    limits = np.iinfo(dtype)
    return np.random.default_rng(seed).integers(limits.min, limits.max, shape, dtype=dtype, endpoint=True)


def node(op: str, inputs: str, outputs: str, **attrs: Any) -> onnx.NodeProto:
    return helper.make_node(op, ["" if i == "-" else i for i in inputs.split()], outputs.split(), **attrs)


def model_of(
    nodes: list[onnx.NodeProto], x: np.ndarray, output: str, constants: dict[str, np.ndarray]
) -> onnx.ModelProto:
    kind = helper.np_dtype_to_tensor_dtype(x.dtype)
    inputs = [helper.make_tensor_value_info("x", kind, x.shape)]
    results = [helper.make_tensor_value_info("y", helper.np_dtype_to_tensor_dtype(np.dtype(output)), None)]
    tensors = [numpy_helper.from_array(np.asarray(v), n) for n, v in constants.items()]
    graph = helper.make_graph(nodes, "g", inputs, results, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)


def check(model: onnx.ModelProto, x: np.ndarray, part: str, precision: str, quantum: float) -> Any:
    """Compile, run and compare: at most a quantum apart, and that seldom."""
    executable = dsac.compile(model, part, precision)
    assert not executable.report["host_steps"]
    got = executable.run({"x": x})["y"].astype(np.float64)
    (want,) = ReferenceEvaluator(model).run(None, {"x": x})
    assert got.shape == want.shape
    apart = np.abs(got - want.astype(np.float64))
    assert apart.max(initial=0) <= quantum * 1.001
    # ties fall either way: the scales' product is rounded once here, and twice in the reference
    assert (apart > quantum / 2).sum() <= 2 + 0.01 * apart.size
    return executable


def grid_constants(name: str, grid: Grid) -> dict[str, np.ndarray]:
    return {f"{name}s": np.float32(grid.scale), f"{name}z": np.asarray(grid.zero, grid.dtype)}


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]:
    """(shape of x, shape of w, attributes) of a convolution of any group, stride, dilation and padding."""
    groups, per_group = draw(st.sampled_from([(1, 0), (1, 0), (2, 0), (0, 1)]))
    channels = draw(CHANNELS)
    outputs = draw(CHANNELS)
    if groups == 2:
        channels, outputs = 2 * channels, 2 * outputs
    if per_group == 1:  # depthwise
        groups, outputs = channels, channels
    kernel = draw(st.sampled_from([(1, 1), (3, 3), (2, 3), (5, 1)]))
    strides, dilations = draw(st.sampled_from([(1, 1), (2, 2), (1, 2)])), draw(st.sampled_from([(1, 1), (2, 1)]))
    pads = [draw(st.integers(0, k - 1)) for k in (*kernel, *kernel)]
    height, width = draw(EXTENTS), draw(EXTENTS)
    for extent, k, d, pad in zip((height, width), kernel, dilations, (pads[::2], pads[1::2]), strict=True):
        assume(extent + sum(pad) >= (k - 1) * d + 1)
    attrs = {"strides": strides, "dilations": dilations, "pads": pads, "group": groups}
    return (draw(st.integers(1, 2)), channels, height, width), (outputs, channels // groups, *kernel), attrs


@drawn(25)
@given(convolutions(), grids(), SIGNS, grids(0.9), st.booleans(), st.booleans(), PARTS)
def test_qlinear_conv(
    case: tuple[Any, Any, Any], x_grid: Grid, sign: str, y_grid: Grid, by_channel: bool, bias: bool, part: str
) -> None:
    x_shape, w_shape, attrs = case
    depth = int(np.prod(w_shape[1:]))
    count = w_shape[0] if by_channel else 1
    scales = np.linspace(0.01, 0.03, count).astype(np.float32) / np.float32(depth**0.5)
    zeros = np.full(count, 0 if sign == "int8" else 119, sign)
    constants = {"w": whole(w_shape, sign, 1), "ws": scales if by_channel else scales[0],
                 "wz": zeros if by_channel else zeros[0], **grid_constants("x", x_grid),
                 **grid_constants("y", y_grid)}  # fmt: skip
    if bias:
        constants["b"] = np.random.default_rng(2).integers(-3000, 3000, w_shape[0]).astype(np.int32)
    operands = "x xs xz w ws wz ys yz" + (" b" if bias else "")
    x = whole(x_shape, x_grid.dtype, 3)
    model = model_of([node("QLinearConv", operands, "y", **attrs)], x, y_grid.dtype, constants)
    check(model, x, part, "float16", 1.0)


@drawn(15)
@given(convolutions(), grids(), SIGNS, PARTS)
def test_conv_integer(case: tuple[Any, Any, Any], x_grid: Grid, sign: str, part: str) -> None:
    x_shape, w_shape, attrs = case
    constants = {"w": whole(w_shape, sign, 1), "wz": np.asarray(3, sign), **grid_constants("x", x_grid)}
    x = whole(x_shape, x_grid.dtype, 3)
    model = model_of([node("ConvInteger", "x w xz wz", "y", **attrs)], x, "int32", constants)
    check(model, x, part, "float32", 0.0)


@drawn(20)
@given(convolutions(), grids(), grids(0.05), st.sampled_from(["", "Relu", "Sigmoid", "Clip"]), st.booleans(), PARTS)
def test_qdq_convolutions(
    case: tuple[Any, Any, Any], x_grid: Grid, y_grid: Grid, activation: str, by_channel: bool, part: str
) -> None:
    x_shape, w_shape, attrs = case
    count = w_shape[0] if by_channel else 1
    depth = int(np.prod(w_shape[1:]))
    scales = np.linspace(0.5, 1.0, count).astype(np.float32) / np.float32(60 * depth**0.5)
    constants = {"w": np.maximum(whole(w_shape, "int8", 1), -127), "ws": scales if by_channel else scales[0],
                 "wz": np.zeros(count, np.int8) if by_channel else np.int8(0), **grid_constants("x", x_grid),
                 **grid_constants("y", y_grid), "low": np.float32(-0.7), "high": np.float32(2.1)}  # fmt: skip
    nodes = [node("QuantizeLinear", "x xs xz", "q"), node("DequantizeLinear", "q xs xz", "d"),
             node("DequantizeLinear", "w ws wz", "v", **({"axis": 0} if by_channel else {})),
             node("Conv", "d v", "c", **attrs)]  # fmt: skip
    last = "c"
    if activation:
        nodes.append(node(activation, "c low high" if activation == "Clip" else "c", "a"))
        last = "a"
    nodes += [node("QuantizeLinear", f"{last} ys yz", "r"), node("DequantizeLinear", "r ys yz", "y")]
    x = np.random.default_rng(5).standard_normal(x_shape).astype(np.float32)
    check(model_of(nodes, x, "float32", constants), x, part, "float16", y_grid.scale)


@drawn(20)
@given(
    st.sampled_from(["MatMulInteger", "QLinearMatMul"]), st.tuples(EXTENTS, CHANNELS, CHANNELS), st.integers(0, 2),
    grids(), SIGNS, grids(0.9), PARTS,
)  # fmt: skip
def test_products(
    op: str, sizes: tuple[int, int, int], batches: int, x_grid: Grid, sign: str, y_grid: Grid, part: str
) -> None:
    m, k, n = sizes
    constants = {"w": whole((k, n), sign, 1), "ws": np.float32(0.02 / k**0.5), "wz": np.asarray(5, sign),
                 **grid_constants("x", x_grid), **grid_constants("y", y_grid)}  # fmt: skip
    operands = "x w xz wz" if op == "MatMulInteger" else "x xs xz w ws wz ys yz"
    x = whole((*((2,) * batches), m, k), x_grid.dtype, 3)
    model = model_of([node(op, operands, "y")], x, "int32" if op == "MatMulInteger" else y_grid.dtype, constants)
    check(model, x, part, "float16", 0.0 if op == "MatMulInteger" else 1.0)


@drawn(10)
@given(st.tuples(EXTENTS, CHANNELS, CHANNELS), grids(), grids(0.05), PARTS)
def test_two_activations(sizes: tuple[int, int, int], x_grid: Grid, y_grid: Grid, part: str) -> None:
    """x times its own transpose, both from quantised values."""
    m, k, _ = sizes
    constants = {**grid_constants("x", x_grid), **grid_constants("y", y_grid)}
    nodes = [node("QuantizeLinear", "x xs xz", "q"), node("DequantizeLinear", "q xs xz", "d"),
             node("Transpose", "d", "t", perm=[0, 2, 1]), node("MatMul", "d t", "m"),
             node("QuantizeLinear", "m ys yz", "r"), node("DequantizeLinear", "r ys yz", "y")]  # fmt: skip
    x = np.random.default_rng(5).standard_normal((2, m, k)).astype(np.float32) / np.float32(k**0.5)
    executable = check(model_of(nodes, x, "float32", constants), x, part, "float16", y_grid.scale)
    if x_grid.zero == 0:
        assert integer_share(executable.program) == 1.0


@pytest.mark.parametrize("part", ["npu-edge", "npu-v2"])
@pytest.mark.parametrize("precision", ["float32", "float16"])
@pytest.mark.parametrize("name", ["tiny_cnn_int8", "tiny_transformer_int8"])
def test_quantised_networks(name: str, precision: str, part: str) -> None:
    model = models.build(name)
    feeds = models.sample_inputs(model, 1)
    executable = dsac.compile(model, part, precision)
    assert not executable.report["host_steps"]
    (want,) = ReferenceEvaluator(model).run(None, feeds)
    (got,) = executable.run(feeds).values()
    steps = np.unique(np.round(np.abs(np.diff(np.unique(want))), 6))
    assert np.abs(got - want).max() <= steps[0] * 1.01
