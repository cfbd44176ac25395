"""Networks in 8-bit integers: a float network of this package with quantisations around its products (QDQ).

Weights are int8 with a scale for each output channel, biases int32 in units of the sums. Activations are uint8 with a
zero point, or int8 without one (`symmetric`, as products of two activations want it); their ranges come from a run of
the same network on seeded inputs, rounded up to two digits, so that they do not depend on the machine.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, NodeProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from models.mobilenet import mobilenet_v2
from models.resnet import resnet18, resnet50
from models.samples import sample_inputs
from models.tiny import tiny_cnn, tiny_transformer

PRODUCTS = frozenset({"Conv", "Gemm", "MatMul"})
QUANTIZED = PRODUCTS | {"Add", "Relu", "Clip", "MaxPool", "GlobalAveragePool", "Softmax", "LayerNormalization"}
"""Operators whose results are quantised, unless what follows is computed with them; so is all that a product reads."""
MOVEMENTS = frozenset({"Flatten", "Reshape", "Transpose"})
RECTIFIERS = frozenset({"Relu", "Clip"})
CALIBRATION_SEEDS = (101, 102)
OPSET = 19
"""The first opset whose quantisations `onnx.reference` runs."""

Range = tuple[float, float]
Array = npt.NDArray[np.float32]


def resnet18_int8(
    batch: int = 1, *, image: int = 224, classes: int = 1000, seed: int = 18, symmetric: bool = False
) -> ModelProto:
    """ResNet-18 in 8 bits: input [batch, 3, image, image], output logits [batch, classes], both float."""
    small = resnet18(1, image=64, classes=classes, seed=seed)
    return quantize(resnet18(batch, image=image, classes=classes, seed=seed), ranges(small), symmetric)


def resnet50_int8(
    batch: int = 1, *, image: int = 224, classes: int = 1000, seed: int = 50, symmetric: bool = False
) -> ModelProto:
    """ResNet-50 in 8 bits: input [batch, 3, image, image], output logits [batch, classes], both float."""
    small = resnet50(1, image=64, classes=classes, seed=seed)
    return quantize(resnet50(batch, image=image, classes=classes, seed=seed), ranges(small), symmetric)


def mobilenet_v2_int8(batch: int = 1, *, image: int = 224, classes: int = 1000, symmetric: bool = False) -> ModelProto:
    """MobileNetV2 in 8 bits: input [batch, 3, image, image], output logits [batch, classes], both float."""
    small = mobilenet_v2(1, image=64, classes=classes)
    return quantize(mobilenet_v2(batch, image=image, classes=classes), ranges(small), symmetric)


def tiny_cnn_int8(batch: int = 1, *, symmetric: bool = False) -> ModelProto:
    """`tiny_cnn` in 8 bits."""
    return quantize(tiny_cnn(batch), ranges(tiny_cnn(1)), symmetric)


def tiny_transformer_int8(batch: int = 1) -> ModelProto:
    """`tiny_transformer` in 8 bits without zero points, so that products of two activations sum integers."""
    return quantize(tiny_transformer(batch), ranges(tiny_transformer(1)), True)


def ranges(model: ModelProto) -> dict[str, Range]:
    """The least and the greatest value of each value of `model` on seeded inputs, zero among them, rounded outwards."""
    observed = ModelProto()
    observed.CopyFrom(model)
    names = [name for node in model.graph.node for name in node.output]
    del observed.graph.output[:]
    observed.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
    runner = ReferenceEvaluator(observed)
    found: dict[str, Range] = {}
    for seed in CALIBRATION_SEEDS:
        feeds = sample_inputs(model, seed)
        for name, values in [*feeds.items(), *zip(names, runner.run(None, feeds), strict=True)]:
            low, high = found.get(name, (0.0, 0.0))
            found[name] = (min(low, float(np.min(values))), max(high, float(np.max(values))))
    return {name: (_outwards(low), _outwards(high)) for name, (low, high) in found.items()}


def _outwards(value: float) -> float:
    """The value rounded away from zero to two digits."""
    if value == 0:
        return 0.0
    step = 10.0 ** (math.floor(math.log10(abs(value))) - 1)
    return math.copysign(math.ceil(abs(value) / step) * step, value)


def quantize(model: ModelProto, found: dict[str, Range], symmetric: bool = False) -> ModelProto:
    """`model` with its activations and the weights of its products quantised; `found` are the activations' ranges."""
    return _Quantizer(model, found, symmetric).run()


