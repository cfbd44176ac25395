"""Lower bounds against values worked out by hand."""

from __future__ import annotations

import ast
import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, numpy_helper, parser

import models
from dsa_compiler import bounds
from dsa_compiler.bounds import Bounds, analyze
from dsa_compiler.bounds.operators import OPERATORS, Kind, classify
from dsa_compiler.errors import UserError
from dsa_compiler.target import Target, load_target

V1 = load_target("npu-v1")
CORES, WIDTH, DDR = 32, 128, 119.4


def model(text: str, opset: int = 17, **weights: np.ndarray) -> ModelProto:
    """A model from ONNX's text form `(inputs) => (outputs) { nodes }`, with weights added."""
    domains = f'"": {opset}, "com.microsoft": 1'
    parsed = parser.parse_model(f"<ir_version: 8, opset_import: [{domains}]> g {text}")
    parsed.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in weights.items())
    return parsed


def f32(*shape: int) -> np.ndarray:
    return np.ones(shape, dtype=np.float32)


def analyzed(text: str, precision: str | None = "float16", target: Target = V1, opset: int = 17, **w: Any) -> Bounds:
    return analyze(model(text, opset, **w), target, precision)


# Networks of the zoo


@pytest.mark.parametrize(
    ("name", "batch", "macs", "ddr_bytes", "rate"),
    [
        # macs * batch / (2048 * 32) cycles; the notes allow for startup and rounding beside that
        ("resnet50", 64, 4_089_184_256, 64 * 150_528 * 2 + 25_530_472 * 2 + 64 * 1000 * 2, 16_027),
        ("mobilenet_v2", 128, 300_774_272, 128 * 150_528 * 2 + 3_487_816 * 2 + 36 * 2 + 128 * 1000 * 2, 217_891),
    ],
)
def test_convolutional_networks_by_hand(name: str, batch: int, macs: int, ddr_bytes: int, rate: float) -> None:
    found = analyze(models.build(name, batch), V1, "float16")
    assert found.macs == {"float16": macs * batch}
    assert found.mac_cycles == macs * batch / (16 * 16 * 8 * CORES)
    assert found.ddr_bytes == pytest.approx(ddr_bytes, abs=200)
    assert found.bound_by == "matrix"
    assert found.rate(batch) == pytest.approx(rate, abs=1)
    assert not found.uncounted


def test_bert_base_by_hand() -> None:
    batch, tokens, hidden, heads, inner = 32, 128, 768, 12, 3072
    found = analyze(models.build("bert_base", batch), V1, "float16")
    layer = tokens * hidden * (4 * hidden + 2 * inner + 2 * tokens)
    assert found.total_macs == 12 * batch * layer
    scores = batch * heads * tokens * tokens
    assert found.required_ops["transcendental"] == 12 * (scores + batch * tokens * inner)
    assert found.required_ops["simple"] == 12 * (4 * scores + 2 * 6 * batch * tokens * hidden)
    assert found.bound_by == "matrix"
    assert found.rate(batch) == pytest.approx(5865, abs=1)
    names = [row.pattern for row in found.rows]
    assert names.count("activation") == 12 * 4, "Div, Erf, Add and Mul; the product by one half behind them is linear"


def test_mobilenet_with_depthwise_on_the_vector_engine() -> None:
    found = analyze(models.build("mobilenet_v2", 128), V1, "float16")
    depthwise = sum(row.macs for row in found.rows if row.depthwise)
    pixels = {112: [32], 56: [96, 144], 28: [144, 192, 192], 14: [192, *[384] * 4, 576, 576], 7: [576, 960, 960, 960]}
    assert depthwise == 128 * 9 * sum(side * side * sum(channels) for side, channels in pixels.items())
    assert found.depthwise_vector_cycles == pytest.approx(found.vector_cycles + depthwise * 2 / WIDTH / CORES)


def test_dlrm_reads_the_rows_it_gathers_not_the_tables() -> None:
    found = analyze(models.build("dlrm", 1024, rows=50_000), V1, "float16")
    small = analyze(models.build("dlrm", 1, rows=50_000), V1, "float16")
    assert found.bound_by == "ddr"
    assert found.traffic.weights - small.traffic.weights == 1023 * 26 * 256
    assert found.traffic.inputs == 1024 * (13 * 2 + 26 * 8), "row numbers lie in ddr as the model's int64"


