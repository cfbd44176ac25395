"""Operators of com.microsoft, from a model to layers, against ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import helper, numpy_helper

from dsa_compiler.errors import UserError
from dsa_compiler.frontend import load_model
from dsa_compiler.frontend.microsoft import unpacked
from dsa_compiler.graph import LayerGraph, evaluate
from dsa_compiler.graph.build import build_graph

RNG = np.random.default_rng(0)


def w(*shape: int) -> Any:
    return RNG.standard_normal(shape).astype(np.float32)


def model_of(op, inputs, constants, opset=17, outputs=("y",), domain="com.microsoft", **attrs):
    """A model of one node; `inputs` and `constants` by name, an absent one as None, in the operator's order."""
    given = {**inputs, **constants}
    infos = [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
             for n, v in inputs.items()]  # fmt: skip
    tensors = [numpy_helper.from_array(v, n) for n, v in constants.items() if v is not None]
    node = helper.make_node(op, [n if v is not None else "" for n, v in given.items()], list(outputs), name="node",
                            domain=domain, **attrs)  # fmt: skip
    results = [helper.make_empty_tensor_value_info(o) for o in outputs if o]
    graph = helper.make_graph([node], "g", infos, results, tensors)
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def compare(model, feeds, tolerance=2e-5) -> LayerGraph:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    want = dict(zip([o.name for o in session.get_outputs()], session.run(None, feeds), strict=True))
    graph = build_graph(load_model(model), None, lambda layer: "")
    got = evaluate(graph, feeds)
    for name, value in want.items():
        assert got[name].shape == value.shape and got[name].dtype == value.dtype
        np.testing.assert_allclose(got[name], value, rtol=tolerance, atol=tolerance * max(1, np.abs(value).max()))
    assert "host" not in graph.counts()
    return graph


X = w(2, 5, 12)
IMAGE = w(1, 3, 8, 8)
KERNEL = {"w": w(4, 3, 3, 3), "b": w(4)}


@pytest.mark.parametrize("opset", [11, 17, 20])
@pytest.mark.parametrize(
    ("op", "constants", "attrs"),
    [
        ("Gelu", {}, {}), ("BiasGelu", {"b": w(12)}, {}), ("FastGelu", {}, {}), ("FastGelu", {"b": w(12)}, {}),
        ("QuickGelu", {}, {}), ("QuickGelu", {}, {"alpha": 1.1}),
        ("SkipLayerNormalization", {"skip": w(2, 5, 12), "g": w(12), "s": w(12)}, {"epsilon": 1e-3}),
        ("SkipLayerNormalization", {"skip": w(2, 5, 12), "g": w(12), "s": w(12), "b": w(12)}, {}),
        ("SkipLayerNormalization", {"skip": w(2, 5, 12), "g": w(12)}, {}),
        ("SkipSimplifiedLayerNormalization", {"skip": w(2, 5, 12), "g": w(12), "b": w(12)}, {}),
        ("FusedMatMul", {"b": w(2, 7, 12)}, {"transB": 1, "alpha": 0.5}),
        ("FusedMatMul", {"b": w(2, 5, 3)}, {"transA": 1}),
    ],
)  # fmt: skip
def test_parts_of_transformers(op, constants, attrs, opset):
    compare(model_of(op, {"x": X}, constants, opset, **attrs), {"x": X})


@pytest.mark.parametrize("op", ["LayerNormalization", "SimplifiedLayerNormalization"])
def test_normalisations_that_the_runtime_puts_into_the_default_domain(op):
    constants = {"g": w(12), "s": w(12)} if op[0] == "L" else {"g": w(12)}
    graph = compare(model_of(op, {"x": X}, constants, 13, domain="", epsilon=1e-3, axis=-1), {"x": X})
    assert op[0] != "L" or graph.counts() == {"norm": 1}


def test_the_sum_before_a_normalisation_is_a_result():
    constants = {"skip": w(2, 5, 12), "g": w(12), "s": w(12)}
    compare(model_of("SkipLayerNormalization", {"x": X}, constants, outputs=("y", "", "", "total")), {"x": X})


@pytest.mark.parametrize(
    ("activation", "parameters"),
    [("Relu", None), ("Sigmoid", None), ("Tanh", None), ("LeakyRelu", [0.1]), ("Clip", [-0.5, 0.7]),
     ("HardSigmoid", [0.3, 0.4])],
)  # fmt: skip
def test_fused_convolution(activation, parameters):
    more = {} if parameters is None else {"activation_params": parameters}
    model = model_of("FusedConv", {"x": IMAGE}, KERNEL, activation=activation, pads=[1, 1, 1, 1], **more)
    compare(model, {"x": IMAGE})


def test_fused_convolution_with_an_addend():
    inputs = {"x": IMAGE}
    model = model_of("FusedConv", inputs, {**KERNEL, "z": w(1, 4, 8, 8)}, activation="Relu", pads=[1, 1, 1, 1])
    assert compare(model, inputs).counts()["conv2d"] == 1


