"""The networks in 8-bit integers: near the float networks, integer where they should be, the same in every run."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto

import models
from models.quantized import quantize, ranges


def _outputs(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options).run(None, feeds)[0]


@pytest.mark.parametrize(
    ("name", "chosen", "least"),
    [
        ("resnet18", {"image": 64}, 0.99),
        ("mobilenet_v2", {"image": 64}, 0.9),
        ("tiny_cnn", {}, 0.99),
        ("tiny_transformer", {}, 0.99),
    ],
)
def test_quantised_networks_are_near_the_float_ones(name: str, chosen: dict[str, int], least: float) -> None:
    whole, real = models.build(f"{name}_int8", **chosen), models.build(name, **chosen)
    onnx.checker.check_model(whole)
    feeds = models.sample_inputs(real, 5)
    a, b = (_outputs(model, feeds).ravel().astype(np.float64) for model in (whole, real))
    assert a @ b / np.linalg.norm(a) / np.linalg.norm(b) > least
    assert not np.array_equal(a, b)


def test_weights_and_biases_are_integers() -> None:
    model = models.build("resnet50_int8", image=64)
    kinds = {t.name: t.data_type for t in model.graph.initializer}
    dequantized = {n.output[0]: n.input[0] for n in model.graph.node if n.op_type == "DequantizeLinear"}
    products = [n for n in model.graph.node if n.op_type in ("Conv", "Gemm")]
    assert len(products) == 54
    for node in products:
        assert kinds[dequantized[node.input[1]]] == TensorProto.INT8
        assert kinds[dequantized[node.input[2]]] == TensorProto.INT32
    assert not any(k == TensorProto.FLOAT and len(t.dims) > 1 for t in model.graph.initializer for k in [t.data_type])


@pytest.mark.parametrize(("symmetric", "dtype"), [(False, np.uint8), (True, np.int8)])
def test_zero_points(symmetric: bool, dtype: type) -> None:
    model = models.build("tiny_cnn_int8", symmetric=symmetric)
    arrays = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    zeros = [arrays[n.input[2]] for n in model.graph.node if n.op_type == "QuantizeLinear"]
    assert {z.dtype.type for z in zeros} == {dtype}
    assert any(z != 0 for z in zeros) != symmetric


def test_the_same_in_every_run() -> None:
    first, second = (models.build("tiny_cnn_int8").SerializeToString() for _ in range(2))
    assert first == second


def test_ranges_are_rounded_outwards_and_hold_zero() -> None:
    model = models.build("tiny_cnn")
    found = ranges(model)
    low, high = found["input"]
    values = [models.sample_inputs(model, seed)["input"] for seed in (101, 102)]
    assert low <= min(v.min() for v in values) and high >= max(v.max() for v in values)
    assert all(a <= 0 <= b and float(f"{b:.1e}") == pytest.approx(b) for a, b in found.values())
    relu = next(n.output[0] for n in model.graph.node if n.op_type == "Relu")
    assert found[relu][0] == 0.0


def test_a_model_without_ranges_is_refused() -> None:
    with pytest.raises(KeyError, match="input"):
        quantize(models.build("tiny_cnn"), {})
