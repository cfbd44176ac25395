"""Join scores, softmax and weighted values into one layer, so that scores need not leave the chip."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from dsa_compiler.graph.layers import Arg, Layer, LayerGraph, OpCall
from dsa_compiler.graph.views import View, is_identity


def fuse_attention(graph: LayerGraph) -> LayerGraph:
    """The graph with each matmul -> softmax -> matmul chain as a layer of kind attention, which keeps its `parts`.

    The scores and the weights must be whole activations that nothing else reads, the softmax along the last axis
    without an epilogue, and the weights the left operand of the second product.
    """
    uses = Counter(v.tensor for layer in graph.layers for v in layer.inputs)
    producer = {layer.output.tensor: layer for layer in graph.layers}
    reader = {v.tensor: layer for layer in graph.layers for v in layer.inputs}
    fused: dict[str, Layer] = {}
    dropped: set[str] = set()
    for softmax in graph.layers:
        if softmax.kind != "softmax" or len(softmax.calls) != 1 or softmax.name in dropped:
            continue
        scores, values = producer.get(softmax.inputs[0].tensor), reader.get(softmax.output.tensor)
        if scores is None or values is None or not _joins(graph, scores, softmax, values, uses):
            continue
        fused[values.name] = _joined(scores, softmax, values)
        dropped |= {scores.name, softmax.name}
    layers = tuple(fused.get(layer.name, layer) for layer in graph.layers if layer.name not in dropped)
    return replace(graph, layers=layers)


def _joins(graph: LayerGraph, scores: Layer, softmax: Layer, values: Layer, uses: Mapping[str, int]) -> bool:
    call = softmax.calls[0]
    rank = len(call.shape)
    if call.op != "nn.softmax" or int(call.attrs["axis"]) % rank != rank - 1 or rank < 2:
        return False
    if scores.kind != "matmul" or values.kind != "matmul" or values.calls[values.master].args[0][0] != "input":
        return False
    if any(k != "input" for k, _ in scores.calls[scores.master].args):
        return False
    left = values.inputs[int(values.calls[values.master].args[0][1])]
    for view, tensor in ((softmax.inputs[0], scores.output), (left, softmax.output)):
        same = view.tensor == tensor.tensor and view.shape == tensor.shape
        if not same or not _whole(graph, view) or not _whole(graph, tensor):
            return False
        if uses[view.tensor] != 1 or graph.tensors[view.tensor].role != "activation":
            return False
    return scores.calls[scores.master].shape == call.shape and values.calls[values.master].shape[:-1] == call.shape[:-1]


def _whole(graph: LayerGraph, view: View) -> bool:
    return is_identity(view, graph.tensors[view.tensor].shape)


def _joined(scores: Layer, softmax: Layer, values: Layer) -> Layer:
    """One layer of the calls of all three; the weighted sum is its master."""
    weights = int(values.calls[values.master].args[0][1])
    first = len(scores.calls)
    kept = [i for i in range(len(values.inputs)) if i != weights]
    places = {i: len(scores.inputs) + n for n, i in enumerate(kept)}
    calls = [*scores.calls, replace(softmax.calls[0], args=(("call", first - 1),))]
    calls += [_moved(c, first + 1, places, weights, first) for c in values.calls]
    inputs = (*scores.inputs, *(values.inputs[i] for i in kept))
    return Layer(
        values.name, "attention", tuple(calls), first + 1 + values.master, inputs, values.output,
        tuple(dict.fromkeys((*scores.nodes, *softmax.nodes, *values.nodes))), parts=(scores, softmax, values),
    )  # fmt: skip


def _moved(call: OpCall, base: int, places: Mapping[int, int], weights: int, softmax: int) -> OpCall:
    """A call of the second product with its arguments counted in the joined layer."""
    args: Sequence[Arg] = [_argument(a, base, places, weights, softmax) for a in call.args]
    return replace(call, args=tuple(args))


def _argument(arg: Arg, base: int, places: Mapping[int, int], weights: int, softmax: int) -> Arg:
    if arg[0] == "call":
        return ("call", int(arg[1]) + base)
    if arg[0] == "input":
        return ("call", softmax) if int(arg[1]) == weights else ("input", places[int(arg[1])])
    return arg
