"""Decomposed activations, softmaxes and normalisations: several nodes that count as the one operator they compute.

Before: Div(x, 1.41), Erf, Add(1), Mul(x, .), Mul(0.5): a transcendental and a product for each element.
After: one Pattern "activation" of all but the last, which is linear: one transcendental operation an element.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from onnx import NodeProto

from dsa_compiler.bounds.elements import Ops, element_work, normalization_ops, softmax_ops
from dsa_compiler.bounds.graph import Graph, UnknownShape
from dsa_compiler.bounds.operators import CLASS_ORDER, SIMPLE, TRANSCENDENTAL, Kind, classify

_ELEMENTWISE = frozenset(
    {
        Kind.ACTIVATION,
        Kind.NONLINEAR,
        Kind.PRODUCT,
        Kind.QUOTIENT,
        Kind.POWER,
        Kind.LINEAR,
        Kind.QUANTIZE,
    }
)

# Non-linear operators one behind the other, linear ones between them left out, that make one activation.
_CHAINS = {
    ("Max", "Min"): SIMPLE,  # clip
    ("Min", "Max"): SIMPLE,
    ("Relu", "Min"): SIMPLE,
    ("Relu", "Clip"): SIMPLE,
    ("Exp", "Log"): TRANSCENDENTAL,  # softplus
    ("Exp", "Reciprocal"): TRANSCENDENTAL,  # sigmoid
    ("Exp", "Div"): TRANSCENDENTAL,
}
_LONGEST = 24  # nodes walked back from a join before giving up


@dataclass(frozen=True)
class Pattern:
    """Nodes (by their first output) that compute one operator, whose work is charged to the node of `output`."""

    name: str
    output: str
    members: frozenset[str]
    required: Ops


def find_patterns(graph: Graph) -> list[Pattern]:
    """The decomposed operators of a graph; no node is in two of them."""
    found: list[Pattern] = []
    taken: set[str] = set()
    for pattern in (*_softmaxes(graph), *_normalizations(graph), *_activations(graph)):
        if not taken & pattern.members:
            found.append(pattern)
            taken |= pattern.members
    return found


def _made_by(graph: Graph, name: str, *op_types: str) -> NodeProto | None:
    node = graph.maker(name)
    return node if node is not None and node.op_type in op_types else None


def _names(*nodes: NodeProto | None) -> frozenset[str]:
    return frozenset(node.output[0] for node in nodes if node is not None)


# Softmax: Exp(x - max) / ReduceSum


def _softmaxes(graph: Graph) -> Iterator[Pattern]:
    for node in graph.nodes:
        if node.op_type not in ("Div", "Mul"):
            continue
        for top, bottom in (node.input[:2], node.input[1::-1]):
            members = _softmax_members(graph, node, top, bottom)
            if members:
                yield Pattern("softmax", node.output[0], members, softmax_ops(graph.elements(node.output[0])))
                break


def _softmax_members(graph: Graph, node: NodeProto, top: str, bottom: str) -> frozenset[str]:
    inverse = _made_by(graph, bottom, "Reciprocal") if node.op_type == "Mul" else None
    if node.op_type == "Mul" and inverse is None:
        return frozenset()
    total = _made_by(graph, inverse.input[0] if inverse else bottom, "ReduceSum")
    power = _made_by(graph, top, "Exp")
    if total is None or power is None or total.input[0] != top:
        return frozenset()
    shifted = _made_by(graph, power.input[0], "Sub")
    peak = _made_by(graph, shifted.input[1], "ReduceMax") if shifted else None
    if shifted is None or peak is None or peak.input[0] != shifted.input[0]:
        return _names(node, inverse, total, power)
    return _names(node, inverse, total, power, shifted, peak)


# Normalisation: d = x - mean(x); d / sqrt(mean(d * d) + epsilon)


def _normalizations(graph: Graph) -> Iterator[Pattern]:
    for node in graph.nodes:
        if node.op_type not in ("Div", "Mul"):
            continue
        for centred, scale in (node.input[:2], node.input[1::-1]):
            members = _normalization_members(graph, node, centred, scale)
            if members:
                work = normalization_ops(graph.elements(node.output[0]))
                yield Pattern("normalization", node.output[0], members, work)
                break


def _normalization_members(graph: Graph, node: NodeProto, centred: str, scale: str) -> frozenset[str]:
    difference = _made_by(graph, centred, "Sub")
    mean = _made_by(graph, difference.input[1], "ReduceMean") if difference else None
    if difference is None or mean is None or mean.input[0] != difference.input[0]:
        return frozenset()
    path = _deviation(graph, scale, node.op_type == "Mul")
    average = _made_by(graph, path[-1].input[0], "ReduceMean") if path else None
    square = _made_by(graph, average.input[0], "Pow", "Mul") if average else None
    other = _made_by(graph, square.input[0], "Sub") if square else None
    if average is None or square is None or other is None or not _same_difference(graph, difference, other):
        return frozenset()
    if square.op_type == "Mul" and square.input[0] != square.input[1]:
        return frozenset()
    other_mean = graph.maker(other.input[1])
    return _names(node, difference, mean, average, square, other, other_mean, *path)


def _deviation(graph: Graph, scale: str, inverted: bool) -> list[NodeProto]:
    """The nodes from `scale` back to the variance: [Reciprocal], Sqrt or Pow, [Add of epsilon]; empty if others."""
    path = []
    node = graph.maker(scale)
    if inverted and node is not None and node.op_type in ("Reciprocal", "Div"):
        path.append(node)
        node = graph.maker(node.input[-1])
    if node is None or node.op_type not in ("Sqrt", "Pow"):
        return []
    path.append(node)
    shifted = _made_by(graph, node.input[0], "Add")
    return [*path, shifted] if shifted is not None else path


def _same_difference(graph: Graph, one: NodeProto, other: NodeProto) -> bool:
    """Whether two Sub nodes both take the mean of a value from it; exporters write it once or twice."""
    mean = graph.maker(other.input[1])
    same = one.output[0] == other.output[0] or one.input[0] == other.input[0]
    return same and mean is not None and mean.op_type == "ReduceMean" and mean.input[0] == one.input[0]


# Activations: functions of one tensor, element by element


def _activations(graph: Graph) -> list[Pattern]:
    """Joins x * f(x) first, as far as they reach, then chains of non-linear operators."""
    regions = _Regions(graph)
    for node in graph.nodes:
        regions.visit(node)
    patterns = list(regions.patterns.values())
    taken = frozenset[str]().union(*(each.members for each in patterns))
    return patterns + [each for each in _chains(graph) if not each.members & taken]


class _Regions:
    """Joins found so far, and for each value that is an elementwise function of one other: that other value."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.parent: dict[str, str] = {}
        self.patterns: dict[str, Pattern] = {}

    def visit(self, node: NodeProto) -> None:
        """Record what `node` adds; nodes come in graph order."""
        source = _single_source(self.graph, node)
        if source is not None:
            self.parent[node.output[0]] = source
            return
        operands = self.graph.variables(node)
        if classify(node.op_type).kind in _ELEMENTWISE and len(operands) == 2:
            self._join(node, operands[0], operands[1])

    def _join(self, node: NodeProto, left: str, right: str) -> None:
        first, second = self._ancestors(left), self._ancestors(right)
        origin = next((name for name in first if name in second), None)
        if origin is None or not _same_shape(self.graph, origin, node.output[0]):
            return
        paths = [self._inside(path[: path.index(origin)]) for path in (first, second)]
        inside = paths[0] | paths[1] | {node.output[0]}
        if all(self._classes(path) for path in paths) or not self._closed(inside, node):
            return
        self.parent[node.output[0]] = origin
        classes = self._classes(inside)
        if classes:
            self._record(node, inside, max(classes, key=CLASS_ORDER.index))

    def _ancestors(self, name: str) -> list[str]:
        found = [name]
        while name in self.parent and len(found) < _LONGEST:
            name = self.parent[name]
            found.append(name)
        return found

    def _inside(self, path: list[str]) -> set[str]:
        """The values on a path, with those inside the joins on it."""
        return set(path).union(*(self.patterns[name].members for name in path if name in self.patterns))

    def _classes(self, names: set[str]) -> set[str]:
        """Cost classes of the non-linear nodes among the makers of `names`, rounding to a quantised type left out."""
        makers = [self.graph.maker(name) for name in names]
        works = [element_work(self.graph, node) for node in makers if node and node.op_type != "QuantizeLinear"]
        return {cost for work in works for cost in work.required}

    def _closed(self, inside: set[str], last: NodeProto) -> bool:
        """Whether nothing outside reads a value from inside, but for the result."""
        for name in inside - {last.output[0]}:
            if name in self.graph.outputs or any(user.output[0] not in inside for user in self.graph.users(name)):
                return False
        return True

    def _record(self, node: NodeProto, inside: set[str], cost: str) -> None:
        for name in inside:
            self.patterns.pop(name, None)
        work = {cost: self.graph.elements(node.output[0])}
        self.patterns[node.output[0]] = Pattern("activation", node.output[0], frozenset(inside), work)


