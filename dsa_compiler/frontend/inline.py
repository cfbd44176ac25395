"""Copies of subgraphs and function bodies with names of their own."""

from __future__ import annotations

from collections.abc import Mapping

from onnx import GraphProto, ModelProto, NodeProto, inliner

from dsa_compiler.errors import UserError


def inline_functions(model: ModelProto) -> ModelProto:
    """Return the model with calls of its own functions replaced by their bodies."""
    if not model.functions:
        return model
    try:
        return inliner.inline_local_functions(model, convert_version=True)
    except (RuntimeError, ValueError) as error:
        names = ", ".join(sorted(f.name for f in model.functions))
        raise UserError(f"functions cannot be inlined: {error}", where=names, action="repair the model") from error


def inlined_body(body: GraphProto, graph: GraphProto, prefix: str, given: Mapping[str, str]) -> list[str]:
    """Add the nodes and initializers of a subgraph to `graph`; return the names of its outputs there.

    `given` names the values that the subgraph's inputs stand for. Every other name of the subgraph gets the
    prefix; what it takes from outside keeps its name.
    """
    renamed = dict(given)
    for tensor in body.initializer:
        renamed[tensor.name] = f"{prefix}/{tensor.name}"
        copy = graph.initializer.add()
        copy.CopyFrom(tensor)
        copy.name = renamed[tensor.name]
    for node in body.node:
        renamed.update((name, f"{prefix}/{name}") for name in node.output if name)
    for node in body.node:
        copied = graph.node.add()
        copied.CopyFrom(node)
        copied.name = f"{prefix}/{node.name}"
        rename_values(copied, renamed)
    return [renamed.get(o.name, o.name) for o in body.output]


def rename_values(node: NodeProto, renamed: Mapping[str, str]) -> None:
    """Rename the values that a node and its subgraphs read and the node writes, in place."""
    for i, name in enumerate(node.input):
        node.input[i] = renamed.get(name, name)
    for i, name in enumerate(node.output):
        node.output[i] = renamed.get(name, name)
    for attribute in node.attribute:
        for body in [attribute.g] if attribute.HasField("g") else attribute.graphs:
            _rename_free(body, renamed)


def _rename_free(body: GraphProto, renamed: Mapping[str, str]) -> None:
    """Rename what a subgraph takes from outside, in place."""
    own = {t.name for t in body.initializer} | {i.name for i in body.input}
    own |= {name for node in body.node for name in node.output}
    free = {old: new for old, new in renamed.items() if old not in own}
    for node in body.node:
        rename_values(node, free)
    for output in body.output:
        output.name = free.get(output.name, output.name)
