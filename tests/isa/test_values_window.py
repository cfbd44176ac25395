"""Pooling and depthwise products against loops and ONNX's reference."""

from __future__ import annotations

import math

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

ORACLES = {"pool_max", "pool_sum", "depthwise", "depthwise_acc"}
WINDOWS = [
    ([3, 3], [1, 1], [1, 1], [1, 1, 1, 1]),
    ([2, 2], [2, 2], [1, 1], [0, 0, 0, 0]),
    ([3, 2], [2, 1], [1, 2], [2, 0, 1, 3]),
    ([1, 1], [3, 2], [1, 1], [0, 0, 0, 0]),
    ([5, 5], [1, 1], [1, 1], [2, 2, 2, 2]),
]
SHAPE = (6, 7, 5)


def grid(window, shape=SHAPE):
    kernel, stride, dilation, pad = window
    high = (shape[0] + pad[0] + pad[2] - dilation[0] * (kernel[0] - 1) - 1) // stride[0] + 1
    return high, (shape[1] + pad[1] + pad[3] - dilation[1] * (kernel[1] - 1) - 1) // stride[1] + 1, shape[2]


def attributes(window, **more):
    kernel, stride, dilation, pad = window
    return {"kernel": kernel, "stride": stride, "dilation": dilation, "pad": pad, "taps": kernel[0] * kernel[1], **more}


def walked(x, window, function):
    """`function` of the (tap row, tap column, value) that lie in the source, for each output and channel."""
    kernel, stride, dilation, pad = window
    high, wide, channels = grid(window, x.shape)
    result = np.zeros((high, wide, channels))
    for y in range(high):
        for z in range(wide):
            for c in range(channels):
                taps = []
                for i in range(kernel[0]):
                    for j in range(kernel[1]):
                        p, q = y * stride[0] + i * dilation[0] - pad[0], z * stride[1] + j * dilation[1] - pad[1]
                        if 0 <= p < x.shape[0] and 0 <= q < x.shape[1]:
                            taps.append((i, j, c, x[p, q, c]))
                result[y, z, c] = function(taps)
    return result


