"""Concatenations whose operands have to be copied: one kernel that loads a tile of each and stores them as one."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from tvm import tirx

from dsa_compiler.graph.layers import Layer, LayerGraph
from dsa_compiler.isa.dtypes import item_bytes
from dsa_compiler.lower.binding import LoweredKernel, Parameter, reach
from dsa_compiler.lower.tile_kernel import TileKernel, TileOperand, choose_tile
from dsa_compiler.lower.tile_layer import RING, bind_operands
from dsa_compiler.lower.tir import Buffer, Expr, Stmt, allocate, buffer, integer, nest, sequence, store, when
from dsa_compiler.target import Target


def lower_concat_layer(layer: Layer, graph: LayerGraph, target: Target, *, rank: int = 0) -> LoweredKernel:
    """The kernel of a concat layer; the axis is whole in a tile.

    Raises `Infeasible` if no tile fits L1; the layer's parts are then compiled one by one.
    """
    axis = int(layer.calls[0].attrs["axis"])
    parameters, operands = bind_operands(layer.inputs, graph, target)
    place = reach("out", layer.output, graph, target)
    parameters.append(Parameter(place.buffer, layer.output.tensor, written=True))
    shape = layer.output.shape
    padding = len(layer.inputs) if axis == len(shape) - 1 else 1.2
    per_element = RING * item_bytes(operands[0].dtype) * padding * 2**rank
    space = choose_tile(shape, per_element, target, whole=frozenset({axis}))
    kernel = ConcatKernel(
        space, operands, place.buffer, place.index, target, axis, [v.shape[axis] for v in layer.inputs]
    )
    func = kernel.build(layer.name, [p.buffer for p in parameters])
    return LoweredKernel(layer.name, func, tuple(parameters), str(space))


class ConcatKernel(TileKernel):
    """A tile kernel without a computation: the value stored is chosen by the place along `axis`.

    `extents` are those of the operands along the axis.
    """

    def __init__(self, space, operands, out, out_index, target: Target, axis: int, extents: Sequence[int]) -> None:  # type: ignore[no-untyped-def]
        super().__init__(space, operands, out, out_index, None, target, ring=RING)
        self.axis, self.sizes = axis, list(extents)

    def _tile(self, core: Expr, step: Expr) -> Stmt:
        number = core * self.per_core + step
        starts = self._starts(number)
        tiles, stmts = [], []
        for place, (operand, size) in enumerate(zip(self.operands, self.sizes, strict=True)):
            tile = self._piece(f"in{place}", operand, size)
            tiles.append(tile)
            stmts += [allocate(tile, self.ring), self._load_piece(tile, operand, size, starts)]
        return when(self._exists(number), sequence(*stmts, self._store_all(tiles, starts)))

    def _piece(self, name: str, operand: TileOperand, size: int) -> Buffer:
        shape = [size if a == self.axis else e for a, e in enumerate(self.space.tile)]
        shape = [e if a in operand.varies else 1 for a, e in enumerate(shape)]
        shape[-1] = self.target.pitch(shape[-1], item_bytes(operand.dtype))
        return buffer(name, shape, operand.dtype, "l1")

    def _load_piece(self, tile: Buffer, operand: TileOperand, size: int, starts: list[Expr]) -> Stmt:
        extents = [size if a == self.axis else e for a, e in enumerate(self.space.tile)]
        axes = [(f"i{a}", e if a in operand.varies else 1) for a, e in enumerate(extents)]

        def element(*indices: Expr) -> Stmt:
            at = [
                s + i if a in operand.varies else integer(0)
                for a, (s, i) in enumerate(zip(starts, indices, strict=True))
            ]
            guards = self.inside(starts, indices, inner=True, axes=operand.varies - {self.axis})
            return when(guards, store(tile, list(indices), operand.source[tuple(operand.index(at))]))

        return nest(axes, element)

    def _store_all(self, tiles: Sequence[Buffer], starts: list[Expr]) -> Stmt:
        axes = [(f"i{a}", e) for a, e in enumerate(self.space.tile)]
        ends = list(accumulate(self.sizes))
        every = frozenset(range(len(axes))) - {self.axis}

        def element(*indices: Expr) -> Stmt:
            value: Expr | None = None
            for number in reversed(range(len(tiles))):
                begin = ends[number] - self.sizes[number]
                moved = [i - begin if a == self.axis and begin else i for a, i in enumerate(indices)]
                piece = tiles[number][tuple(self._place(self.operands[number].varies, moved))]
                value = (
                    piece
                    if value is None
                    else tirx.if_then_else(indices[self.axis] < integer(ends[number]), piece, value)
                )
            at = [s + i for s, i in zip(starts, indices, strict=True)]
            guards = self.inside(starts, indices, inner=True, axes=every)
            return when(guards, store(self.out, self.out_index(at), value))

        return nest(axes, element)
