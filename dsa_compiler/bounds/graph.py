"""A read-only view of an ONNX graph: live nodes, static shapes, what is constant, who makes and who uses a value."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from dsa_compiler.bounds.dtypes import dtype_name
from dsa_compiler.bounds.folding import SMALL_ELEMENTS, Array
from dsa_compiler.bounds.inference import opset, resolve, subgraphs
from dsa_compiler.bounds.operators import RANDOM, memory_operands


class UnknownShape(LookupError):
    """A shape that depends on data, or that shape inference could not find."""


@dataclass(frozen=True)
class Value:
    """Shape (None: unknown) and element type of a value."""

    shape: tuple[int, ...] | None
    dtype: str


class Graph:
    """One graph, main or body. Names of enclosing graphs resolve through `outer`."""

    def __init__(self, source: GraphProto, inferred: GraphProto, version: int, outer: Graph | None = None) -> None:
        self.version = version
        self.outer = outer
        self._inferred = inferred
        self._bodies = {node.output[0]: node for node in inferred.node if node.output}
        self.inputs = tuple(each.name for each in source.input)
        self.outputs = tuple(each.name for each in source.output)
        self.nodes = _live(source.node, self.outputs)
        self.values = _values(inferred, source)
        self.initializers: dict[str, TensorProto] = {each.name: each for each in source.initializer}
        self.producer = {name: index for index, node in enumerate(self.nodes) for name in node.output if name}
        self.consumers = _consumers(self.nodes)
        self.folded: dict[str, Array] = {}
        self.leaves: dict[str, frozenset[str]] = {name: frozenset({name}) for name in self.initializers}

    # Values

    def shape(self, name: str) -> tuple[int, ...]:
        """The static shape of a value; UnknownShape if it has none."""
        value = self.find(name)
        if value is None or value.shape is None:
            raise UnknownShape(name)
        return value.shape

    def elements(self, name: str) -> int:
        """The number of elements of a value; UnknownShape if unknown."""
        return math.prod(self.shape(name))

    def dtype(self, name: str) -> str:
        """The element type of a value, `undefined` if unknown."""
        value = self.find(name)
        return value.dtype if value else "undefined"

    def find(self, name: str) -> Value | None:
        """What is known of a value, here or in an enclosing graph."""
        found = self.values.get(name)
        return found if found is not None or self.outer is None else self.outer.find(name)

    def known(self, name: str) -> Array | None:
        """The elements of a small constant that the graph holds or computes, else None."""
        if name in self.folded:
            return self.folded[name]
        if name in self.initializers:
            tensor = self.initializers[name]
            return numpy_helper.to_array(tensor) if math.prod(tensor.dims) <= SMALL_ELEMENTS else None
        node = self.maker(name)
        if node is not None:
            return _constant_value(node)
        return self.outer.known(name) if self.outer is not None and name not in self.values else None

    # Structure

    def maker(self, name: str) -> NodeProto | None:
        """The node that makes a value; None for inputs and initialisers."""
        index = self.producer.get(name)
        return None if index is None else self.nodes[index]

    def users(self, name: str) -> Sequence[NodeProto]:
        """The live nodes that read a value, bodies included."""
        return [self.nodes[index] for index in self.consumers.get(name, ())]

    def is_constant(self, name: str) -> bool:
        """Whether a value is the same in every run."""
        return name in self.leaves or (self.outer is not None and self.outer.is_constant(name))

    def leaves_of(self, name: str) -> frozenset[str]:
        """The initialisers and Constant outputs that a constant is computed from."""
        if name in self.leaves:
            return self.leaves[name]
        return self.outer.leaves_of(name) if self.outer is not None else frozenset()

    def variables(self, node: NodeProto) -> list[str]:
        """The operands of a node that are not constant, each once, in order."""
        return [name for name in dict.fromkeys(node.input) if name and not self.is_constant(name)]

    def body(self, node: NodeProto, attribute: str) -> Graph:
        """The graph that is an attribute of a control-flow node, with its inferred shapes."""
        source = _attribute_graph(node, attribute)
        inferred = _attribute_graph(self._bodies[node.output[0]], attribute)
        return mark_constants(Graph(source, inferred, self.version, outer=self))


def read(model: ModelProto) -> Graph:
    """The view of a model's main graph; UserError if shape inference refuses it."""
    skeleton, inferred, known = resolve(model)
    graph = Graph(skeleton.graph, inferred.graph, opset(model))
    graph.folded = known
    weights = {each.name for each in model.graph.initializer}
    for name in weights:
        graph.leaves[name] = frozenset({name})
    graph.inputs = tuple(name for name in graph.inputs if name not in weights)
    return mark_constants(graph)