@pytest.mark.parametrize("window", WINDOWS, ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int32", "int8", "uint8"])
def test_pooling(isa, dtype, window):
    x = np.random.default_rng(1).integers(0 if dtype == "uint8" else -9, 9, SHAPE)
    result = isa.run("pool_max", {"src": (x, dtype)}, attributes(window), (grid(window), dtype))
    least = {"int8": -128, "uint8": 0, "int32": -(2**31)}.get(dtype, -math.inf)
    expected = walked(x, window, lambda t: max((v for *_, v in t), default=least))
    np.testing.assert_array_equal(result.astype(float), expected)
    out = "int32" if "int" in dtype else "float32"
    total = isa.run("pool_sum", {"src": (x, dtype)}, attributes(window), (grid(window), out))
    np.testing.assert_array_equal(total, walked(x, window, lambda t: sum(v for *_, v in t)))


@pytest.mark.parametrize("window", WINDOWS, ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int8"])
def test_depthwise(isa, dtype, window):
    rng = np.random.default_rng(2)
    x, w = rng.integers(-5, 6, SHAPE), rng.integers(-5, 6, (*window[0], SHAPE[2]))
    expected = walked(x, window, lambda t: sum(v * w[i, j, c] for i, j, c, v in t))
    out = "int32" if dtype == "int8" else "float32"
    attrs = attributes(window, macs=True)
    sources = {"src": (x, dtype), "taps": (w, dtype)}
    np.testing.assert_array_equal(isa.run("depthwise", sources, attrs, (grid(window), out)), expected)
    start = rng.integers(-100, 100, grid(window))
    acc = isa.run("depthwise_acc", {**sources, "acc": (start, out)}, attrs, (grid(window), out))
    np.testing.assert_array_equal(acc, expected + start)


def test_depthwise_with_zero_points(isa):
    """Padding stands for the zero point: taps outside add nothing."""
    window = WINDOWS[0]
    rng = np.random.default_rng(3)
    x, w = rng.integers(0, 256, SHAPE), rng.integers(-128, 128, (3, 3, SHAPE[2]))
    expected = walked(x, window, lambda t: sum((int(v) - 131) * (int(w[i, j, c]) + 7) for i, j, c, v in t))
    attrs = attributes(window, macs=True, zero_a=131, zero_b=-7)
    result = isa.run("depthwise", {"src": (x, "uint8"), "taps": (w, "int8")}, attrs, (grid(window), "int32"))
    np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize(("dtype", "least"), [("float32", -math.inf), ("float16", -math.inf), ("int8", -128),
 ("uint8", 0),
                                              ("int32", -(2**31))])  # fmt: skip
def test_windows_without_taps(isa, dtype, least):
    """Padding as large as the kernel: the first output sees nothing."""
    window = ([1, 1], [1, 1], [1, 1], [1, 1, 0, 0])
    x = np.full((1, 1, 2), 3)
    result = isa.run("pool_max", {"src": (x, dtype)}, attributes(window), ((2, 2, 2), dtype))
    assert result[0, 0].tolist() == [least, least]
    assert result[1, 1].tolist() == [3, 3]
    total = isa.run("pool_sum", {"src": (x, dtype)}, attributes(window), ((2, 2, 2), dtype))
    assert total[:, :, 0].tolist() == [[0, 0], [0, 3]]


def test_maxima_of_nan_and_infinity(isa):
    x = np.array([[[-math.inf], [math.nan], [1.0]]], np.float32)
    result = isa.run(
        "pool_max", {"src": (x, "float32")}, attributes(([1, 2], [1, 1], [1, 1], [0, 1, 0, 0])), ((1, 3, 1), "float32")
    )
    np.testing.assert_array_equal(result.ravel(), np.array([-math.inf, math.nan, math.nan], np.float32))


def test_sums_of_halves_accumulate_in_float32(isa):
    x = np.full((3, 3, 1), 2048.0)
    x[0, 0] = 1
    result = isa.run(
        "pool_sum", {"src": (x, "float16")}, attributes(([3, 3], [1, 1], [1, 1], [0] * 4)), ((1, 1, 1), "float32")
    )
    assert result.item() == 8 * 2048 + 1


def reference(node, inputs, **attrs):
    """An ONNX operator on channel-first inputs."""
    names = [f"x{i}" for i in range(len(inputs))]
    infos = [
        onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, v.shape)
        for n, v in zip(names, inputs, strict=True)
    ]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node(node, names, ["y"], **attrs)], "g", infos,
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)],
    )  # fmt: skip
    return ReferenceEvaluator(onnx.helper.make_model(graph)).run(None, dict(zip(names, inputs, strict=True)))[0]


@pytest.mark.parametrize("window", WINDOWS[:2], ids=str)
def test_onnx_reference(isa, window):
    kernel, stride, _dilation, pad = window
    rng = np.random.default_rng(4)
    x = rng.normal(size=SHAPE).astype(np.float32)
    w = rng.normal(size=(*kernel, SHAPE[2])).astype(np.float32)
    first = np.ascontiguousarray(x.transpose(2, 0, 1)[None])
    common = {"strides": stride, "pads": pad, "kernel_shape": kernel}
    pooled = reference("MaxPool", [first], **common)[0].transpose(1, 2, 0)
    np.testing.assert_array_equal(
        isa.run("pool_max", {"src": (x, "float32")}, attributes(window), (grid(window), "float32")), pooled
    )
    mean = reference("AveragePool", [first], count_include_pad=1, **common)[0].transpose(1, 2, 0)
    total = isa.run("pool_sum", {"src": (x, "float32")}, attributes(window), (grid(window), "float32"))
    np.testing.assert_allclose(total / (kernel[0] * kernel[1]), mean, rtol=1e-5, atol=1e-6)
    weights = np.ascontiguousarray(w.transpose(2, 0, 1)[:, None])
    convolved = reference("Conv", [first, weights], group=SHAPE[2], **common)[0].transpose(1, 2, 0)
    sources = {"src": (x, "float32"), "taps": (w, "float32")}
    result = isa.run("depthwise", sources, attributes(window, macs=True), (grid(window), "float32"))
    np.testing.assert_allclose(result, convolved, rtol=1e-4, atol=1e-5)
