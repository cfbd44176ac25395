"""What a rewriting of an operator of com.microsoft sees of its node, and the nodes that it adds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import GraphProto, NodeProto, helper, numpy_helper

from dsa_compiler.errors import UserError
from dsa_compiler.frontend.check import describe

Shapes = Mapping[str, tuple[int, ...]]


class Unknown(Exception):
    """A shape that a rewriting needs is not known yet."""


class Body:
    """The nodes that take the place of one node."""

    def __init__(self, node: NodeProto, graph: GraphProto, shapes: Shapes, opset: int) -> None:
        self.node, self.opset = node, opset
        self.nodes: list[NodeProto] = []
        self.attrs: dict[str, Any] = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        self._graph, self._shapes = graph, shapes

    def has(self, index: int) -> bool:
        """Whether optional input `index` is there."""
        return index < len(self.node.input) and bool(self.node.input[index])

    def wants(self, index: int) -> bool:
        """Whether result `index` is used."""
        return index < len(self.node.output) and bool(self.node.output[index])

    def input(self, index: int) -> str:
        """Return the name of input `index`."""
        return str(self.node.input[index])

    def shape(self, index: int) -> tuple[int, ...]:
        """Return the shape of input `index`; raises `Unknown`."""
        if self.input(index) not in self._shapes:
            raise Unknown
        return self._shapes[self.input(index)]

    def value(self, index: int) -> npt.NDArray[Any]:
        """Return the value of input `index`, which must be a constant."""
        for tensor in self._graph.initializer:
            if tensor.name == self.input(index):
                return numpy_helper.to_array(tensor)
        raise self.error(f"input {index} must be a constant")

    def error(self, problem: str) -> UserError:
        """Return an error about the node."""
        return UserError(problem, where=describe(self.node), action="export the model without this fusion")

    def constant(self, value: npt.ArrayLike, dtype: Any = None) -> str:
        """Add a constant and return its name."""
        name = f"{self.node.name}/constant{len(self._graph.initializer)}"
        self._graph.initializer.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def emit(self, op: str, *inputs: str, **attrs: Any) -> str:
        """Add a node of the default domain and return the name of its result."""
        name = f"{self.node.name}/{op}{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [name], name=name, **attrs))
        return name

    def reduce_mean(self, x: str, axes: list[int]) -> str:
        """Add a mean that keeps dimensions; its axes are an input from operator set 18 on."""
        if self.opset >= 18:
            return self.emit("ReduceMean", x, self.constant(axes, np.int64), keepdims=1)
        return self.emit("ReduceMean", x, axes=axes, keepdims=1)

    def returns(self, *results: str) -> None:
        """Give the node's results their values; "" for one that is not computed."""
        for source, result in zip(results, self.node.output, strict=False):
            if source and result:
                self.nodes.append(helper.make_node("Identity", [source], [result], name=f"{self.node.name}/{result}"))


Rewriting = Callable[[Body], None]
