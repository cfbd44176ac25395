"""The macro cost of a layer on a cluster: what the search for groups compares, from bytes and operations alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from dsa_compiler.graph.layers import Layer, LayerGraph
from dsa_compiler.isa.dtypes import item_bytes
from dsa_compiler.lower.binding import row_pitch
from dsa_compiler.target import Target

CALL = 1500.0
"""Cycles that a kernel takes beyond its busiest engine: the first load, the last store, the barrier."""
TILE = 64 * 32
"""Results of a product that keep a core busy in one piece; fewer pieces than cores leave cores idle."""


@dataclass(frozen=True)
class LayerCost:
    """Work of one image of a layer: multiply-accumulates, results, vector cycles, bytes of activations, and of those
    that are read; bytes of weights, which serve all images."""

    macs: float
    results: float
    peak: float
    vector: float
    activations: Mapping[str, float]
    read: float
    weights: float


def image_bytes(graph: LayerGraph, name: str, images: int, target: Target) -> int:
    """Bytes that one image of a tensor takes, rows padded as they are stored."""
    tensor = graph.tensors[name]
    rows = tensor.size // max(tensor.columns, 1)
    return rows * row_pitch(tensor, target) * item_bytes(tensor.dtype) // images


def layer_cost(layer: Layer, graph: LayerGraph, images: int, target: Target) -> LayerCost:
    """The work of `layer`."""
    master = layer.calls[layer.master]
    results = math.prod(master.shape) / images
    depth = sum(_depth(layer, n) for n in range(len(layer.calls)))
    dtype = "float16"
    activations: dict[str, float] = {}
    weights, read = 0.0, 0.0
    for number, view in enumerate((*layer.inputs, *layer.outputs)):
        tensor = graph.tensors[view.tensor]
        size = math.prod(view.shape) * item_bytes(tensor.dtype)
        if tensor.value is not None:
            weights += tensor.size * item_bytes(tensor.dtype)
            dtype = tensor.dtype if len(tensor.shape) > 1 else dtype
        else:
            whole = image_bytes(graph, view.tensor, images, target)
            activations[view.tensor] = activations.get(view.tensor, 0.0) + min(size / images, whole)
            read += min(size / images, whole) if number < len(layer.inputs) else 0.0
            dtype = tensor.dtype
    unit = target.engine.matrix.unit.get(dtype) or next(iter(target.engine.matrix.unit.values()))
    return LayerCost(
        depth / images, results, float(math.prod(unit)), _vector(layer, images, target), activations, read, weights
    )


def _depth(layer: Layer, number: int) -> float:
    """Multiply-accumulates of one call on the matrix engine."""
    call = layer.calls[number]
    if call.op == "matmul":
        kind, value = call.args[0]
        left = layer.calls[int(value)].shape if kind == "call" else layer.inputs[int(value)].shape
        return float(math.prod(call.shape) * left[-1])
    if call.op == "nn.conv2d" and layer.kind != "depthwise":
        kernel = layer.inputs[int(call.args[1][1])].shape
        return float(math.prod(call.shape) * math.prod(kernel[:-1]))
    return 0.0


def _vector(layer: Layer, images: int, target: Target) -> float:
    """Vector cycles of an image: a pass over float32 results for each call, taps for windows."""
    width, total = target.engine.vector.width, 0.0
    for call in layer.calls:
        size = math.prod(call.shape)
        if call.op == "matmul" or (call.op == "nn.conv2d" and layer.kind != "depthwise"):
            total += size * 4 / width
        elif layer.kind == "depthwise" and call.op == "nn.conv2d":
            total += size * 4 / width * math.prod(layer.inputs[int(call.args[1][1])].shape[:2])
        elif layer.kind == "pool":
            total += size * item_bytes(call.dtype) / width * math.prod(call.attrs.get("pool_size", (1,)))
        else:
            total += size * max(item_bytes(call.dtype), 2) / width
    return total / images


def _loaded(cost: LayerCost, images: int, cores: int) -> float:
    """Bytes that a core loads of a product whose rows and columns are split over the cores in the best way."""
    if not cost.macs:
        return (cost.read * images + cost.weights) / cores
    splits = [(m, cores // m) for m in range(1, cores + 1) if cores % m == 0]
    return min(cost.read * images / m + cost.weights / n for m, n in splits)


def call_cycles(cost: LayerCost, images: int, scopes: Mapping[str, str], clusters: int, target: Target) -> float:
    """Cycles of a kernel for `images` images on the cores of each of `clusters` clusters."""
    cores = target.cores_per_cluster
    pieces = max(1.0, cost.results * images / TILE)
    even = pieces / (math.ceil(pieces / cores) * cores) if pieces < 2 * cores else 1.0
    matrix = cost.macs * images / (cores * cost.peak * max(even, 1 / cores))
    vector = cost.vector * images / cores
    port = _loaded(cost, images, cores) / target.engine.load.port_bandwidth
    near = sum(b for t, b in cost.activations.items() if scopes.get(t, "ddr") == "llb") * images
    far = sum(b for t, b in cost.activations.items() if scopes.get(t, "ddr") == "ddr") * images * clusters
    llb = target.memory.get("llb")
    moved = near / llb.bandwidth if llb is not None else 0.0
    return max(matrix, vector, moved, port, (far + cost.weights) / target.memory["ddr"].bandwidth) + CALL