def test_precision_none_keeps_the_model_types() -> None:
    found = analyze(models.build("tiny_cnn"), V1, None)
    assert set(found.macs) == {"float32"} and found.traffic.inputs == 3 * 32 * 32 * 4


# Sums and what binds


def test_ideal_is_the_greatest_of_three() -> None:
    found = analyzed("(float[64, 1000] x) => (float[64, 1000] y) { y = Tanh(x) }")
    assert found.vector_cycles == 64_000 * 4 * 2 / WIDTH / CORES
    assert found.ddr_cycles == 2 * 64_000 * 2 / DDR
    assert (found.bound_by, found.ideal_cycles, found.mac_cycles) == ("ddr", found.ddr_cycles, 0.0)
    assert found.ideal_ms == found.ideal_cycles / 1e6


def test_clock_and_units_are_those_of_the_target() -> None:
    v2 = load_target("npu-v2")
    text = "(float[256, 512] x) => (float[256, 1024] y) { y = MatMul(x, w) }"
    found = analyzed(text, "float8_e4m3fn", v2, w=f32(512, 1024))
    assert found.mac_cycles == 256 * 512 * 1024 / (16 * 16 * 32 * 16)
    assert found.ddr_bytes == 256 * 512 + 512 * 1024 + 256 * 1024
    assert found.ideal_ms == found.ideal_cycles / 1.2 / 1e6


def test_nothing_to_do_has_an_infinite_rate() -> None:
    found = analyzed("() => (float[0] y) { y = Identity(w) }", w=f32(0))
    assert found.ideal_cycles == 0 and found.rate(1) == math.inf


def test_precision_must_be_one_of_the_part() -> None:
    text = "(float[4, 4] x) => (float[4, 4] y) { y = Relu(x) }"
    with pytest.raises(UserError, match=r"precision 'half' is not known; use one of bfloat16, float16"):
        analyzed(text, "half")
    with pytest.raises(UserError, match=r"npu-edge has no matrix products in bfloat16; use one of int8"):
        analyzed(text, "bfloat16", load_target("npu-edge"))


def test_model_that_shape_inference_refuses_is_a_user_error() -> None:
    made = model("(float[4] x) => (float[4] y) { y = Relu(x) }")
    del made.opset_import[:]
    made.opset_import.append(onnx.helper.make_opsetid("own", 1))
    with pytest.raises(
        UserError, match=r"\[bounds\] shape inference refuses the model: .*opset.*; check the model with"
    ):
        analyze(made, V1, "float16")


def test_shapes_that_contradict_leave_the_node_uncounted() -> None:
    found = analyzed("(float[2, 3] x) => (float[n, m] y) { y = MatMul(x, x) }")
    assert found.uncounted == ("y (MatMul): shape of y is not static",)


# Matrix operators

PRODUCTS: list[tuple[str, dict[str, np.ndarray], int]] = [
    (
        "(float[2,8,9,9] x) => (float[2,6,4,4] y) { y = Conv<strides=[2,2]>(x, w) }",
        {"w": f32(6, 8, 3, 3)},
        2 * 6 * 16 * 72,
    ),
    ("(float[1,8,9] x) => (float[1,8,9] y) { y = Conv<group=8, pads=[1,1]>(x, w) }", {"w": f32(8, 1, 3)}, 8 * 9 * 3),
    (
        "(float[1,8,5,5] x) => (float[1,6,11,11] y) { y = ConvTranspose<strides=[2,2]>(x, w) }",
        {"w": f32(8, 6, 3, 3)},
        200 * 54,
    ),
    (
        "(float[1,8,5,1] x) => (float[1,6,1,1] y) { y = ConvTranspose<pads=[3,0,3,0]>(x, w) }",
        {"w": f32(8, 6, 3, 1)},
        8 * 6 * 3,  # all but three products are cropped
    ),
    ("(float[7,5] x) => (float[5,3] y) { y = Gemm<transA=1>(x, w) }", {"w": f32(7, 3)}, 7 * 5 * 3),
    ("(float[4,7,5] x) => (float[4,7,3] y) { y = MatMul(x, w) }", {"w": f32(5, 3)}, 4 * 7 * 5 * 3),
    ("(float[5] x) => (float[3] y) { y = MatMul(x, w) }", {"w": f32(5, 3)}, 15),
    (
        '(float[2,3,5] x) => (float[2,3,7] y) { y = Einsum<equation="bij,jk->bik">(x, w) }',
        {"w": f32(5, 7)},
        2 * 3 * 5 * 7,
    ),
    ('(float[2,5] x) => (float[2,5] y) { y = Einsum<equation="ij,j->ij">(x, w) }', {"w": f32(5)}, 0),
    ('(float[4,3,5] x) => (float[4,3,2] y) { y = Einsum<equation="...i,io->...o">(x, w) }', {"w": f32(5, 2)}, 12 * 10),
]


