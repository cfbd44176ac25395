"""Convolutions read every other channel in place: weights of zero for the channels between.

Before: `t = copy(x[..., 1::2])`, `y = conv(t)`, as a channel shuffle and a split leave it. After: `y = conv(x)` with
more weights, of zero for the channels that t has not. The copy would take the vector engine several cycles a pixel;
the zeros take part of the weights' memory, so there is a limit to them.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from dsa_compiler.graph.layers import Layer, LayerGraph, Tensor
from dsa_compiler.graph.views import View, identity

MOST_ZEROS = 0.15
"""Weights of zero for each weight of the model; 0.3 is what weights may grow by, layouts included."""
MOST_STEP = 4


def read_strided_channels(graph: LayerGraph) -> LayerGraph:
    """The graph without copies of every n-th channel all of whose readers are convolutions by constant weights."""
    left = MOST_ZEROS * sum(t.size for t in graph.tensors.values() if t.role == "constant")
    for copy in graph.layers:
        made = _folded(graph, copy, left)
        if made is not None:
            graph, used = made
            left -= used
    return graph


def _folded(graph: LayerGraph, copy: Layer, most: float) -> tuple[LayerGraph, int] | None:
    """The graph without one copy, and the zeros that takes; None where it has to stay."""
    if copy.kind != "movement" or [c.op for c in copy.calls] != ["copy"]:
        return None
    tensor = graph.tensors[copy.output.tensor]
    found = _span(graph, copy)
    if tensor.role != "activation" or not graph.whole(copy.output) or found is None:
        return None
    span, phase, step = found
    readers = [layer for layer in graph.layers if any(v.tensor == tensor.name for v in layer.inputs)]
    writers = [layer for layer in graph.layers if layer.output.tensor == tensor.name]
    if len(writers) != 1 or not readers or not all(_takes(r, tensor.name, graph) for r in readers):
        return None
    kernels = [r.inputs[int(r.calls[r.master].args[1][1])] for r in readers]
    zeros = sum(math.prod(k.shape) for k in kernels) * (step - 1)
    if zeros > most:
        return None
    tensors = dict(graph.tensors)
    made: dict[int, Layer] = {}
    for reader in readers:
        wide, weights = _widened(reader, copy, span, phase, step, graph)
        tensors[weights.name] = weights
        made[id(reader)] = wide
    layers = tuple(made.get(id(layer), layer) for layer in graph.layers if layer is not copy)
    used = {v.tensor for layer in layers for v in (*layer.inputs, *layer.outputs)} | {*graph.inputs, *graph.outputs}
    kept = {n: t for n, t in tensors.items() if n in used}
    return replace(graph, layers=layers, tensors=kept), zeros


def _span(graph: LayerGraph, copy: Layer) -> tuple[View, int, int] | None:
    """All channels from the first block of `step` that the copy takes one of, its place in a block, and `step`."""
    view = copy.inputs[0]
    source = graph.tensors[view.tensor]
    if len(view.shape) != 4 or view.shape[3] < 2 or source.role != "activation":
        return None
    row, step = view.strides[3]
    phase = view.offset[1] % step if step > 0 else 0
    start = view.offset[1] - phase
    if row or not 1 < step <= MOST_STEP or start + step * view.shape[3] > source.columns or view.offset[0]:
        return None
    strides = (*view.strides[:3], (0, 1))
    wide = replace(view, shape=(*view.shape[:3], step * view.shape[3]), strides=strides, offset=(0, start))
    return wide, phase, step


def _takes(layer: Layer, name: str, graph: LayerGraph) -> bool:
    """Whether the layer is a convolution without groups by constant weights that reads all of `name`, once."""
    call = layer.calls[layer.master]
    if layer.kind != "conv2d" or [k for k, _ in call.args] != ["input", "input"] or int(call.attrs["groups"]) != 1:
        return False
    data, weights = (layer.inputs[int(v)] for _, v in call.args)
    once = sum(v.tensor == name for v in layer.inputs) == 1
    kernel = graph.tensors[weights.tensor]
    floats = kernel.value is not None and kernel.dtype.startswith(("float", "bfloat"))
    return once and data.tensor == name and graph.whole(data) and floats and graph.whole(weights)


def _widened(
    layer: Layer, copy: Layer, span: View, phase: int, step: int, graph: LayerGraph
) -> tuple[Layer, Tensor]:
    """The convolution over all channels of the span, and its weights."""
    call = layer.calls[layer.master]
    data, number = (int(v) for _, v in call.args)
    old = graph.tensors[layer.inputs[number].tensor]
    assert old.value is not None  # `_takes` has looked
    kh, kw, channels, outputs = old.shape
    values = np.zeros((kh, kw, channels, step, outputs), old.value.dtype)
    values[:, :, :, phase] = old.value
    wide = values.reshape(kh, kw, channels * step, outputs)
    tensor = Tensor(f"{old.name}.{layer.name}", wide.shape, old.dtype, "constant", wide)
    inputs = list(layer.inputs)
    inputs[data] = span
    whole = identity(tensor.name, tensor.shape)
    inputs[number] = View(whole.tensor, whole.shape, tuple((0, r * outputs + c) for r, c in whole.strides))
    nodes = tuple(dict.fromkeys((*copy.nodes, *layer.nodes)))
    return replace(layer, inputs=tuple(inputs), nodes=nodes), tensor
