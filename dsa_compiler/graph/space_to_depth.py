"""Fold a space-to-depth into the convolution that reads it.

Before: `t[y, x, (i, j, c)] = x[2 y + i, 2 x + j, c]` by copies (slices and a concatenation, or a reshape), then a
convolution of t. After: the convolution reads x with a window of twice the size and twice the stride, by the same
weights in another order. The products are the same ones, and nothing is copied pixel by pixel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from dsa_compiler.graph.layers import Layer, LayerGraph, OpCall, Tensor
from dsa_compiler.graph.views import View, identity

Places = np.ndarray
"""Of each element of a tensor, the element of the source that it copies; -1 where none is known."""
MOST_FACTOR = 4


def fold_space_to_depth(graph: LayerGraph) -> LayerGraph:
    """The graph without space-to-depth copies all of whose readers are convolutions."""
    for name in dict.fromkeys(layer.output.tensor for layer in graph.layers if _copies(layer)):
        graph = _fold(graph, name)
    return graph


@dataclass(frozen=True)
class _Phases:
    """How a tensor holds an image: channel t is channel `channels[t]` at (row, column) `phases[t]` of each block."""

    image: View
    factor: tuple[int, int]
    channels: np.ndarray
    phases: np.ndarray


def _copies(layer: Layer) -> tuple[Layer, ...]:
    """The plain copies that a layer stands for; none for a layer of another kind."""
    if layer.kind == "concat":
        return layer.parts
    plain = layer.kind == "movement" and [c.op for c in layer.calls] == ["copy"]
    return (layer,) if plain else ()


def _fold(graph: LayerGraph, name: str) -> LayerGraph:
    tensor = graph.tensors[name]
    writers = [layer for layer in graph.layers if layer.output.tensor == name]
    readers = [layer for layer in graph.layers if any(v.tensor == name for v in layer.inputs)]
    pieces = [piece for layer in writers for piece in _copies(layer)]
    sources = {v.tensor for piece in pieces for v in piece.inputs}
    if tensor.role != "activation" or len(tensor.shape) != 4 or len(sources) != 1 or not readers:
        return graph
    if not all(_copies(layer) for layer in writers) or not all(_takes(layer, name, graph) for layer in readers):
        return graph
    source = graph.tensors[sources.pop()]
    phases = _phases(_places(pieces, graph, tensor), source)
    return graph if phases is None else _rewritten(graph, name, writers, readers, phases)


def _takes(layer: Layer, name: str, graph: LayerGraph) -> bool:
    """Whether the layer is a convolution without groups or dilation by constant weights that reads all of `name`."""
    if layer.kind != "conv2d":
        return False
    call = layer.calls[layer.master]
    kinds = [k for k, _ in call.args]
    if kinds != ["input", "input"] or int(call.attrs["groups"]) != 1 or tuple(call.attrs["dilation"]) != (1, 1):
        return False
    data, weights = (layer.inputs[int(v)] for _, v in call.args)
    uses = sum(v.tensor == name for v in layer.inputs)
    constant = graph.tensors[weights.tensor].value is not None and graph.whole(weights)
    return uses == 1 and data.tensor == name and graph.whole(data) and constant


def _places(pieces: Sequence[Layer], graph: LayerGraph, tensor: Tensor) -> Places:
    """Where every element of the tensor comes from."""
    places = np.full(tensor.size, -1, np.int64)
    for piece in pieces:
        source = graph.tensors[piece.inputs[0].tensor]
        taken = _window(np.arange(source.size), piece.inputs[0], source.columns)
        _window(places, piece.output, tensor.columns)[...] = taken
    return places.reshape(tensor.shape)


def _window(flat: np.ndarray, view: View, columns: int) -> np.ndarray:
    strides = tuple(s * flat.itemsize for s in view.flat_strides(columns))
    return np.lib.stride_tricks.as_strided(flat[view.flat_offset(columns) :], view.shape, strides)


def _phases(places: Places, source: Tensor) -> _Phases | None:
    """The phases that `places` are, with the source's dimensions as (n, c, h, w) or as (n, h, w, c)."""
    if len(source.shape) != 4 or places.min() < 0:
        return None
    for order in ((0, 2, 3, 1), (0, 1, 2, 3)):
        whole = identity(source.name, source.shape)
        image = View(source.name, tuple(source.shape[a] for a in order), tuple(whole.strides[a] for a in order))
        found = _phases_of(places, image, source.columns)
        if found is not None:
            return found
    return None


