"""The models of the regression: where each comes from, and inputs on which its outputs depend."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, numpy_helper

import models
from dsa_compiler.frontend import load_model

FILES = (
    "mnist-8", "mnist_mlp_onnxmlir", "cifar_cnn_winml", "iris_mlp_winml", "super_resolution_10",
    "SqueezeNet_fp32_from_fp16", "SqueezeNet_fp16", "ultraface_slim_320_simplified", "yolox_nano_416",
    "FastestDet_352", "tbefn_180x320", "reid_retail_0288", "cct_2_32_32_128_op20", "light_shufflenet_randw",
    "light_inception_v1_randw", "light_resnet50", "light_bvlc_alexnet", "light_inception_v1", "light_shufflenet",
    "light_squeezenet", "ultraface_RFB_320", "yunet_120x160", "deeplab_v3_mnv2_257", "candy_style_720",
    "ppocr_v2_det", "ppocr_mobile_v2_cls", "silero_vad", "silero_vad_openvino_16k", "DTLN_model_1", "gtcrn_simple",
    "magika_standard_v3_3",
)  # fmt: skip
LARGE = frozenset({"candy_style_720"})
"""Models whose float32 program exceeds the program memory of a single small core; they run on parts with many."""
SHAPES: Mapping[str, Mapping[str, tuple[int, ...]]] = {
    "ppocr_v2_det": {"x": (1, 3, 320, 320)},
    "ppocr_mobile_v2_cls": {"x": (1, 3, 48, 192)},
    "silero_vad": {"input": (1, 576), "state": (2, 1, 128)},
}
"""Extents of models that leave them open."""
GENERATED: Mapping[str, Mapping[str, Any]] = {
    "resnet18": {}, "resnet50": {}, "mobilenet_v2": {}, "bert2": {}, "tiny_cnn": {}, "tiny_transformer": {},
}  # fmt: skip
QUANTIZED = (
    "mnist_convinteger_quant", "SqueezeNet_int8_qdq_perchannel", "ultraface_RFB_320_uint8_qop", "FastestDet_int8_qdq",
    "DTLN_model_1_dynquant",
)  # fmt: skip
"""Models in 8-bit integers, held to the bounds of `ci.quantized`."""
NAMES = (*FILES, *QUANTIZED, *GENERATED)
PIXELS = frozenset({"candy_style_720", "yolox_nano_416"})
"""Models that take images in 0 to 255. On other inputs yolox_nano_416 is so ill-conditioned that rounding its weights
to float16 alone changes its outputs by half; candy_style_720 normalises what is nearly black, and ONNX Runtime's own
float32 is further from float64 than the bound."""

TEXTS = frozenset({"ppocr_v2_det"})
"""Models that look for text: on anything else their outputs are zero but for the rounding of the last sigmoid."""
SCALARS: Mapping[str, Mapping[str, int]] = {"silero_vad": {"sr": 16000}}
"""Inputs of which only some values make sense."""


def load_case(name: str, folder: Path) -> ModelProto:
    """The model `name` with static shapes; constant weights of `light_*` models become seeded random ones."""
    if name in GENERATED:
        return models.build(name, **GENERATED[name])
    model = onnx.load(folder / f"{name}.onnx")
    if any(node.op_type == "ConstantOfShape" for node in model.graph.node):
        randomize_weights(model)
    return load_model(model, shapes=dict(SHAPES.get(name, {})))


def case_inputs(name: str, model: ModelProto, seed: int = 1) -> dict[str, np.ndarray]:
    """Inputs of the model `name`: those of the generators, in the range and dtype that the model wants."""
    feeds = models.sample_inputs(model, seed)
    if name in PIXELS:
        feeds = {key: np.clip(50 * value + 128, 0, 255) for key, value in feeds.items()}
    if name in TEXTS:
        feeds = {key: _text_image(value.shape, seed) for key, value in feeds.items()}
    feeds |= {key: np.asarray(value) for key, value in SCALARS.get(name, {}).items()}
    wanted = {i.name: onnx.helper.tensor_dtype_to_np_dtype(i.type.tensor_type.elem_type) for i in model.graph.input}
    return {name: value.astype(wanted[name]) for name, value in feeds.items()}


def _text_image(shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Lines of dark strokes, as letters have them, on a light ground: images [n, c, h, w]."""
    random = np.random.default_rng(seed)
    image = np.full(shape, 2.2, np.float32)
    for top in range(40, shape[2] - 20, 45):
        for left in range(10, shape[3] - 10, 10):
            for across in random.random(4) < 0.5:
                row, column = top + int(random.integers(0, 14)), left + int(random.integers(0, 6))
                if across:
                    image[:, :, row : row + 2, left : left + 8] = -2
                else:
                    image[:, :, top : top + 16, column : column + 2] = -2
    return image


