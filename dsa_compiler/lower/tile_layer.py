"""Elementwise chains and copies of a graph as problems for the tile kernel."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from dsa_compiler.graph.layers import Layer, LayerGraph, Tensor
from dsa_compiler.graph.views import View, flattened
from dsa_compiler.isa.dtypes import item_bytes
from dsa_compiler.lower.binding import LoweredKernel, Parameter, Reach, reach, row_pitch, varying
from dsa_compiler.lower.chain import chain_after
from dsa_compiler.lower.lane_kernel import LaneKernel
from dsa_compiler.lower.lane_tiling import Copy, charged, choose_lanes, transpose_cycles
from dsa_compiler.lower.tile_kernel import TileContext, TileKernel, TileOperand, choose_tile
from dsa_compiler.lower.tir import Stmt, cast, nest, store, when
from dsa_compiler.lower.transpose_kernel import TransposeKernel, choose_transpose_tile
from dsa_compiler.target import Target

RING = 2


def lower_elementwise_layer(layer: Layer, graph: LayerGraph, target: Target, *, rank: int = 0) -> LoweredKernel:
    """The kernel of an elementwise chain; `rank` asks for smaller tiles.

    Raises `Infeasible` if no tile fits L1 or an operator has no expression.
    """
    chain = chain_after(layer, -1)
    views, out = simplify_views([layer.inputs[i] for i in chain.inputs], layer.output, graph, target)
    parameters, operands = bind_operands(views, graph, target)
    place = reach("out", out, graph, target)
    parameters.append(Parameter(place.buffer, out.tensor, written=True))
    widths = [item_bytes(o.dtype) for o in operands] + [item_bytes(str(place.buffer.dtype))]
    per_element = RING * sum(widths) + 4 * max(0, min(chain.operations - 1, 3))
    space = choose_tile(out.shape, per_element * 1.1 * 2**rank, target)

    def compute(context: TileContext) -> Stmt:
        dtype = str(context.out.dtype)

        def element(*at):  # type: ignore[no-untyped-def]
            value = chain.value(None, [context.element(n, at) for n in range(len(operands))])
            return when(context.inside(at), store(context.out, list(at), cast(value, dtype)))

        return nest(context.axes, element)

    fill = wants_fill(space.tile[-1], out, operands, target)
    kernel = TileKernel(space, operands, place.buffer, place.index, compute, target, fill=fill, ring=RING)
    return LoweredKernel(
        layer.name, kernel.build(layer.name, [p.buffer for p in parameters]), tuple(parameters), str(space)
    )


def wants_fill(inner: int, out: View, operands: Sequence[TileOperand], target: Target) -> bool:
    """Whether short rows should be padded to whole L1 rows, so that they join into long runs."""
    last = len(out.shape) - 1
    unit = max(target.row_elements(item_bytes(o.dtype)) for o in operands) if operands else 1
    return (
        inner % unit != 0
        and inner == out.shape[-1]
        and inner > 1
        and all(last in o.varies or not o.varies for o in operands)
    )


def bind_operands(
    views: Sequence[View], graph: LayerGraph, target: Target
) -> tuple[list[Parameter], list[TileOperand]]:
    """Parameters and tile operands of the views of a kernel."""
    parameters, operands = [], []
    for number, view in enumerate(views):
        place = reach(f"in{number}", view, graph, target)
        parameters.append(view_parameter(place, view, graph))
        operands.append(TileOperand(place.buffer, place.index, varying(view)))
    return parameters, operands


def view_parameter(place: Reach, view: View, graph: LayerGraph) -> Parameter:
    """The parameter behind a view: a tensor, or the values of a constant."""
    value = graph.tensors[view.tensor].value
    if value is None:
        return Parameter(place.buffer, view.tensor)
    return Parameter(place.buffer, value=np.ascontiguousarray(value).reshape([int(s) for s in place.buffer.shape]))


def simplify_views(views: Sequence[View], out: View, graph: LayerGraph, target: Target) -> tuple[list[View], View]:
    """The same elements with as few dimensions as possible: neighbours that every view walks as one are joined.

    A single element has one dimension.
    """
    everything = [flat_view(v, graph.tensors[v.tensor], target) for v in (*views, out)]
    if not out.shape:
        everything = [replace(v, shape=(1,), strides=((0, 0),)) for v in everything]
    dim = 0
    while dim + 1 < len(everything[-1].shape):
        joined = [join_dimensions(v, dim) for v in everything]
        if all(j is not None for j in joined):
            everything = [j for j in joined if j is not None]
        else:
            dim += 1
    return everything[:-1], everything[-1]


def flat_view(view: View, tensor: Tensor, target: Target) -> View:
    """The view in columns alone if the rows of its tensor lie without gaps."""
    return flattened(view, tensor.columns) if row_pitch(tensor, target) == tensor.columns else view


def join_dimensions(view: View, dim: int) -> View | None:
    """The view with dimensions `dim` and `dim + 1` as one, or None."""
    (n, m), (a, b) = view.shape[dim : dim + 2], view.strides[dim : dim + 2]
    if n == 1:
        stride = b
    elif m == 1:
        stride = a
    elif a == (b[0] * m, b[1] * m):
        stride = b
    else:
        return None
    shape = (*view.shape[:dim], n * m, *view.shape[dim + 2 :])
    return replace(view, shape=shape, strides=(*view.strides[:dim], stride, *view.strides[dim + 2 :]))


def lower_copy_layer(layer: Layer, graph: LayerGraph, target: Target, *, rank: int = 0) -> LoweredKernel:
    """The kernel of a movement: a copy through L1, by lanes or with a transposition there if the innermost axes differ.

    `rank` 0 goes by lanes where that is best, the others do not. Raises `Infeasible` if no tile fits L1.
    """
    (source,), out = simplify_views([layer.inputs[0]], layer.output, graph, target)
    by_lanes = _lower_by_lanes(layer, source, out, graph, target)
    if by_lanes is not None and rank == 0:
        return by_lanes
    rank -= by_lanes is not None
    parameters, operands = bind_operands([source], graph, target)
    place = reach("out", out, graph, target)
    parameters.append(Parameter(place.buffer, out.tensor, written=True))
    size, out_size = item_bytes(operands[0].dtype), item_bytes(str(place.buffer.dtype))
    casts = operands[0].dtype != str(place.buffer.dtype)
    inner = _contiguous_axis(source)
    kernel: TileKernel | TransposeKernel
    if _keeps_rows(source, out):
        space = choose_tile(out.shape, RING * (size + out_size * casts) * 1.1 * 2**rank, target)
        compute = _cast_tile if casts else None
        kernel = TileKernel(space, operands, place.buffer, place.index, compute, target, ring=RING)
    else:
        assert inner is not None  # rows change: the source has some
        space = choose_transpose_tile(out.shape, inner, min(size, out_size), target, rank=rank + casts)
        step = _stored_strides(source, graph.tensors[source.tensor], target)[-1]
        by_load, _ = _turned_load(space.tile, inner, step, size, target)
        turned = by_load < transpose_cycles(space.tile[-1], space.tile[inner], size, target)
        kernel = TransposeKernel(space, inner, operands[0], place.buffer, place.index, target, turned=turned)
    func = kernel.build(layer.name, [p.buffer for p in parameters])
    return LoweredKernel(layer.name, func, tuple(parameters), str(space))


def _cast_tile(context: TileContext) -> Stmt:
    """The tile in the dtype of the result."""
    dtype = str(context.out.dtype)
    return nest(
        context.axes,
        lambda *at: when(context.inside(at), store(context.out, list(at), cast(context.element(0, at), dtype))),
    )


def _keeps_rows(source: View, out: View) -> bool:
    """Whether the copy needs no transposition."""
    inner, last = _contiguous_axis(source), len(out.shape) - 1
    return inner is None or inner == last or out.shape[last] == 1


def _stored_strides(view: View, tensor: Tensor, target: Target) -> tuple[int, ...]:
    """Elements in ddr from one place to the next along each dimension."""
    return tuple(r * row_pitch(tensor, target) + c for r, c in view.strides)


def _lower_by_lanes(
    layer: Layer, source: View, out: View, graph: LayerGraph, target: Target
) -> LoweredKernel | None:
    """The copy by lanes, where that is clearly faster than row by row."""
    tensors = graph.tensors[source.tensor], graph.tensors[out.tensor]
    strides = [_stored_strides(v, t, target) for v, t in zip((source, out), tensors, strict=True)]
    copy = Copy(out.shape, strides[0], strides[1], tensors[0].dtype, tensors[1].dtype)
    steps = [(n, s, pair[0]) for n, s, pair in zip(copy.extents, copy.source, source.strides, strict=True) if n > 1]
    if not steps or min((*copy.source, *copy.out)) < 0 or min(steps, key=lambda x: x[1])[2]:
        return None  # lanes take rows that run forward along columns
    tiling = choose_lanes(copy, target, _direct_cycles(copy, source, out, target))
    if tiling is None:
        return None
    axis = tiling.row(copy, copy.source)[1][0]
    single = replace(source, strides=tuple((0, 1) if a == axis else s for a, s in enumerate(source.strides)))
    place, result = reach("in0", single, graph, target), reach("out", out, graph, target)
    parameters = [view_parameter(place, single, graph), Parameter(result.buffer, out.tensor, written=True)]
    kernel = LaneKernel(copy, tiling, place.buffer, place.index, result.buffer, result.index, target)
    func = kernel.build(layer.name, [p.buffer for p in parameters])
    return LoweredKernel(layer.name, func, tuple(parameters), str(tiling))


def _turned_load(tile: Sequence[int], inner: int, step: int, size: int, target: Target) -> tuple[float, float]:
    """Cycles of a transposing load of one plane of a tile, infinite where the part has none, and the bytes it moves.

    `step`: the source's elements from one row of the plane to the next.
    """
    if not target.features.transpose_load:
        return math.inf, 0.0
    rows, length = (1, tile[-1] * tile[inner]) if step == tile[inner] else (tile[-1], tile[inner])
    load, moved = target.engine.load, rows * charged(length * size, target.memory["ddr"].burst)
    return load.startup + 2 * target.sync.flag_cost + moved / load.transpose_rate, moved


def _direct_cycles(copy: Copy, source: View, out: View, target: Target) -> float:
    """Expected cycles of the copy row by row."""
    size, burst = item_bytes(copy.dtype), target.memory["ddr"].burst
    total, last = math.prod(copy.extents), len(copy.extents) - 1
    share = target.memory["ddr"].bandwidth
    inner = _contiguous_axis(source)
    vector = target.engine.vector
    if _keeps_rows(source, out):
        row = copy.extents[last] * size
        runs = total // copy.extents[last]
        stepped = copy.source[last] not in (0, 1) and copy.extents[last] > 1
        span = row * abs(copy.source[last]) if stepped else row
        passes = -(-span // vector.width) * vector.cost["gather"] + vector.row_overhead if stepped else 0
        return max(runs * passes / target.cores, runs * (charged(span, burst) + charged(row, burst)) / share)
    assert inner is not None  # rows change: the source has some
    space = choose_transpose_tile(copy.extents, inner, size, target)
    a, b = space.tile[last], space.tile[inner]
    by_vector = transpose_cycles(a, b, size, target)
    by_load = _turned_load(space.tile, inner, copy.source[last], size, target)
    loaded = by_load[1] if by_load[0] < by_vector else a * charged(b * size, burst)
    moved = loaded / (a * b) + charged(a * size, burst) / a
    return total * max(min(by_vector, by_load[0]) / (a * b) / space.cores, moved / share)


def _contiguous_axis(view: View) -> int | None:
    """The dimension that walks columns one by one, the last if several do."""
    axes = [d for d, n in enumerate(view.shape) if n > 1 and view.strides[d] == (0, 1)]
    return axes[-1] if axes else None
