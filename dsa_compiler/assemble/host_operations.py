"""Scalar operations of a host step, by the manual: one for each output and reduced element, n log2 n for sorts, all
pairs for suppression."""

from __future__ import annotations

import math

import onnx
from onnx import ModelProto, NodeProto

_PRODUCTS = frozenset({"MatMul", "Gemm", "MatMulInteger", "QLinearMatMul"})
_CONVOLUTIONS = frozenset({"Conv", "ConvInteger", "QLinearConv", "ConvTranspose"})
_SORTS = frozenset({"TopK", "Unique"})
_READING = frozenset({"ArgMax", "ArgMin", "CumSum", "Det", "Softmax", "LogSoftmax", "Hardmax"})
"""Operators that reduce or scan all that they read, besides those called Reduce..."""

Shape = tuple[int, ...]


def model_operations(model: ModelProto) -> int:
    """Scalar operations of a host step's model; tensors of unknown shape count as one element."""
    shapes = _shapes(model)
    return max(1, sum(_node_operations(node, shapes) for node in model.graph.node))


def _shapes(model: ModelProto) -> dict[str, Shape]:
    graph = onnx.shape_inference.infer_shapes(model).graph
    values = (*graph.input, *graph.value_info, *graph.output)
    shapes = {v.name: tuple(max(1, d.dim_value) for d in v.type.tensor_type.shape.dim) for v in values}
    return shapes | {t.name: tuple(t.dims) for t in graph.initializer}


def _node_operations(node: NodeProto, shapes: dict[str, Shape]) -> int:
    written = sum(math.prod(shapes.get(name, ())) for name in node.output if name)
    inputs = [shapes.get(name, ()) for name in node.input]
    read = max((math.prod(s) for s in inputs), default=0)
    if node.op_type in _PRODUCTS and inputs and inputs[0]:
        transposed = any(a.name == "transA" and a.i for a in node.attribute)
        return written * inputs[0][-2 if transposed and len(inputs[0]) > 1 else -1]
    if node.op_type in _CONVOLUTIONS:
        weights = next((s for s in inputs[1:] if len(s) == len(inputs[0])), (1, 1))
        if node.op_type == "ConvTranspose":
            return math.prod(inputs[0]) * math.prod(weights[1:])
        return written * math.prod(weights[1:])
    if node.op_type in _SORTS:
        return written + int(read * max(1.0, math.log2(max(read, 2))))
    if node.op_type == "NonMaxSuppression":
        boxes = inputs[0][1] if len(inputs[0]) == 3 else 1
        return written + math.prod(inputs[1]) * boxes
    return written + (read if node.op_type.startswith("Reduce") or node.op_type in _READING else 0)
