"""Convolutions over images of few channels, seen as lines of elements instead of pixels.

A pixel of three channels is no good unit of anything: DMA pays a burst for each, l1 pads each to a whole row, and
img2col wants multiples of 8 bytes. So the line (an image row of one channel, or of all if they lie together) is
loaded as it is and cut into groups of P elements, 8 bytes, that play the part of pixels. A window is some groups,
with zero weights where it needs no element. A window must start at a group: output columns whose windows start at
the same place within a group form a phase, and the line is loaded once for each phase, shifted. Image rows of the
channels' planes alternate, so that (kernel row, channel) is one axis of the reduction.

    input row y, plane c, column x          problem row y * planes + c, "pixel" x // P, "channel" x % P
    output column                           phases * x + phase;  the phase is the problem's batch axis
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from dsa_compiler.graph.layers import Layer, LayerGraph, Tensor
from dsa_compiler.graph.views import View
from dsa_compiler.isa.dtypes import item_bytes
from dsa_compiler.lower.matrix_problem import Lines, MatrixProblem
from dsa_compiler.target import Target

GROUP_BYTES = 8


@dataclass(frozen=True)
class LineConvolution:
    """A convolution as lines: `view` is (image, row, plane, element); `weights` [1, kh * planes, groups, P, n]."""

    problem: MatrixProblem
    view: View
    weights: np.ndarray


def takes_lines(layer: Layer, data: View, tensor: Tensor, target: Target) -> bool:
    """Whether the convolution of `layer` is made of lines when it reads its image by the view `data`."""
    call = layer.calls[layer.master]
    if (
        layer.kind != "conv2d"
        or int(call.attrs["groups"]) != 1
        or not target.features.img2col_move
        or data.shape[2] == 1
    ):
        return False
    short = data.shape[3] * item_bytes(tensor.dtype) < target.memory["l1"].alignment
    lines = line_view(data)
    dilation = tuple(call.attrs["dilation"])
    return short and lines is not None and dilation[1] == 1 and (dilation[0] == 1 or lines.shape[2] == 1)


def line_view(data: View) -> View | None:
    """The view [n, h, w, c] as (image, row, plane, element); None where neither columns nor pixels are contiguous."""
    (n, h, w, c), (sn, sh, sw, sc) = data.shape, data.strides
    if w > 1 and sw == (0, 1):
        return replace(data, shape=(n, h, c, w), strides=(sn, sh, sc, sw))
    if c > 1 and sc == (0, 1) and sw == (0, c):
        return replace(data, shape=(n, h, 1, w * c), strides=(sn, sh, (0, 0), sc))
    return None


def line_convolution(
    layer: Layer, graph: LayerGraph, data: View, values: np.ndarray, zero: int = 0
) -> LineConvolution:
    """The problem of a convolution that `takes_lines`; `values` are its weights [kh, kw, c, n], `zero` their zero."""
    call = layer.calls[layer.master]
    view = line_view(data)
    assert view is not None  # takes_lines has looked
    images, height, planes, extent = view.shape
    joined = data.shape[3] // planes
    group = max(1, GROUP_BYTES // item_bytes(graph.tensors[data.tensor].dtype))
    step = int(call.attrs["strides"][1]) * joined
    phases = group // math.gcd(group, step)
    phases = phases if call.shape[2] > 1 else 1
    top, left, _, _ = call.attrs["padding"]
    weights = _grouped(values, planes, group, zero)
    _, out_height, out_width, outputs = call.shape
    lines = Lines(planes, extent, step, int(left) * joined, phases, out_width)
    problem = MatrixProblem(
        phases, images, height * planes, -(-extent // group), group, out_height, -(-out_width // phases), outputs,
        (weights.shape[1], weights.shape[2]), (int(call.attrs["strides"][0]) * planes, max(1, step * phases // group)),
        (int(call.attrs["dilation"][0]), 1), (int(top) * planes, 0), lines=lines,
    )  # fmt: skip
    return LineConvolution(problem, view, weights)


def _grouped(values: np.ndarray, planes: int, group: int, zero: int) -> np.ndarray:
    """Weights [kh, kw, c, n] as [1, kh * planes, groups, P, n]: the elements of a line under a window, then `zero`."""
    kh, kw, channels, outputs = values.shape
    joined = channels // planes
    lines = (
        values.reshape(kh, kw, planes, joined, outputs)
        .transpose(0, 2, 1, 3, 4)
        .reshape(kh * planes, kw * joined, outputs)
    )
    missing = -lines.shape[1] % group
    wide = np.concatenate([lines, np.full((kh * planes, missing, outputs), zero, values.dtype)], 1)
    return wide.reshape(1, kh * planes, -1, group, outputs)
