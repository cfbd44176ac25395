"""Single operators, from ONNX to layers, against ONNX Runtime."""

from __future__ import annotations

import re

import numpy as np
import pytest
from onnx import helper

from dsa_compiler.frontend import import_model, load_model
from dsa_compiler.frontend.host import facts_of, is_host
from dsa_compiler.graph.rewriter import bindings_of

RNG = np.random.default_rng(0)


def w(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def case(op, shape, constants=(), opset=17, outputs=1, **attrs):
    return pytest.param(op, shape, list(constants), opset, outputs, attrs, id=f"{op}-{opset}-{attrs or ''}"[:60])


i64 = np.array
IMAGE = (2, 4, 7, 9)
CASES = [
    case(op, (2, 3, 4))
    for op in [
        "Abs",
        "Neg",
        "Relu",
        "Sigmoid",
        "Tanh",
        "Exp",
        "Erf",
        "Floor",
        "Ceil",
        "Round",
        "Sign",
        "Sin",
        "Cos",
        "Atan",
        "Softplus",
        "Softsign",
        "HardSwish",
        "Elu",
        "Celu",
        "Selu",
        "Reciprocal",
        "LeakyRelu",
        "HardSigmoid",
        "ThresholdedRelu",
        "Mish",
        "Shrink",
    ]
]
CASES += [
    case("Gelu", (3, 4), opset=20), case("Gelu", (3, 4), opset=20, approximate="tanh"),
    case("Clip", (3, 4), [np.float32(-0.5), np.float32(0.5)]), case("Clip", (3, 4), opset=9, min=0.0, max=1.0),
    case("Clip", (3, 4), opset=10), case("PRelu", IMAGE, [w(4, 1, 1)]), case("Add", (3, 4), [w(4)]),
    case("Sub", (3, 4), [w(3, 1)]), case("Div", (3, 4), [w(4)]), case("Pow", (3, 4), [np.float32(2)]),
    case("Pow", (3, 4), [np.float32(3)]), case("Max", (3, 4), [w(4)]), case("Sum", (3, 4), [w(4), w(3, 4)]),
    case("Mean", (3, 4), [w(4), w(3, 4)]), case("Mod", (3, 4), [np.float32(0.7)], fmod=1),
    case("BatchNormalization", IMAGE, [w(4), w(4), w(4), np.abs(w(4))]),
    case("InstanceNormalization", IMAGE, [w(4), w(4)]), case("LayerNormalization", (3, 8), [w(8), w(8)]),
    case("LayerNormalization", (3, 4, 8), [w(4, 8)], axis=1), case("LpNormalization", (3, 8), axis=1, p=1),
    case("GroupNormalization", IMAGE, [w(4), w(4)], opset=21, num_groups=2),
    case("LRN", (1, 9, 4, 4), size=5), case("LRN", (1, 9, 4, 4), size=3, alpha=0.5, beta=0.6, bias=2.0),
    case("Softmax", (2, 3, 4), axis=1), case("Softmax", (2, 3, 4), opset=11, axis=1),
    case("LogSoftmax", (2, 3, 4), axis=-1), case("Softmax", (2, 3, 1, 1), opset=9),
    *(case(f"Reduce{n}", (2, 3, 4), opset=13, axes=[1], keepdims=k) for k in (0, 1)
      for n in ("Mean", "Max", "Min", "Prod", "L1", "L2", "LogSumExp", "SumSquare")),
    case("ReduceSum", (2, 3, 4), [i64([0, 2])]), case("ReduceMean", (2, 3, 4), opset=13),
    case("Conv", IMAGE, [w(6, 4, 3, 3), w(6)], strides=[2, 1], pads=[1, 0, 2, 1], dilations=[1, 2]),
    case("Conv", IMAGE, [w(6, 2, 3, 3)], group=2), case("Conv", IMAGE, [w(8, 1, 3, 3)], group=4),
    case("Conv", IMAGE, [w(6, 4, 3, 3)], auto_pad="SAME_UPPER", strides=[2, 2]),
    case("Conv", IMAGE, [w(6, 4, 3, 2)], auto_pad="SAME_LOWER", strides=[2, 2]),
    case("Conv", (2, 4, 9), [w(6, 4, 3), w(6)], pads=[1, 1], strides=[2]),
    case("ConvTranspose", IMAGE, [w(4, 6, 3, 3), w(6)], strides=[2, 3], pads=[1, 0, 1, 1], output_padding=[1, 0]),
    case("ConvTranspose", IMAGE, [w(4, 3, 2, 2)], strides=[2, 2], group=2),
    case("ConvTranspose", IMAGE, [w(4, 3, 1, 1)], strides=[2, 2]),
    case("ConvTranspose", IMAGE, [w(4, 3, 3, 3)], strides=[2, 2], dilations=[2, 2]),
    case("ConvTranspose", IMAGE, [w(4, 3, 3, 3)], strides=[2, 2], auto_pad="SAME_UPPER"),
    case("ConvTranspose", IMAGE, [w(4, 3, 3, 3)], strides=[2, 2], output_shape=[14, 18]),
    case("ConvTranspose", (2, 4, 9), [w(4, 3, 4)], strides=[2], pads=[1, 1]),
    case("MaxPool", IMAGE, kernel_shape=[3, 2], strides=[2, 2], pads=[1, 0, 1, 1]),
    case("MaxPool", IMAGE, kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1),
    case("MaxPool", IMAGE, kernel_shape=[2, 2], dilations=[2, 2]), case("MaxPool", (2, 4, 9), kernel_shape=[3]),
    case("AveragePool", IMAGE, kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
    case("AveragePool", IMAGE, kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1),
    case("AveragePool", IMAGE, kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1),
    case("AveragePool", IMAGE, kernel_shape=[2, 2], auto_pad="SAME_UPPER", strides=[2, 2]),
    case("GlobalAveragePool", IMAGE), case("GlobalMaxPool", IMAGE),
    case("Gemm", (3, 4), [w(5, 4), w(5)], transB=1, alpha=0.5, beta=2.0), case("Gemm", (4, 3), [w(4, 5)], transA=1),
    case("MatMul", (2, 3, 4), [w(4, 5)]), case("MatMul", (2, 3, 4), [w(4)]), case("MatMul", (4,), [w(2, 4, 5)]),
    case("Reshape", (2, 3, 4), [i64([0, -1])]), case("Transpose", (2, 3, 4), perm=[2, 0, 1]),
    case("Transpose", (2, 3, 4)), case("Flatten", (2, 3, 4), axis=2), case("Flatten", (2, 3, 4), axis=0),
    case("Squeeze", (2, 1, 4), [i64([1])]), case("Squeeze", (2, 1, 4), opset=11),
    case("Unsqueeze", (2, 3), [i64([0, -1])]),
    case("Expand", (3, 1), [i64([2, 1, 4])]), case("Concat", (3, 4), [w(3, 2)], axis=-1),
    case("Split", (3, 8), [i64([2, 6])], outputs=2, axis=1), case("Split", (3, 8), opset=11, outputs=4, axis=1),
    case("Slice", (5, 8), [i64([1, 6]), i64([4, -9]), i64([0, 1]), i64([1, -2])]),
    case("Slice", (5, 8), opset=9, starts=[1], ends=[100], axes=[1]),
    case("Gather", (5, 8), [i64([1, 3])], axis=1), case("Gather", (5, 8), [i64(-1)], axis=0),
    case("Gather", (5, 8), [i64([[3, 1], [0, 0]])], axis=1), case("Tile", (2, 3), [i64([2, 2])]),
    case("Pad", (3, 4), [i64([1, 0, 0, 2]), np.float32(1.5)]), case("Pad", (3, 4), opset=10, pads=[1, 0, 0, 2]),
    case("Pad", (3, 4), [i64([1, 2, 1, 0])], mode="reflect"), case("Pad", (3, 4), [i64([1, 2, 1, 0])], mode="edge"),
    case("Pad", (5, 4), [i64([-1, 2, -1, 0])]),
    case("DepthToSpace", (1, 8, 2, 3), blocksize=2), case("DepthToSpace", (1, 8, 2, 3), blocksize=2, mode="CRD"),
    case("SpaceToDepth", (1, 2, 4, 6), blocksize=2),
    case("Resize", IMAGE, ["", np.array([1, 1, 2, 2], np.float32)]),
    case("Resize", IMAGE, ["", np.array([1, 1, 2, 3], np.float32)], coordinate_transformation_mode="asymmetric",
         nearest_mode="floor"),
    case("Resize", IMAGE, ["", "", i64([2, 4, 10, 5])]),
    case("Resize", IMAGE, ["", np.array([1, 1, 2, 2.5], np.float32)], mode="linear"),
    case("Resize", IMAGE, ["", "", i64([2, 4, 14, 5])], mode="linear", coordinate_transformation_mode="align_corners"),
    case("Resize", IMAGE, ["", np.array([1, 1, 2, 2], np.float32)], mode="cubic"),
    case("Resize", IMAGE, [np.array([1, 1, 2, 2], np.float32)], opset=10, mode="linear"),
    case("Upsample", IMAGE, [np.array([1, 1, 2, 2], np.float32)], opset=9),
]  # fmt: skip


@pytest.mark.parametrize(("op", "shape", "constants", "opset", "outputs", "attrs"), CASES)
def test_operator(op, shape, constants, opset, outputs, attrs, build, compare):
    names = ["" if isinstance(c, str) else f"c{i}" for i, c in enumerate(constants)]
    results = ["y", *(f"y{i}" for i in range(1, outputs))]
    values = {n: c for n, c in zip(names, constants, strict=True) if n}
    node = helper.make_node(op, ["x", *names], results, **attrs)
    if op == "Mish":
        opset = 18
    compare(build([node], {"x": list(shape)}, results, values, opset=opset), 2e-5)


def host_reasons(model):
    mod = import_model(load_model(model))
    return [facts_of(b.value).reason for b in bindings_of(mod["main"]) if is_host(b.value)]


@pytest.mark.parametrize(
    ("op", "shape", "constants", "attrs", "message"),
    [
        ("MaxPool", IMAGE, [], {"kernel_shape": [2, 2], "out": 2}, "the indices as a result"),
        ("Conv", (1, 2, 4, 4, 4), [w(3, 2, 1, 1, 1)], {}, "3 spatial dimensions"),
        ("LRN", (1, 3, 4), [], {"size": 3}, "rank 3"),
    ],
)
def test_what_has_no_converter_becomes_a_host_step(op, shape, constants, attrs, message, build):
    attrs = dict(attrs)
    outputs = ["y", "i"][: attrs.pop("out", 1)]
    names = [f"c{i}" for i in range(len(constants))]
    node = helper.make_node(op, ["x", *names], outputs, name="the_node", **attrs)
    model = build([node], {"x": list(shape)}, outputs, dict(zip(names, constants, strict=True)), types={"i": 7})
    assert host_reasons(model) == [message]


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize(
    ("op", "gates", "attrs"), [("LSTM", 4, {}), ("GRU", 3, {}), ("GRU", 3, {"linear_before_reset": 1}), ("RNN", 1, {})]
)
def test_recurrent(op, gates, attrs, direction, build, compare):
    count, hidden = (2 if direction == "bidirectional" else 1), 5
    constants = {
        "w": w(count, gates * hidden, 4),
        "r": w(count, gates * hidden, hidden),
        "b": w(count, 2 * gates * hidden),
    }
    inputs, names = {"x": [3, 2, 4], "h": [count, 2, hidden]}, ["x", "w", "r", "b", "", "h"]
    outputs = ["y", "yh"]
    if op == "LSTM":
        inputs["c"] = [count, 2, hidden]
        constants["p"] = w(count, 3 * hidden)
        names, outputs = [*names, "c", "p"], ["y", "yh", "yc"]
    node = helper.make_node(op, names, outputs, hidden_size=hidden, direction=direction, **attrs)
    compare(build([node], inputs, outputs, constants))


@pytest.mark.parametrize(
    ("attrs", "message"),
    [({"activations": ["Relu", "Tanh", "Tanh"]}, r"activations \['Relu'"), ({"clip": 1.0}, "attribute clip")],
)
def test_recurrent_variants_that_become_host_steps(attrs, message, build):
    node = helper.make_node("LSTM", ["x", "w", "r"], ["y"], hidden_size=5, name="rec", **attrs)
    model = build([node], {"x": [3, 2, 4]}, ["y"], {"w": w(1, 20, 4), "r": w(1, 20, 5)})
    (reason,) = host_reasons(model)
    assert re.match(message, reason)


@pytest.mark.parametrize("axis", [None, 1])
def test_quantisation_there_and_back(axis, build, compare):
    count = 1 if axis is None else 4
    scale, zero = np.abs(w(count)) + 0.1, np.arange(count).astype(np.int8)
    constants = {"s": scale if axis is not None else scale[0], "z": zero if axis is not None else zero[0]}
    attrs = {} if axis is None else {"axis": axis}
    nodes = [helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], **attrs),
             helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"], **attrs)]  # fmt: skip
    assert compare(build(nodes, {"x": [3, 4]}, ["y"], constants)).counts() == {"elementwise": 1}


def test_computed_indices_gather(build, compare):
    node = helper.make_node("Gather", ["t", "i"], ["y"])
    graph = compare(build([node], {"i": [2, 3]}, ["y"], {"t": w(5, 4)}, types={"i": 7}))
    assert graph.counts() == {"elementwise": 1, "gather": 1}  # the indices become int32 first


def test_where_and_comparison(build, compare):
    nodes = [helper.make_node("Greater", ["x", "z"], ["c"]), helper.make_node("Where", ["c", "x", "z"], ["y"])]
    assert compare(build(nodes, {"x": [3, 4], "z": [3, 4]}, ["y"])).counts() == {"elementwise": 1}
