"""How tensors of short rows are stored.

Copies that only bring planes of an image into channel-last order are not made: convolutions over lines
(`lower.lines`) take planes. Rows shorter than a row of L1 are stored without padding, so that many of them can be
read as one run, and convolutions take pixels as lines.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from dsa_compiler.graph.channel_slices import read_strided_channels
from dsa_compiler.graph.layers import Layer, LayerGraph, Tensor
from dsa_compiler.graph.space_to_depth import fold_space_to_depth
from dsa_compiler.graph.views import View, flattened
from dsa_compiler.isa.dtypes import item_bytes
from dsa_compiler.lower.lines import takes_lines
from dsa_compiler.lower.merge_casts import merge_casts
from dsa_compiler.lower.split_reductions import split_reductions
from dsa_compiler.target import Target


def plan_storage(graph: LayerGraph, target: Target) -> LayerGraph:
    """The graph with tensors of short rows stored as its layers read them best, and large reductions divided."""
    graph = merge_casts(read_planes(read_strided_channels(fold_space_to_depth(graph)), target))
    return split_reductions(store_short_rows_dense(graph, target), target)


def store_short_rows_dense(graph: LayerGraph, target: Target) -> LayerGraph:
    """The graph with every activation dense whose rows are shorter than a row of L1."""
    alignment = target.memory["l1"].alignment
    short = {
        name: tensor
        for name, tensor in graph.tensors.items()
        if tensor.role == "activation" and not tensor.dense and tensor.columns * item_bytes(tensor.dtype) < alignment
    }
    if not short:
        return graph
    layers = tuple(_flattened(layer, short) for layer in graph.layers)
    tensors = {name: replace(t, dense=True) if name in short else t for name, t in graph.tensors.items()}
    return replace(graph, layers=layers, tensors=tensors)


def _flattened(layer: Layer, short: Mapping[str, Tensor]) -> Layer:
    """The layer with its views of tensors that have become dense."""
    flat: Callable[[View], View] = lambda v: flattened(v, short[v.tensor].columns) if v.tensor in short else v  # noqa: E731
    return replace(layer, inputs=tuple(flat(v) for v in layer.inputs), output=flat(layer.output))


def read_planes(graph: LayerGraph, target: Target) -> LayerGraph:
    """The graph without copies whose consumers can all read the source of the copy.

    Before: `t = copy(x)`, `y = conv2d(t)`. After: `y = conv2d(x)`, if x has contiguous lines and few channels, and
    t is no output and is read whole by the data operands of convolutions alone.
    """
    layers = list(graph.layers)
    gone: set[str] = set()
    for copy in graph.layers:
        if not _is_whole_copy(copy, graph):
            continue
        name = copy.output.tensor
        users = [n for n, layer in enumerate(layers) if any(v.tensor == name for v in layer.inputs)]
        if users and all(_reads_lines(layers[n], name, copy, graph, target) for n in users):
            for n in users:
                layers[n] = _reading(layers[n], name, copy)
            layers.remove(copy)
            gone.add(name)
    tensors = {name: tensor for name, tensor in graph.tensors.items() if name not in gone}
    return replace(graph, layers=tuple(layers), tensors=tensors) if gone else graph


def _is_whole_copy(layer: Layer, graph: LayerGraph) -> bool:
    """Whether the layer copies a view into all of an activation of four dimensions."""
    plain = layer.kind == "movement" and len(layer.calls) == 1 and layer.calls[0].op == "copy"
    tensor = graph.tensors[layer.output.tensor]
    return plain and tensor.role == "activation" and len(tensor.shape) == 4 and graph.whole(layer.output)


def _reads_lines(layer: Layer, name: str, copy: Layer, graph: LayerGraph, target: Target) -> bool:
    """Whether `name` is the whole image of a convolution whose lines can be read by `copy`'s view."""
    number = _image(layer, name)
    source: View = copy.inputs[0]
    tensor = graph.tensors[source.tensor]
    if number is None or tensor.dtype != graph.tensors[name].dtype or not graph.whole(layer.inputs[number]):
        return False
    return takes_lines(layer, source, tensor, target)


def _image(layer: Layer, name: str) -> int | None:
    """The input by which a convolution reads `name` as its image; None if it does not, or reads it otherwise too."""
    reading = [n for n, v in enumerate(layer.inputs) if v.tensor == name]
    if layer.kind != "conv2d" or len(reading) != 1:
        return None
    image = layer.calls[layer.master].args[0] == ("input", reading[0])
    return reading[0] if image and _uses(layer, reading[0]) == 1 else None


def _uses(layer: Layer, number: int) -> int:
    return sum(arg == ("input", number) for call in layer.calls for arg in call.args)


def _reading(layer: Layer, name: str, copy: Layer) -> Layer:
    """The convolution with the source of the copy as its image."""
    inputs = tuple(copy.inputs[0] if v.tensor == name else v for v in layer.inputs)
    nodes = (*(n for n in copy.nodes if n not in layer.nodes), *layer.nodes)
    return replace(layer, inputs=inputs, nodes=nodes)
