"""Operators that ONNX Runtime lacks or runs otherwise, from ONNX to layers, against onnx.reference."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from dsa_compiler.errors import UserError
from dsa_compiler.frontend import load_model
from dsa_compiler.graph import evaluate
from dsa_compiler.graph.build import build_graph

X = np.random.default_rng(0).standard_normal((4, 6)).astype(np.float32)
SPECIAL = np.array([1, np.inf, -np.inf, np.nan, 0, -2], np.float32)
MASK = np.tril(np.ones((4, 6), bool))


def run(op, inputs, constants, opset=20, **attrs):
    """The layers' result, the reference's, and the reasons of host steps."""
    infos = [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
             for n, v in inputs.items()]  # fmt: skip
    tensors = [numpy_helper.from_array(np.asarray(v), n) for n, v in constants.items()]
    node = helper.make_node(op, [*inputs, *constants], ["y"], **attrs)
    graph = helper.make_graph([node], "g", infos, [helper.make_empty_tensor_value_info("y")], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    layers = build_graph(load_model(model), None, lambda layer: "")
    reasons = [layer.calls[0].attrs["reason"] for layer in layers.layers if layer.kind == "host"]
    return evaluate(layers, inputs)["y"], ReferenceEvaluator(model).run(None, inputs)[0], reasons


@pytest.mark.parametrize(
    ("op", "inputs", "constants", "attrs"),
    [
        ("Where", {"m": MASK}, {"a": np.float32(0), "b": np.float32(-np.inf)}, {}),
        ("Where", {"m": MASK, "x": X}, {"b": np.float32(-np.inf)}, {}),
        ("IsInf", {"x": SPECIAL}, {}, {"detect_negative": 0}),
        ("IsInf", {"x": SPECIAL}, {}, {"detect_positive": 0}),
        ("IsInf", {"x": SPECIAL}, {}, {"detect_positive": 0, "detect_negative": 0}),
        ("IsInf", {"x": SPECIAL}, {}, {}),
        ("LpNormalization", {"x": X * (np.arange(6) > 0)}, {}, {"axis": 0, "p": 2}),
        ("Resize", {"x": X.reshape(1, 1, 4, 6)}, {"r": np.float32([]), "s": np.float32([1, 1, 0.5, 0.6])},
         {"mode": "linear", "antialias": 1}),
        ("Resize", {"x": X.reshape(1, 1, 4, 6)}, {"r": np.float32([]), "s": np.float32([1, 1, 0.5, 0.6])},
         {"mode": "cubic", "antialias": 1}),
    ],
)  # fmt: skip
def test_meaning(op, inputs, constants, attrs):
    got, want, reasons = run(op, {n: np.asarray(v, v.dtype) for n, v in inputs.items()}, constants, **attrs)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
    assert got.dtype == want.dtype and not reasons


@pytest.mark.parametrize("causal", [0, 1])
def test_attention_of_onnx_runs_by_its_definition(causal):
    q, k, v = (np.random.default_rng(i).standard_normal((2, 3, 4, 8)).astype(np.float32) for i in range(3))
    got, want, reasons = run("Attention", {"q": q, "k": k, "v": v}, {}, opset=23, is_causal=causal)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
    assert not reasons


def test_results_that_a_converter_lacks_are_left_to_the_host():
    node = helper.make_node("Dropout", ["x"], ["y", "mask"])
    graph = helper.make_graph([node], "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, X.shape)],
                              [helper.make_empty_tensor_value_info(n) for n in ("y", "mask")])  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=9)
    layers = build_graph(load_model(model), None, lambda layer: "")
    got = evaluate(layers, {"x": X})
    np.testing.assert_array_equal(got["y"], X)
    assert got["mask"].all() and layers.counts() == {"host": 1}
    assert layers.layers[0].calls[0].attrs["reason"] == "no converter for more than 1 results"


def test_a_transposed_convolution_with_computed_weights_runs_on_the_host():
    image, kernel = X.reshape(1, 1, 4, 6), np.ones((1, 2, 3, 3), np.float32)
    got, want, reasons = run("ConvTranspose", {"x": image, "w": kernel}, {}, opset=17, strides=[2, 2])
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
    assert reasons == ["weights that are computed"]


def test_a_host_step_of_another_shape_than_inferred_is_told():
    signal = np.zeros((1, 128, 1), np.float32)
    constants = {"step": np.array(8), "w": np.ones(16, np.float32), "n": np.array(16)}
    with pytest.raises(UserError, match=r"the host computes \[1, 15, 9, 2\], ONNX's shape inference says"):
        run("STFT", {"x": signal}, constants, opset=17)


def test_space_to_depth_column_first():
    image = np.arange(2 * 4 * 6, dtype=np.float32).reshape(1, 2, 4, 6)
    got, want, reasons = run("SpaceToDepth", {"x": image}, {}, opset=28, blocksize=2, mode="CRD")
    np.testing.assert_array_equal(got, want)
    assert not reasons


def test_padding_with_a_computed_value_is_not_padding_with_zero():
    value = np.float32([7.5])
    inputs = {"x": X, "pads": np.array([1, 0, 0, 2]), "v": value}
    node = helper.make_node("Pad", ["x", "pads", "v"], ["y"])
    infos = [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(inputs[n].dtype), inputs[n].shape)
             for n in ("x", "v")]  # fmt: skip
    graph = helper.make_graph([node], "g", infos, [helper.make_empty_tensor_value_info("y")],
                              [numpy_helper.from_array(inputs["pads"], "pads")])  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    layers = build_graph(load_model(model), None, lambda layer: "")
    got = evaluate(layers, {"x": X, "v": value})["y"]
    np.testing.assert_array_equal(got, np.pad(X, ((1, 0), (0, 2)), constant_values=7.5))


@pytest.mark.parametrize("target", ["FLOAT8E4M3FN", "FLOAT8E5M2", "INT4"])
def test_casts_to_narrow_types_saturate(target):
    wide = np.array([0.4, -3, 1e6, -1e6, 17.3, 448], np.float32)
    got, want, reasons = run("Cast", {"x": wide}, {}, opset=21, to=TensorProto.DataType.Value(target))
    np.testing.assert_array_equal(got.astype(np.float64), np.asarray(want).astype(np.float64))
    assert "casts with" in reasons[0]


def test_casts_to_the_type_of_another_value():
    got, want, reasons = run("CastLike", {"x": X * 10, "like": np.zeros(1, np.int32)}, {}, opset=19)
    np.testing.assert_array_equal(got, want)
    assert got.dtype == np.int32 and not reasons
