"""Pooling and depthwise layers of a graph as problems for the window kernel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dsa_compiler.errors import Infeasible
from dsa_compiler.graph.layers import Layer, LayerGraph
from dsa_compiler.isa.dtypes import item_bytes
from dsa_compiler.lower.binding import LoweredKernel, Parameter, constant_parameter, materialize, reach, varying
from dsa_compiler.lower.chain import chain_after
from dsa_compiler.lower.tir import Expr, buffer, constant
from dsa_compiler.lower.window_kernel import (
    WindowExtra,
    WindowKernel,
    WindowOperands,
    WindowProblem,
    tile_depth,
)
from dsa_compiler.lower.window_tiling import choose_window_tiling
from dsa_compiler.target import Target

_REDUCTIONS = {"nn.max_pool2d": "max", "nn.avg_pool2d": "sum", "nn.conv2d": "multiply"}


def lower_window_layer(layer: Layer, graph: LayerGraph, target: Target, *, rank: int = 0) -> LoweredKernel:
    """The kernel of a pool or depthwise layer.

    Raises `Infeasible` if no tiling fits or the layer is no window over a channel-last image.
    """
    call = layer.calls[layer.master]
    data = layer.inputs[int(call.args[0][1])]
    if call.op not in _REDUCTIONS or len(data.shape) != 4 or call.attrs.get("layout", "NHWC") != "NHWC":
        raise Infeasible(f"windows of {call.op}", 1, 0, where="lower.window_layer")
    problem = _problem(layer, graph)
    chain = chain_after(layer, layer.master)
    src = reach("src", data, graph, target)
    out = reach("out", layer.output, graph, target)
    parameters = [Parameter(src.buffer, data.tensor)]
    others: list[Parameter] = []
    extras = _extras(layer, graph, target, chain.inputs, others)
    scale, share = _average(problem, call.attrs, extras, others)
    vectors = sum(e.varies <= {"c"} for e in extras)
    tiling = choose_window_tiling(
        problem,
        len(extras) - vectors,
        target,
        rank=rank,
        vectors=vectors,
        operations=chain.operations + (scale is not None),
    )
    taps = None
    if problem.reduction == "multiply":
        kernel = layer.inputs[int(call.args[1][1])]
        parameters.append(_taps(problem, materialize(kernel, graph.tensors[kernel.tensor]), tiling.channels, target))
        taps = parameters[-1].buffer
    parameters += others
    epilogue = None
    if scale is not None or share or not chain.identity:

        def epilogue(acc: Expr, values: Sequence[Expr]) -> Expr:
            result = acc if scale is None else acc * constant(scale, str(acc.ty.dtype))
            if share:
                result, values = result * values[-1], values[:-1]
            return chain.value(result, values)

    operands = WindowOperands(
        src.buffer, lambda *at: src.index(at), out.buffer, lambda *at: out.index(at), taps, tuple(extras), epilogue
    )
    parameters.append(Parameter(out.buffer, layer.output.tensor, written=True))
    func = WindowKernel(problem, tiling, operands, target).build(layer.name, [p.buffer for p in parameters])
    return LoweredKernel(layer.name, func, tuple(parameters), str(tiling))


def _taps(problem: WindowProblem, values: np.ndarray, channels: int, target: Target) -> Parameter:
    """Taps [kh, kw, c] with zeros up to the channels of whole tiles."""
    width = (
        -(-problem.channels // channels) * channels
        if channels < problem.channels
        else tile_depth(problem, channels, target)
    )
    wide = np.zeros((*problem.kernel, width), values.dtype)
    wide[..., : problem.channels] = values.reshape(*problem.kernel, problem.channels)
    return constant_parameter("taps", wide, str(values.dtype))


def _problem(layer: Layer, graph: LayerGraph) -> WindowProblem:
    call = layer.calls[layer.master]
    data = layer.inputs[int(call.args[0][1])]
    images, height, width, channels = data.shape
    attrs = call.attrs
    kernel = attrs.get("pool_size") or layer.inputs[int(call.args[1][1])].shape[:2]
    top, left, _, _ = attrs["padding"]
    rows = [v.tensor for v in (*layer.inputs, layer.output) if v.shape and v.shape[-1] > 1]
    return WindowProblem(
        images, height, width, channels, call.shape[1], call.shape[2], (int(kernel[0]), int(kernel[1])),
        tuple(attrs["strides"]), tuple(attrs["dilation"]), (top, left), _REDUCTIONS[call.op],
        graph.tensors[data.tensor].dtype, int(attrs.get("pad_value", 0)),
        min([2, *(item_bytes(graph.tensors[name].dtype) for name in rows)]),
    )  # fmt: skip


def _extras(
    layer: Layer, graph: LayerGraph, target: Target, inputs: Sequence[int], parameters: list[Parameter]
) -> list[WindowExtra]:
    result = []
    for number, index in enumerate(inputs):
        view = layer.inputs[index]
        place = reach(f"extra{number}", view, graph, target)
        value = graph.tensors[view.tensor].value
        if value is not None:
            value = np.ascontiguousarray(value).reshape([int(s) for s in place.buffer.shape])
        parameters.append(Parameter(place.buffer, "" if value is not None else view.tensor, value))
        varies = frozenset("nyxc"[d] for d in varying(view))
        result.append(WindowExtra(place.buffer, lambda *at, r=place: r.index(at), varies))
    return result


def _average(
    problem: WindowProblem, attrs: Mapping[str, Any], extras: list[WindowExtra], parameters: list[Parameter]
) -> tuple[float | None, bool]:
    """The factor of an average; where windows at the border count fewer elements, an operand that holds each factor."""
    if problem.reduction != "sum":
        return None, False
    counts = _counts(problem, attrs)
    if (counts == counts.flat[0]).all():
        return 1.0 / float(counts.flat[0]), False
    factors = np.ascontiguousarray((1.0 / counts).astype(np.float32)[..., None])
    shape = factors.shape
    source = buffer("factors", shape, "float32")
    parameters.append(Parameter(source, value=factors))
    extras.append(WindowExtra(source, lambda image, y, x, c: [y, x, c * 0], frozenset("yx")))
    return None, True


def _counts(problem: WindowProblem, attrs: Mapping[str, Any]) -> np.ndarray:
    """Elements under each window [out_height, out_width], as the average divides by."""
    top, left, bottom, right = attrs["padding"]
    include = bool(attrs.get("count_include_pad", False))

    def along(
        extent: int, outputs: int, kernel: int, stride: int, dilation: int, before: int, after: int
    ) -> np.ndarray:
        places = np.arange(outputs)[:, None] * stride - before + np.arange(kernel)[None] * dilation
        low, high = (-before, extent + after) if include else (0, extent)
        return np.asarray(((places >= low) & (places < high)).sum(axis=1))

    p = problem
    rows = along(p.height, p.out_height, p.kernel[0], p.stride[0], p.dilation[0], top, bottom)
    columns = along(p.width, p.out_width, p.kernel[1], p.stride[1], p.dilation[1], left, right)
    return np.asarray(np.maximum(rows[:, None] * columns[None], 1))