def _phases_of(places: Places, image: View, columns: int) -> _Phases | None:
    images, height, width, channels = image.shape
    count, rows, lines, depth = places.shape
    factor = height // rows, width // lines
    if count != images or (rows * factor[0], lines * factor[1]) != (height, width) or factor == (1, 1):
        return None
    if max(factor) > MOST_FACTOR or depth != channels * math.prod(factor):
        return None
    pixel = _window(np.arange(images * height * width * channels), image, columns)
    block = pixel.reshape(images, rows, factor[0], lines, factor[1], channels)
    blocks = block.transpose(0, 1, 3, 2, 4, 5).reshape(images, rows, lines, depth)
    order = np.argsort(blocks[0, 0, 0])
    at = order[np.clip(np.searchsorted(blocks[0, 0, 0], places[0, 0, 0], sorter=order), 0, depth - 1)]
    if len(set(at.tolist())) != depth or not np.array_equal(blocks[..., at], places):
        return None
    phase, channel = at // channels, at % channels
    return _Phases(image, factor, channel, np.stack([phase // factor[1], phase % factor[1]], 1))


def _rewritten(
    graph: LayerGraph, name: str, writers: Sequence[Layer], readers: Sequence[Layer], phases: _Phases
) -> LayerGraph:
    tensors = {n: t for n, t in graph.tensors.items() if n != name}
    nodes = tuple(dict.fromkeys(n for layer in writers for n in layer.nodes))
    pixels = Tensor(f"{name}.pixels", phases.image.shape, graph.tensors[name].dtype, "activation")
    whole = identity(pixels.name, pixels.shape)
    tensors[pixels.name] = pixels
    call = OpCall("copy", (("input", 0),), {}, pixels.shape, pixels.dtype, nodes[0])
    copy = Layer(writers[-1].name, "movement", (call,), 0, (phases.image,), whole, nodes)
    layers: list[Layer] = []
    for layer in graph.layers:
        if layer is writers[-1]:
            layers.append(copy)
        elif layer in readers:
            made, weights = _widened(layer, whole, phases, graph)
            tensors[weights.name] = weights
            layers.append(made)
        elif layer not in writers:
            layers.append(layer)
    used = {v.tensor for layer in layers for v in (*layer.inputs, *layer.outputs)} | {*graph.inputs, *graph.outputs}
    return replace(graph, tensors={n: t for n, t in tensors.items() if n in used}, layers=tuple(layers))


def _widened(layer: Layer, image: View, phases: _Phases, graph: LayerGraph) -> tuple[Layer, Tensor]:
    """The convolution over the image itself, and its weights (height, width, channels, outputs)."""
    call = layer.calls[layer.master]
    (down, across), number = phases.factor, int(call.args[1][1])
    data = int(call.args[0][1])
    old = graph.tensors[layer.inputs[number].tensor]
    assert old.value is not None  # the caller has looked
    kh, kw, _, outputs = old.shape
    values = np.zeros((kh, down, kw, across, image.shape[3], outputs), old.value.dtype)
    for place, (channel, (row, column)) in enumerate(zip(phases.channels, phases.phases, strict=True)):
        values[:, row, :, column, channel] = old.value[:, :, place]
    wide = values.reshape(kh * down, kw * across, image.shape[3], outputs)
    tensor = Tensor(f"{old.name}.{layer.name}", wide.shape, old.dtype, "constant", wide)
    top, left, bottom, right = (int(p) for p in call.attrs["padding"])
    strides = tuple(int(s) for s in call.attrs["strides"])
    attrs = {
        **call.attrs,
        "padding": (top * down, left * across, bottom * down, right * across),
        "strides": (strides[0] * down, strides[1] * across),
    }
    inputs = list(layer.inputs)
    inputs[data] = image
    inputs[number] = replace(identity(tensor.name, tensor.shape), strides=_dense(tensor.shape))
    calls = list(layer.calls)
    calls[layer.master] = replace(call, attrs=attrs)
    return replace(layer, calls=tuple(calls), inputs=tuple(inputs)), tensor


def _dense(shape: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """Strides of a dense tensor, in columns alone."""
    return tuple((0, math.prod(shape[i + 1 :])) for i in range(len(shape)))
