"""Layers that no choice fits: their kernel for the CPU, which has room for any tile."""

from __future__ import annotations

from dataclasses import replace

from dsa_compiler.graph.layers import Layer, LayerGraph
from dsa_compiler.lower.binding import LoweredKernel
from dsa_compiler.lower.lower import lower_layer
from dsa_compiler.target import Target

ROOM = 1 << 40
"""Bytes in each scratchpad of the machine that the CPU's kernels are tiled for."""


def lower_host_layer(layer: Layer, graph: LayerGraph, target: Target) -> LoweredKernel:
    """The kernel of `layer` for the CPU: the same template on one core whose scratchpads hold everything.

    Tensors lie in ddr as they do for `target`. Raises `Infeasible` for a layer that no template describes.
    """
    memory = {name: m if name == "ddr" else replace(m, size=ROOM) for name, m in target.memory.items()}
    limits = replace(target.limits, extent=ROOM, stride=ROOM, matrix_m=ROOM, matrix_n=ROOM, matrix_k=ROOM)
    roomy = replace(target, clusters=1, cores_per_cluster=1, memory=memory, limits=limits)
    return lower_layer(layer, graph, roomy)
