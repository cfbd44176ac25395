"""Attention layers of a graph as problems for the attention kernel, and the choice of its tiles."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from dsa_compiler.errors import Infeasible
from dsa_compiler.graph.layers import Layer, LayerGraph
from dsa_compiler.graph.views import View
from dsa_compiler.isa.dtypes import item_bytes
from dsa_compiler.lower.attention_kernel import (
    SLOTS,
    AttentionExtra,
    AttentionKernel,
    AttentionOperands,
    AttentionProblem,
    AttentionTiling,
)
from dsa_compiler.lower.binding import LoweredKernel, Parameter, Reach, reach, varying
from dsa_compiler.lower.chain import Chain, chain_after
from dsa_compiler.lower.matrix_layer import unflatten, with_batches
from dsa_compiler.lower.pitch import accumulator_pitch, operand_pitch, scope_pitch
from dsa_compiler.lower.tile_kernel import ceil_div
from dsa_compiler.target import Target


def lower_attention_layer(layer: Layer, graph: LayerGraph, target: Target, *, rank: int = 0) -> LoweredKernel:
    """The kernel of an attention layer.

    Raises `Infeasible` if keys, values and a tile of scores do not fit L1 together, or for operands that lie in
    another order than the kernel loads them; the layer's parts are then compiled one by one.
    """
    scores, _, values = layer.parts
    call = scores.calls[scores.master]
    q, k = (with_batches(scores.inputs[int(v)], call.shape) for _, v in call.args)
    mix = values.calls[values.master]
    v = with_batches(values.inputs[int(mix.args[1][1])], mix.shape)
    batch_dims, rows, keys = call.shape[:-2], call.shape[-2], call.shape[-1]
    if not q.contiguous(len(q.shape) - 1) or not v.contiguous(len(v.shape) - 1) or mix.args[1][0] != "input":
        raise Infeasible("operands of attention in another order", 1, 0, where="lower.attention_layer")
    dtype = graph.tensors[q.tensor].dtype
    if dtype not in ("float16", "float32", "bfloat16"):
        raise Infeasible(f"attention in {dtype}", 1, 0, where="lower.attention_layer")
    problem = AttentionProblem(math.prod(batch_dims), rows, keys, q.shape[-1], mix.shape[-1], dtype)
    chains = chain_after(scores, scores.master), chain_after(values, values.master)
    wide = sum(_varies(scores.inputs[i], 2) for i in chains[0].inputs)
    tiling = _choose(problem, chains, wide, target, rank)
    parameters: list[Parameter] = []

    def bind(name: str, view: View) -> Reach:
        place = reach(name, view, graph, target)
        value = graph.tensors[view.tensor].value
        if value is not None:
            value = np.ascontiguousarray(value).reshape([int(s) for s in place.buffer.shape])
        parameters.append(Parameter(place.buffer, "" if value is not None else view.tensor, value))
        return place

    def at(place: Reach):  # type: ignore[no-untyped-def]
        return lambda b, i, j: place.index([*unflatten(b, batch_dims), i, j])

    places = bind("q", q), bind("k", k), bind("v", v)
    extras = [_extras(part, chain, bind, at, name) for part, chain, name in
              ((scores, chains[0], "mask"), (values, chains[1], "other"))]  # fmt: skip
    out = reach("out", layer.output, graph, target)
    parameters.append(Parameter(out.buffer, layer.output.tensor, written=True))
    operands = AttentionOperands(
        places[0].buffer, at(places[0]), places[1].buffer, at(places[1]), places[2].buffer, at(places[2]),
        out.buffer, at(out), k.contiguous(len(k.shape) - 2), tuple(extras[0]), chains[0].value,
        tuple(extras[1]), chains[1].value,
    )  # fmt: skip
    func = AttentionKernel(problem, tiling, operands, target).build(layer.name, [p.buffer for p in parameters])
    return LoweredKernel(layer.name, func, tuple(parameters), str(tiling))


def _extras(part: Layer, chain: Chain, bind, at, name: str) -> list[AttentionExtra]:  # type: ignore[no-untyped-def]
    result = []
    for number, index in enumerate(chain.inputs):
        view = part.inputs[index]
        place = bind(f"{name}{number}", view)
        result.append(AttentionExtra(place.buffer, at(place), bool(_varies(view, 2)), bool(_varies(view, 1))))
    return result


def _varies(view: View, from_end: int) -> int:
    return int(len(view.shape) - from_end in varying(view))


def _choose(
    p: AttentionProblem, chains: Sequence[Chain], wide_extras: int, target: Target, rank: int
) -> AttentionTiling:
    """The feasible tiling of least expected time, or the one `rank` places behind it."""
    found = sorted(_candidates(p, chains, wide_extras, target), key=lambda c: (c[0], c[1].rows))
    if rank >= len(found):
        least = 2 * p.keys * scope_pitch(max(p.depth, p.width), p.dtype, target, "l1") * item_bytes(p.dtype)
        raise Infeasible("l1", least, target.memory["l1"].size, where="lower.attention_layer")
    return found[rank][1]


def _candidates(
    p: AttentionProblem, chains: Sequence[Chain], wide_extras: int, target: Target
) -> Iterator[tuple[float, AttentionTiling]]:
    unit = target.row_elements(item_bytes(p.dtype))
    un = target.engine.matrix.unit[p.dtype][1]
    for rows in (16, 32, 48, 64, 96, 128, 256):
        if rows >= 2 * p.rows and rows > 16:
            continue
        for columns in (64, 96, 128, 192, 256, 512):
            for chunk in (32, 48, 64, 96, 128, 256, 512):
                n, k = min(columns, ceil_div(p.keys, un) * un), min(chunk, ceil_div(p.keys, unit) * unit)
                for ahead in (2, 1):
                    for cores in _splits(p, rows, target):
                        t = AttentionTiling(cores, min(rows, p.rows), n, k, ahead)
                        if _fits(p, t, wide_extras, target):
                            yield _cycles(p, t, chains, target), t


def _splits(p: AttentionProblem, rows: int, target: Target) -> set[tuple[int, int]]:
    tiles = ceil_div(p.rows, rows)
    divisors = [d for d in range(1, target.cores + 1) if target.cores % d == 0]
    return {(min(d, p.batches), min(target.cores // d, tiles)) for d in divisors}


def _fits(p: AttentionProblem, t: AttentionTiling, wide_extras: int, target: Target) -> bool:
    item, memory = item_bytes(p.dtype), target.memory
    l1 = lambda n, dtype=p.dtype: scope_pitch(n, dtype, target, "l1") * item_bytes(dtype)  # noqa: E731
    score_row = l1(p.keys)
    need = t.ahead * p.keys * (l1(p.depth) + l1(p.width + 1)) + SLOTS * t.rows * score_row
    need += t.rows * (l1(1) + 2 * l1(1, "float32")) + 2 * t.rows * (l1(p.depth) + l1(p.width, "float32"))
    need += 2 * (wide_extras * t.rows * l1(p.keys, "float32") + 2 * l1(p.keys, "float32")) + 2 * t.rows * l1(
        t.columns, "float32"
    )
    operand = lambda n: operand_pitch(n, p.dtype, target) * item  # noqa: E731
    l0a = 2 * t.rows * (operand(p.depth) + operand(t.chunk))
    l0b = 2 * (p.depth * operand(t.columns) + t.chunk * operand(p.width + 1))
    acc = accumulator_pitch(t.columns, "float32", target) + accumulator_pitch(p.width + 1, "float32", target)
    limits = target.limits
    small = (
        t.rows <= limits.matrix_m
        and max(t.columns, p.width + 1) <= limits.matrix_n
        and max(p.depth, t.chunk) <= limits.matrix_k
    )
    return (
        small
        and need <= memory["l1"].size
        and l0a <= memory["l0a"].size
        and l0b <= memory["l0b"].size
        and 2 * t.rows * acc * 4 <= memory["l0c"].size
    )


def _cycles(p: AttentionProblem, t: AttentionTiling, chains: Sequence[Chain], target: Target) -> float:
    """Expected cycles: the busiest engine over the steps of a core, the ddr, and the steps to fill the stages."""
    engine, item = target.engine, item_bytes(p.dtype)
    um, un, uk = engine.matrix.unit[p.dtype]
    width, cost = engine.vector.width, engine.vector.cost["transcendental"]
    lanes = t.rows * p.keys / width
    epilogue = 4 + item * max(0, chains[0].operations - 1)
    vector = (
        lanes * (epilogue + item * (2 + cost))
        + 4 * t.rows * engine.vector.row_overhead
        + 12 * (engine.vector.startup + 4)
    )
    vector += ceil_div(p.keys, t.columns) * (engine.vector.startup + 4 + t.rows) * max(1, chains[0].operations)
    tiles = ceil_div(t.rows, um)
    score = ceil_div(p.keys, t.columns) * (
        engine.matrix.startup + 3 + tiles * ceil_div(t.columns, un) * ceil_div(p.depth, uk)
    )
    value = ceil_div(p.keys, t.chunk) * (
        engine.matrix.startup + 3 + tiles * ceil_div(p.width + 1, un) * ceil_div(t.chunk, uk)
    )
    moved = p.keys * (p.depth + p.width + t.rows) * item / engine.move.port_bandwidth
    move = moved + (ceil_div(p.keys, t.columns) + 2 * ceil_div(p.keys, t.chunk)) * (engine.move.startup + 3)
    steps = ceil_div(p.batches, t.cores[0]) * ceil_div(ceil_div(p.rows, t.rows), t.cores[1])
    held = p.keys * (p.depth + p.width) * item
    shared = 1 if target.features.multicast else t.cores[1]
    traffic = p.batches * (held * shared + p.rows * (p.depth + p.width) * item)
    step = max(vector, score + value, move)
    reload = held / engine.load.port_bandwidth if t.ahead == 1 and p.batches > t.cores[0] else 0.0
    fill = held * t.cores[0] * shared / target.memory["ddr"].bandwidth
    total = max(steps * step, traffic / target.memory["ddr"].bandwidth) + (SLOTS - 1) * step / 2 + fill
    return total + reload * ceil_div(p.batches, t.cores[0])
