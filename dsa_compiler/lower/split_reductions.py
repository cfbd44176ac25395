"""Reductions that keep little: spread over all cores in two steps.

A core takes whole places of the kept axes, so a reduction of a large image to a few numbers would run on one core.
It is divided instead: columns of the image are reduced on all cores, their results in a second, small layer.

    mean(x[R, C])          ->  p[S, C] = mean over R / S;  mean(p)
    instance_norm(x[R, C]) ->  m, v[S, C] = mean, variance over R / S;  mean, 1 / sqrt(mean(v) + variance(m) + e);
                               (x - mean) * that * gamma + beta
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from dsa_compiler.graph.layers import Arg, Layer, LayerGraph, OpCall, Tensor
from dsa_compiler.graph.views import View, flattened, identity
from dsa_compiler.isa.dtypes import item_bytes
from dsa_compiler.lower.reduce_layer import spread_factor
from dsa_compiler.lower.tile_layer import flat_view, join_dimensions
from dsa_compiler.target import Target

SPLIT = frozenset({"sum", "mean", "max", "min"})
NORMS = frozenset({"nn.layer_norm", "nn.instance_norm"})
LEAST_GAIN = 0.6
"""Of the cycles undivided."""
WORK_OF_A_NORM = 8
"""Vector instructions an element of a normalisation, roughly."""


def split_reductions(graph: LayerGraph, target: Target) -> LayerGraph:
    """The graph with reductions and normalisations divided that would leave cores without work."""
    tensors, layers = dict(graph.tensors), []
    for layer in graph.layers:
        parts = _parts(layer, graph, target)
        layers += parts.layers if parts is not None else [layer]
        tensors |= {t.name: t for t in parts.tensors} if parts is not None else {}
    return replace(graph, tensors=tensors, layers=tuple(layers)) if len(layers) > len(graph.layers) else graph


@dataclass(frozen=True)
class _Run:
    """Dimensions `first` to `last` of the data, all reduced, that count one sequence of `extent` elements."""

    first: int
    last: int
    extent: int
    stride: tuple[int, int]


class _Parts:
    """The layers that take the place of one, and their tensors."""

    def __init__(self, layer: Layer, dtype: str) -> None:
        self.of, self.dtype = layer, dtype
        self.layers: list[Layer] = []
        self.tensors: list[Tensor] = []

    def tensor(self, name: str, shape: Sequence[int]) -> View:
        """A tensor in float32, stored dense, and the view of all of it."""
        made = Tensor(f"{self.of.output.tensor}.{name}", tuple(shape), self.dtype, "activation", dense=True)
        self.tensors.append(made)
        return flattened(identity(made.name, made.shape), made.columns)

    def add(self, name: str, kind: str, calls: Sequence[OpCall], inputs: Sequence[View], output: View) -> None:
        """A layer of the same ONNX nodes."""
        self.layers.append(
            Layer(f"{self.of.name}.{name}", kind, tuple(calls), 0, tuple(inputs), output, self.of.nodes)  # type: ignore[arg-type]
        )


def _parts(layer: Layer, graph: LayerGraph, target: Target) -> _Parts | None:
    call = layer.calls[layer.master]
    reduces = layer.kind == "reduce" and call.op in SPLIT
    if not reduces and not (layer.kind == "norm" and call.op in NORMS):
        return None
    data = layer.inputs[int(call.args[0][1])]
    data = flat_view(data, graph.tensors[data.tensor], target)
    dtype = graph.tensors[data.tensor].dtype
    axes = _axes(call, len(data.shape))
    if not dtype.startswith(("float", "bfloat")) or not all(k == "input" for k, _ in call.args):
        return None
    run = max(_runs(data, axes), key=lambda r: r.extent, default=None)
    if run is None:
        return None
    others = [v for n, v in enumerate(layer.inputs) if n != int(call.args[0][1]) and len(v.shape) == len(data.shape)]
    apart = any(_joined(flat_view(v, graph.tensors[v.tensor], target), run) is None for v in others)
    count = _divide(data.shape, axes, run, item_bytes(dtype), target, norm=not reduces, apart=apart and not reduces)
    if count is None:
        return None
    if reduces:
        exact = call.op in ("max", "min")
        return _split_reduce(_Parts(layer, dtype if exact else "float32"), data, run, count)
    return _split_norm(_Parts(layer, "float32"), data, axes, run, count)


def _axes(call: OpCall, rank: int) -> frozenset[int]:
    axes = call.attrs.get("axes", call.attrs.get("axis"))
    names = range(rank) if axes is None else [axes] if isinstance(axes, int) else axes
    return frozenset(int(a) % rank for a in names)


def _runs(data: View, axes: frozenset[int]) -> Iterator[_Run]:
    """Neighbouring reduced dimensions that join into one."""
    first = 0
    while first < len(data.shape):
        if first not in axes:
            first += 1
            continue
        joined, last = data, first
        while last + 1 < len(data.shape) and last + 1 in axes:
            further = join_dimensions(joined, first)
            if further is None:
                break
            joined, last = further, last + 1
        yield _Run(first, last, joined.shape[first], joined.strides[first])
        first = last + 1


def _joined(view: View, run: _Run) -> View | None:
    """The view with the dimensions of a run as one, None if they do not join."""
    joined: View | None = view
    for _ in range(run.first, run.last):
        joined = join_dimensions(joined, run.first) if joined is not None else None
    return joined


def _divide(
    shape: tuple[int, ...], axes: frozenset[int], run: _Run, size: int, target: Target, *, norm: bool, apart: bool
) -> int | None:
    """How many partial results to make of a run; None if the layer is better left whole.

    `apart`: other operands keep the dimensions of the run apart, so that rows are as short as the last of them.
    """
    vector, burst = target.engine.vector, target.memory["ddr"].burst
    outer = math.prod(shape[: run.first])
    inner = math.prod(shape[run.last + 1 :])
    kept = math.prod(n for a, n in enumerate(shape) if a not in axes)
    work = WORK_OF_A_NORM if norm else 1

    def rows(count: int, length: int, width: int) -> float:
        return count * (vector.row_overhead + -(-length * width // vector.width))

    def cores_of(places: int, length: int) -> int:
        return min(target.cores, places * max(1, length * size // burst))

    last_kept = len(shape) - 1 not in axes
    cores = cores_of(kept // shape[-1], shape[-1]) if last_kept else min(target.cores, kept)
    whole = rows(outer * run.extent, inner, size) if inner > 1 else rows(outer, run.extent, size)
    if apart:
        whole = rows(math.prod(shape[:-1]), shape[-1], size)
    share = min(target.memory["ddr"].bandwidth, cores * target.engine.load.port_bandwidth)
    whole = max(whole * work / cores, outer * run.extent * inner * size / share)
    barrier = target.sync.chip_barrier if target.clusters > 1 else target.sync.cluster_barrier
    step = 4 * target.memory["ddr"].latency + 2 * (barrier or 0) + 300

    def divided(count: int) -> float:
        taken = cores_of(outer, count * inner)
        columns = -(-outer * count * inner // taken)
        first = rows(run.extent // count, columns, size) * work
        return first + rows(outer * count, inner, 4) * (2 if norm else 1) + step * (5 if norm else 1)

    counts = [c for c in range(2, run.extent // 2 + 1) if run.extent % c == 0]
    best = min(counts, key=divided, default=None)
    return best if best is not None and divided(best) < LEAST_GAIN * whole else None


def _partial(parts: _Parts, data: View, run: _Run, count: int, op: str, name: str) -> View:
    """Reduce every `count`-th element of a run together: the view of the results, of the data's rank."""
    between = (run.stride[0] * count, run.stride[1] * count)
    view = replace(
        data,
        shape=(*data.shape[: run.first], run.extent // count, count, *data.shape[run.last + 1 :]),
        strides=(*data.strides[: run.first], between, run.stride, *data.strides[run.last + 1 :]),
    )
    shape = (*data.shape[: run.first], count, *data.shape[run.last + 1 :])
    output = parts.tensor(name, shape)
    call = OpCall(op, (("input", 0),), {"axis": [run.first], "keepdims": False}, shape, parts.dtype, _node(parts.of))
    parts.add(name, "reduce", [call], [view], output)
    units = run.last - run.first
    return replace(
        output,
        shape=(*data.shape[: run.first], *[1] * units, count, *data.shape[run.last + 1 :]),
        strides=(*output.strides[: run.first], *[(0, 0)] * units, *output.strides[run.first :]),
    )


def _node(layer: Layer) -> str:
    return layer.calls[layer.master].node


def _split_reduce(parts: _Parts, data: View, run: _Run, count: int) -> _Parts:
    layer = parts.of
    call = layer.calls[layer.master]
    partial = _partial(parts, data, run, count, call.op, "part")
    rest = replace(call, args=(("input", len(layer.inputs)),))
    calls = (*layer.calls[: layer.master], rest, *layer.calls[layer.master + 1 :])
    parts.layers.append(replace(layer, calls=calls, inputs=(*layer.inputs, partial)))
    return _without_unused(parts)


def _without_unused(parts: _Parts) -> _Parts:
    """The last layer without inputs that none of its calls reads."""
    layer = parts.layers[-1]
    used = sorted({int(v) for c in layer.calls for k, v in c.args if k == "input"})

    def placed(arg: Arg) -> Arg:
        return ("input", used.index(int(arg[1]))) if arg[0] == "input" else arg

    calls = tuple(replace(c, args=tuple(placed(a) for a in c.args)) for c in layer.calls)
    parts.layers[-1] = replace(layer, calls=calls, inputs=tuple(layer.inputs[n] for n in used))
    return parts


def _split_norm(parts: _Parts, data: View, axes: frozenset[int], run: _Run, count: int) -> _Parts:
    layer = parts.of
    call = layer.calls[layer.master]
    node, kept = _node(layer), tuple(1 if a in axes else n for a, n in enumerate(data.shape))
    means = _partial(parts, data, run, count, "mean", "means")
    variances = _partial(parts, data, run, count, "variance", "variances")
    mean, between, share = (parts.tensor(name, kept) for name in ("mean", "between", "share"))

    def reduced(op: str, source: int) -> OpCall:
        return OpCall(op, (("input", source),), {"axis": sorted(axes), "keepdims": True}, kept, "float32", node)

    def step(op: str, *args: Arg) -> OpCall:
        return OpCall(op, args, {}, kept, "float32", node)

    parts.add("mean", "reduce", [reduced("mean", 0)], [means], mean)
    parts.add("between", "reduce", [reduced("variance", 0)], [means], between)
    root = [
        reduced("mean", 0),
        step("add", ("call", 0), ("input", 1)),
        step("add", ("call", 1), ("const", float(call.attrs["epsilon"]))),
        step("rsqrt", ("call", 2)),
    ]
    parts.add("share", "reduce", root, [variances, between], share)
    along = sorted(axes) if call.op != "nn.instance_norm" else [int(call.attrs["channel_axis"]) % len(data.shape)]
    factors = [spread_factor(layer.inputs[int(v)], along, data.shape) for _, v in call.args[1:]]
    wide = [_repeated(v, axes, data.shape) for v in (mean, share)]
    parts.layers.append(_applied(layer, data, [*wide, *factors]))
    return _without_unused(parts)


def _repeated(view: View, axes: frozenset[int], shape: tuple[int, ...]) -> View:
    return replace(
        view, shape=shape, strides=tuple((0, 0) if a in axes else s for a, s in enumerate(view.strides))
    )


def _applied(layer: Layer, data: View, operands: Sequence[View]) -> Layer:
    """The elementwise layer (data - mean) * share * gamma + beta, and what follows in `layer`."""
    master, base = layer.master, len(layer.inputs)
    call = layer.calls[master]
    ops = ("subtract", "multiply", "multiply", "add")[: len(operands)]
    made, before = [], call.args[0]
    for number, op in enumerate(ops):
        made.append(OpCall(op, (before, ("input", base + number)), {}, data.shape, call.dtype, call.node))
        before = ("call", master + number)
    more = len(made) - 1

    def moved(arg: Arg) -> Arg:
        return ("call", int(arg[1]) + more) if arg[0] == "call" and int(arg[1]) >= master else arg

    after = [replace(c, args=tuple(moved(a) for a in c.args)) for c in layer.calls[master + 1 :]]
    calls = (*layer.calls[:master], *made, *after)
    return replace(layer, kind="elementwise", calls=calls, inputs=(*layer.inputs, *operands))
