"""From a loaded model to its layers, with host steps for what has no layer: nothing fails for want of an operator."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace

import tvm
from onnx import ModelProto
from tvm import relax

from dsa_compiler.errors import UserError
from dsa_compiler.frontend import import_model
from dsa_compiler.frontend.host import is_host
from dsa_compiler.frontend.importer import NODES
from dsa_compiler.graph.calls import op_name
from dsa_compiler.graph.extract import extract_layers
from dsa_compiler.graph.layers import Layer, LayerGraph
from dsa_compiler.graph.pipeline import optimize
from dsa_compiler.graph.precision import Precision
from dsa_compiler.graph.rewriter import bindings_of
from dsa_compiler.operators.table import OPERATORS

Lacking = Callable[[Layer], str]
"""Why there is no kernel for a layer, "" if there is one."""
_REWRITTEN = frozenset({
    "concat", "split", "squeeze", "expand_dims", "flatten", "nn.batch_flatten", "stack", "nn.conv2d_transpose",
    "call_dps_packed",
})  # fmt: skip
"""Operators that graph passes turn into those of the table."""


def build_graph(
    model: ModelProto, precision: Precision | None, lacking: Lacking, host: Mapping[str, str] | None = None
) -> LayerGraph:
    """The layers of a model that `load_model` made.

    Nodes that `host` names, those of operators that no pass knows and those of layers that `lacking` names become host
    steps; so do all nodes of an operator on which the graph passes fail, or the whole model. Raises `UserError` for a
    model that is wrong.
    """
    reasons = dict(host or {})
    while True:
        mod = import_model(model, reasons)
        found = _strange(mod)
        if not found:
            try:
                graph = extract_layers(optimize(mod, precision))
            except UserError:
                raise
            except Exception as error:  # whatever a pass of ours or of TVM's raises
                reasons = _culprits(model, precision, reasons, error)
                continue
            found = _without_kernel(graph, lacking)
        if found.keys() <= reasons.keys():
            return _without_empty(graph)
        reasons |= found


def _strange(mod: tvm.IRModule) -> dict[str, str]:
    """The nodes that became operators which no pass knows, or which have several results, and why."""
    origins = dict(mod["main"].attrs[NODES].items())
    found: dict[str, str] = {}
    for binding in bindings_of(mod["main"]):
        name = op_name(binding.value)
        if not name or is_host(binding.value) or binding.var.name not in origins:
            continue
        tensor = isinstance(binding.var.ty, relax.TensorType) or name == "split"
        if not tensor or (name not in OPERATORS and name not in _REWRITTEN):
            found[str(origins[binding.var.name])] = f"no template for {name}"
    return found


def _culprits(
    model: ModelProto, precision: Precision | None, reasons: Mapping[str, str], error: Exception
) -> dict[str, str]:
    """`reasons`, and more nodes that let the graph passes succeed: all of one operator, else the whole model.

    Raises `error` where all nodes have a reason already.
    """
    reason = f"the graph passes failed: {_first_line(error)}"
    if all(node.name in reasons for node in model.graph.node):
        raise error
    counts = Counter(node.op_type for node in model.graph.node if node.name not in reasons)
    for operator, _ in sorted(counts.items(), key=lambda item: (item[1], item[0])):
        named = {n.name: reason for n in model.graph.node if n.op_type == operator and n.name not in reasons}
        trial = {**reasons, **named}
        try:
            extract_layers(optimize(import_model(model, trial), precision))
        except Exception:  # not the one, or not the only one
            continue
        return trial
    return {**{node.name: reason for node in model.graph.node}, **reasons}


def _without_empty(graph: LayerGraph) -> LayerGraph:
    """The graph without layers all of whose results have no element."""
    layers = tuple(one for one in graph.layers if any(math.prod(v.shape) for v in one.outputs))
    return replace(graph, layers=layers) if len(layers) < len(graph.layers) else graph


def _without_kernel(graph: LayerGraph, lacking: Lacking) -> dict[str, str]:
    """The nodes of layers without a kernel, and why."""
    pairs = [(layer, lacking(layer)) for layer in graph.layers if layer.kind != "host"]
    return {node: reason for layer, reason in pairs if reason for node in layer.nodes}


def _first_line(error: Exception) -> str:
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__
