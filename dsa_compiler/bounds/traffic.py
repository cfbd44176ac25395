"""Bytes in ddr: those that nothing avoids for the whole graph, and those of each node taken alone."""

from __future__ import annotations

import math
from typing import NamedTuple

from onnx import NodeProto

from dsa_compiler.bounds.dtypes import FLOATS, ITEM_BYTES, compiled_dtype
from dsa_compiler.bounds.graph import Graph, UnknownShape, attribute
from dsa_compiler.bounds.operators import memory_operands


class Traffic(NamedTuple):
    """Bytes that nothing avoids: inputs and outputs once, weights once, of gathered tables the rows read."""

    inputs: int
    outputs: int
    weights: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.inputs + self.outputs + self.weights


class Sizes:
    """Bytes of values in the compiled precision; `burst` is what an access to ddr moves at least."""

    def __init__(self, precision: str | None, burst: int) -> None:
        self.precision = precision
        self.burst = burst

    def item(self, graph: Graph, name: str) -> float:
        """Bytes of an element inside the part: of the quantised type where a float is one before or behind it."""
        dtype = graph.dtype(name)
        own = ITEM_BYTES.get(compiled_dtype(dtype, self.precision), 0)
        if dtype not in FLOATS:
            return own
        maker, users = graph.maker(name), graph.users(name)
        if maker is not None and maker.op_type == "DequantizeLinear":
            return min(own, ITEM_BYTES.get(graph.dtype(maker.input[0]), own))
        if users and all(user.op_type == "QuantizeLinear" for user in users):
            return min([own, *(ITEM_BYTES.get(graph.dtype(user.output[0]), own) for user in users)])
        return own

    def bytes(self, graph: Graph, name: str) -> int:
        """Bytes of a value inside the part, 0 if its shape is unknown."""
        return self._whole(graph, name, self.item(graph, name))

    def interface_bytes(self, graph: Graph, name: str) -> int:
        """Bytes of an input or output: floats in the compiled precision, others in the model's own type."""
        dtype = graph.dtype(name)
        kept = compiled_dtype(dtype, self.precision) if dtype in FLOATS else dtype
        return self._whole(graph, name, ITEM_BYTES.get(kept, 0))

    def _whole(self, graph: Graph, name: str, item: float) -> int:
        value = graph.find(name)
        return 0 if value is None or value.shape is None else math.ceil(math.prod(value.shape) * item)

    def gathered_bytes(self, graph: Graph, node: NodeProto) -> int:
        """Bytes of the rows that a gather reads, in whole bursts, at most the table's; UnknownShape if unknown."""
        table = graph.shape(node.input[0])
        item = self.item(graph, node.input[0])
        runs, run = _gathered_runs(graph, node, table)
        burst = 1 if node.op_type == "GatherElements" else self.burst
        return min(runs * _rounded(math.ceil(run * item), burst), self.bytes(graph, node.input[0]))


def is_table_lookup(graph: Graph, node: NodeProto) -> bool:
    """Whether a node gathers rows of a constant by an index that varies."""
    gathers = node.op_type in ("Gather", "GatherND", "GatherElements")
    return gathers and graph.is_constant(node.input[0]) and not graph.is_constant(node.input[1])


def node_bytes(graph: Graph, node: NodeProto, sizes: Sizes) -> int:
    """Bytes that a node reads and writes if every operand and result lies in ddr."""
    total = sum(sizes.bytes(graph, name) for name in node.output if name)
    for index, name in enumerate(memory_operands(node)):
        if index == 0 and is_table_lookup(graph, node):
            total += sizes.gathered_bytes(graph, node)
        else:
            total += sizes.bytes(graph, name)
    return total


def weight_bytes(graph: Graph, nodes: list[NodeProto], sizes: Sizes) -> dict[frozenset[str], int]:
    """Bytes of the constants that `nodes` read, by the leaves they come from.

    A constant that is computed counts as the smaller of itself and of its leaves. A table counts as the
    rows read from it, in all lookups together at most the whole, unless another node reads it all.
    """
    whole: dict[frozenset[str], int] = {}
    rows: dict[frozenset[str], int] = {}
    for node in nodes:
        for index, name in enumerate(memory_operands(node)):
            leaves = graph.leaves_of(name) if graph.is_constant(name) else frozenset()
            if not leaves:
                continue
            size = _constant_bytes(graph, name, leaves, sizes)
            if index == 0 and is_table_lookup(graph, node):
                rows[leaves] = min(size, rows.get(leaves, 0) + _known_gather(graph, node, sizes, size))
            else:
                whole[leaves] = max(size, whole.get(leaves, 0))
    return {**rows, **whole}


def _known_gather(graph: Graph, node: NodeProto, sizes: Sizes, size: int) -> int:
    try:
        return min(size, sizes.gathered_bytes(graph, node))
    except UnknownShape:
        return 0


def _constant_bytes(graph: Graph, name: str, leaves: frozenset[str], sizes: Sizes) -> int:
    own = sizes.bytes(graph, name)
    from_leaves = sum(sizes.bytes(graph, leaf) for leaf in leaves)
    return min(own, from_leaves) if own else from_leaves


def _gathered_runs(graph: Graph, node: NodeProto, table: tuple[int, ...]) -> tuple[int, int]:
    """(contiguous runs read, elements of one)."""
    if node.op_type == "GatherElements":
        return graph.elements(node.input[1]), 1
    if node.op_type == "GatherND":
        index, skipped = graph.shape(node.input[1]), int(attribute(node, "batch_dims", 0))
        return math.prod(index[:-1]), math.prod(table[skipped + index[-1] :])
    axis = int(attribute(node, "axis", 0)) % len(table)
    return math.prod(table[:axis]) * graph.elements(node.input[1]), math.prod(table[axis + 1 :])


def _rounded(size: int, burst: int) -> int:
    return -(-size // burst) * burst