@pytest.mark.parametrize(("text", "weights", "count"), PRODUCTS)
def test_multiply_accumulates(text: str, weights: dict[str, np.ndarray], count: int) -> None:
    assert analyzed(text, **weights).macs == ({"float16": count} if count else {})


def test_lstm_counts_products_and_gate_activations() -> None:
    found = analyzed(
        '(float[5,2,8] x) => (float[5,2,2,6] y) { y = LSTM<hidden_size=6, direction="bidirectional">(x, w, r) }',
        w=f32(2, 24, 8),
        r=f32(2, 24, 6),
    )
    assert found.total_macs == 5 * 2 * 2 * 4 * 6 * (8 + 6)
    assert found.required_ops == {"transcendental": 5 * 2 * 2 * 6 * 5}
    assert found.element_ops["simple"] == 5 * 2 * 2 * 6 * 4


def test_gru_with_named_activations() -> None:
    found = analyzed(
        """(float[5,2,8] x) => (float[5,1,2,6] y) {
            y = GRU<hidden_size=6, activations=["HardSigmoid", "Tanh"]>(x, w, r) }""",
        w=f32(1, 18, 8),
        r=f32(1, 18, 6),
    )
    assert found.total_macs == 5 * 2 * 3 * 6 * 14
    assert found.required_ops == {"simple": 5 * 2 * 6 * 2, "transcendental": 5 * 2 * 6}


def test_quantized_products_are_products_of_bytes() -> None:
    byte = np.ones((8, 4), dtype=np.int8)
    scale, zero = np.float32(0.1), np.uint8(3)
    text = "(uint8[3,8] x) => (uint8[3,4] y) { y = QLinearMatMul(x, s, z, w, s, v, s, z) }"
    found = analyzed(text, w=byte, s=np.array(scale), z=np.array(zero), v=np.array(np.int8(0)))
    assert found.macs == {"uint8": 96} and found.traffic.outputs == 12
    found = analyzed("(int8[3,8] x) => (int32[3,4] y) { y = MatMulInteger(x, w) }", w=byte)
    assert found.macs == {"int8": 96} and found.traffic.weights == 32


def test_float_product_of_dequantized_operands_counts_as_bytes() -> None:
    text = """(float[3,8] x) => (float[3,4] y) {
        q = QuantizeLinear(x, s, z)
        d = DequantizeLinear(q, s, z)
        e = DequantizeLinear(w, s, z)
        y = MatMul(d, e) }"""
    found = analyzed(text, w=np.ones((8, 4), np.int8), s=np.array(np.float32(0.1)), z=np.array(np.int8(0)))
    assert found.macs == {"int8": 96}
    assert found.traffic.weights == 32 + 2 + 1, "weight, scale and zero point"
    assert [row.op for row in found.rows] == ["QuantizeLinear", "DequantizeLinear", "MatMul"]


def test_operators_of_com_microsoft_pass_their_shapes_on() -> None:
    scale, zero = np.array(np.float32(0.1)), np.array(np.uint8(3))
    text = """(uint8[1,4,6,6] x) => (uint8[1,8,6,6] y) {
        a = com.microsoft.QLinearAdd(x, s, z, x, s, z, s, z)
        b = com.microsoft.QLinearLeakyRelu<alpha=0.1>(a, s, z, s, z)
        y = com.microsoft.QLinearConcat<axis=1>(s, z, a, s, z, b, s, z) }"""
    found = analyzed(text, s=scale, z=zero)
    assert not found.uncounted and found.element_ops == {"simple": 288}
    assert found.required_ops == {"simple": 144}


