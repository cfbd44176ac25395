"""Compare a compiled model with the reference node by node, on the part itself.

Two variants of the model are compiled for the same part and run:

* for errors as they add up, the model with more outputs: the values that its layers hand on. Layers stay as they are,
  since only what is stored anyway becomes visible. A node whose value stays inside a layer, or that needs no
  instruction, is judged where the work that it goes into ends (`NodeResult.seen_at`).
* for each node alone, a model in which every node takes the reference's values instead of what was computed before it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import AttributeProto, ModelProto, NodeProto, TypeProto, ValueInfoProto, helper

import dsa_compiler as dsac
from dsa_compiler.errors import UserError
from dsa_compiler.options import CompileOptions
from dsa_compiler.runtime.executable import Executable
from dsa_compiler.verification import (
    Array,
    Arrays,
    Difference,
    Tolerance,
    compiled_from,
    difference,
    reference_outputs,
)

if TYPE_CHECKING:
    from dsa_compiler.compilation import CompiledLayer

Progress = Callable[[str], None]

SHARE_OF_DDR = 4
"""Nodes that are run alone share a program as long as their operands take no more than one part in this of ddr."""


@dataclass(frozen=True)
class Placement:
    """Where the work of a node is done: on the "npu", on the "host" for `reason`, or "none" where there is no work."""

    node: str
    op: str
    where: str
    layers: tuple[str, ...]
    reason: str = ""


@dataclass(frozen=True)
class NodeResult:
    """A node's differences from the reference, the worst of its results; None where nothing could be compared.

    `accumulated` holds the errors of everything before it too, and is that of the value `seen_at`; `alone` is with the
    reference's inputs.
    """

    placement: Placement
    accumulated: Difference | None
    seen_at: str
    alone: Difference | None
    problem: str = ""

    def within(self, tolerance: Tolerance) -> bool:
        """Whether both differences pass."""
        return all(d is None or d.within(tolerance) for d in (self.accumulated, self.alone)) and not self.problem


def place_nodes(executable: Executable) -> list[Placement]:
    """Where each node of the model ran, in order, with the reason for every one that is not on the NPU."""
    model = compiled_from(executable)[0]
    layers: dict[str, list[CompiledLayer]] = {}
    for compiled in executable.layers:
        for name in dict.fromkeys(compiled.layer.nodes):
            layers.setdefault(name, []).append(compiled)
    return [_placement(node, layers.get(node.name, [])) for node in model.graph.node]


def _placement(node: NodeProto, layers: Sequence[CompiledLayer]) -> Placement:
    op = node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}"
    names = tuple(compiled.layer.name for compiled in layers)
    if not layers:
        return Placement(node.name, op, "none", (), "it only renames, views or scales what other layers compute")
    reasons = dict.fromkeys(compiled.host_reason for compiled in layers if compiled.trace is None)
    return Placement(node.name, op, "host" if reasons else "npu", names, "; ".join(reasons))


def verify_nodes(
    executable: Executable,
    inputs: Arrays,
    options: CompileOptions,
    *,
    only: str | None = None,
    progress: Progress = lambda step: None,
) -> list[NodeResult]:
    """The result of each node of a model compiled in this process, in order, or of the node called `only`.

    `options` are those that it was compiled with. Raises `UserError` if there is no such node.
    """
    model = compiled_from(executable)[0]
    placements = place_nodes(executable)
    if only is not None and only not in {p.node for p in placements}:
        raise UserError(f"there is no node {only!r}", where="verify",
                        action=f"name one of {', '.join(p.node for p in placements[:20])} ...")  # fmt: skip
    part = executable.program.target
    plain = CompileOptions(precision=options.precision, graph_schedule=options.graph_schedule,
                           disabled_passes=options.disabled_passes)  # fmt: skip
    progress("every value, by the reference")
    values = {**reference_values(model, inputs), **inputs}
    progress("errors as they add up")
    ends = _ends(model, placements)
    seen = _run(_showing(model, sorted(set(ends.values()))), inputs, part, plain)
    nodes = [node for node in model.graph.node if only in (None, node.name)]
    alone: dict[str, Array] = {}
    problems: dict[str, str] = {}
    for number, chunk in enumerate(_chunks(nodes, values, part.memory["ddr"].size // SHARE_OF_DDR)):
        progress(f"each node alone, part {number + 1}")
        _run_alone(model, chunk, values, part, plain, alone, problems)
    by_name = {p.node: p for p in placements}
    return [_result(node, by_name[node.name], ends, values, seen, alone, problems) for node in nodes]


def _result(
    node: NodeProto, placement: Placement, ends: Mapping[str, str], values: Arrays, seen: Arrays, alone: Arrays,
    problems: Mapping[str, str],
) -> NodeResult:  # fmt: skip
    end = ends.get(node.name, "")
    results = [difference(o, alone[o], values[o]) for o in node.output if o in alone and o in values]
    return NodeResult(
        placement,
        difference(end, seen[end], values[end]) if end in seen and end in values else None, end,
        max(results, key=lambda d: (np.isnan(d.error), d.error), default=None), problems.get(node.name, ""),
    )  # fmt: skip


def reference_values(model: ModelProto, inputs: Arrays) -> dict[str, Array]:
    """Every value of the model by name, by the reference; those that are no tensors are left out."""
    names = [o for node in model.graph.node for o in node.output if o]
    return reference_outputs(_with_outputs(model, names), inputs)


def _with_outputs(model: ModelProto, names: Sequence[str]) -> ModelProto:
    """A copy of the model whose outputs are `names`."""
    copy = ModelProto()
    copy.CopyFrom(model)
    declared = {o.name: o for o in model.graph.output}
    del copy.graph.output[:]
    copy.graph.output.extend(declared.get(n) or helper.make_value_info(n, TypeProto()) for n in names)
    return copy


def _showing(model: ModelProto, names: Sequence[str]) -> ModelProto:
    """A copy of the model with further outputs."""
    own = [o.name for o in model.graph.output]
    return _with_outputs(model, [*own, *(n for n in names if n not in own)])


def _run(model: ModelProto, inputs: Arrays, part: Any, options: CompileOptions) -> dict[str, Array]:
    return dsac.compile(model, part, options=options).run(inputs)


def _ends(model: ModelProto, placements: Sequence[Placement]) -> dict[str, str]:
    """For each node the value at which its accumulated error is seen: its own, or one that its work goes into.

    A value is handed on if a node of another layer reads it, or if it is an output.
    """
    layers = {p.node: frozenset(p.layers) for p in placements}
    readers: dict[str, list[NodeProto]] = {}
    for node in model.graph.node:
        for name in _reads(node):
            readers.setdefault(name, []).append(node)
    outputs = {o.name for o in model.graph.output}
    ends: dict[str, str] = {}
    takers: dict[str, set[frozenset[str]]] = {}  # value -> layers of the nodes that work on it, views between or not
    for node in reversed(model.graph.node):
        own = layers[node.name]
        for name in node.output:
            takers[name] = set().union(*({layers[r.name]} if layers[r.name] else _passed(r, takers)
                                         for r in readers.get(name, ())))  # fmt: skip
        stored = [o for o in node.output if o and own and any(not own & taker for taker in takers[o])]
        shown = [o for o in node.output if o in outputs] or stored
        later = [ends[r.name] for o in node.output for r in readers.get(o, ()) if r.name in ends]
        found = next(iter([*shown, *later]), "")
        if found:
            ends[node.name] = found
    return ends


def _passed(node: NodeProto, takers: Mapping[str, set[frozenset[str]]]) -> set[frozenset[str]]:
    """The layers that work on the results of a node which has no layer of its own."""
    return set().union(*(takers.get(o, set()) for o in node.output))


def _reads(node: NodeProto) -> Iterator[str]:
    yield from (name for name in node.input if name)
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            for inner in attribute.g.node:
                yield from _reads(inner)


def _chunks(nodes: Sequence[NodeProto], values: Arrays, most: int) -> Iterator[list[NodeProto]]:
    """Split nodes so that the operands of those together take at most `most` bytes."""
    chunk: list[NodeProto] = []
    used = 0
    for node in nodes:
        size = sum(values[name].nbytes for name in (*node.input, *node.output) if name in values)
        if chunk and used + size > most:
            yield chunk
            chunk, used = [], 0
        chunk.append(node)
        used += size
    if chunk:
        yield chunk


def _run_alone(
    model: ModelProto, nodes: Sequence[NodeProto], values: Arrays, part: Any, options: CompileOptions,
    found: dict[str, Array], problems: dict[str, str],
) -> None:  # fmt: skip
    """Run nodes, each with the reference's inputs; those that cannot be compiled together are halved to find which."""
    nodes = [n for n in nodes if not any(a.type == AttributeProto.GRAPH for a in n.attribute)]
    nodes = [n for n in nodes if any(o in values for o in n.output)]
    if not nodes:
        return
    part_model, feeds = isolated(model, nodes, values)
    try:
        found.update(_run(part_model, feeds, part, options))
    except dsac.DsacError as error:
        if len(nodes) == 1:
            problems[nodes[0].name] = str(error)
            return
        half = len(nodes) // 2
        for some in (nodes[:half], nodes[half:]):
            _run_alone(model, some, values, part, options, found, problems)