def randomize_weights(model: ModelProto, seed: int = 0) -> None:
    """Replace the constant fills and constant initialisers of weights by seeded random ones, in place.

    Weights of convolutions and products are normal with variance 1 / fan-in and no mean, so that what all channels
    have in common does not drown what depends on the input; scales and variances of normalisations lie about 1.
    """
    random = np.random.default_rng(seed)
    shapes = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    filled = {
        node.output[0]: tuple(shapes[node.input[0]].tolist())
        for node in model.graph.node
        if node.op_type == "ConstantOfShape" and node.input[0] in shapes
    }
    constant = {t.name: tuple(t.dims) for t in model.graph.initializer if _uniform(t)}
    roles = {name: (node, place) for node in model.graph.node for place, name in enumerate(node.input)}
    for name, shape in {**filled, **constant}.items():
        if name in roles and (value := _random(random, *roles[name], shape)) is not None:
            _set_initializer(model, name, value)
    given = {t.name for t in model.graph.initializer}
    for node in [n for n in model.graph.node if n.op_type == "ConstantOfShape" and n.output[0] in given]:
        model.graph.node.remove(node)


def _uniform(tensor: TensorProto) -> bool:
    """Whether all elements of a float initialiser are the same."""
    if tensor.data_type != TensorProto.FLOAT or len(tensor.dims) == 0:
        return False
    values = numpy_helper.to_array(tensor)
    return values.size > 1 and bool((values == values.flat[0]).all())


def _random(random: np.random.Generator, node: Any, place: int, shape: tuple[int, ...]) -> np.ndarray | None:
    if node.op_type == "BatchNormalization" and place:
        low, high = ((0.5, 1.5), (-0.02, 0.02), (-0.02, 0.02), (0.5, 1.5))[place - 1]
        return random.uniform(low, high, shape).astype(np.float32)
    if node.op_type == "Reshape" and place == 0 and len(shape) > 1:
        return (random.standard_normal(shape) * np.sqrt(1 / shape[-1])).astype(np.float32)
    if node.op_type in ("Conv", "Gemm", "MatMul") and place == 1:
        return _weights(random, node, shape)
    if node.op_type in ("Conv", "Gemm") and place == 2:
        return (random.standard_normal(shape) * 0.02).astype(np.float32)
    return None


def _weights(random: np.random.Generator, node: Any, shape: tuple[int, ...]) -> np.ndarray:
    transposed = any(a.name == "transB" and a.i for a in node.attribute)
    axes = (0,) if node.op_type in ("Gemm", "MatMul") and not transposed else tuple(range(1, len(shape)))
    fan_in = int(np.prod([shape[a] for a in axes]))
    weights = random.standard_normal(shape) * np.sqrt(1 / fan_in)
    return (weights - weights.mean(axis=axes, keepdims=True)).astype(np.float32)


def _set_initializer(model: ModelProto, name: str, value: np.ndarray) -> None:
    for tensor in [t for t in model.graph.initializer if t.name == name]:
        model.graph.initializer.remove(tensor)
    model.graph.initializer.append(numpy_helper.from_array(value, name))
