"""From a layer to its kernel: the template of its kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from dsa_compiler.errors import Infeasible, InternalError
from dsa_compiler.graph.layers import Layer, LayerGraph
from dsa_compiler.lower.attention_layer import lower_attention_layer
from dsa_compiler.lower.binding import LoweredKernel
from dsa_compiler.lower.concat_layer import lower_concat_layer
from dsa_compiler.lower.expression import supports
from dsa_compiler.lower.gather_layer import lower_gather_layer
from dsa_compiler.lower.matrix_layer import lower_matrix_layer, takes_diagonals
from dsa_compiler.lower.movement_layer import lower_movement_layer, movement_supported
from dsa_compiler.lower.reduce_layer import REDUCTIONS, lower_norm_layer, lower_reduce_layer, lower_softmax_layer
from dsa_compiler.lower.requantize import with_scale_operands
from dsa_compiler.lower.tile_layer import lower_elementwise_layer
from dsa_compiler.lower.wide_layer import in_words, is_wide_cast, lower_wide_cast
from dsa_compiler.lower.window_layer import lower_window_layer
from dsa_compiler.operators.table import is_elementwise
from dsa_compiler.target import Target

Template = Callable[..., LoweredKernel]

def _lower_depthwise_layer(layer: Layer, graph: LayerGraph, target: Target, *, rank: int = 0) -> LoweredKernel:
    """Integers on the matrix engine where it takes them, the rest on the vector engine."""
    template = lower_matrix_layer if takes_diagonals(layer, graph, target) else lower_window_layer
    return template(layer, graph, target, rank=rank)


TEMPLATES: Mapping[str, Template] = {
    "conv2d": lower_matrix_layer,
    "matmul": lower_matrix_layer,
    "depthwise": _lower_depthwise_layer,
    "pool": lower_window_layer,
    "softmax": lower_softmax_layer,
    "norm": lower_norm_layer,
    "reduce": lower_reduce_layer,
    "elementwise": lower_elementwise_layer,
    "movement": lower_movement_layer,
    "attention": lower_attention_layer,
    "concat": lower_concat_layer,
    "gather": lower_gather_layer,
}
_COMPUTED = frozenset({"elementwise", "movement", "attention"})
"""Kinds whose master may read calls of its own layer."""


def lacking(layer: Layer) -> str:
    """Why no template takes `layer`, "" if one does."""
    master = layer.calls[layer.master]
    moved = layer.kind != "movement" or movement_supported(master.op, dict(master.attrs))
    folded = layer.kind != "reduce" or master.op in REDUCTIONS
    if layer.kind not in TEMPLATES or not moved or not folded:
        return f"no template for {master.op}"
    strange = sorted({c.op for c in layer.calls if is_elementwise(c.op) and not supports(c.op)})
    return f"no expression for {', '.join(strange)}" if strange else ""


def lower_layer(layer: Layer, graph: LayerGraph, target: Target, *, rank: int = 0) -> LoweredKernel:
    """The kernel of `layer` on all cores, operands and result in ddr; `rank` counts choices refused so far.

    Raises `Infeasible` if no template takes the layer, or no tiling fits; `InternalError` for a layer whose
    anchor depends on its own epilogue.
    """
    if any(k == "call" for k, _ in layer.calls[layer.master].args) and layer.kind not in _COMPUTED:
        raise InternalError("its anchor reads a call of its own layer", where=layer.name)
    if is_wide_cast(layer, graph):
        return lower_wide_cast(layer, graph, target, rank=rank)
    if layer.kind in ("movement", "concat") and all(c.op in ("copy", "concat") for c in layer.calls):
        layer, graph = in_words(layer, graph)
    layer, graph = with_scale_operands(layer, graph)
    template = TEMPLATES.get(layer.kind)
    if template is None:
        raise Infeasible(f"layers of kind {layer.kind}", 1, 0, where="lower")
    return template(layer, graph, target, rank=rank)
