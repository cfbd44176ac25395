"""Multiply-accumulates of the matrix operators, and the element type in which the matrix engine would do them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
from onnx import NodeProto

from dsa_compiler.bounds.dtypes import FLOATS, compiled_dtype
from dsa_compiler.bounds.graph import Graph, UnknownShape, attribute

GATES = MappingProxyType({"LSTM": 4, "DynamicQuantizeLSTM": 4, "GRU": 3, "RNN": 1})
"""Gates of a recurrent cell."""

_QUANTIZED = "DequantizeLinear"


def macs(graph: Graph, node: NodeProto) -> int:
    """Multiply-accumulates of a node, padded taps of convolutions included; 0 if it multiplies no matrices.

    Raises UnknownShape if a shape that the count needs is unknown.
    """
    count = _COUNTS.get(node.op_type)
    return count(graph, node) if count else 0


def is_depthwise(graph: Graph, node: NodeProto) -> bool:
    """Whether a node is a convolution with one input channel for each group, and several groups."""
    return "Conv" in node.op_type and attribute(node, "group", 1) > 1 and graph.shape(node.input[_weight(node)])[1] == 1


def product_dtype(graph: Graph, node: NodeProto, precision: str | None) -> str:
    """The element type of a matrix node's left operand on the part, before asking what the part has.

    Float products of dequantised operands count as products of the quantised type, which is no slower.
    """
    left = node.input[0]
    if node.op_type.startswith("Dynamic"):
        return graph.dtype(node.input[1])
    own = graph.dtype(left)
    if own in FLOATS and len(node.input) > 1 and all(_dequantized(graph, name) for name in node.input[:2]):
        maker = graph.maker(left)
        return graph.dtype(maker.input[0]) if maker is not None else own
    return compiled_dtype(own, precision)


def _dequantized(graph: Graph, name: str) -> bool:
    maker = graph.maker(name)
    return maker is not None and maker.op_type == _QUANTIZED


def _weight(node: NodeProto) -> int:
    """Position of the weight among a convolution's operands."""
    return 3 if node.op_type == "QLinearConv" else 1


def _convolution(graph: Graph, node: NodeProto) -> int:
    return graph.elements(node.output[0]) * math.prod(graph.shape(node.input[_weight(node)])[1:])


def _transposed_convolution(graph: Graph, node: NodeProto) -> int:
    """Products of an element and a tap that reach the result; padding crops the others."""
    data, weights, result = (graph.shape(name) for name in (*node.input[:2], node.output[0]))
    rank = len(data) - 2
    strides, dilations = (list(attribute(node, name, None) or [1] * rank) for name in ("strides", "dilations"))
    count = data[0] * data[1] * weights[1]
    for axis in range(rank):
        begin = _cropped(node, axis, data[2 + axis], weights[2 + axis], result[2 + axis], strides, dilations)
        places = np.arange(data[2 + axis])[:, None] * strides[axis] + np.arange(weights[2 + axis]) * dilations[axis]
        count *= int(np.count_nonzero((places >= begin) & (places < begin + result[2 + axis])))
    return count


