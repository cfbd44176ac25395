"""Movements that no view expresses: padding with a value, reversal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import reduce

from tvm import tirx

from dsa_compiler.errors import Infeasible
from dsa_compiler.graph.layers import Layer, LayerGraph
from dsa_compiler.isa.dtypes import item_bytes
from dsa_compiler.lower.binding import LoweredKernel, Parameter, reach, varying
from dsa_compiler.lower.tile_kernel import TileKernel, TileOperand, TileSpace, ceil_div, choose_tile
from dsa_compiler.lower.tile_layer import RING, lower_copy_layer, view_parameter
from dsa_compiler.lower.tir import Buffer, Expr, Stmt, constant, integer, nest, store, when
from dsa_compiler.target import Target


def movement_supported(op: str, attrs: object) -> bool:
    """Whether `lower_movement_layer` takes the movement `op`."""
    if op == "nn.pad":
        return isinstance(attrs, dict) and str(attrs.get("pad_mode", "constant")) == "constant"
    return op in ("copy", "flip")


def lower_movement_layer(layer: Layer, graph: LayerGraph, target: Target, *, rank: int = 0) -> LoweredKernel:
    """The kernel of a copy, a constant padding or a reversal.

    Raises `Infeasible` if no tile fits L1, or for another movement.
    """
    call = layer.calls[layer.master]
    if call.op == "copy":
        return lower_copy_layer(layer, graph, target, rank=rank)
    if not movement_supported(call.op, dict(call.attrs)):
        raise Infeasible(f"movements of kind {call.op}", 1, 0, where=layer.name)
    view = layer.inputs[0]
    source = reach("in0", view, graph, target)
    place = reach("out", layer.output, graph, target)
    parameters = (view_parameter(source, view, graph), Parameter(place.buffer, layer.output.tensor, written=True))
    size = item_bytes(call.dtype)
    space = choose_tile(layer.output.shape, RING * size * 1.1 * 2**rank, target)
    shape = layer.output.shape
    if call.op == "flip":
        axis = int(call.attrs["axis"]) % len(shape)
        operand = TileOperand(source.buffer, lambda at: source.index(_flipped(at, axis, shape[axis])), varying(view))
        kernel = TileKernel(space, [operand], place.buffer, place.index, None, target, ring=RING)
    else:
        flat = call.attrs["pad_width"]
        before = [int(n) for n in flat[0::2]]
        every = frozenset(range(len(shape)))
        operand = TileOperand(source.buffer, lambda at: source.index(_shifted(at, before)), every)
        value = float(call.attrs.get("pad_value", 0.0))
        space = _single_outside(space, [a for a, n in enumerate(shape) if n != view.shape[a]], target)
        kernel = PadKernel(space, operand, place.buffer, place.index, target, before, view.shape, value)
    func = kernel.build(layer.name, [p.buffer for p in parameters])
    return LoweredKernel(layer.name, func, parameters, str(space))


def _flipped(at: Sequence[Expr], axis: int, extent: int) -> list[Expr]:
    return [integer(extent - 1) - p if a == axis else p for a, p in enumerate(at)]


def _shifted(at: Sequence[Expr], before: Sequence[int]) -> list[Expr]:
    return [p - n if n else p for p, n in zip(at, before, strict=True)]


class PadKernel(TileKernel):
    """A copy whose source has `extents` from `before` on along each axis; `value` lies around it."""

    def __init__(self, space, operand, out, out_index, target: Target, before, extents, value: float) -> None:  # type: ignore[no-untyped-def]
        super().__init__(space, [operand], out, out_index, None, target, ring=RING)
        self.before, self.extents, self.value = tuple(before), tuple(extents), value

    def _hold(self) -> list[Stmt]:
        return []

    def _load(self, tile: Buffer, operand: TileOperand, starts: list[Expr], extent: int) -> Stmt:
        axes = [(f"i{a}", e) for a, e in enumerate(self.space.tile)]
        number = self.value if operand.dtype.startswith(("float", "bfloat")) else int(self.value)
        fill = constant(number, operand.dtype)
        inner = frozenset(a for a, e in enumerate(self.space.tile) if e > 1)
        outer = frozenset(range(len(axes))) - inner

        def element(*indices: Expr) -> Stmt:
            at = [s + i for s, i in zip(starts, indices, strict=True)]
            terms = self._covered(at, inner)
            value = operand.source[tuple(operand.index(at))]
            if terms:
                value = tirx.if_then_else(reduce(tirx.And, terms), value, fill)
            return when(self.inside(starts, indices, inner=True), store(tile, list(indices), value))

        def padding(*indices: Expr) -> Stmt:
            return when(self.inside(starts, indices, inner=True), store(tile, list(indices), fill))

        conditions = self._covered(starts, outer)
        return when(conditions, nest(axes, element), nest(axes, padding) if conditions else None)

    def _covered(self, at: Sequence[Expr], axes: frozenset[int]) -> list[Expr]:
        """The conditions along `axes` that the source has an element there."""
        terms = []
        for axis in sorted(axes):
            before, extent = self.before[axis], self.extents[axis]
            if before:
                terms.append(at[axis] >= integer(before))
            if before + extent < self.space.extents[axis]:
                terms.append(at[axis] < integer(before + extent))
        return terms


def _single_outside(space: TileSpace, padded: Sequence[int], target: Target) -> TileSpace:
    """The tiles with one place along padded axes but the last two: one instruction pads no more."""
    tile = [1 if a in padded[:-2] else n for a, n in enumerate(space.tile)]
    counts = math.prod(ceil_div(e, t) for e, t in zip(space.extents, tile, strict=True))
    return TileSpace(space.extents, tuple(tile), min(target.cores, counts))
