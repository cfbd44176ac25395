"""Which tensors are stored at all: copies that only bring an image of few channels into channel-last order are not.

A convolution over lines (`lower.lines`) reads the planes as they are.
"""

from __future__ import annotations

from dataclasses import replace

from dsa_compiler.graph.layers import Layer, LayerGraph
from dsa_compiler.graph.views import View
from dsa_compiler.lower.lines import takes_lines
from dsa_compiler.target import Target


def plan_storage(graph: LayerGraph, target: Target) -> LayerGraph:
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
    """Whether `name` is the image of a convolution, and nothing else there, and its lines can be read by `copy`'s view."""
    reading = [n for n, v in enumerate(layer.inputs) if v.tensor == name]
    call = layer.calls[layer.master]
    if layer.kind != "conv2d" or len(reading) != 1 or call.args[0] != ("input", reading[0]) or _uses(layer, reading[0]) != 1:
        return False
    source: View = copy.inputs[0]
    tensor = graph.tensors[source.tensor]
    return graph.whole(layer.inputs[reading[0]]) and tensor.dtype == graph.tensors[name].dtype and takes_lines(layer, source, tensor, target)


def _uses(layer: Layer, number: int) -> int:
    return sum(arg == ("input", number) for call in layer.calls for arg in call.args)


def _reading(layer: Layer, name: str, copy: Layer) -> Layer:
    """The convolution with the source of the copy as its image."""
    inputs = tuple(copy.inputs[0] if v.tensor == name else v for v in layer.inputs)
    nodes = (*(n for n in copy.nodes if n not in layer.nodes), *layer.nodes)
    return replace(layer, inputs=inputs, nodes=nodes)
