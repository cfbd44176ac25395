"""The lower bound of a model on a part: `ideal` of the manual, with the rows and sums that it is made of."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from onnx import ModelProto, NodeProto

from dsa_compiler.bounds.dtypes import FLOATS, ITEM_BYTES
from dsa_compiler.bounds.elements import NONE, ElementWork, Ops, element_work
from dsa_compiler.bounds.graph import Graph, UnknownShape, attribute, read
from dsa_compiler.bounds.operators import CLASS_ORDER, OPERATORS, Kind, classify
from dsa_compiler.bounds.patterns import Pattern, find_patterns
from dsa_compiler.bounds.products import is_depthwise, macs, product_dtype
from dsa_compiler.bounds.traffic import Sizes, Traffic, node_bytes, weight_bytes
from dsa_compiler.errors import UserError
from dsa_compiler.target import Target


@dataclass(frozen=True)
class NodeWork:
    """The work of one ONNX node, over all trips of the loops around it.

    `element_ops` are all its element operations by cost class; `required_ops` those of them that only the
    vector engine can do. A decomposed activation's are at its last node, and all its nodes name its `pattern`.
    `bytes` are those of operands and results in the compiled precision, `item_bytes` those of the widest
    element that varies.
    """

    name: str
    op: str
    outputs: tuple[str, ...]
    macs: int
    mac_dtype: str | None
    depthwise: bool
    element_ops: Ops
    required_ops: Ops
    bytes: int
    item_bytes: float
    pattern: str | None = None

    @property
    def element_total(self) -> int:
        """Element operations of all classes."""
        return sum(self.element_ops.values())


@dataclass(frozen=True)
class Bounds:
    """What a model needs on a part at least; cycles and bytes for one run of the whole batch.

    `uncounted` tells which nodes' work is missing, and why: the bound is a bound still.
    """

    rows: tuple[NodeWork, ...]
    traffic: Traffic
    mac_cycles: float
    ddr_cycles: float
    vector_cycles: float
    depthwise_vector_cycles: float
    clock_ghz: float
    uncounted: tuple[str, ...]

    @property
    def macs(self) -> dict[str, int]:
        """Multiply-accumulates by element type of the matrix engine."""
        return _summed({row.mac_dtype: row.macs} for row in self.rows if row.mac_dtype is not None)

    @property
    def total_macs(self) -> int:
        """Multiply-accumulates of all element types."""
        return sum(row.macs for row in self.rows)

    @property
    def element_ops(self) -> dict[str, int]:
        """All element operations by cost class."""
        return _summed(row.element_ops for row in self.rows)

    @property
    def required_ops(self) -> dict[str, int]:
        """Element operations that only the vector engine can do, by cost class."""
        return _summed(row.required_ops for row in self.rows)

    @property
    def ddr_bytes(self) -> int:
        """Bytes of ddr that nothing avoids."""
        return self.traffic.total

    @property
    def ideal_cycles(self) -> float:
        """The lower bound: the greatest of the three."""
        return max(self.mac_cycles, self.ddr_cycles, self.vector_cycles)

    @property
    def bound_by(self) -> str:
        """What binds: matrix, ddr or vector."""
        cycles = {"matrix": self.mac_cycles, "ddr": self.ddr_cycles, "vector": self.vector_cycles}
        return max(cycles, key=lambda name: cycles[name])

    @property
    def ideal_ms(self) -> float:
        """The lower bound in milliseconds."""
        return self.ideal_cycles / self.clock_ghz / 1e6

    def rate(self, batch: int) -> float:
        """Samples a second at the lower bound; infinite if nothing is counted."""
        return batch / self.ideal_ms * 1e3 if self.ideal_ms else math.inf


def analyze(model: ModelProto, target: Target, precision: str | None = None) -> Bounds:
    """The lower bound of a model with static shapes, compiled in `precision` (None: as the model is).

    Raises UserError for a precision that is unknown or that the part's matrix engine lacks, and for a
    model that shape inference refuses.
    """
    _check_precision(target, precision)
    memory = target.memory["ddr"]
    survey = _Survey(target, precision, Sizes(precision, memory.burst or memory.alignment))
    graph = read(model)
    survey.add(graph, 1)
    traffic = _traffic(graph, survey)
    return Bounds(
        rows=tuple(survey.rows),
        traffic=traffic,
        mac_cycles=_mac_cycles(target, survey.rows),
        ddr_cycles=traffic.total / memory.bandwidth if memory.bandwidth else 0.0,
        vector_cycles=_vector_cycles(target, survey.rows),
        depthwise_vector_cycles=_depthwise_cycles(target, survey.rows),
        clock_ghz=target.clock_ghz,
        uncounted=tuple(survey.uncounted),
    )


class _Survey:
    """Collects the rows, constants and gaps of a graph and the bodies in it."""

    def __init__(self, target: Target, precision: str | None, sizes: Sizes) -> None:
        self.target, self.precision, self.sizes = target, precision, sizes
        self.rows: list[NodeWork] = []
        self.weights: dict[frozenset[str], int] = {}
        self.uncounted: list[str] = []

    def add(self, graph: Graph, trips: int) -> None:
        """Count the nodes of `graph`, which runs `trips` times."""
        nodes = [node for node in graph.nodes if not _is_constant(graph, node)]
        patterns = {name: pattern for pattern in self._patterns(graph) for name in pattern.members}
        for leaves, size in weight_bytes(graph, nodes, self.sizes).items():
            self.weights[leaves] = max(size, self.weights.get(leaves, 0))
        for node in nodes:
            if classify(node.op_type).kind is Kind.CONTROL:
                self._add_bodies(graph, node, trips)
            else:
                self._add_node(graph, node, trips, patterns.get(node.output[0]))

    def _patterns(self, graph: Graph) -> list[Pattern]:
        try:
            return find_patterns(graph)
        except UnknownShape:
            return []

    def _add_node(self, graph: Graph, node: NodeProto, trips: int, pattern: Pattern | None) -> None:
        if node.op_type not in OPERATORS:
            self._skip(node, "operator is not known")
        try:
            self.rows.append(self._row(graph, node, trips, pattern))
        except UnknownShape as gap:
            self._skip(node, f"shape of {gap} is not static")

    def _row(self, graph: Graph, node: NodeProto, trips: int, pattern: Pattern | None) -> NodeWork:
        count = macs(graph, node)
        work = _with_pattern(element_work(graph, node), node, pattern)
        values = [*graph.variables(node), *(name for name in node.output if name)]
        return NodeWork(
            name=node_name(node),
            op=node.op_type,
            outputs=tuple(node.output),
            macs=count * trips,
            mac_dtype=self._mac_dtype(graph, node) if count else None,
            depthwise=count > 0 and is_depthwise(graph, node),
            element_ops=_times(work.total, trips),
            required_ops=_times(work.required, trips),
            bytes=node_bytes(graph, node, self.sizes) * trips,
            item_bytes=_widest(graph, node, values, self.sizes),
            pattern=pattern.name if pattern else None,
        )

    def _mac_dtype(self, graph: Graph, node: NodeProto) -> str:
        """The product's own element type, or the part's fastest for one that its matrix engine lacks."""
        unit = self.target.engine.matrix
        wanted = product_dtype(graph, node, self.precision)
        return wanted if unit.macs_per_cycle(wanted) else max(unit.unit, key=unit.macs_per_cycle)

    def _skip(self, node: NodeProto, reason: str) -> None:
        self.uncounted.append(f"{node_name(node)} ({node.op_type}): {reason}")

    def _add_bodies(self, graph: Graph, node: NodeProto, trips: int) -> None:
        if node.op_type == "If":
            chosen = graph.known(node.input[0])
            if chosen is None:
                return self._skip(node, "which branch runs depends on data")
            branch = "then_branch" if bool(chosen.ravel()[0]) else "else_branch"
            return self.add(graph.body(node, branch), trips)
        inner = _trip_count(graph, node)
        if inner is None:
            return self._skip(node, "number of trips depends on data")
        return self.add(graph.body(node, "body"), trips * inner)


def node_name(node: NodeProto) -> str:
    """The name of a node, or of its first output if it has none."""
    return str(node.name or next((name for name in node.output if name), node.op_type))


def _trip_count(graph: Graph, node: NodeProto) -> int | None:
    """Trips of a Loop without a condition, or of a Scan; None if unknown."""
    if node.op_type == "Scan":
        return _scan_length(graph, node)
    if node.op_type != "Loop" or not node.input[0] or not _runs_to_the_end(graph, node):
        return None
    limit = graph.known(node.input[0])
    return None if limit is None else max(0, int(limit.ravel()[0]))


def _scan_length(graph: Graph, node: NodeProto) -> int | None:
    scanned = int(attribute(node, "num_scan_inputs"))
    axes = attribute(node, "scan_input_axes", [0] * scanned)
    value = graph.find(node.input[-scanned])
    return None if value is None or value.shape is None else value.shape[axes[0]]


def _runs_to_the_end(graph: Graph, node: NodeProto) -> bool:
    """Whether a Loop's condition is absent or true, before and in the body."""
    first = graph.known(node.input[1]) if len(node.input) > 1 and node.input[1] else None
    if first is not None and not bool(first.ravel()[0]):
        return False
    body = graph.body(node, "body")
    again = body.outputs[0]
    maker = body.maker(again)
    if maker is not None and maker.op_type == "Identity":
        again = maker.input[0]
    value = body.known(again)
    passed_on = again == body.inputs[1] and (first is not None or not node.input[1])
    return passed_on or (value is not None and bool(value.ravel()[0]))