def test_part_without_a_unit_for_the_type_counts_at_its_fastest() -> None:
    found = analyzed("(int32[3,8] x) => (int32[3,4] y) { y = MatMul(x, w) }", w=np.ones((8, 4), np.int32))
    assert list(found.macs) == ["int8"]


def test_attention_operator_counts_scores_and_context() -> None:
    text = (
        "(float[2,4,16,8] q, float[2,4,24,8] k, float[2,4,24,10] v) => (float[2,4,16,10] y) { y = Attention(q, k, v) }"
    )
    found = analyzed(text, opset=23)
    scores = 2 * 4 * 16 * 24
    assert found.total_macs == scores * 18
    assert found.required_ops == {"transcendental": scores, "simple": 4 * scores}


# Element operations

N = 6 * 10
ELEMENTS = [
    ("y = Relu(x)", {"simple": N}, {"simple": N}),
    ("y = Gelu(x)", {"transcendental": N}, {"transcendental": N}),
    ("y = Reciprocal(x)", {"divide": N}, {"divide": N}),
    ("y = Add(x, x)", {"simple": N}, {}),
    ("y = Mul(x, c)", {"simple": N}, {}),
    ("y = Div(x, c)", {"simple": N}, {}),
    ("y = Div(c, x)", {"divide": N}, {"divide": N}),
    ("y = Pow(x, c)", {"simple": N}, {"simple": N}),
    ("y = Max(x, c, c)", {"simple": 2 * N}, {"simple": 2 * N}),
    ("a = ReduceSum(x, one) y = Div(x, a)", {"simple": 2 * N, "divide": 6}, {"simple": N, "divide": 6}),
    ("y = Softmax(x)", {"transcendental": N, "simple": 4 * N}, {"transcendental": N, "simple": 4 * N}),
    ("y = LayerNormalization(x, g)", {"simple": 6 * N}, {"simple": 6 * N}),
    ("y = RMSNormalization(x, g)", {"simple": 4 * N}, {"simple": 2 * N}),
    ("y = CumSum(x, one)", {"simple": N}, {}),
    ("y = Transpose(x)", {}, {}),
    ("a, b = TopK<axis=1>(x, three) y = Identity(a)", {"simple": N * 4}, {}),
]


@pytest.mark.parametrize(("nodes", "total", "required"), ELEMENTS)
def test_element_operations(nodes: str, total: dict[str, int], required: dict[str, int]) -> None:
    constants = {
        "c": np.full(1, 2, np.float32),
        "g": f32(10),
        "one": np.array([1]) if "Reduce" in nodes else np.array(1),
        "three": np.array([3]),
    }
    found = analyzed(f"(float[6, 10] x) => (float y) {{ {nodes} }}", opset=23, **constants)
    assert not found.uncounted
    assert (found.element_ops, found.required_ops) == (total, required)


def test_elementwise_width_is_that_of_the_compiled_element() -> None:
    text = "(float[6, 10] x) => (bool[6, 10] y) { y = Less(x, c) }"
    assert analyzed(text, "float16", c=f32(1)).rows[0].item_bytes == 2
    assert analyzed(text, "float32", c=f32(1)).rows[0].item_bytes == 4


def test_pooling_counts_taps_and_only_max_pooling_is_required() -> None:
    text = "(float[1,4,8,8] x) => (float[1,4,4,4] y) {{ y = {}<kernel_shape=[3,2], strides=[2,2], pads=[1,0,0,0]>(x) }}"
    assert analyzed(text.format("MaxPool")).required_ops == {"simple": 64 * 6}
    average = analyzed(text.format("AveragePool"))
    assert (average.element_ops, average.required_ops) == ({"simple": 64 * 6}, {})


