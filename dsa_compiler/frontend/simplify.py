"""Small clean-ups of an ONNX graph, in place: names, identities, dead nodes."""

from __future__ import annotations

from collections import Counter

from onnx import GraphProto, NodeProto

from dsa_compiler.frontend.inline import rename_values


def name_nodes(graph: GraphProto) -> None:
    """Give every node a name of its own; names that are there and unique are kept."""
    counts = Counter(node.name for node in graph.node)
    taken = {name for name, n in counts.items() if n == 1}
    for node in graph.node:
        if node.name and counts[node.name] == 1:
            continue
        stem = node.name or f"{node.op_type}_{next((o for o in node.output if o), '')}"
        name, n = stem, 1
        while name in taken:
            name, n = f"{stem}_{n}", n + 1
        taken.add(name)
        node.name = name


def is_identity(node: NodeProto) -> bool:
    """Whether `node` returns its first input at inference: Identity, and Dropout without a used mask."""
    if node.domain not in ("", "ai.onnx"):
        return False
    if node.op_type == "Identity":
        return True
    training = len(node.input) > 2 and node.input[2] != ""
    return node.op_type == "Dropout" and not training and not any(node.output[1:])


def remove_identities(graph: GraphProto) -> None:
    """Remove identity nodes; one stays where it joins an input or initializer to an output."""
    outputs = {o.name for o in graph.output}
    used_masks = {name for node in graph.node for name in node.input} | outputs
    renamed: dict[str, str] = {}
    kept: list[NodeProto] = []
    for node in graph.node:
        if renamed:
            rename_values(node, renamed)
        if node.op_type == "Dropout":
            _drop_unused_masks(node, used_masks)
        if is_identity(node) and node.output[0] not in outputs:
            renamed[node.output[0]] = node.input[0]
        else:
            kept.append(node)
    if len(kept) != len(graph.node):
        del graph.node[:]
        graph.node.extend(kept)


def _drop_unused_masks(node: NodeProto, used: set[str]) -> None:
    while len(node.output) > 1 and node.output[-1] not in used:
        node.output.pop()


def remove_unused(graph: GraphProto) -> None:
    """Remove nodes and initializers that no output depends on."""
    needed = {o.name for o in graph.output}
    kept: list[NodeProto] = []
    for node in reversed(graph.node):
        if any(o in needed for o in node.output):
            kept.append(node)
            needed.update(node.input)
            for attribute in node.attribute:
                needed.update(_captured(attribute.g) if attribute.HasField("g") else ())
    if len(kept) != len(graph.node):
        del graph.node[:]
        graph.node.extend(reversed(kept))
    initializers = [t for t in graph.initializer if t.name in needed]
    if len(initializers) != len(graph.initializer):
        del graph.initializer[:]
        graph.initializer.extend(initializers)


def _captured(graph: GraphProto) -> set[str]:
    """Return the names that a subgraph reads, its own included."""
    names = {name for node in graph.node for name in node.input} | {o.name for o in graph.output}
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                names |= _captured(attribute.g)
    return names