def isolated(
    model: ModelProto, nodes: Sequence[NodeProto], values: Arrays
) -> tuple[ModelProto, dict[str, Array]]:  # fmt: skip
    """A model of `nodes` in which none feeds another, and its inputs: the reference's values. Constants stay."""
    constants = {t.name: t for t in model.graph.initializer}
    feeds: dict[str, Array] = {}
    infos: list[ValueInfoProto] = []
    copies = []
    for node in nodes:
        copy = NodeProto()
        copy.CopyFrom(node)
        for place, name in enumerate(node.input):
            if name and name not in constants:
                copy.input[place] = f"{name}@{node.name}"
                if copy.input[place] not in feeds:
                    feeds[copy.input[place]] = values[name]
                    dtype = helper.np_dtype_to_tensor_dtype(values[name].dtype)
                    infos.append(helper.make_tensor_value_info(copy.input[place], dtype, values[name].shape))
        copies.append(copy)
    outputs = [helper.make_value_info(o, TypeProto()) for n in nodes for o in n.output if o in values]
    used = dict.fromkeys(name for node in nodes for name in node.input if name in constants)
    graph = helper.make_graph(copies, "nodes", infos, outputs, [constants[name] for name in used])
    return helper.make_model(graph, opset_imports=list(model.opset_import), ir_version=model.ir_version,
                             functions=list(model.functions)), feeds  # fmt: skip
