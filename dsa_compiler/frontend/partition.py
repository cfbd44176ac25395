"""Partition: nodes that have no converter become host steps, as few and as large as possible.

Every node gets a level: the number of host steps that must have run before it. Host nodes of one level become one
node `dsac.Host`, whose attributes hold them as a small ONNX model. Two host nodes joined by a path through other nodes
have different levels, so the steps depend on each other in one direction only.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence

from onnx import GraphProto, ModelProto, NodeProto, TypeProto, ValueInfoProto, helper

from dsa_compiler.errors import UserError
from dsa_compiler.frontend.fold import infer_types
from dsa_compiler.frontend.shapes import static_shape

HOST_DOMAIN = "dsac"
HOST = "Host"


def partition(model: ModelProto, reasons: Mapping[str, str]) -> ModelProto:
    """Return the model with the nodes that `reasons` names joined into host nodes, in an order that works.

    Raises `UserError` if the shape of a value that a host step passes on depends on values.
    """
    if not reasons:
        return model
    levels = _levels(model.graph, reasons)
    types = {v.name: v for v in infer_types(model)}
    for node in model.graph.node:
        if node.op_type == "Loop":
            types |= _carried(node, types)
    result = ModelProto()
    result.CopyFrom(model)
    result.opset_import.append(helper.make_opsetid(HOST_DOMAIN, 1))
    del result.graph.node[:]
    for level in range(max(levels.values()) + 1):
        here = [n for n in model.graph.node if levels[n.name] == level]
        hosted = [n for n in here if n.name in reasons]
        if hosted:
            result.graph.node.append(_host_node(model, hosted, [reasons[n.name] for n in hosted], types))
        result.graph.node.extend(n for n in here if n.name not in reasons)
    return result


def _carried(node: NodeProto, types: Mapping[str, ValueInfoProto]) -> dict[str, ValueInfoProto]:
    """Return the types of what a loop carries, where its body keeps the shape that it got."""
    body = next(a.g for a in node.attribute if a.name == "body")
    found = {}
    for given, inner, result in zip(node.input[2:], body.output[1:], node.output, strict=False):
        start = types.get(given)
        kept = start is not None and static_shape(start) is not None and static_shape(start) == static_shape(inner)
        if start is not None and kept and result:
            found[result] = ValueInfoProto()
            found[result].CopyFrom(start)
            found[result].name = result
    return found


def _levels(graph: GraphProto, reasons: Mapping[str, str]) -> dict[str, int]:
    """Return the level of every node, by name."""
    levels: dict[str, int] = {}
    producers = {o: n for n in graph.node for o in n.output if o}
    for node in graph.node:
        sources = [producers[name] for name in node_reads(node) if name in producers]
        hosted = node.name in reasons
        steps = [levels[p.name] + (hosted and p.name not in reasons) for p in sources]
        levels[node.name] = max(steps, default=int(hosted))
    return levels


def node_reads(node: NodeProto) -> list[str]:
    """Return the names that a node reads, those that its subgraphs take from outside included."""
    names = [name for name in node.input if name]
    for attribute in node.attribute:
        for body in [attribute.g] if attribute.HasField("g") else attribute.graphs:
            own = {t.name for t in body.initializer} | {i.name for i in body.input}
            for inner in body.node:
                names.extend(name for name in node_reads(inner) if name not in own)
                own.update(inner.output)
            names.extend(o.name for o in body.output if o.name not in own)
    return list(dict.fromkeys(names))


def _host_node(
    model: ModelProto, nodes: Sequence[NodeProto], reasons: Sequence[str], types: Mapping[str, ValueInfoProto]
) -> NodeProto:
    """Return the host node of `nodes`; its inputs and outputs are those of the small model in order."""
    inside = {name for n in nodes for name in n.output if name}
    taken = {id(n) for n in nodes}
    read = {name for n in model.graph.node if id(n) not in taken and n not in nodes for name in node_reads(n)}
    read |= {o.name for o in model.graph.output}
    outputs = [name for n in nodes for name in n.output if name in read]
    wanted = list(dict.fromkeys(name for n in nodes for name in node_reads(n) if name not in inside))
    initializers = {t.name: t for t in model.graph.initializer}
    inputs = [name for name in wanted if name not in initializers]
    title = "+".join(n.name for n in nodes)
    for name in outputs:
        value = types.get(name)
        if value is None or not value.type.HasField("tensor_type") or static_shape(value) is None:
            raise UserError(
                f"the shape of {name!r} depends on values", where=title,
                action="remove the operator, or end the model before it",
            )  # fmt: skip
    graph = helper.make_graph(
        nodes, "host", [_info(types, name) for name in inputs], [types[name] for name in outputs],
        [initializers[name] for name in wanted if name in initializers],
    )  # fmt: skip
    part = helper.make_model(graph, opset_imports=list(model.opset_import), ir_version=max(model.ir_version, 8))
    part.functions.extend(model.functions)
    shapes = [list(static_shape(types[name]) or ()) for name in outputs]
    return helper.make_node(
        HOST, inputs, outputs, name=title, domain=HOST_DOMAIN,
        model=base64.b64encode(part.SerializeToString()).decode(),
        ranks=[len(s) for s in shapes] or [0], extents=[n for s in shapes for n in s] or [0],
        dtypes=[str(helper.tensor_dtype_to_np_dtype(types[n].type.tensor_type.elem_type)) for n in outputs] or [""],
        reason="; ".join(dict.fromkeys(reasons)), operators="+".join(dict.fromkeys(n.op_type for n in nodes)),
        nodes=[n.name for n in nodes],
    )  # fmt: skip


def _info(types: Mapping[str, ValueInfoProto], name: str) -> ValueInfoProto:
    return types[name] if name in types else helper.make_value_info(name, TypeProto())
