"""The models of part 1, from file to layers, against ONNX Runtime. DSAC_MODELS names their folder."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from dsa_compiler.frontend import load_model

FOLDER = os.environ.get("DSAC_MODELS", "")
pytestmark = pytest.mark.skipif(not FOLDER, reason="DSAC_MODELS is not set")

# model -> greatest number of layers (fusion must not get worse)
MODELS = {
    "mnist-8": 5, "mnist_mlp_onnxmlir": 4, "cifar_cnn_winml": 7, "iris_mlp_winml": 3, "super_resolution_10": 5,
    "SqueezeNet_fp32_from_fp16": 32, "SqueezeNet_fp16": 32, "ultraface_slim_320_simplified": 44,
    "yolox_nano_416": 122, "FastestDet_352": 102, "tbefn_180x320": 71, "reid_retail_0288": 220,
    "cct_2_32_32_128_op20": 30, "light_shufflenet_randw": 76, "light_inception_v1_randw": 78, "light_resnet50": 58,
}  # fmt: skip


def with_random_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """Replace uniform weights, as the light models have, by seeded random ones that keep the signal's size."""
    rng = np.random.default_rng(0)
    for tensor in model.graph.initializer:
        value = numpy_helper.to_array(tensor)
        if value.dtype.kind != "f" or value.size < 64 or np.ptp(value) != 0:
            continue
        if value.ndim > 1:
            random = rng.standard_normal(value.shape) / np.sqrt(np.prod(value.shape[1:]))
        else:
            random = rng.uniform(0.5, 1.0, value.shape)
        tensor.CopyFrom(numpy_helper.from_array(random.astype(value.dtype), tensor.name))
    return model


@pytest.mark.parametrize("name", MODELS)
def test_model_becomes_layers_with_the_same_values(name, compare):
    model = load_model(Path(FOLDER) / f"{name}.onnx")
    tolerance = 5e-3 if name.endswith("_fp16") else 5e-4
    graph = compare(with_random_weights(model), tolerance)
    assert len(graph.layers) <= MODELS[name]
    assert "other" not in graph.counts()


def test_float16_keeps_the_interface(compare):
    graph = compare(Path(FOLDER) / "mnist-8.onnx", 1e-2, "float16")
    assert graph.tensors[graph.inputs[0]].dtype == graph.tensors[graph.outputs[0]].dtype == "float32"
    assert {t.dtype for t in graph.tensors.values() if t.role == "activation"} == {"float16"}
