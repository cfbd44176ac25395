"""Control flow of ONNX, resolved before import: branches chosen, loops of known length unrolled.

* an `If` whose condition is a constant becomes its branch
* a `Loop` that runs a constant number of times (its condition stays true) and a `Scan` are unrolled
* an `If` on a computed condition becomes both branches and a choice between their results (`join_branches`); that is
  right since nothing in a branch has side effects
* if one of its branches cannot run at the shapes that are bound, only the other can ever be taken (`take_branch`)
What cannot be resolved stays as it is, for the host.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, helper, numpy_helper

from dsa_compiler.frontend.inline import inlined_body

MOST_TRIPS = 512
MOST_NODES = 50_000
Shapes = Mapping[str, tuple[int, ...]]
Constant = npt.NDArray[np.generic]
Constants = Mapping[str, Constant]


def resolve_control(model: ModelProto, shapes: Shapes, opset: int) -> bool:
    """Resolve, in place, the control flow that constants decide; whether there was any."""
    graph = model.graph
    values = _small_constants(graph)
    return _rebuild(graph, lambda node: _resolved(node, graph, values, shapes, opset))


def take_branch(model: ModelProto, name: str, which: str) -> None:
    """Replace, in place, the `If` called `name` by its `which` branch ("then" or "else")."""
    graph = model.graph

    def expand(node: NodeProto) -> bool:
        if node.name == name:
            body = _attributes(node)[f"{which}_branch"].g
            _alias(graph, inlined_body(body, graph, name, {}), node)
        return bool(node.name == name)

    _rebuild(graph, expand)


def join_branches(model: ModelProto) -> None:
    """Turn, in place, every `If` of the model's graph into both branches and a choice."""
    graph = model.graph
    _rebuild(graph, lambda node: _join(node, graph) if node.op_type == "If" else False)


def is_choice(node: NodeProto) -> bool:
    """Whether a node chooses between the results of two branches that `join_branches` put in."""
    return node.op_type == "Where" and "/choice" in node.name


def _rebuild(graph: GraphProto, expand: Callable[[NodeProto], bool]) -> bool:
    """Replace each node for which `expand` adds others to the graph (and returns True); whether there was one."""
    old = list(graph.node)
    if not any(n.op_type in ("If", "Loop", "Scan") for n in old):
        return False
    nodes = [_copied(n) for n in old]
    del graph.node[:]
    changed = False
    for node in nodes:
        if node.op_type in ("If", "Loop", "Scan") and node.domain == "" and expand(node):
            changed = True
        else:
            graph.node.append(node)
    return changed


def _copied(node: NodeProto) -> NodeProto:
    copy = NodeProto()
    copy.CopyFrom(node)
    return copy


def _small_constants(graph: GraphProto) -> dict[str, Constant]:
    """Return the constants of at most one element."""
    small = [t for t in graph.initializer if int(np.prod(t.dims)) <= 1]
    return {t.name: numpy_helper.to_array(t) for t in small}


def _attributes(node: NodeProto) -> dict[str, AttributeProto]:
    return {a.name: a for a in node.attribute}


def _resolved(node: NodeProto, graph: GraphProto, values: Constants, shapes: Shapes, opset: int) -> bool:
    if len(graph.node) > MOST_NODES:
        return False
    if node.op_type == "If":
        return _choose(node, graph, values)
    if node.op_type == "Loop":
        return _unroll_loop(node, graph, values, opset)
    return _unroll_scan(node, graph, shapes, opset)


def _alias(graph: GraphProto, sources: list[str], node: NodeProto) -> None:
    """Give the results of `node` the values `sources`."""
    for i, (source, result) in enumerate(zip(sources, node.output, strict=False)):
        if result:
            graph.node.append(helper.make_node("Identity", [source], [result], name=f"{node.name}/result{i}"))


def _choose(node: NodeProto, graph: GraphProto, values: Constants) -> bool:
    condition = values.get(node.input[0])
    if condition is None or condition.size != 1:
        return False
    branch = _attributes(node)["then_branch" if condition.reshape(-1)[0] else "else_branch"].g
    _alias(graph, inlined_body(branch, graph, node.name, {}), node)
    return True


def _join(node: NodeProto, graph: GraphProto) -> bool:
    bodies = _attributes(node)
    sources = [inlined_body(bodies[f"{k}_branch"].g, graph, f"{node.name}/{k}", {}) for k in ("then", "else")]
    for i, (yes, no, result) in enumerate(zip(*sources, node.output, strict=True)):
        name = f"{node.name}/choice{i}"
        if result:
            graph.node.append(helper.make_node("Where", [node.input[0], yes, no], [result], name=name))
    return True


def _constant(graph: GraphProto, name: str, value: Constant) -> str:
    graph.initializer.append(numpy_helper.from_array(value, name))
    return name


