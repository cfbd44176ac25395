"""From a loaded model to its layers, with host steps for what has no layer: nothing fails for want of an operator."""

from __future__ import annotations

from collections.abc import Callable, Mapping

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

Lacking = Callable[[Layer], str]
"""Why there is no kernel for a layer, "" if there is one."""


def build_graph(
    model: ModelProto, precision: Precision | None, lacking: Lacking, host: Mapping[str, str] | None = None
) -> LayerGraph:
    """The layers of a model that `load_model` made.

    Nodes that `host` names and those of layers that `lacking` names become host steps, and so does the whole model if
    the graph passes fail. Raises `UserError` for a model that is wrong.
    """
    reasons = dict(host or {})
    while True:
        try:
            mod = import_model(model, reasons)
            found = _with_tuples(mod)
            if found:
                reasons |= found
                continue
            graph = extract_layers(optimize(mod, precision))
        except UserError:
            raise
        except Exception as error:  # whatever a pass of ours or of TVM's raises
            everything = {node.name: f"the graph passes failed: {_first_line(error)}" for node in model.graph.node}
            if everything.keys() <= reasons.keys():
                raise
            reasons = everything
            continue
        found = _without_kernel(graph, lacking)
        if found.keys() <= reasons.keys():
            return graph
        reasons |= found


def _with_tuples(mod: tvm.IRModule) -> dict[str, str]:
    """The nodes of operators with several results, which no layer has, and why."""
    origins = dict(mod["main"].attrs[NODES].items())
    return {
        str(origins[b.var.name]): f"no template for {op_name(b.value)}"
        for b in bindings_of(mod["main"])
        if isinstance(b.var.ty, relax.TupleType) and op_name(b.value) not in ("", "split") and not is_host(b.value)
        if b.var.name in origins
    }


def _without_kernel(graph: LayerGraph, lacking: Lacking) -> dict[str, str]:
    """The nodes of layers without a kernel, and why."""
    pairs = [(layer, lacking(layer)) for layer in graph.layers if layer.kind != "host"]
    return {node: reason for layer, reason in pairs if reason for node in layer.nodes}


def _first_line(error: Exception) -> str:
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__