def _chains(graph: Graph) -> Iterator[Pattern]:
    for node in graph.nodes:
        steps = [node]
        while len(steps) < _LONGEST and (before := _step_back(graph, steps[-1])) is not None:
            steps.append(before)
            if _is_nonlinear(graph, before):
                break
        cost = _CHAINS.get((steps[-1].op_type, node.op_type)) if len(steps) > 1 else None
        if cost is not None and _is_nonlinear(graph, node):
            yield Pattern("activation", node.output[0], _names(*steps), {cost: graph.elements(node.output[0])})


def _step_back(graph: Graph, node: NodeProto) -> NodeProto | None:
    """The elementwise node that makes the one operand of `node` and serves nobody else."""
    source = _single_source(graph, node)
    if source is None or source in graph.outputs or len(graph.users(source)) != 1:
        return None
    before = graph.maker(source)
    return before if before is not None and _single_source(graph, before) is not None else None


def _is_nonlinear(graph: Graph, node: NodeProto) -> bool:
    return bool(element_work(graph, node).required)


def _single_source(graph: Graph, node: NodeProto) -> str | None:
    """The operand of which `node` is an elementwise function with scalar constants; None if it is no such node."""
    if classify(node.op_type).kind not in _ELEMENTWISE or len(node.output) != 1:
        return None
    operands = graph.variables(node)
    constants = [name for name in node.input if name and graph.is_constant(name)]
    if len(operands) != 1 or not _same_shape(graph, operands[0], node.output[0]):
        return None
    return operands[0] if all(_is_scalar(graph, name) for name in constants) else None


def _is_scalar(graph: Graph, name: str) -> bool:
    value = graph.find(name)
    return value is not None and value.shape is not None and all(size == 1 for size in value.shape)


def _same_shape(graph: Graph, one: str, other: str) -> bool:
    try:
        return graph.shape(one) == graph.shape(other)
    except UnknownShape:
        return False
