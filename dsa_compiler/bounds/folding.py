"""Small constants that a graph computes (shapes, pads, axes, conditions), so that shape inference can use them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import GraphProto, ModelProto, NodeProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

Array = npt.NDArray[Any]

SMALL_ELEMENTS = 1024
"""Constants up to this size are evaluated: they may be shapes, axes or sizes."""

_ARITHMETIC = frozenset(
    [
        "Add",
        "And",
        "Cast",
        "Ceil",
        "Concat",
        "Constant",
        "ConstantOfShape",
        "Div",
        "Equal",
        "Expand",
        "Flatten",
        "Floor",
        "Gather",
        "Greater",
        "GreaterOrEqual",
        "Identity",
        "Less",
        "LessOrEqual",
        "Max",
        "Min",
        "Mod",
        "Mul",
        "Neg",
        "Not",
        "Or",
        "Pow",
        "Range",
        "ReduceMax",
        "ReduceMin",
        "ReduceProd",
        "ReduceSum",
        "Reshape",
        "Shape",
        "Size",
        "Slice",
        "Sqrt",
        "Squeeze",
        "Sub",
        "Tile",
        "Transpose",
        "Unsqueeze",
        "Where",
    ]
)
"""Operators that exporters compute shapes with."""


def fold_small(model: ModelProto, inferred: GraphProto, known: dict[str, Array]) -> bool:
    """Add to `known` what small constant nodes of `model` compute, and make Constants of those nodes, in place.

    `inferred` gives the shapes that Shape and Size ask for. Returns whether anything new was found.
    """
    fixed = {*known, *(each.name for each in model.graph.initializer if math.prod(each.dims) <= SMALL_ELEMENTS)}
    sizes = _static_elements(inferred)
    shapes = _static_shapes(inferred)
    chosen: list[NodeProto] = []
    for node in model.graph.node:
        if _is_foldable(node, fixed, sizes, shapes):
            fixed.update(node.output)
            chosen.append(node)
    fresh = [node for node in chosen if node.op_type != "Constant" or node.output[0] not in known]
    if not fresh:
        return False
    known.update(_evaluate(model, chosen, shapes))
    for node in fresh:
        value = numpy_helper.from_array(known[node.output[0]])
        node.CopyFrom(helper.make_node("Constant", [], list(node.output), name=node.name, value=value))
    return True


def _static_shapes(graph: GraphProto) -> dict[str, tuple[int, ...]]:
    found = {each.name: tuple(each.dims) for each in graph.initializer}
    for each in (*graph.input, *graph.value_info, *graph.output):
        tensor = each.type.tensor_type
        if tensor.HasField("shape") and all(axis.HasField("dim_value") for axis in tensor.shape.dim):
            found[each.name] = tuple(axis.dim_value for axis in tensor.shape.dim)
    return found


def _static_elements(graph: GraphProto) -> dict[str, int]:
    return {name: math.prod(shape) for name, shape in _static_shapes(graph).items()}


def _is_foldable(node: NodeProto, fixed: set[str], sizes: dict[str, int], shapes: dict[str, tuple[int, ...]]) -> bool:
    """Whether a node computes one value of known small size from fixed values, or asks for a static shape."""
    if node.op_type not in _ARITHMETIC or node.domain not in ("", "ai.onnx") or len(node.output) != 1:
        return False
    if node.op_type in ("Shape", "Size"):
        return node.input[0] in shapes
    small = sizes.get(node.output[0], SMALL_ELEMENTS + 1) <= SMALL_ELEMENTS
    return small and all(name in fixed for name in node.input if name)


def _evaluate(model: ModelProto, nodes: Iterable[NodeProto], shapes: dict[str, tuple[int, ...]]) -> dict[str, Array]:
    """The values of constant nodes, by the ONNX reference implementation; Shape and Size read no elements."""
    graph = GraphProto(name="constants", node=nodes)
    read = {name for node in graph.node for name in node.input}
    graph.initializer.extend(each for each in model.graph.initializer if each.name in read and _is_small(each.dims))
    given = {each.name for each in graph.initializer} | {name for node in graph.node for name in node.output}
    feeds = {name: _blank(shapes[name]) for name in read - given if name}
    graph.input.extend(helper.make_tensor_value_info(name, 1, shapes[name]) for name in feeds)
    outputs = [node.output[0] for node in graph.node]
    graph.output.extend(helper.make_empty_tensor_value_info(name) for name in outputs)
    evaluator = ReferenceEvaluator(ModelProto(ir_version=8, graph=graph, opset_import=model.opset_import))
    return dict(zip(outputs, (np.asarray(value) for value in evaluator.run(None, feeds)), strict=True))


def _is_small(dims: Iterable[int]) -> bool:
    return math.prod(dims) <= SMALL_ELEMENTS


def _blank(shape: tuple[int, ...]) -> Array:
    """An array of any shape that takes no memory: only its shape is read."""
    return np.broadcast_to(np.float32(0), shape)