def test_product_of_two_varying_values_is_not_linear() -> None:
    text = "(float[6, 10] x, float[6, 10] z) => (float[6, 10] y) { y = Mul(x, z) }"
    assert analyzed(text).required_ops == {"simple": N}


# Decomposed operators

DECOMPOSED = [
    ("silu", "s = Sigmoid(x) y = Mul(x, s)", "transcendental"),
    ("gelu", "a = Div(x, c) e = Erf(a) b = Add(e, c) d = Mul(x, b) y = Mul(d, c)", "transcendental"),
    (
        "gelu, half of x taken first",
        "h = Mul(x, c) a = Div(x, c) e = Erf(a) b = Add(e, c) y = Mul(h, b)",
        "transcendental",
    ),
    (
        "tanh gelu",
        "p = Pow(x, c) a = Mul(p, c) b = Add(x, a) d = Mul(b, c) t = Tanh(d) e = Add(t, c) h = Mul(x, e) y = Mul(h, c)",
        "transcendental",
    ),
    ("mish", "s = Softplus(x) t = Tanh(s) y = Mul(x, t)", "transcendental"),
    ("hard swish", "a = Add(x, c) b = Clip(a, zero, six) d = Mul(x, b) y = Div(d, six)", "simple"),
    ("hard swish, divided first", "a = Add(x, c) b = Clip(a, zero, six) d = Div(b, six) y = Mul(x, d)", "simple"),
    ("relu6", "a = Max(x, zero) y = Min(a, six)", "simple"),
    ("softplus", "e = Exp(x) a = Add(e, c) y = Log(a)", "transcendental"),
    ("sigmoid", "m = Neg(x) e = Exp(m) a = Add(e, c) y = Div(c, a)", "transcendental"),
]


@pytest.mark.parametrize(("nodes", "cost"), [each[1:] for each in DECOMPOSED], ids=[each[0] for each in DECOMPOSED])
def test_decomposed_activation_counts_as_the_activation(nodes: str, cost: str) -> None:
    scalars = {"c": np.float32(1.5), "zero": np.float32(0), "six": np.float32(6)}
    text = f"(float[6, 10] x) => (float[6, 10] y) {{ {nodes} }}"
    found = analyzed(text, **{name: np.array(value) for name, value in scalars.items()})
    assert found.required_ops == {cost: N}
    assert sum(found.element_ops.values()) > N or len(found.rows) <= 2


SEPARATE = [
    ("two activations one behind the other", "a = Relu(x) y = Exp(a)", {"simple": N, "transcendental": N}),
    ("gate used elsewhere", "s = Sigmoid(x) z = Tanh(s) y = Mul(x, s)", {"simple": N, "transcendental": 2 * N}),
    ("gate of two activations", "s = Sigmoid(x) t = Tanh(x) y = Mul(s, t)", {"simple": N, "transcendental": 2 * N}),
    ("exp into two logs", "e = Exp(x) y = Log(e) z = Log(e)", {"transcendental": 3 * N}),
]


@pytest.mark.parametrize(("nodes", "required"), [each[1:] for each in SEPARATE], ids=[each[0] for each in SEPARATE])
def test_what_is_no_single_activation_is_counted_apart(nodes: str, required: dict[str, int]) -> None:
    outputs = "float[6, 10] y" + (", float[6, 10] z" if " z =" in nodes else "")
    assert analyzed(f"(float[6, 10] x) => ({outputs}) {{ {nodes} }}").required_ops == required


@pytest.mark.parametrize("end", ["y = Div(e, s)", "r = Reciprocal(s) y = Mul(e, r)"])
def test_decomposed_softmax(end: str) -> None:
    nodes = f"m = ReduceMax<axes=[1]>(x) d = Sub(x, m) e = Exp(d) s = ReduceSum(e, axis) {end}"
    text = f"(float[6, 10] x) => (float y) {{ {nodes} }}"
    found = analyzed(text, axis=np.array([1]))
    assert found.required_ops == {"transcendental": N, "simple": 4 * N}
    assert {row.pattern for row in found.rows} == {"softmax"}


