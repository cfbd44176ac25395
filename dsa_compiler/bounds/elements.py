"""Element operations of a node: all of them, and those that only the vector engine can do, by cost class."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from onnx import NodeProto

from dsa_compiler.bounds.graph import Graph, attribute
from dsa_compiler.bounds.operators import DIVIDE, SIMPLE, TRANSCENDENTAL, Kind, OperatorClass, classify
from dsa_compiler.bounds.products import directions, hidden_size, macs, score_elements

Ops = Mapping[str, int]
"""Element operations by cost class."""

NONE: Ops = MappingProxyType({})


class ElementWork(NamedTuple):
    """All element operations of a node, and the part that no matrix instruction can do."""

    total: Ops
    required: Ops


def softmax_ops(elements: int) -> Ops:
    """A softmax: one transcendental and four simple operations an element."""
    return {TRANSCENDENTAL: elements, SIMPLE: 4 * elements}


def normalization_ops(elements: int) -> Ops:
    """A layer, instance or group norm: six simple operations an element."""
    return {SIMPLE: 6 * elements}


def element_work(graph: Graph, node: NodeProto) -> ElementWork:
    """The element operations of a node; UnknownShape if a shape that the count needs is unknown."""
    found = classify(node.op_type)
    rule = _RULES.get(found.kind)
    return rule(graph, node, found) if rule else ElementWork(NONE, NONE)


def _needed(ops: Ops) -> ElementWork:
    return ElementWork(ops, ops)


def _denominator(ops: Ops) -> ElementWork:
    return ElementWork(ops, NONE)


def _activation(graph: Graph, node: NodeProto, found: OperatorClass) -> ElementWork:
    return _needed({found.cost: graph.elements(node.output[0])})


def _nonlinear(graph: Graph, node: NodeProto, found: OperatorClass) -> ElementWork:
    repeats = len(node.input) - 1 if node.op_type in ("Max", "Min") else 1
    return _needed({found.cost: graph.elements(node.output[0]) * repeats})


def _product(graph: Graph, node: NodeProto, found: OperatorClass) -> ElementWork:
    operands = [name for name in node.input[:4] if name and not graph.is_constant(name)]
    return _if_varying(len(operands) > 1, {found.cost: graph.elements(node.output[0])})


def _quotient(graph: Graph, node: NodeProto, found: OperatorClass) -> ElementWork:
    """A divisor that is broadcast needs one division for each of its elements, then products."""
    elements = graph.elements(node.output[0])
    if graph.is_constant(node.input[1]):
        return _denominator({SIMPLE: elements})
    divisors = graph.elements(node.input[1])
    if divisors < elements:
        return _needed({found.cost: divisors, SIMPLE: elements})
    return _needed({found.cost: elements})


def _power(graph: Graph, node: NodeProto, found: OperatorClass) -> ElementWork:
    """x ** 1 is linear, x ** 2 a product, x ** -1 a division, any other power transcendental."""
    elements = graph.elements(node.output[0])
    exponent = graph.known(node.input[1])
    value = float(exponent.ravel()[0]) if exponent is not None and exponent.size == 1 else math.nan
    if value == 1.0:
        return _denominator({SIMPLE: elements})
    return _needed({{2.0: SIMPLE, -1.0: DIVIDE}.get(value, found.cost): elements})


def _linear(graph: Graph, node: NodeProto, found: OperatorClass) -> ElementWork:
    """Sums and casts; a cast to the dtype that its operand has is nothing."""
    if node.op_type in ("Cast", "CastLike") and graph.dtype(node.input[0]) == graph.dtype(node.output[0]):
        return ElementWork(NONE, NONE)
    repeats = len(node.input) - 1 if node.op_type in ("Sum", "Mean") and len(node.input) > 1 else 1
    return _denominator({found.cost: graph.elements(node.output[0]) * repeats})


def _batch_norm(graph: Graph, node: NodeProto, found: OperatorClass) -> ElementWork:
    return _denominator({found.cost: 2 * graph.elements(node.output[0])})


def _softmax(graph: Graph, node: NodeProto, found: OperatorClass) -> ElementWork:
    return _needed(softmax_ops(graph.elements(node.output[0])))


def _normalization(graph: Graph, node: NodeProto, found: OperatorClass) -> ElementWork:
    return _needed(normalization_ops(graph.elements(node.output[0])))


def _scaling(graph: Graph, node: NodeProto, found: OperatorClass) -> ElementWork:
    """x / norm(x): the square and the product need the vector engine; the sum and the scale do not."""
    elements = graph.elements(node.output[0])
    return ElementWork({SIMPLE: 4 * elements}, {SIMPLE: 2 * elements})


def _response_norm(graph: Graph, node: NodeProto, found: OperatorClass) -> ElementWork:
    """x / (bias + window sum of squares) ** beta: the power is the activation; squares and window beside it."""
    elements = graph.elements(node.output[0])
    total = {TRANSCENDENTAL: elements, DIVIDE: elements, SIMPLE: elements * (1 + int(attribute(node, "size")))}
    return ElementWork(total, {TRANSCENDENTAL: elements})


def _matrix(graph: Graph, node: NodeProto, found: OperatorClass) -> ElementWork:
    """None, but for an Einsum that sums nothing and so is a product of elements."""
    if node.op_type != "Einsum" or macs(graph, node):
        return ElementWork(NONE, NONE)
    variables = len(graph.variables(node))
    if len(node.input) == 1:
        return _denominator({SIMPLE: graph.elements(node.input[0])})
    return _if_varying(variables > 1, {SIMPLE: graph.elements(node.output[0]) * (len(node.input) - 1)})


def _if_varying(varying: bool, ops: Ops) -> ElementWork:
    return _needed(ops) if varying else _denominator(ops)


# Activations of one cell and direction when none are named, and the products and sums of gates in a step.
_CELLS = MappingProxyType(
    {
        "LSTM": (("Sigmoid", "Sigmoid", "Sigmoid", "Tanh", "Tanh"), 4),
        "DynamicQuantizeLSTM": (("Sigmoid", "Sigmoid", "Sigmoid", "Tanh", "Tanh"), 4),
        "GRU": (("Sigmoid", "Sigmoid", "Tanh"), 5),
        "RNN": (("Tanh",), 0),
    }
)


def _recurrent(graph: Graph, node: NodeProto, found: OperatorClass) -> ElementWork:
    """The activations of the gates are required; the products of gates and states count beside them."""
    states = math.prod(graph.shape(node.input[0])[:2]) * hidden_size(graph, node)
    activations, products = _CELLS[node.op_type]
    required: dict[str, int] = {}
    for name in _named_activations(node) or activations * directions(node):
        cost = classify(name).cost
        required[cost] = required.get(cost, 0) + states
    total = dict(required)
    total[SIMPLE] = total.get(SIMPLE, 0) + products * states * directions(node)
    return ElementWork(total, required)


def _named_activations(node: NodeProto) -> tuple[str, ...]:
    """The activations that a node names, as often as a cell computes them: f thrice in an LSTM, twice in a GRU."""
    given = [each.decode() if isinstance(each, bytes) else each for each in attribute(node, "activations", [])]
    repeats = {"LSTM": (3, 1, 1), "DynamicQuantizeLSTM": (3, 1, 1), "GRU": (2, 1), "RNN": (1,)}[node.op_type]
    return tuple(name for index, name in enumerate(given) for _ in range(repeats[index % len(repeats)]))


def _attention(graph: Graph, node: NodeProto, found: OperatorClass) -> ElementWork:
    return _needed(softmax_ops(score_elements(graph, node)))


def _taps(node: NodeProto) -> int:
    return int(np.prod(attribute(node, "kernel_shape", [1])))


def _max_pool(graph: Graph, node: NodeProto, found: OperatorClass) -> ElementWork:
    return _needed({SIMPLE: graph.elements(node.output[0]) * _taps(node)})


def _pool(graph: Graph, node: NodeProto, found: OperatorClass) -> ElementWork:
    return _denominator({SIMPLE: graph.elements(node.output[0]) * _taps(node)})


def _global_max_pool(graph: Graph, node: NodeProto, found: OperatorClass) -> ElementWork:
    return _needed({SIMPLE: graph.elements(node.input[0])})


def _each_input(graph: Graph, node: NodeProto, found: OperatorClass) -> ElementWork:
    return _denominator({SIMPLE: graph.elements(node.input[0])})


def _reduction(graph: Graph, node: NodeProto, found: OperatorClass) -> ElementWork:
    elements = graph.elements(node.input[0])
    if node.op_type == "ReduceLogSumExp":
        return _denominator({SIMPLE: elements, TRANSCENDENTAL: elements})
    squares = node.op_type in ("ReduceL2", "GlobalLpPool")
    return _denominator({SIMPLE: elements * (2 if squares else 1)})


def _sort(graph: Graph, node: NodeProto, found: OperatorClass) -> ElementWork:
    """n log2 n along the sorted axis."""
    shape = graph.shape(node.input[0])
    axis = attribute(node, "axis", -1)
    length = math.prod(shape) if node.op_type == "Unique" else (shape[axis] if shape else 1)
    return _denominator({SIMPLE: math.prod(shape) * max(1, math.ceil(math.log2(max(2, length))))})


def _resample(graph: Graph, node: NodeProto, found: OperatorClass) -> ElementWork:
    """One operation for each source element that a result weighs: none for nearest, 2 or 4 an axis otherwise."""
    mode = attribute(node, "mode", "linear" if node.op_type == "GridSample" else "nearest")
    weighed = {"nearest": 0, "cubic": 4, "bicubic": 4}.get(mode, 2)
    if node.op_type in ("RoiAlign", "MaxRoiPool", "AffineGrid"):
        return _denominator({SIMPLE: 4 * graph.elements(node.output[0])})
    source, result = graph.shape(node.input[0]), graph.shape(node.output[0])
    axes = sum(a != b for a, b in zip(source, result, strict=True)) if "Grid" not in node.op_type else len(result) - 2
    return _denominator({SIMPLE: math.prod(result) * weighed**axes} if weighed and axes else NONE)


def _suppression(graph: Graph, node: NodeProto, found: OperatorClass) -> ElementWork:
    """All pairs of boxes for each batch and class."""
    scores = graph.shape(node.input[1])
    return _denominator({SIMPLE: scores[0] * scores[1] * scores[2] ** 2})


def _quantize(graph: Graph, node: NodeProto, found: OperatorClass) -> ElementWork:
    return _needed({SIMPLE: graph.elements(node.output[0])})


_Rule = Callable[[Graph, NodeProto, OperatorClass], ElementWork]

_RULES: Mapping[Kind, _Rule] = MappingProxyType(
    {
        Kind.ACTIVATION: _activation,
        Kind.NONLINEAR: _nonlinear,
        Kind.PRODUCT: _product,
        Kind.QUOTIENT: _quotient,
        Kind.POWER: _power,
        Kind.LINEAR: _linear,
        Kind.BATCH_NORM: _batch_norm,
        Kind.QUANTIZE: _quantize,
        Kind.SOFTMAX: _softmax,
        Kind.NORMALIZATION: _normalization,
        Kind.SCALING: _scaling,
        Kind.RESPONSE_NORM: _response_norm,
        Kind.MATRIX: _matrix,
        Kind.RECURRENT: _recurrent,
        Kind.ATTENTION: _attention,
        Kind.MAX_POOL: _max_pool,
        Kind.POOL: _pool,
        Kind.GLOBAL_MAX_POOL: _global_max_pool,
        Kind.REDUCTION: _reduction,
        Kind.SCAN: _each_input,
        Kind.SORT: _sort,
        Kind.RESAMPLE: _resample,
        Kind.SUPPRESSION: _suppression,
    }
)