def _goes_on(body: GraphProto) -> bool:
    """Whether the condition that a loop's body returns is the one it got, or constant and true."""
    name = body.output[0].name
    if name == body.input[1].name:
        return True
    for tensor in body.initializer:
        if tensor.name == name:
            return bool(numpy_helper.to_array(tensor).all())
    producer = next((n for n in body.node if name in n.output), None)
    if producer is None:
        return False
    if producer.op_type == "Identity":
        return bool(producer.input[0] == body.input[1].name)
    value = next((a for a in producer.attribute if a.name == "value"), None)
    return producer.op_type == "Constant" and value is not None and bool(numpy_helper.to_array(value.t).all())


def _unroll_loop(node: NodeProto, graph: GraphProto, values: Constants, opset: int) -> bool:
    """Unroll a loop of a constant number of trips; results collected over trips are stacked."""
    body = _attributes(node)["body"].g
    trips = values.get(node.input[0]) if node.input[0] else None
    start = values.get(node.input[1]) if len(node.input) > 1 and node.input[1] else np.asarray(True)
    if trips is None or start is None or not start.all() or not _goes_on(body):
        return False
    count = int(trips.reshape(-1)[0])
    carried = list(node.input[2:])
    results = len(node.output) - len(carried)
    if not 0 < count <= MOST_TRIPS and not (count == 0 and results == 0):
        return False
    true = _constant(graph, f"{node.name}/true", np.asarray(True))
    rows: list[list[str]] = [[] for _ in range(results)]
    for trip in range(count):
        number = _constant(graph, f"{node.name}/trip{trip}", np.asarray(trip, np.int64))
        given = dict(zip((i.name for i in body.input), [number, true, *carried], strict=True))
        found = inlined_body(body, graph, f"{node.name}/{trip}", given)[1:]
        carried = found[: len(carried)]
        for row, name in zip(rows, found[len(carried) :], strict=True):
            row.append(name)
    stacked = [_stack(graph, node, row, k, 0, opset) for k, row in enumerate(rows)]
    _alias(graph, carried + stacked, node)
    return True


def _stack(graph: GraphProto, node: NodeProto, rows: list[str], number: int, axis: int, opset: int) -> str:
    """Add nodes that stack values along a new axis."""
    name = f"{node.name}/stack{number}"
    axes = _constant(graph, f"{name}.axes", np.asarray([axis], np.int64))
    wide = [f"{name}.{i}" for i in range(len(rows))]
    for row, result in zip(rows, wide, strict=True):
        graph.node.append(_unsqueeze(row, result, axes, axis, opset))
    graph.node.append(helper.make_node("Concat", wide, [name], name=name, axis=axis))
    return name


def _unsqueeze(source: str, result: str, axes: str, axis: int, opset: int) -> NodeProto:
    """Return a node that inserts an axis, whose place is an attribute before operator set 13."""
    if opset < 13:
        return helper.make_node("Unsqueeze", [source], [result], name=result, axes=[axis])
    return helper.make_node("Unsqueeze", [source, axes], [result], name=result)


def _unroll_scan(node: NodeProto, graph: GraphProto, shapes: Shapes, opset: int) -> bool:
    """Unroll a scan over inputs of known shape."""
    attributes = _attributes(node)
    body = attributes["body"].g
    scanned = attributes["num_scan_inputs"].i
    states = len(node.input) - scanned
    results = len(node.output) - states
    axes, backwards = (_per_input(attributes, f"scan_input_{k}", scanned) for k in ("axes", "directions"))
    out_axes, out_backwards = (_per_input(attributes, f"scan_output_{k}", results) for k in ("axes", "directions"))
    inputs = list(node.input[states:])
    if any(name not in shapes for name in inputs):
        return False
    count = shapes[inputs[0]][axes[0]] if inputs else 0
    if not 0 < count <= MOST_TRIPS or any(a < 0 for a in out_axes):
        return False
    carried = list(node.input[:states])
    rows: list[list[str]] = [[] for _ in range(results)]
    for trip in range(count):
        parts = []
        for k, name in enumerate(inputs):
            place = np.asarray(count - 1 - trip if backwards[k] else trip, np.int64)
            index = _constant(graph, f"{node.name}/{trip}.index{k}", place)
            part = f"{node.name}/{trip}.in{k}"
            graph.node.append(helper.make_node("Gather", [name, index], [part], name=part, axis=axes[k]))
            parts.append(part)
        given = dict(zip((i.name for i in body.input), carried + parts, strict=True))
        found = inlined_body(body, graph, f"{node.name}/{trip}", given)
        carried = found[:states]
        for row, value in zip(rows, found[states:], strict=True):
            row.append(value)
    ordered = [row[::-1] if back else row for row, back in zip(rows, out_backwards, strict=True)]
    stacked = [_stack(graph, node, row, k, out_axes[k], opset) for k, row in enumerate(ordered)]
    _alias(graph, carried + stacked, node)
    return True


def _per_input(attributes: Mapping[str, AttributeProto], name: str, count: int) -> list[int]:
    return [int(v) for v in attributes[name].ints] if name in attributes else [0] * count
