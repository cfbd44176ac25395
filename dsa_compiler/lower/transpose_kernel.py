"""The kernel of copies whose innermost axis changes: rows are loaded as they lie, transposed in L1, and stored."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tvm import tirx
from tvm.tirx import PrimFunc

from dsa_compiler.errors import Infeasible
from dsa_compiler.isa.dtypes import item_bytes
from dsa_compiler.lower.tile_kernel import TileOperand, TileSpace, ceil_div
from dsa_compiler.lower.tir import (
    Buffer,
    Expr,
    Stmt,
    allocate,
    below,
    buffer,
    cast,
    core_loop,
    function,
    integer,
    nest,
    sequence,
    store,
    tile_loop,
    when,
)
from dsa_compiler.target import Target


class TransposeKernel:
    """Copies `source` to `out`, whose last axis is not the axis `inner` that is contiguous in the source.

    Elements of another type are cast where rows are as they lie, and transposed in the narrower type. `turned` loads
    transposed, where the part can.
    """

    def __init__(
        self,
        space: TileSpace,
        inner: int,
        source: TileOperand,
        out: Buffer,
        out_index: Callable[[Sequence[Expr]], Sequence[Expr]],
        target: Target,
        *,
        turned: bool = False,
    ) -> None:
        self.turned = turned
        self.space, self.inner, self.source, self.out, self.out_index = space, inner, source, out, out_index
        self.target = target
        self.total = 1
        for count in space.counts:
            self.total *= count
        self.per_core = ceil_div(self.total, space.cores)
        axes = range(len(space.extents))
        self.loaded = [a for a in axes if a != inner] + [inner]

    def build(self, name: str, parameters: Sequence[Buffer]) -> PrimFunc:
        """The kernel over `parameters`, the ddr buffers in the order of the call."""
        cores = self.space.cores
        body = core_loop("core", cores, 1, lambda core: tile_loop("tile", self.per_core, lambda t: self._tile(core, t)))
        return function(name, parameters, body)

    def _tile(self, core: Expr, step: Expr) -> Stmt:
        number = core * self.per_core + step
        starts = self._starts(number)
        if self.turned:
            body = self._turned_tile(starts)
            return when([below(number, self.total, self.space.cores * self.per_core - 1)], body)
        dtype, out_dtype = self.source.dtype, str(self.out.dtype)
        tile = self.space.tile
        shape = [tile[a] for a in self.loaded]
        widens = item_bytes(out_dtype) > item_bytes(dtype)
        in1, out1 = self._rows("in1", shape, dtype), self._rows("out1", tile, out_dtype)
        narrow1 = in1 if widens or dtype == out_dtype else self._rows("narrow1", shape, out_dtype)
        turned1 = self._rows("turned1", tile, dtype) if widens else out1
        order = [(f"i{a}", tile[a]) for a in self.loaded]
        axes = [(f"i{a}", e) for a, e in enumerate(tile)]

        def load(*at: Expr) -> Stmt:
            indices = self._sorted(at)
            place = self.source.index([s + i for s, i in zip(starts, indices, strict=True)])
            return when(self._inside(starts, indices), store(in1, list(at), self.source.source[tuple(place)]))

        def turn(*at: Expr) -> Stmt:
            return when(self._inside(starts, at), store(turned1, list(at), narrow1[tuple(at[a] for a in self.loaded)]))

        def narrow(*at: Expr) -> Stmt:
            inside = self._inside(starts, self._sorted(at))
            return when(inside, store(narrow1, list(at), cast(in1[tuple(at)], out_dtype)))

        def widen(*at: Expr) -> Stmt:
            return when(self._inside(starts, at), store(out1, list(at), cast(turned1[tuple(at)], out_dtype)))

        cast_rows = [allocate(narrow1), nest(order, narrow)] if narrow1 is not in1 else []
        cast_back = [allocate(out1, 2), nest(axes, widen)] if turned1 is not out1 else []
        body = sequence(
            allocate(in1, 2), nest(order, load), *cast_rows, allocate(turned1, 1 if cast_back else 2),
            nest(axes, turn), *cast_back, self._back(out1, starts),
        )  # fmt: skip
        return when([below(number, self.total, self.space.cores * self.per_core - 1)], body)

    def _turned_tile(self, starts: Sequence[Expr]) -> Stmt:
        dtype, out_dtype, tile = self.source.dtype, str(self.out.dtype), self.space.tile
        axes = [(f"i{a}", e) for a, e in enumerate(tile)]
        turned1 = self._rows("turned1", tile, dtype)

        def load(*at: Expr) -> Stmt:
            place = self.source.index([s + i for s, i in zip(starts, at, strict=True)])
            return when(self._inside(starts, at), store(turned1, list(at), self.source.source[tuple(place)]))

        if dtype == out_dtype:
            return sequence(allocate(turned1, 2), nest(axes, load), self._back(turned1, starts))
        out1 = self._rows("out1", tile, out_dtype)

        def convert(*at: Expr) -> Stmt:
            return when(self._inside(starts, at), store(out1, list(at), cast(turned1[tuple(at)], out_dtype)))

        converted = [allocate(out1, 2), nest(axes, convert), self._back(out1, starts)]
        return sequence(allocate(turned1, 2), nest(axes, load), *converted)

    def _back(self, out1: Buffer, starts: Sequence[Expr]) -> Stmt:
        """The store of a tile."""

        def element(*at: Expr) -> Stmt:
            place = self.out_index([s + i for s, i in zip(starts, at, strict=True)])
            return when(self._inside(starts, at), store(self.out, place, out1[tuple(at)]))

        return nest([(f"i{a}", e) for a, e in enumerate(self.space.tile)], element)

    def _rows(self, name: str, shape: Sequence[int], dtype: str) -> Buffer:
        return buffer(name, (*shape[:-1], self.target.pitch(shape[-1], item_bytes(dtype))), dtype, "l1")

    def _sorted(self, at: Sequence[Expr]) -> list[Expr]:
        by_axis = dict(zip(self.loaded, at, strict=True))
        return [by_axis[a] for a in range(len(at))]

    def _starts(self, number: Expr) -> list[Expr]:
        starts: list[Expr] = []
        rest = number
        counts = self.space.counts
        first = min((i for i, c in enumerate(counts) if c > 1), default=0)
        for axis in reversed(range(len(counts))):
            if counts[axis] == 1:
                starts.insert(0, integer(0))
                continue
            place = rest if axis == first else tirx.floormod(rest, integer(counts[axis]))
            rest = tirx.floordiv(rest, integer(counts[axis]))
            starts.insert(0, place * self.space.tile[axis])
        return starts

    def _inside(self, starts: Sequence[Expr], at: Sequence[Expr]) -> list[Expr]:
        return [
            below(s + i, e, ceil_div(e, t) * t - 1)
            for s, i, e, t in zip(starts, at, self.space.extents, self.space.tile, strict=True)
        ]


def choose_transpose_tile(extents: Sequence[int], inner: int, size: int, target: Target, *, rank: int = 0) -> TileSpace:
    """A tile whose two exchanged axes are about equally long, and long enough for whole bursts where they can be.

    Raises `Infeasible` if even one L1 row of each does not fit.
    """
    last = len(extents) - 1
    unit = target.row_elements(size)
    budget = target.memory["l1"].size / (4.4 * size) / 2**rank
    total = 1
    for e in extents:
        total *= e
    wanted = min(budget, max(total / (target.cores * 4), float(unit * unit)))
    tile = [1] * len(extents)
    side = max(unit, int(wanted**0.5) // unit * unit)
    for axis in (last, inner):
        tile[axis] = min(extents[axis], side)
        if tile[axis] == extents[axis]:
            side = max(unit, int(wanted / tile[axis]) // unit * unit)
    tile[last] = min(extents[last], max(tile[last], min(side, extents[last])))
    while _padded(tile, last, inner, unit) > budget and max(tile[last], tile[inner]) > unit:
        axis = last if tile[last] >= tile[inner] else inner
        tile[axis] = max(unit, tile[axis] // 2 // unit * unit)
    if _padded(tile, last, inner, unit) > budget:
        raise Infeasible(
            "l1", _padded(tile, last, inner, unit) * size * 4, target.memory["l1"].size, where="lower.transpose_kernel"
        )
    for axis in reversed(range(len(extents))):
        if axis not in (last, inner):
            tile[axis] = max(1, min(extents[axis], int(wanted // _padded(tile, last, inner, unit))))
    counts = 1
    for e, t in zip(extents, tile, strict=True):
        counts *= ceil_div(e, t)
    return TileSpace(tuple(extents), tuple(tile), min(target.cores, counts))


def _padded(tile: Sequence[int], last: int, inner: int, unit: int) -> int:
    """Elements of the larger of the two buffers of a tile."""
    total = 1
    for axis, t in enumerate(tile):
        total *= t if axis not in (last, inner) else 1
    a, b = tile[last], tile[inner]
    return total * max(a * (-(-b // unit) * unit), b * (-(-a // unit) * unit))