class _Quantizer:
    def __init__(self, model: ModelProto, found: dict[str, Range], symmetric: bool) -> None:
        self.model = ModelProto()
        self.model.CopyFrom(model)
        self.model.opset_import[0].version = OPSET
        self.model.ir_version = 9
        self.graph, self.found, self.symmetric = self.model.graph, found, symmetric
        self.weights = {t.name: numpy_helper.to_array(t) for t in self.graph.initializer}
        self.renamed: dict[str, str] = {}
        self.scales: dict[str, np.float32] = {}
        self.nodes: list[NodeProto] = []

    def run(self) -> ModelProto:
        """The model with quantisations."""
        nodes = list(self.graph.node)
        self.graph.name += "_int8"
        for value in self.graph.input:
            if value.type.tensor_type.elem_type == 1:
                self._activation(value.name)
        for node in nodes:
            node.input[:] = [self.renamed.get(name, name) for name in node.input]
            if node.op_type in PRODUCTS:
                self._operands(node)
            self.nodes.append(node)
            if node.op_type in MOVEMENTS and node.input[0] in self.scales:
                self.scales[node.output[0]] = self.scales[node.input[0]]
            if self._is_quantized(node, nodes):
                self._activation(node.output[0])
        del self.graph.node[:]
        self.graph.node.extend(self.nodes)
        used = {name for node in self.nodes for name in node.input}
        kept = [t for t in self.graph.initializer if t.name in used]
        del self.graph.initializer[:]
        self.graph.initializer.extend(kept)
        return self.model

    def _is_quantized(self, node: NodeProto, nodes: Iterable[NodeProto]) -> bool:
        readers = [n for n in nodes if node.output[0] in n.input]
        if node.op_type in MOVEMENTS and node.input[0] in self.scales:
            return False
        if any(r.op_type in PRODUCTS for r in readers):
            return True
        return node.op_type in QUANTIZED and not (readers and all(self._goes_with(r) for r in readers))

    def _goes_with(self, reader: NodeProto) -> bool:
        """Whether a node is computed with what it reads: a rectifier, a bias, a constant factor."""
        constant = any(name in self.weights for name in reader.input)
        return reader.op_type in RECTIFIERS or (reader.op_type in ("Add", "Mul") and constant)

    def _activation(self, name: str) -> None:
        """Quantise and dequantise a value; what reads it reads that."""
        low, high = self.found[name]
        if self.symmetric:
            scale, zero = np.float32(max(-low, high, 1e-6) / 127), np.asarray(0, np.int8)
        else:
            scale = np.float32(max(high - low, 1e-6) / 255)
            zero = np.asarray(np.clip(np.rint(-low / scale), 0, 255), np.uint8)
        grid = [self._constant(f"{name}_scale", np.asarray(scale)), self._constant(f"{name}_zero", zero)]
        quantized, value = f"{name}_quantized", f"{name}_dequantized"
        self.nodes.append(helper.make_node("QuantizeLinear", [name, *grid], [quantized], f"{name}_quantize"))
        self.nodes.append(helper.make_node("DequantizeLinear", [quantized, *grid], [value], f"{name}_dequantize"))
        self.renamed[name], self.scales[value] = value, scale

    def _operands(self, node: NodeProto) -> None:
        """Quantise the weight and the bias of a product."""
        if node.input[1] not in self.weights:
            return
        values = self.weights[node.input[1]]
        transposed = any(a.name == "transB" and a.i for a in node.attribute)
        axis = 0 if node.op_type == "Conv" or transposed else values.ndim - 1
        others = tuple(d for d in range(values.ndim) if d != axis)
        scale = np.maximum(np.abs(values).max(axis=others), np.float32(1e-6)) / np.float32(127)
        wide = scale.reshape([-1 if d == axis else 1 for d in range(values.ndim)])
        whole = np.clip(np.rint(values / wide), -127, 127).astype(np.int8)
        node.input[1] = self._dequantized(node.input[1], whole, scale, axis)
        if len(node.input) > 2 and node.input[0] in self.scales:
            step = scale * self.scales[node.input[0]]
            bias = np.rint(self.weights[node.input[2]] / step).astype(np.int32)
            node.input[2] = self._dequantized(node.input[2], bias, step, 0)

    def _dequantized(self, name: str, whole: npt.NDArray[np.integer], scale: Array, axis: int) -> str:
        operands = [self._constant(f"{name}_quantized", whole), self._constant(f"{name}_scale", scale)]
        operands.append(self._constant(f"{name}_zero", np.zeros(scale.shape, whole.dtype)))
        result = f"{name}_dequantized"
        self.nodes.append(helper.make_node("DequantizeLinear", operands, [result], f"{name}_dequantize", axis=axis))
        return result

    def _constant(self, name: str, values: npt.NDArray[np.generic]) -> str:
        self.graph.initializer.append(numpy_helper.from_array(values, name))
        return name