def test_fused_gemm():
    x = w(4, 6)
    model = model_of("FusedGemm", {"x": x}, {"b": w(5, 6), "c": w(5)}, transB=1, activation="LeakyRelu",
                     activation_alpha=0.2)  # fmt: skip
    compare(model, {"x": x})


@pytest.mark.parametrize("places", [False, True])
def test_embeddings(places):
    ids, segments = RNG.integers(0, 20, (2, 5)).astype(np.int32), RNG.integers(0, 2, (2, 5)).astype(np.int32)
    inputs = {"ids": ids, "segments": segments}
    constants = {"words": w(20, 12), "places": w(9, 12), "kinds": w(2, 12), "g": w(12), "s": w(12),
                 "mask": np.ones((2, 5), np.int32)}  # fmt: skip
    if places:
        constants["position"] = np.arange(10).reshape(2, 5).astype(np.int32) % 9
    compare(model_of("EmbedLayerNormalization", inputs, constants, outputs=("y", "counts")), inputs)


@pytest.mark.parametrize(
    ("mask", "attrs"),
    [(None, {}), (np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], np.int32), {}), (np.array([3, 5], np.int32), {}),
     (None, {"scale": 0.3}), (None, {"unidirectional": 1})],
)  # fmt: skip
def test_attention(mask, attrs):
    constants = {"w": w(12, 36), "b": w(36), "m": mask}
    compare(model_of("Attention", {"x": X}, constants, num_heads=3, **attrs), {"x": X}, 1e-4)


@pytest.mark.parametrize("bias", [None, w(36)])
def test_multi_head_attention(bias):
    inputs = {"q": X, "k": w(2, 7, 12), "v": w(2, 7, 12)}
    mask = np.array([[1, 1, 1, 1, 0, 0, 0], [1] * 7], np.int32)
    compare(model_of("MultiHeadAttention", inputs, {"b": bias, "m": mask}, num_heads=4), inputs, 1e-4)


@pytest.mark.parametrize(("zeros", "k"), [(False, 32), (True, 32), (True, 40)])
def test_weights_of_four_bits(zeros, k):
    n, block = 6, 16
    blocks = -(-k // block)
    x = w(3, k)
    constants = {"b": RNG.integers(0, 256, (n, blocks, block // 2)).astype(np.uint8), "s": np.abs(w(n * blocks))}
    if zeros:
        constants["z"] = RNG.integers(0, 256, n * -(-blocks // 2)).astype(np.uint8)
    compare(model_of("MatMulNBits", {"x": x}, constants, K=k, N=n, bits=4, block_size=block), {"x": x}, 1e-4)


def test_unpacking():
    assert unpacked(np.array([[0x21, 0x43]], np.uint8), 4).tolist() == [[1, 2, 3, 4]]
    assert unpacked(np.array([[0xE4]], np.uint8), 2).tolist() == [[0, 1, 2, 3]]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (model_of("FusedConv", {"x": IMAGE}, KERNEL, activation="Softmax"), r"\[FusedConv node\] activation 'Softmax"),
        (model_of("FusedMatMul", {"x": X}, {"b": w(2, 12, 3)}, transBatchA=1), r"\[FusedMatMul node\] transposed bat"),
        (model_of("Attention", {"x": X}, {"w": w(12, 36), "b": w(36)}, num_heads=3, outputs=("y", "present")),
         "attention with a past, rotary places or heads of different sizes; export the model without this fusion"),
        (model_of("Attention", {"x": X}, {"w": w(12, 36), "b": w(36), "m": np.ones((2, 1, 5, 5), "i4")}, num_heads=3),
         r"\[Attention node\] a mask of shape \[2, 1, 5, 5\]"),
        (model_of("MultiHeadAttention", {"q": X}, {}, num_heads=3), "attention with a past or with packed operands"),
        (model_of("MultiHeadAttention", {"q": X, "k": w(2, 3, 5, 4), "v": w(2, 3, 5, 4)}, {}, num_heads=3),
         "attention with split heads"),
        (model_of("MatMulNBits", {"x": w(3, 32), "b": np.zeros((6, 2, 8), np.uint8)}, {"s": w(12)}, K=32, N=6, bits=4,
                  block_size=16), "input 1 must be a constant"),
        (model_of("MatMulNBits", {"x": w(3, 32)}, {"b": np.zeros((6, 2, 8), np.uint8), "s": w(12), "z": None,
                  "order": np.arange(32, dtype=np.int32)}, K=32, N=6, bits=4, block_size=16), "weights in another or"),
        (model_of("LayerNormalization", {"x": X}, {"g": w(12), "s": w(12)}, 13, ("y", "mean"), ""),
         "the mean and deviation as results"),
    ],
)  # fmt: skip
def test_what_is_refused(model, message):
    with pytest.raises(UserError, match=message):
        load_model(model)
