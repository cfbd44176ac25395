"""Softmax, normalisations and reductions of a graph: tiles that hold the reduced axes whole, else blocks of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from tvm import tirx

from dsa_compiler.errors import Infeasible
from dsa_compiler.graph.layers import Layer, LayerGraph
from dsa_compiler.graph.views import View
from dsa_compiler.isa.dtypes import item_bytes
from dsa_compiler.lower.binding import LoweredKernel, Parameter, reach
from dsa_compiler.lower.chain import chain_after
from dsa_compiler.lower.expression import computation_dtype
from dsa_compiler.lower.reduce_tile import Element, ReduceTile, add, fold_squares
from dsa_compiler.lower.stream_kernel import Stream, StreamKernel, choose_stream_tile
from dsa_compiler.lower.tile_kernel import TileContext, TileKernel, choose_tile
from dsa_compiler.lower.tile_layer import RING, bind_operands, join_dimensions
from dsa_compiler.lower.tir import Buffer, Expr, Stmt, cast, constant, sequence
from dsa_compiler.lower.window_kernel import greatest, lowest
from dsa_compiler.target import Target

LEAST_NARROW = 1e-8
"""The least epsilon of a variance whose reciprocal root is safe in a 16-bit float."""

Finish = Callable[[TileContext, Expr, Sequence[Expr]], Expr]


def _wide(context: TileContext, at: Sequence[Expr]) -> Expr:
    """The data at one place in the dtype that is computed in."""
    return cast(context.element(0, at), computation_dtype(str(context.tiles[0].dtype)))


def lower_softmax_layer(layer: Layer, graph: LayerGraph, target: Target, *, rank: int = 0) -> LoweredKernel:
    """softmax or log_softmax along one axis, with its epilogue."""
    call = layer.calls[layer.master]
    data = layer.inputs[int(call.args[0][1])]
    axis = int(call.attrs["axis"]) % len(data.shape)
    logarithmic = call.op == "nn.log_softmax"

    def compute(tile: ReduceTile, x: Element, finish: Element) -> Stmt:
        source = str(tile.context.tiles[0].dtype)
        top, a0 = tile.statistic("top", source)
        e, a1 = tile.whole("powers", "float32" if source == "float32" else source)
        total, a2 = tile.statistic("total", "float32", filled=True)
        wide: Element = lambda v: cast(v, computation_dtype(source))  # noqa: E731
        below_top: Element = lambda *at: x(*at) - wide(top[tuple(tile.row(at))])  # noqa: E731
        steps = [a0, tile.fold(top, lowest(source), tirx.max, x)]
        if logarithmic:
            steps += [a1, tile.each(e, lambda *at: tirx.exp(below_top(*at)))]
            steps += [a2, tile.fold(total, 0.0, lambda a, b: a + b, lambda *at: e[tuple(at)])]
            share, a3 = tile.narrow(total, "share", source, lambda *at: tirx.log(total[tuple(at)]))
            steps.append(a3)
            result: Element = lambda *at: below_top(*at) - wide(share[tuple(tile.row(at))])  # noqa: E731
        else:
            steps += [a1, tile.each(e, below_top), tile.each(e, lambda *at: tirx.exp(wide(e[tuple(at)])))]
            steps += [a2, tile.fold(total, 0.0, lambda a, b: a + b, lambda *at: e[tuple(at)])]
            steps.append(tile.each_statistic(total, lambda *at: constant(1.0, "float32") / total[tuple(at)]))
            share, a3 = (
                tile.narrow(total, "share", source, lambda *at: total[tuple(at)])
                if source != "float32"
                else (total, None)
            )
            steps.append(a3)
            result = lambda *at: wide(e[tuple(at)]) * wide(share[tuple(tile.row(at))])  # noqa: E731
        return sequence(*steps, tile.each(tile.context.out, lambda *at: finish(result(*at), *at)))

    def passes(stream: Stream, finish: Finish) -> Stmt:
        source = stream.kernel.operands[0].dtype
        top, total = stream.statistic("top", source), stream.statistic("total", "float32")
        below_top: Callable[[TileContext], Element] = lambda c: lambda *at: _wide(c, at) - cast(top[tuple(stream.row(at))], computation_dtype(source))  # noqa: E731, E501
        steps = [stream.fold(top, lowest(source), tirx.max, lambda c: lambda *at: _wide(c, at))]
        steps.append(stream.fold(total, 0.0, add, lambda c: lambda *at: tirx.exp(below_top(c)(*at))))
        turned: Element = tirx.log if logarithmic else lambda v: constant(1.0, "float32") / v
        steps.append(stream.each_row(total, lambda *at: turned(total[tuple(at)])))

        def result(context: TileContext, at: Sequence[Expr]) -> Expr:
            value, share = below_top(context)(*at), total[tuple(stream.row(at))]
            return value - share if logarithmic else tirx.exp(value) * share

        return sequence(*steps, stream.each(lambda c: lambda *at: finish(c, result(c, at), at)))

    return _lower(layer, graph, target, data, frozenset({axis}), (), compute, passes, rank, temporaries=1)


def lower_norm_layer(layer: Layer, graph: LayerGraph, target: Target, *, rank: int = 0) -> LoweredKernel:
    """Layer, instance and root-mean-square normalisation over some axes, with the epilogue.

    Raises `Infeasible` for a normalisation of another kind.
    """
    call = layer.calls[layer.master]
    if call.op not in ("nn.layer_norm", "nn.instance_norm", "nn.rms_norm"):
        raise Infeasible(f"normalisation {call.op}", 1, 0, where="lower.reduce_layer")
    data, *factors = (layer.inputs[int(v)] for _, v in call.args)
    axes = frozenset(int(a) % len(data.shape) for a in call.attrs["axes"])
    centred = call.op != "nn.rms_norm"
    count = math.prod(data.shape[a] for a in axes)
    along = sorted(axes) if call.op != "nn.instance_norm" else [int(call.attrs["channel_axis"]) % len(data.shape)]
    spread = tuple(spread_factor(f, along, data.shape) for f in factors)
    epsilon = float(call.attrs["epsilon"])

    def compute(tile: ReduceTile, x: Element, finish: Element) -> Stmt:
        source = str(tile.context.tiles[0].dtype)
        scale = constant(1.0 / count, "float32")
        steps: list[Stmt | None] = []
        value = x
        if centred:
            total, a0 = tile.statistic("total", "float32", filled=source == "float32")
            steps += [a0, tile.fold(total, 0.0, add, x)]
            mean, a1 = tile.narrow(total, "mean", source, lambda *at: total[tuple(at)] * scale)
            centre, a2 = tile.whole("centre", source)
            wide: Element = lambda v: cast(v, computation_dtype(source))  # noqa: E731
            steps += [a1, a2, tile.each(centre, lambda *at: x(*at) - wide(mean[tuple(tile.row(at))]))]
            value = lambda *at: wide(centre[tuple(at)])  # noqa: E731
        spread_of, a3 = tile.statistic("spread", "float32", filled=True)
        steps += [a3, *fold_squares(tile, spread_of, value)]
        steps.append(
            tile.each_statistic(spread_of, lambda *at: spread_of[tuple(at)] * scale + constant(epsilon, "float32"))
        )
        root: Element = lambda *at: constant(1.0, "float32") / tirx.sqrt(spread_of[tuple(at)])  # noqa: E731
        steps.append(tile.each_statistic(spread_of, root))
        share: Buffer = spread_of
        if source != "float32" and epsilon > LEAST_NARROW:
            share, a4 = tile.narrow(spread_of, "share", source, lambda *at: spread_of[tuple(at)])
            steps.append(a4)
        operand: Element = lambda n, at: cast(tile.context.element(n, at), "float32")  # noqa: E731

        def result(*at: Expr) -> Expr:
            normal = cast(value(*at), "float32") * cast(share[tuple(tile.row(at))], "float32")
            normal = normal * operand(1, at) if len(spread) > 0 else normal
            return normal + operand(2, at) if len(spread) > 1 else normal

        return sequence(*steps, tile.each(tile.context.out, lambda *at: finish(result(*at), *at)))

    def passes(stream: Stream, finish: Finish) -> Stmt:
        mean, spread_of = stream.statistic("mean", "float32"), stream.statistic("spread", "float32")
        scale = constant(1.0 / count, "float32")
        wide: Element = lambda c, at: cast(_wide(c, at), "float32")  # noqa: E731
        centre: Element = (lambda c, at: wide(c, at) - mean[tuple(stream.row(at))]) if centred else wide
        steps: list[Stmt] = []
        if centred:
            steps.append(stream.fold(mean, 0.0, add, lambda c: lambda *at: wide(c, at)))
            steps.append(stream.each_row(mean, lambda *at: mean[tuple(at)] * scale))
        steps.append(stream.fold(spread_of, 0.0, add, lambda c: lambda *at: centre(c, at) * centre(c, at)))
        steps.append(
            stream.each_row(spread_of, lambda *at: spread_of[tuple(at)] * scale + constant(epsilon, "float32"))
        )
        steps.append(stream.each_row(spread_of, lambda *at: constant(1.0, "float32") / tirx.sqrt(spread_of[tuple(at)])))

        def result(c: TileContext, at: Sequence[Expr]) -> Expr:
            normal = centre(c, at) * spread_of[tuple(stream.row(at))]
            normal = normal * cast(c.element(1, at), "float32") if len(spread) > 0 else normal
            return normal + cast(c.element(2, at), "float32") if len(spread) > 1 else normal

        return sequence(*steps, stream.each(lambda c: lambda *at: finish(c, result(c, at), at)))

    return _lower(layer, graph, target, data, axes, spread, compute, passes, rank, temporaries=4)


def spread_factor(view: View, axes: Sequence[int], shape: tuple[int, ...]) -> View:
    """A factor whose dimensions run along `axes`, repeated along the others."""
    strides: list[tuple[int, int]] = [(0, 0)] * len(shape)
    for axis, stride in zip(axes, view.strides[-len(axes) :], strict=True):
        strides[axis] = stride
    return View(view.tensor, shape, tuple(strides), view.offset)


_FOLDS: dict[str, tuple[float | None, Callable[[Expr, Expr], Expr]]] = {
    "sum": (0.0, lambda a, b: a + b),
    "mean": (0.0, lambda a, b: a + b),
    "max": (None, tirx.max),
    "min": (None, tirx.min),
    "prod": (1.0, lambda a, b: a * b),
}
REDUCTIONS = frozenset({*_FOLDS, "variance"})
"""The reductions that `lower_reduce_layer` takes."""


def lower_reduce_layer(layer: Layer, graph: LayerGraph, target: Target, *, rank: int = 0) -> LoweredKernel:
    """sum, mean, max, min, prod or variance over some axes, with its epilogue.

    Raises `Infeasible` for another reduction or if the reduced axes do not fit L1.
    """
    call = layer.calls[layer.master]
    if call.op not in REDUCTIONS:
        raise Infeasible(f"reduction {call.op}", 1, 0, where="lower.reduce_layer")
    data = layer.inputs[int(call.args[0][1])]
    axes = call.attrs.get("axis")
    names = range(len(data.shape)) if axes is None else [axes] if isinstance(axes, int) else axes
    reduced = frozenset(int(a) % len(data.shape) for a in names)
    count = math.prod(data.shape[a] for a in reduced)
    keep = bool(call.attrs.get("keepdims", False))
    if call.op == "variance":
        return _lower(
            layer, graph, target, data, reduced, (), _variance(count), _variance_by_blocks(count), rank, temporaries=3,
            reduces=True, keepdims=keep,
        )  # fmt: skip
    first, combine = _FOLDS[call.op]

    def compute(tile: ReduceTile, x: Element, finish: Element) -> Stmt:
        source = str(tile.context.tiles[0].dtype)
        dtype = computation_dtype(source) if call.op in ("sum", "mean", "prod") else source
        acc, a0 = tile.statistic("total", dtype)
        start = first if first is not None else (lowest if call.op == "max" else greatest)(dtype)
        wide = computation_dtype(dtype)

        def result(*at: Expr) -> Expr:
            value = cast(acc[tuple(at)], wide)
            return finish(value * constant(1.0 / count, wide) if call.op == "mean" else value, *at)

        return sequence(a0, tile.fold(acc, start, combine, x), tile.each_row(tile.context.out, result))

    def passes(stream: Stream, finish: Finish) -> Stmt:
        source = stream.kernel.operands[0].dtype
        dtype = computation_dtype(source) if call.op in ("sum", "mean", "prod") else source
        acc = stream.statistic("total", dtype)
        start = first if first is not None else (lowest if call.op == "max" else greatest)(dtype)
        wide = computation_dtype(dtype)

        def result(c: TileContext, at: Sequence[Expr]) -> Expr:
            value = cast(acc[tuple(at)], wide)
            return finish(c, value * constant(1.0 / count, wide) if call.op == "mean" else value, at)

        folded = stream.fold(acc, start, combine, lambda c: lambda *at: _wide(c, at))
        return sequence(folded, stream.each_result(lambda c: lambda *at: result(c, at)))

    return _lower(
        layer, graph, target, data, reduced, (), compute, passes, rank, temporaries=1, reduces=True, keepdims=keep
    )


def _variance(count: int) -> Callable[[ReduceTile, Element, Element], Stmt]:
    """The mean of squared differences from the mean, in float32."""
    scale = constant(1.0 / count, "float32")

    def compute(tile: ReduceTile, x: Element, finish: Element) -> Stmt:
        mean, a0 = tile.statistic("mean", "float32", filled=True)
        centre, a1 = tile.whole("centre", "float32")
        total, a2 = tile.statistic("total", "float32", filled=True)
        return sequence(
            a0, tile.fold(mean, 0.0, add, x), tile.each_statistic(mean, lambda *at: mean[tuple(at)] * scale),
            a1, tile.each(centre, lambda *at: x(*at) - mean[tuple(tile.row(at))]),
            a2, *fold_squares(tile, total, lambda *at: centre[tuple(at)]),
            tile.each_row(tile.context.out, lambda *at: finish(total[tuple(at)] * scale, *at)),
        )  # fmt: skip

    return compute


def _variance_by_blocks(count: int) -> Callable[[Stream, Finish], Stmt]:
    """As `_variance`, block by block."""
    scale = constant(1.0 / count, "float32")

    def passes(stream: Stream, finish: Finish) -> Stmt:
        mean, total = stream.statistic("mean", "float32"), stream.statistic("total", "float32")
        centre: Element = lambda c, at: cast(_wide(c, at), "float32") - mean[tuple(stream.row(at))]  # noqa: E731
        return sequence(
            stream.fold(mean, 0.0, add, lambda c: lambda *at: cast(_wide(c, at), "float32")),
            stream.each_row(mean, lambda *at: mean[tuple(at)] * scale),
            stream.fold(total, 0.0, add, lambda c: lambda *at: centre(c, at) * centre(c, at)),
            stream.each_result(lambda c: lambda *at: finish(c, total[tuple(at)] * scale, at)),
        )

    return passes


def _lower(
    layer: Layer,
    graph: LayerGraph,
    target: Target,
    data: View,
    reduced: frozenset[int],
    factors: Sequence[View],
    compute: Callable[[ReduceTile, Element, Element], Stmt],
    passes: Callable[[Stream, Finish], Stmt],
    rank: int,
    *,
    temporaries: int,
    reduces: bool = False,
    keepdims: bool = True,
) -> LoweredKernel:
    """The kernel of a layer over `reduced` axes; `factors` are operands before those of the epilogue.

    `compute` works on tiles that hold the reduced axes whole; where L1 does not hold them, `passes` goes by blocks.
    """
    chain = chain_after(layer, layer.master)
    kept = [a for a in range(len(data.shape)) if a not in reduced]
    dropped = reduces and not keepdims
    others = [_back(layer.inputs[i], kept, data.shape, dropped) for i in chain.inputs]
    out_view = _back(layer.output, kept, data.shape, dropped)
    (data, *views, out_view), reduced = _joined([data, *factors, *others, out_view], reduced)
    factors, others = views[: len(factors)], views[len(factors) :]
    kept = [a for a in range(len(data.shape)) if a not in reduced]
    parameters, operands = bind_operands([data, *factors, *others], graph, target)
    place = reach("out", out_view, graph, target)
    parameters.append(Parameter(place.buffer, out_view.tensor, written=True))
    out_index = place.index
    size = item_bytes(operands[0].dtype)
    per_element = (
        RING * (size * (2 + len(others)) + (0 if reduces else item_bytes(str(place.buffer.dtype)))) + 4 * temporaries
    )
    first = 1 + len(factors)
    varies = frozenset(kept) if reduces else None
    try:
        space = choose_tile(data.shape, per_element * 1.15 * 2**rank, target, whole=reduced)
    except Infeasible:
        per_block = (per_element + 4 * (temporaries + 2)) * 1.15 * 2**rank
        space = choose_stream_tile(data.shape, per_block, reduced, size, target)

        def finish_block(context: TileContext, value: Expr, at: Sequence[Expr]) -> Expr:
            return chain.value(value, [context.element(first + n, at) for n in range(len(others))])

        stream = StreamKernel(
            space,
            operands,
            place.buffer,
            out_index,
            reduced,
            lambda s: passes(s, finish_block),
            target,
            out_varies=varies,
        )
        func = stream.build(layer.name, [p.buffer for p in parameters])
        return LoweredKernel(layer.name, func, tuple(parameters), str(space))

    def body(context: TileContext) -> Stmt:
        tile = ReduceTile(context, reduced)
        wide: Element = lambda *at: cast(context.element(0, at), computation_dtype(operands[0].dtype))  # noqa: E731

        def finish(value: Expr, *at: Expr) -> Expr:
            return chain.value(value, [context.element(first + n, at) for n in range(len(others))])

        return compute(tile, wide, finish)

    kernel = TileKernel(space, operands, place.buffer, out_index, body, target, ring=RING, out_varies=varies)
    func = kernel.build(layer.name, [p.buffer for p in parameters])
    return LoweredKernel(layer.name, func, tuple(parameters), str(space))


def _joined(views: Sequence[View], reduced: frozenset[int]) -> tuple[list[View], frozenset[int]]:
    """The views with as few dimensions as they can all be walked in, and which of them are reduced.

    Neighbours join that are both reduced or both kept.
    """
    everything = list(views)
    axes = [d in reduced for d in range(len(views[0].shape))]
    dim = 0
    while dim + 1 < len(axes):
        joined = [join_dimensions(v, dim) for v in everything] if axes[dim] == axes[dim + 1] else [None]
        if all(v is not None for v in joined):
            everything = [v for v in joined if v is not None]
            del axes[dim]
        else:
            dim += 1
    return everything, frozenset(d for d, gone in enumerate(axes) if gone)


def _back(view: View, kept: Sequence[int], shape: tuple[int, ...], dropped: bool) -> View:
    """An operand of the epilogue as a view over all axes, the reduced ones of extent 1 where they were dropped."""
    if not dropped:
        return view
    wide, strides = [1] * len(shape), [(0, 0)] * len(shape)
    for axis, n, s in zip(kept, view.shape, view.strides, strict=True):
        wide[axis], strides[axis] = n, s
    return View(view.tensor, tuple(wide), tuple(strides), view.offset)