def _cropped(
    node: NodeProto, axis: int, extent: int, taps: int, result: int, strides: list[int], dilations: list[int]
) -> int:
    """Places before the first of the result along one spatial axis of a transposed convolution."""
    pads = attribute(node, "pads", None)
    if pads and not attribute(node, "output_shape", None):
        return int(pads[axis])
    total = strides[axis] * (extent - 1) + (taps - 1) * dilations[axis] + 1 - result
    return max(0, total // 2)


def _matmul(graph: Graph, node: NodeProto) -> int:
    left = graph.shape(node.input[0])
    depth = left[-2] if attribute(node, "transA", 0) and len(left) > 1 else left[-1]
    return graph.elements(node.output[0]) * depth


def _quantized_matmul(graph: Graph, node: NodeProto) -> int:
    return graph.elements(node.output[0]) * graph.shape(node.input[0])[-1]


def _blocked_matmul(graph: Graph, node: NodeProto) -> int:
    return math.prod(graph.shape(node.input[0])) * int(attribute(node, "N"))


def _einsum(graph: Graph, node: NodeProto) -> int:
    """Product of all index extents if an index is summed over two operands; a plain product of elements is none."""
    equation = attribute(node, "equation").replace(" ", "")
    operands, _, result = equation.partition("->")
    terms = operands.split(",")
    if len(terms) < 2:
        return 0
    extents: dict[str, int] = {}
    for term, name in zip(terms, node.input, strict=True):
        for index, size in _index_extents(term, graph.shape(name)).items():
            extents[index] = max(size, extents.get(index, 1))
    summed = [index for index in extents if (index not in result if "->" in equation else operands.count(index) > 1)]
    return math.prod(extents.values()) * (len(terms) - 1) if summed else 0


def _index_extents(term: str, shape: tuple[int, ...]) -> dict[str, int]:
    """Extent by index letter; the axes of an ellipsis are named by their distance from its end."""
    before, _, after = term.partition("...")
    letters = list(before)
    letters += [f"...{rank}" for rank in range(len(shape) - len(before) - len(after), 0, -1)] if "..." in term else []
    return dict(zip(letters + list(after), shape, strict=True))


def _recurrent(graph: Graph, node: NodeProto) -> int:
    steps, width = math.prod(graph.shape(node.input[0])[:2]), graph.shape(node.input[0])[2]
    hidden = hidden_size(graph, node)
    return steps * directions(node) * GATES[node.op_type] * hidden * (width + hidden)


def hidden_size(graph: Graph, node: NodeProto) -> int:
    """Width of a recurrent operator's state."""
    return int(attribute(node, "hidden_size") or graph.shape(node.input[2])[-1])


def directions(node: NodeProto) -> int:
    """1, or 2 for a bidirectional recurrent operator."""
    return 2 if attribute(node, "direction", "forward") == "bidirectional" else 1


def score_elements(graph: Graph, node: NodeProto) -> int:
    """Elements of the attention scores [batch, heads, queries, keys]."""
    query, key = graph.shape(node.input[0]), graph.shape(node.input[1])
    heads = int(attribute(node, "q_num_heads", 0) or attribute(node, "num_heads", 0) or query[1])
    past = graph.shape(node.input[4])[-2] if node.op_type == "Attention" and _given(node, 4) else 0
    return query[0] * heads * query[-2] * (key[-2] + past)


def _given(node: NodeProto, index: int) -> bool:
    return len(node.input) > index and node.input[index] != ""


def _attention(graph: Graph, node: NodeProto) -> int:
    if not _given(node, 2):
        raise UnknownShape(node.output[0])  # packed projections of com.microsoft
    query, value = graph.shape(node.input[0]), graph.shape(node.input[2])
    heads = int(attribute(node, "q_num_heads", 0) or attribute(node, "num_heads", 0) or 1)
    value_heads = int(attribute(node, "kv_num_heads", 0) or heads)
    depths = (query[-1], value[-1]) if len(query) == 4 else (query[-1] // heads, value[-1] // value_heads)
    return score_elements(graph, node) * sum(depths)


_COUNTS: Mapping[str, Callable[[Graph, NodeProto], int]] = MappingProxyType(
    {
        **dict.fromkeys(("Conv", "ConvInteger", "QLinearConv", "FusedConv", "DeformConv"), _convolution),
        "CausalConvWithState": _convolution,
        "ConvTranspose": _transposed_convolution,
        **dict.fromkeys(("MatMul", "Gemm", "FusedMatMul", "FusedGemm", "QGemm"), _matmul),
        **dict.fromkeys(
            ("MatMulInteger", "QLinearMatMul", "MatMulIntegerToFloat", "DynamicQuantizeMatMul"), _quantized_matmul
        ),
        "MatMulNBits": _blocked_matmul,
        "Einsum": _einsum,
        **dict.fromkeys(GATES, _recurrent),
        **dict.fromkeys(("Attention", "FlexAttention", "MultiHeadAttention"), _attention),
    }
)
