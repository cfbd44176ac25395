"""Which layer does the work of which ONNX node, fixed while a model is compiled and stored in the program.

A layer names the nodes that it came from. Passes that fold a node into another (a normalisation into a
convolution's weights) may drop a name: such a node belongs to the layer of the next node that consumes it, or
failing that of the nearest node before it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Protocol

from onnx import ModelProto, NodeProto

from dsa_compiler.bounds import Bounds, NodeWork, node_name
from dsa_compiler.report.cancelled import cancelled_quantizations

PRODUCTS_WITH_LINEAR_WORK = frozenset({"conv2d", "matmul", "depthwise", "attention"})
"""Kinds of layer whose weights and bias take in scales and offsets of nodes beside them."""


class CallLike(Protocol):
    """What a layer's operation must tell."""

    @property
    def op(self) -> str: ...  # noqa: D102


class LayerLike(Protocol):
    """What a layer must tell: see `graph.layers.Layer`."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def kind(self) -> str: ...  # noqa: D102
    @property
    def calls(self) -> Sequence[CallLike]: ...  # noqa: D102
    @property
    def master(self) -> int: ...  # noqa: D102
    @property
    def nodes(self) -> Sequence[str]: ...  # noqa: D102


def layer_facts(
    model: ModelProto, bounds: Bounds, layers: Sequence[LayerLike], on_host: Collection[str] = ()
) -> dict[str, Any]:
    """What a program's `info` keeps of the model: plain JSON values.

    `layers`: for each its name, kind, master, slaves, ONNX nodes, the work wanted of it, and `group`, a number
    that layers which share a node have in common. `outside`: the work of nodes in no layer, `on_host` among them.
    """
    owners = _all_owners(model, _owners(layers), on_host)
    groups = _groups(len(layers), owners.values())
    facts = [_facts(layer, group) for layer, group in zip(layers, groups, strict=True)]
    outside = {"macs": 0, "element_ops": 0}
    cancelled = cancelled_quantizations(model)
    for row in bounds.rows:
        mine = owners.get(row.name, ())
        place = facts[mine[0]] if mine else outside
        place["macs"] += row.macs
        place["element_ops"] += _operations(row)
        if mine:
            place["folded_ops"] += _foldable(row, {layers[i].kind for i in mine}, cancelled)
    return {"layers": facts, "outside": outside}


def _facts(layer: LayerLike, group: int) -> dict[str, Any]:
    ops = [call.op for call in layer.calls]
    return {
        "name": layer.name, "kind": layer.kind, "master": ops[layer.master],
        "slaves": [op for place, op in enumerate(ops) if place != layer.master],
        "onnx_nodes": list(layer.nodes), "group": group, "macs": 0, "element_ops": 0, "folded_ops": 0,
    }  # fmt: skip


def _operations(row: NodeWork) -> int:
    """Element operations of a node; a decomposed activation counts as the activation, at its last node."""
    return sum((row.required_ops if row.pattern else row.element_ops).values())


def _foldable(row: NodeWork, kinds: Collection[str], cancelled: Collection[str]) -> int:
    """Operations of a node that its layers need not carry out.

    A product takes linear ones into its weights or bias; attention the sum of a softmax, as a column of the product,
    and its scale, which follows the product: two of five an element. `cancelled` nodes quantise what is quantised.
    """
    if row.name in cancelled:
        return sum(row.element_ops.values())
    if row.op == "Softmax" and "attention" in kinds:
        return sum(row.element_ops.values()) * 2 // 5
    if row.pattern or PRODUCTS_WITH_LINEAR_WORK.isdisjoint(kinds):
        return 0
    return sum(row.element_ops.values()) - sum(row.required_ops.values())


def _owners(layers: Sequence[LayerLike]) -> dict[str, tuple[int, ...]]:
    owners: dict[str, tuple[int, ...]] = {}
    for number, layer in enumerate(layers):
        for node in dict.fromkeys(layer.nodes):
            owners[node] = (*owners.get(node, ()), number)
    return owners


def _all_owners(
    model: ModelProto, owners: Mapping[str, tuple[int, ...]], on_host: Collection[str]
) -> dict[str, tuple[int, ...]]:
    """`owners` with nodes that no layer names."""
    nodes = list(model.graph.node)
    consumers: dict[str, list[NodeProto]] = {}
    makers: dict[str, NodeProto] = {}
    for node in nodes:
        makers.update(dict.fromkeys(node.output, node))
        for name in node.input:
            consumers.setdefault(name, []).append(node)
    result = {name: mine for name, mine in owners.items() if name not in on_host}
    for node in nodes:
        name = node_name(node)
        if name in result or name in on_host:
            continue
        after = _nearest(node, owners, lambda n: [c for o in n.output for c in consumers.get(o, ())])
        before = after or _nearest(node, owners, lambda n: [makers[i] for i in n.input if i in makers])
        if before:
            result[name] = before
    return result


def _nearest(node: NodeProto, owners: Mapping[str, tuple[int, ...]], neighbours: Any) -> tuple[int, ...]:
    """The layers of the nearest owned node along `neighbours`, breadth first; none if there is none."""
    seen, queue = {id(node)}, deque([node])
    while queue:
        for other in neighbours(queue.popleft()):
            if node_name(other) in owners:
                return owners[node_name(other)]
            if id(other) not in seen:
                seen.add(id(other))
                queue.append(other)
    return ()


def _groups(count: int, shared: Iterable[tuple[int, ...]]) -> list[int]:
    """A number for each layer, the same for layers that share a node, directly or through others."""
    parent = list(range(count))

    def root(place: int) -> int:
        while parent[place] != place:
            parent[place] = parent[parent[place]]
            place = parent[place]
        return place

    for members in shared:
        for other in members[1:]:
            parent[root(other)] = root(members[0])
    return [root(place) for place in range(count)]
