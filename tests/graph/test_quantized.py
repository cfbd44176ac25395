"""Quantised models: products in integers, against ONNX's reference (its integer products do not saturate)."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from dsa_compiler.frontend import import_model, load_model
from dsa_compiler.graph import evaluate, extract_layers, optimize, run_relax

RNG = np.random.default_rng(3)
F, U8, I8 = np.float32, np.uint8, np.int8


def node(op, inputs, outputs, **attrs):
    return helper.make_node(op, inputs.split(), outputs.split(), **attrs)


def model_of(nodes, shape, outputs, constants, types=None, domain=""):
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(shape))]
    results = [helper.make_tensor_value_info(o, (types or {}).get(o, TensorProto.FLOAT), None) for o in outputs]
    tensors = [numpy_helper.from_array(np.asarray(v), n) for n, v in constants.items()]
    opsets = [helper.make_opsetid("", 19), *([helper.make_opsetid(domain, 1)] if domain else [])]
    graph = helper.make_graph(nodes, "g", inputs, results, tensors)
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def compiled(model, precision=None):
    mod = optimize(import_model(load_model(model)), precision)
    return mod, extract_layers(mod)


def check(model, expected=None, precision=None, quantum=0.0, relax=True):
    """Compare layers (and Relax on the CPU) with the reference; `quantum` is the greatest difference allowed."""
    mod, graph = compiled(model, precision)
    shape = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
    feeds = {"x": np.random.default_rng(0).standard_normal(shape).astype(F)}
    names = [o.name for o in model.graph.output]
    wanted = expected(feeds["x"]) if expected else ReferenceEvaluator(model).run(names, feeds)
    for actual in [evaluate(graph, feeds), *([run_relax(mod, feeds)] if relax else [])]:
        for name, value in zip(names, wanted, strict=True):
            assert actual[name].shape == value.shape
            difference = np.abs(actual[name].astype(np.float64) - value.astype(np.float64))
            assert difference.max() <= quantum + 1e-5 * max(1.0, float(np.abs(value.astype(np.float64)).max()))
    return graph


def product(graph):
    (layer,) = [layer for layer in graph.layers if layer.kind in ("conv2d", "depthwise", "matmul")]
    return layer, layer.calls[layer.master]


QUANT = node("QuantizeLinear", "x xs xz", "q")


@pytest.mark.parametrize("dtype", [U8, I8])
@pytest.mark.parametrize(("weights", "zero"), [(I8, 0), (U8, 128), (U8, 97)])
@pytest.mark.parametrize("pads", [[0] * 4, [1, 0, 1, 2]])
def test_qlinear_conv(dtype, weights, zero, pads):
    limits = np.iinfo(weights)
    w = RNG.integers(limits.min, limits.max + 1, (5, 4, 3, 3)).astype(weights)
    w.flat[:2] = limits.min, limits.max
    constants = {
        "xs": F(0.02), "xz": dtype(13), "w": w, "ws": F(0.01), "wz": weights(zero), "ys": F(0.4), "yz": dtype(7),
        "b": RNG.integers(-500, 500, 5).astype(np.int32),
    }  # fmt: skip
    nodes = [QUANT, node("QLinearConv", "q xs xz w ws wz ys yz b", "y", pads=pads)]
    types = {"y": TensorProto.UINT8 if dtype is U8 else TensorProto.INT8}
    graph = check(model_of(nodes, (1, 4, 6, 7), ["y"], constants, types), quantum=1)
    layer, call = product(graph)
    assert call.dtype == "int32"
    assert graph.tensors[layer.inputs[0].tensor].dtype == np.dtype(dtype).name
    stored = graph.tensors[layer.inputs[1].tensor]
    assert (stored.dtype, call.attrs.get("zero_b", 0)) == (("uint8", 97) if zero == 97 else ("int8", 0))
    top, left, bottom, right = pads
    assert call.attrs["padding"] == (top, left, bottom, right)
    assert call.attrs.get("pad_value", 0) == (13 if any(pads) else 0)
    assert not any(other.kind == "movement" and other.calls[0].op == "nn.pad" for other in graph.layers)


def test_scales_by_channel_and_float16():
    constants = {
        "xs": F(0.02), "xz": U8(120), "w": RNG.integers(-127, 128, (6, 4, 1, 1)).astype(I8),
        "ws": (RNG.random(6) * 0.01 + 0.002).astype(F), "wz": np.zeros(6, I8), "ys": F(0.05), "yz": U8(128),
    }  # fmt: skip
    nodes = [QUANT, node("QLinearConv", "q xs xz w ws wz ys yz", "y")]
    model = model_of(nodes, (1, 4, 6, 6), ["y"], constants, {"y": TensorProto.UINT8})
    graph = check(model, precision="float16", quantum=1)
    assert "float16" not in {c.dtype for layer in graph.layers for c in layer.calls}


def test_depthwise_keeps_its_weights_whole():
    constants = {
        "xs": F(0.02), "xz": U8(120), "w": np.asarray([0, 255] * 18, U8).reshape(4, 1, 3, 3), "ws": F(0.01),
        "wz": U8(100), "ys": F(0.1), "yz": U8(128),
    }  # fmt: skip
    nodes = [QUANT, node("QLinearConv", "q xs xz w ws wz ys yz", "y", group=4, pads=[1, 1, 1, 1])]
    graph = check(model_of(nodes, (1, 4, 5, 5), ["y"], constants, {"y": TensorProto.UINT8}), quantum=1)
    layer, call = product(graph)
    assert layer.kind == "depthwise"
    assert graph.tensors[layer.inputs[1].tensor].dtype == "int16"
    assert "zero_b" not in call.attrs


@pytest.mark.parametrize("op", ["MatMulInteger", "QLinearMatMul"])
def test_integer_matmul(op):
    constants = {"xs": F(0.02), "xz": U8(120), "w": RNG.integers(0, 256, (8, 5)).astype(U8), "wz": U8(99)}
    constants |= {"ws": F(0.01), "ys": F(0.1), "yz": U8(128)}
    inputs = "q w xz wz" if op == "MatMulInteger" else "q xs xz w ws wz ys yz"
    types = {"y": TensorProto.INT32 if op == "MatMulInteger" else TensorProto.UINT8}
    graph = check(model_of([QUANT, node(op, inputs, "y")], (3, 8), ["y"], constants, types), quantum=1)
    assert product(graph)[1].dtype == "int32"


def test_conv_integer_with_computed_zero_point():
    constants = {"w": RNG.integers(0, 256, (5, 2, 3, 3)).astype(U8), "wz": U8(130)}
    nodes = [node("DynamicQuantizeLinear", "x", "q s z"),
             node("ConvInteger", "q w z wz", "y", pads=[1, 1, 1, 1], strides=[2, 1])]  # fmt: skip
    graph = check(model_of(nodes, (1, 2, 6, 5), ["y"], constants, {"y": TensorProto.INT32}))
    assert product(graph)[1].attrs["padding"] == (1, 1, 1, 1)


def qdq(name, scale, zero, inner=""):
    return [node("QuantizeLinear", f"{inner or name} {scale} {zero}", f"{name}.q"),
            node("DequantizeLinear", f"{name}.q {scale} {zero}", f"{name}.d")]  # fmt: skip


def qdq_conv(**attrs):
    constants = {
        "xs": F(0.02), "xz": U8(120), "ys": F(0.05), "yz": U8(10),
        "w": RNG.integers(-127, 128, (6, 4, 3, 3)).astype(I8),
        "ws": (RNG.random(6) * 0.01 + 0.002).astype(F), "wz": np.zeros(6, I8),
        "b": RNG.integers(-500, 500, 6).astype(np.int32), "bz": np.zeros(6, np.int32),
    }  # fmt: skip
    constants["bs"] = constants["xs"] * constants["ws"]
    weights = [node("DequantizeLinear", "w ws wz", "w.d", axis=0), node("DequantizeLinear", "b bs bz", "b.d", axis=0)]
    return [*qdq("x", "xs", "xz"), *weights, node("Conv", "x.d w.d b.d", "c", **attrs)], constants


def test_qdq_convolution_is_one_integer_layer():
    nodes, constants = qdq_conv(pads=[1, 1, 1, 1])
    nodes += [node("Relu", "c", "r"), *qdq("r", "ys", "yz"), node("Identity", "r.d", "y")]
    graph = check(model_of(nodes, (1, 4, 6, 6), ["y"], constants), quantum=0.05)
    assert graph.counts().get("conv2d") == 1
    layer, call = product(graph)
    assert call.dtype == "int32"
    assert [c.op for c in layer.calls[1:4]] == ["add", "astype", "multiply"]
    assert layer.calls[1].dtype == "int32"
    assert {"x_QuantizeLinear", "Conv_c"} & set(layer.nodes) == {"Conv_c"}


def test_pools_and_movements_of_quantised_values_stay_integers():
    nodes, constants = qdq_conv()
    nodes += [*qdq("c", "ys", "yz"), node("MaxPool", "c.d", "p", kernel_shape=[2, 2]),
              node("QuantizeLinear", "p ys yz", "p.q"), node("Transpose", "p.q", "y", perm=[0, 2, 3, 1])]  # fmt: skip
    graph = check(model_of(nodes, (1, 4, 6, 6), ["y"], constants, {"y": TensorProto.UINT8}), quantum=1)
    pool = next(layer for layer in graph.layers if layer.kind == "pool")
    assert [c.dtype for c in pool.calls] == ["uint8"]


def test_parts_of_a_concatenation_are_quantised_where_they_are_made():
    nodes, constants = qdq_conv()
    constants["zs"] = F(0.08)
    nodes += [*qdq("c", "ys", "yz"), node("Exp", "x.d", "e"), node("Slice", "e s0 s1 ax", "es"),
              node("Concat", "c.d es", "j", axis=1), node("QuantizeLinear", "j zs yz", "y")]  # fmt: skip
    constants |= {"s0": np.asarray([1, 1]), "s1": np.asarray([5, 5]), "ax": np.asarray([2, 3])}
    graph = check(model_of(nodes, (1, 4, 6, 6), ["y"], constants, {"y": TensorProto.UINT8}), quantum=1)
    written = [graph.tensors[layer.output.tensor].dtype for layer in graph.layers]
    assert "float32" not in written[1:] or written.count("float32") <= 1


def test_dynamic_lstm():
    hidden, size = 5, 4
    w, r = (RNG.integers(-127, 128, (1, k, 4 * hidden)).astype(I8) for k in (size, hidden))
    constants = {"w": w, "r": r, "ws": np.asarray([0.01], F), "wz": np.zeros(1, I8), "rs": np.asarray([0.02], F),
                 "rz": np.zeros(1, I8), "b": RNG.standard_normal((1, 8 * hidden)).astype(F)}  # fmt: skip
    inputs = ["x", "w", "r", "b", "", "", "", "", "ws", "wz", "rs", "rz"]
    lstm = helper.make_node("DynamicQuantizeLSTM", inputs, ["y"], hidden_size=hidden, domain="com.microsoft")
    model = model_of([lstm], (3, 1, size), ["y"], constants, domain="com.microsoft")
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    graph = check(model, lambda x: session.run(None, {"x": x}), quantum=1e-4)
    products = [layer for layer in graph.layers if layer.kind == "matmul"]
    assert {graph.tensors[layer.inputs[0].tensor].dtype for layer in products} == {"uint8"}


@pytest.mark.parametrize(
    ("op", "operands", "attrs"),
    [("QLinearAdd", 2, {}), ("QLinearMul", 2, {}), ("QLinearSigmoid", 1, {}), ("QLinearLeakyRelu", 1, {"alpha": 0.2}),
     ("QLinearGlobalAveragePool", 1, {"channels_last": 0}), ("QLinearSoftmax", 1, {"axis": 1, "opset": 13})],
)  # fmt: skip
def test_quantised_operators_of_microsoft(op, operands, attrs):
    constants = {"xs": F(0.02), "xz": U8(120), "ys": F(0.03), "yz": U8(100)}
    call = helper.make_node(op, ["q", "xs", "xz"] * operands + ["ys", "yz"], ["y"], domain="com.microsoft", **attrs)
    model = model_of([QUANT, call], (1, 4, 3, 3), ["y"], constants, {"y": TensorProto.UINT8}, "com.microsoft")
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    check(model, lambda x: session.run(None, {"x": x}), quantum=1)


def test_products_of_float_weights_stay_float():
    nodes = [*qdq("x", "xs", "xz"), node("MatMul", "x.d w", "y")]
    constants = {"xs": F(0.02), "xz": U8(120), "w": RNG.standard_normal((4, 3)).astype(F)}
    graph = check(model_of(nodes, (2, 4), ["y"], constants))
    assert product(graph)[1].dtype == "float32"


def test_host_step_of_strange_scales():
    constants = {"xs": F(0.02), "xz": np.asarray([1, 2, 3, 4], U8), "w": np.ones((4, 2), U8), "s": F(1)}
    quant = node("QuantizeLinear", "x xs", "q")
    graph = compiled(model_of([quant, node("QLinearMatMul", "q xs xz w s s0 s s0", "y")], (3, 4), ["y"],
                              constants | {"s0": U8(0)}, {"y": TensorProto.UINT8}))[1]  # fmt: skip
    step = next(layer for layer in graph.layers if layer.kind == "host")
    assert step.calls[0].attrs["reason"] == "zero points of data along an axis"
    assert onnx.load_model_from_string(step.calls[0].attrs["model"]).graph.node[0].op_type == "QLinearMatMul"


def dtypes(graph):
    return {c.dtype for layer in graph.layers for c in layer.calls}


@pytest.mark.parametrize(
    ("op", "attrs"),
    [("Softmax", {"axis": 1}), ("AveragePool", {"kernel_shape": [2, 2]}), ("GlobalAveragePool", {}), ("Exp", {})],
)
def test_what_leads_to_quantised_values_alone_is_exact_in_float16_models(op, attrs):
    nodes, constants = qdq_conv()
    nodes += [*qdq("c", "ys", "yz"), node(op, "c.d", "s", **attrs), node("QuantizeLinear", "s ys yz", "y")]
    graph = check(model_of(nodes, (1, 4, 6, 6), ["y"], constants, {"y": TensorProto.UINT8}), precision="float16")
    assert "float16" not in dtypes(graph)


def test_products_of_floats_stay_in_float16():
    nodes = [node("MatMul", "x w", "m"), *qdq("m", "xs", "xz"), node("MatMul", "m.d w", "y")]
    constants = {"xs": F(0.02), "xz": U8(120), "w": RNG.standard_normal((4, 4)).astype(F)}
    graph = compiled(model_of(nodes, (2, 4), ["y"], constants), "float16")[1]
    assert [layer.calls[layer.master].dtype for layer in graph.layers if layer.kind == "matmul"] == ["float16"] * 2


def test_results_made_of_integers_are_exact_in_float16_models():
    nodes, constants = qdq_conv()
    nodes += [node("Sigmoid", "c", "s"), node("Transpose", "s", "y", perm=[0, 2, 3, 1])]
    graph = check(model_of(nodes, (1, 4, 6, 6), ["y"], constants), precision="float16")
    assert "float16" not in dtypes(graph)


def test_a_dynamic_scale_and_its_comparison_with_zero_are_exact_in_float16_models():
    constants = {"w": RNG.integers(-127, 128, (4, 3)).astype(I8), "k": F(1e-6)}
    nodes = [node("Mul", "x k", "h"), node("DynamicQuantizeLinear", "h", "q s z"),
             node("MatMulInteger", "q w z", "m"), node("Cast", "m", "f", to=1), node("Mul", "f s", "g"),
             node("Div", "g k", "y")]  # fmt: skip
    graph = check(model_of(nodes, (2, 4), ["y"], constants), precision="float16")
    assert "float16" not in dtypes(graph)
