"""Quantisations that a model asks for and that need no work: back to the grid that the value was on.

Exporters put a quantisation and a dequantisation around every operator. Where an operator only moves or chooses
elements, a value that is dequantised, moved and quantised again with the same scale and zero point is the same
integers moved.
"""

from __future__ import annotations

from collections.abc import Iterator

from onnx import ModelProto, NodeProto, numpy_helper

from dsa_compiler.bounds import node_name

MOVING = frozenset(
    {
        "Concat", "Flatten", "Gather", "Identity", "MaxPool", "Reshape", "Slice", "Split", "Squeeze", "Transpose",
        "Unsqueeze",
    }
)  # fmt: skip
"""Operators whose results are some of the elements of their first operand; of all operands for Concat."""


def cancelled_quantizations(model: ModelProto) -> frozenset[str]:
    """The names of the nodes of `model` that quantise what was dequantised on the same grid, and of those that only
    dequantise for them."""
    return _Trace(model).cancelled()


class _Trace:
    def __init__(self, model: ModelProto) -> None:
        self.nodes = list(model.graph.node)
        self.makers = {name: node for node in self.nodes for name in node.output}
        self.constants = {t.name: t for t in model.graph.initializer}
        self.results = {value.name for value in model.graph.output}
        self.readers: dict[str, list[NodeProto]] = {}
        for node in self.nodes:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)

    def cancelled(self) -> frozenset[str]:
        """See `cancelled_quantizations`."""
        found = {node_name(n) for n in self.nodes if n.op_type == "QuantizeLinear" and self._returns(n)}
        for node in self.nodes:
            if node.op_type == "DequantizeLinear" and all(name in found for name in self._ends(node.output[0])):
                found.add(node_name(node))
        return frozenset(found)

    def _returns(self, node: NodeProto) -> bool:
        """Whether all that a quantisation reads was dequantised on its own grid."""
        grid = self._grid(node)
        sources = list(self._sources(node.input[0]))
        return grid is not None and bool(sources) and all(
            s is not None and s.op_type == "DequantizeLinear" and self._grid(s) == grid for s in sources
        )  # fmt: skip

    def _sources(self, name: str) -> Iterator[NodeProto | None]:
        """The nodes that made the elements of a value, past those that move them; None for an input."""
        node = self.makers.get(name)
        if node is None or node.op_type not in MOVING:
            yield node
            return
        for operand in node.input if node.op_type == "Concat" else node.input[:1]:
            yield from self._sources(operand)

    def _ends(self, name: str) -> Iterator[str]:
        """The names of the nodes that a value reaches, past those that move it; "" for a result of the model."""
        if name in self.results:
            yield ""
        for reader in self.readers.get(name, ()):
            if reader.op_type not in MOVING:
                yield node_name(reader)
                continue
            for output in reader.output:
                yield from self._ends(output)

    def _grid(self, node: NodeProto) -> tuple[bytes, bytes] | None:
        """Scale and zero point as bytes; None where they are computed."""
        names = [*node.input[1:3]]
        if any(name and name not in self.constants for name in names):
            return None
        scale, *zero = (numpy_helper.to_array(self.constants[name]) for name in names if name)
        return scale.tobytes(), (zero[0].tobytes() if zero and zero[0].any() else b"")