def _is_constant(graph: Graph, node: NodeProto) -> bool:
    return all(graph.is_constant(name) for name in node.output if name)


def _with_pattern(work: ElementWork, node: NodeProto, pattern: Pattern | None) -> ElementWork:
    if pattern is None:
        return work
    return ElementWork(work.total, pattern.required if pattern.output == node.output[0] else NONE)


def _widest(graph: Graph, node: NodeProto, values: Iterable[str], sizes: Sizes) -> float:
    """Bytes of the widest varying element; what is rounded to a quantised type counts as that type."""
    if classify(node.op_type).kind is Kind.QUANTIZE:
        return sizes.item(graph, node.output[0])
    return max((sizes.item(graph, name) for name in values), default=0)


def _times(ops: Ops, trips: int) -> dict[str, int]:
    return {cost: count * trips for cost, count in ops.items() if count}


def _summed(parts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for part in parts:
        for key, count in part.items():
            total[key] = total.get(key, 0) + count
    return total


def _traffic(graph: Graph, survey: _Survey) -> Traffic:
    sizes = survey.sizes
    inputs = [name for name in graph.inputs if name in graph.consumers or name in graph.outputs]
    return Traffic(
        inputs=sum(sizes.interface_bytes(graph, name) for name in inputs),
        outputs=sum(sizes.interface_bytes(graph, name) for name in dict.fromkeys(graph.outputs)),
        weights=sum(survey.weights.values()),
    )


def _mac_cycles(target: Target, rows: list[NodeWork]) -> float:
    unit = target.engine.matrix
    pairs = ((row.macs, row.mac_dtype) for row in rows if row.mac_dtype is not None)
    return sum(count / unit.macs_per_cycle(dtype) for count, dtype in pairs) / target.cores


def _vector_cycles(target: Target, rows: list[NodeWork]) -> float:
    engine = target.engine.vector
    passes = ((count * engine.cost[cost], row.item_bytes) for row, cost, count in _required(rows))
    return sum(weighted * item for weighted, item in passes) / engine.width / target.cores


def _required(rows: list[NodeWork]) -> Iterator[tuple[NodeWork, str, int]]:
    for row in rows:
        for cost in CLASS_ORDER:
            if cost in row.required_ops:
                yield row, cost, row.required_ops[cost]


def _depthwise_cycles(target: Target, rows: list[NodeWork]) -> float:
    """Vector cycles with the depthwise convolutions there as well: what binds a part that puts them there."""
    engine = target.engine.vector
    taps = sum(row.macs * row.item_bytes for row in rows if row.depthwise)
    return _vector_cycles(target, rows) + taps * engine.cost["simple"] / engine.width / target.cores


def _check_precision(target: Target, precision: str | None) -> None:
    if precision is None:
        return
    if precision not in ITEM_BYTES:
        raise UserError(
            f"precision {precision!r} is not known", where="bounds", action=f"use one of {', '.join(sorted(FLOATS))}"
        )
    units = target.engine.matrix.unit
    if precision not in units:
        raise UserError(
            f"{target.name} has no matrix products in {precision}",
            where="bounds",
            action=f"use one of {', '.join(units)}",
        )