def mark_constants(graph: Graph) -> Graph:
    """Record what is constant in `graph`, and from which leaves it comes; returns `graph`."""
    for node in graph.nodes:
        if not _is_constant(graph, node):
            continue
        sources = [graph.leaves_of(name) for name in memory_operands(node)]
        for name in node.output:
            own = frozenset({name}) if node.op_type == "Constant" else frozenset()
            graph.leaves[name] = own.union(*sources) if node.op_type not in ("Shape", "Size") else frozenset()
    return graph


def attribute(node: NodeProto, name: str, default: Any = None) -> Any:
    """The value of a node's attribute, or the default."""
    for each in node.attribute:
        if each.name == name:
            value = helper.get_attribute_value(each)
            return value.decode() if isinstance(value, bytes) else value
    return default


def _is_constant(graph: Graph, node: NodeProto) -> bool:
    if node.op_type in RANDOM:
        return False
    if node.op_type in ("Shape", "Size"):
        value = graph.find(node.input[0])
        return value is not None and value.shape is not None
    return all(graph.is_constant(name) for name in _reads(node))


def _reads(node: NodeProto) -> Iterator[str]:
    """Every name a node reads: its operands, and what its bodies take from around them."""
    yield from (name for name in node.input if name)
    for inner in subgraphs(node):
        made = {each.name for each in inner.input} | {each.name for each in inner.initializer}
        made |= {name for each in inner.node for name in each.output}
        used = [name for each in inner.node for name in _reads(each)] + [each.name for each in inner.output]
        yield from (name for name in used if name not in made)


def _live(nodes: Iterable[NodeProto], outputs: Iterable[str]) -> list[NodeProto]:
    """The nodes that an output depends on, in graph order."""
    wanted = set(outputs)
    kept = []
    for node in reversed(list(nodes)):
        if wanted.intersection(node.output):
            wanted.update(_reads(node))
            kept.append(node)
    return kept[::-1]


def _consumers(nodes: Sequence[NodeProto]) -> Mapping[str, list[int]]:
    found: dict[str, list[int]] = {}
    for index, node in enumerate(nodes):
        for name in dict.fromkeys(_reads(node)):
            found.setdefault(name, []).append(index)
    return found


def _values(inferred: GraphProto, source: GraphProto) -> dict[str, Value]:
    """What inference found; what the model declares only where it found nothing, as declarations grow stale."""
    values = {each.name: _value(each) for each in (*source.value_info, *source.output)}
    found = {each.name: _value(each) for each in (*inferred.output, *inferred.value_info, *inferred.input)}
    values.update({name: value for name, value in found.items() if value.shape is not None or name not in values})
    for tensor in inferred.initializer:
        values[tensor.name] = Value(tuple(tensor.dims), dtype_name(tensor.data_type))
    return values


def _value(info: ValueInfoProto) -> Value:
    tensor = info.type.tensor_type
    dims = tensor.shape.dim
    if not tensor.HasField("shape") or not all(each.HasField("dim_value") for each in dims):
        return Value(None, dtype_name(tensor.elem_type))
    return Value(tuple(each.dim_value for each in dims), dtype_name(tensor.elem_type))


def _constant_value(node: NodeProto) -> Array | None:
    if node.op_type != "Constant":
        return None
    given = node.attribute[0]
    if given.type == AttributeProto.TENSOR:
        return numpy_helper.to_array(given.t) if math.prod(given.t.dims) <= SMALL_ELEMENTS else None
    return np.asarray(helper.get_attribute_value(given))


def _attribute_graph(node: NodeProto, name: str) -> GraphProto:
    return next(each.g for each in node.attribute if each.name == name)