@pytest.mark.parametrize(
    "nodes",
    [
        "d = Sub(x, m) q = Pow(d, two) V y = Div(d, r)",
        "d = Sub(x, m) f = Sub(x, m) q = Mul(f, f) V y = Div(d, r)",
        "d = Sub(x, m) q = Mul(d, d) V i = Reciprocal(r) y = Mul(i, d)",
    ],
)
def test_decomposed_layer_norm(nodes: str) -> None:
    nodes = nodes.replace("V", "v = ReduceMean<axes=[1]>(q) a = Add(v, eps) r = Sqrt(a)")
    text = f"(float[6, 10] x) => (float z) {{ m = ReduceMean<axes=[1]>(x) {nodes} g = Mul(y, w) z = Add(g, w) }}"
    found = analyzed(text, w=f32(10), two=np.array(np.float32(2)), eps=np.array(np.float32(1e-5)))
    assert found.required_ops == {"simple": 6 * N}
    assert sum(row.pattern == "normalization" for row in found.rows) == len(found.rows) - 2


# Traffic


def test_constants_folded_from_weights_count_as_the_smaller() -> None:
    nodes = "t = Transpose(w) b = Expand(v, shape) a = MatMul(x, t) y = Add(a, b)"
    text = f"(float[4, 256] x) => (float[4, 256] y) {{ {nodes} }}"
    found = analyzed(text, w=f32(256, 256), v=f32(1, 256), shape=np.array([4, 256]))
    assert found.traffic.weights == 256 * 256 * 2 + 256 * 2
    assert [row.op for row in found.rows] == ["MatMul", "Add"]


def test_dead_nodes_unused_weights_and_inputs_do_not_count() -> None:
    text = "(float[4] x, float[9] unused) => (float[4] y) { y = Relu(x) z = Exp(x) }"
    found = analyzed(text, w=f32(64))
    assert (found.traffic.total, found.required_ops) == (16, {"simple": 4})


def test_gathered_rows_are_whole_bursts_and_at_most_the_table() -> None:
    text = "(int64[{0}] i) => (float[{0}, 10] y) {{ y = Gather(w, i) }}"
    assert analyzed(text.format(3), w=f32(1000, 10)).traffic.weights == 3 * 64
    assert analyzed(text.format(900), w=f32(1000, 10)).traffic.weights == 1000 * 10 * 2


def test_table_that_is_also_multiplied_counts_whole_and_once() -> None:
    text = "(int64[3] i) => (float[3, 1000] y) { e = Gather(w, i) t = Transpose(w) y = MatMul(e, t) }"
    assert analyzed(text, w=f32(1000, 64)).traffic.weights == 1000 * 64 * 2


def test_node_bytes_are_operands_and_result_in_the_compiled_precision() -> None:
    found = analyzed("(float[4, 8] x) => (float[4, 6] y) { y = Gemm(x, w, b) }", w=f32(8, 6), b=f32(6))
    assert found.rows[0].bytes == 2 * (32 + 48 + 6 + 24)


def test_initialisers_that_are_listed_as_inputs_are_weights() -> None:
    made = model("(float[4, 8] x, float[8, 300] w) => (float[4, 300] y) { y = MatMul(x, w) }", w=f32(8, 300))
    found = analyze(made, V1, "float16")
    assert (found.traffic.inputs, found.traffic.weights) == (64, 4800)


# Shapes, bodies, gaps


def test_shapes_computed_in_the_graph_are_resolved() -> None:
    text = """(float[2, 3, 4] x) => (float y) {
        s = Shape(x) b = Gather(s, zero) u = Unsqueeze(b, first) c = Concat<axis=0>(u, minus)
        h = Cast<to=1>(c) k = Cast<to=7>(h) r = Reshape(x, k) y = Relu(r) }"""
    found = analyzed(text, zero=np.array(0), first=np.array([0]), minus=np.array([-1]))
    assert not found.uncounted and found.required_ops == {"simple": 24}
    assert [row.op for row in found.rows] == ["Reshape", "Relu"]


def test_old_ir_versions_with_initialisers_that_are_no_inputs() -> None:
    made = model("(float[1, 4, 6, 6] x) => (float[1, 4, 6, 6] y) { y = Conv(x, w) }", w=f32(4, 4, 1, 1))
    made.ir_version = 3
    assert analyze(made, V1, "float16").total_macs == 16 * 36


def test_functions_are_inlined() -> None:
    text = """<ir_version: 8, opset_import: ["": 17, "own": 1]>
        g (float[4, 6] x) => (float[4, 6] y) { y = own.twice(x) }
        <domain: "own", opset_import: ["": 17]> twice (a) => (b) { c = Exp(a) b = Tanh(c) }"""
    found = analyze(parser.parse_model(text), V1, "float16")
    assert [row.op for row in found.rows] == ["Exp", "Tanh"]


IF = "then_branch = t () => (float[6] a) { a = Exp(x) }, else_branch = e () => (float[6] b) { b = Relu(x) }"


def test_if_on_a_constant_counts_the_branch_that_runs() -> None:
    found = analyzed(f"(float[6] x) => (float[6] y) {{ y = If(c) <{IF}> }}", c=np.array(False))
    assert found.required_ops == {"simple": 6} and not found.uncounted


def test_if_on_data_is_reported_and_not_counted() -> None:
    found = analyzed(f"(float[6] x, bool c) => (float[6] y) {{ y = If(c) <{IF}> }}")
    assert found.uncounted == ("y (If): which branch runs depends on data",) and not found.rows


LOOP = """body = b (int64 i, bool again, float[6, 6] s) => (bool next, float[6, 6] r) {
    next = Identity(again) r = MatMul(s, w) }"""


def test_loop_counts_its_trips() -> None:
    found = analyzed(
        f"(float[6, 6] x) => (float[6, 6] y) {{ y = Loop(n, , x) <{LOOP}> }}",
        n=np.array(5),
        w=f32(6, 6),
    )
    assert found.total_macs == 5 * 216 and found.traffic.weights == 72


def test_loop_over_data_is_reported() -> None:
    found = analyzed(f"(float[6, 6] x, int64 n) => (float[6, 6] y) {{ y = Loop(n, , x) <{LOOP}> }}", w=f32(6, 6))
    assert found.uncounted == ("y (Loop): number of trips depends on data",)


def test_unknown_operator_and_shape_are_reported_by_node() -> None:
    found = analyzed("(float[6] x) => (float[1, n] y) { a = NonZero(x) b = Cast<to=1>(a) y = Exp(b) }")
    assert found.uncounted[1] == "y (Exp): shape of y is not static"
    strange = parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17, "own": 1]> g (float[6] x) => (float[6] y) { y = own.Fold(x) }'
    )
    assert analyze(strange, V1, "float16").uncounted == ("y (Fold): operator is not known",)


def test_scan_counts_its_steps() -> None:
    text = """(float[3] h, float[7, 3] x) => (float[3] last, float[7, 3] y) {
        last, y = Scan<num_scan_inputs=1, body = b (float[3] s, float[3] e) => (float[3] n, float[3] o) {
            n = Add(s, e) o = Tanh(n) }>(h, x) }"""
    assert analyzed(text).required_ops == {"transcendental": 7 * 3}


def test_attention_with_packed_projections_is_reported() -> None:
    text = "(float[1,4,8] x) => (float[1,4,8] y) { y = com.microsoft.Attention<num_heads=2>(x, w) }"
    assert analyzed(text, w=f32(8, 24)).uncounted == ("y (Attention): shape of y is not static",)


# The package


def test_every_onnx_operator_has_a_category() -> None:
    schemas = {schema.name for schema in onnx.defs.get_all_schemas() if schema.domain == ""}
    assert not schemas - set(OPERATORS)
    assert classify("NoSuchOperator").kind is Kind.OPAQUE


def test_bounds_import_nothing_of_the_compiler() -> None:
    allowed = ("dsa_compiler.bounds", "dsa_compiler.target", "dsa_compiler.errors")
    for path in Path(bounds.__path__[0]).glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [each.name for each in node.names] if isinstance(node, ast.Import) else []
            assert all(name.startswith(allowed) for name in names if name.startswith("dsa_compiler")), path


def test_analysis_is_quick_and_leaves_the_model_alone() -> None:
    made = models.build("bert2")
    before = made.SerializeToString()
    analyze(made, V1, "float16")
    assert made.SerializeToString() == before
