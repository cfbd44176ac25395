"""The kernel of copies with short rows: rows are turned into lanes, put in order, and turned back.

    in1[lane][places of the source's row]       load
    turned[place][lane]                         vector transpose (or a transposing load)
    moved[place of the result's row][lane]      vector copy or cast: whole rows change places
    out1[lane][places of the result's row]      vector transpose (and a cast to wider elements)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tvm import tirx
from tvm.tirx import PrimFunc

from dsa_compiler.isa.dtypes import item_bytes
from dsa_compiler.lower.lane_tiling import Copy, LaneTiling
from dsa_compiler.lower.tile_kernel import ceil_div
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

Index = Callable[[Sequence[Expr]], Sequence[Expr]]


class LaneKernel:
    """Copies `source` to `out` by lanes.

    `source_index` counts single elements along the axis that the source's row walks in steps; see `Copy`.
    """

    def __init__(
        self,
        copy: Copy,
        tiling: LaneTiling,
        source: Buffer,
        source_index: Index,
        out: Buffer,
        out_index: Index,
        target: Target,
    ) -> None:
        self.copy, self.t, self.target = copy, tiling, target
        self.source, self.source_index, self.out, self.out_index = source, source_index, out, out_index
        self.source_row, self.out_row = tiling.row(copy, copy.source), tiling.row(copy, copy.out)
        self.step = tiling.step(copy)
        self.counts = tiling.counts(copy)
        self.total = 1
        for count in self.counts.values():
            self.total *= count
        self.per_core = ceil_div(self.total, tiling.cores)

    def build(self, name: str, parameters: Sequence[Buffer]) -> PrimFunc:
        """The kernel over `parameters`, the ddr buffers in the order of the call."""
        body = core_loop(
            "core", self.t.cores, 1, lambda core: tile_loop("tile", self.per_core, lambda t: self._tile(core, t))
        )
        return function(name, parameters, body)

    def _tile(self, core: Expr, step: Expr) -> Stmt:
        number = core * self.per_core + step
        places = self._places(number)
        dtype, back = self.copy.dtype, self.copy.turned_back
        (_, rows), (_, columns) = self.source_row
        columns = (columns - 1) * self.step + 1
        (_, outer), (_, inner) = self.out_row
        turned = buffer("turned", (rows, columns, self._pitch(self.t.lanes, dtype)), dtype, "l1")
        moved = buffer("moved", (outer, inner, self._pitch(self.t.lanes, back)), back, "l1")
        row1 = buffer("row1", (self.t.lanes, self._pitch(outer * inner, back)), back, "l1")
        body = sequence(
            *self._turn(turned, places, rows, columns),
            allocate(moved),
            self._move(moved, turned, places),
            allocate(row1, 1 if self.copy.widens else 2),
            self._turn_back(row1, moved, places),
            *self._finish(row1, places, outer * inner),
        )
        return when([below(number, self.total, self.t.cores * self.per_core - 1)], body)

    def _pitch(self, extent: int, dtype: str) -> int:
        return self.target.pitch(extent, item_bytes(dtype))

    def _places(self, number: Expr) -> dict[int, Expr]:
        """The tile's number along each axis; the last axis varies fastest."""
        places: dict[int, Expr] = {}
        several = [a for a in sorted(self.counts) if self.counts[a] > 1]
        for axis in reversed(range(len(self.copy.extents))):
            if axis not in several:
                places[axis] = integer(0)
                continue
            count = integer(self.counts[axis])
            places[axis] = number if axis == several[0] else tirx.floormod(number, count)
            number = tirx.floordiv(number, count)
        return places

    def _guards(self, places: dict[int, Expr], lane: Expr) -> list[Expr]:
        """Whether a lane of the tile exists."""
        extent = self.copy.extents[self.t.lane]
        lanes = extent // self.t.part if self.t.lane == self.t.split else extent
        most = ceil_div(lanes, self.t.lanes) * self.t.lanes - 1
        return [below(places[self.t.lane] * self.t.lanes + lane, lanes, most)]

    def _at(self, places: dict[int, Expr], lane: Expr, row: dict[int, Expr], stepped: int | None) -> list[Expr]:
        """Coordinates of an element; those of axis `stepped` in single elements of the source."""
        at = []
        for axis in range(len(self.copy.extents)):
            place = places[axis]
            if axis == self.t.lane:
                place = place * self.t.lanes + lane
            if axis == self.t.split:
                place = place * (self.t.part * (self.step if axis == stepped else 1)) + row[axis]
            elif axis == self.t.other:
                place = row[axis]
            at.append(place)
        return at

    def _turn(self, turned: Buffer, places: dict[int, Expr], rows: int, columns: int) -> list[Stmt]:
        (a, _), (b, _) = self.source_row

        def element(row: Expr, column: Expr, lane: Expr) -> Expr:
            return self.source[tuple(self.source_index(self._at(places, lane, {a: row, b: column}, b)))]

        if self.t.turned:
            axes = [("row", rows), ("column", columns), ("lane", self.t.lanes)]
            direct = nest(
                axes, lambda r, c, n: when(self._guards(places, n), store(turned, [r, c, n], element(r, c, n)))
            )
            return [allocate(turned, 2), direct]
        dtype = self.copy.dtype
        in1 = buffer("in1", (self.t.lanes, self._pitch(rows * columns, dtype)), dtype, "l1")
        load = nest(
            [("lane", self.t.lanes), ("row", rows), ("column", columns)],
            lambda n, r, c: when(self._guards(places, n), store(in1, [n, r * columns + c], element(r, c, n))),
        )
        turn = nest(
            [("row", rows), ("column", columns), ("lane", self.t.lanes)],
            lambda r, c, n: when(self._guards(places, n), store(turned, [r, c, n], in1[n, r * columns + c])),
        )
        return [allocate(in1, 2), load, allocate(turned), turn]

    def _move(self, moved: Buffer, turned: Buffer, places: dict[int, Expr]) -> Stmt:
        (a, _), (b, _) = self.source_row
        (c, outer), (d, inner) = self.out_row

        def element(first: Expr, second: Expr, lane: Expr) -> Stmt:
            at = {c: first, d: second}
            value = cast(turned[at[a], at[b] * self.step if self.step != 1 else at[b], lane], self.copy.turned_back)
            return when(self._guards(places, lane), store(moved, [first, second, lane], value))

        return nest([("outer", outer), ("inner", inner), ("lane", self.t.lanes)], element)

    def _finish(self, row1: Buffer, places: dict[int, Expr], length: int) -> list[Stmt]:
        """The store of the rows, cast to wider elements before where the result has such."""
        if not self.copy.widens:
            return [self._store(row1, places)]
        dtype = self.copy.out_dtype
        out1 = buffer("out1", (self.t.lanes, self._pitch(length, dtype)), dtype, "l1")
        wide = nest(
            [("lane", self.t.lanes), ("place", length)],
            lambda n, i: when(self._guards(places, n), store(out1, [n, i], cast(row1[n, i], dtype))),
        )
        return [allocate(out1, 2), wide, self._store(out1, places)]

    def _turn_back(self, out1: Buffer, moved: Buffer, places: dict[int, Expr]) -> Stmt:
        (_, outer), (_, inner) = self.out_row
        axes = [("lane", self.t.lanes), ("outer", outer), ("inner", inner)]
        return nest(
            axes, lambda n, o, i: when(self._guards(places, n), store(out1, [n, o * inner + i], moved[o, i, n]))
        )

    def _store(self, out1: Buffer, places: dict[int, Expr]) -> Stmt:
        (c, outer), (d, inner) = self.out_row

        def element(lane: Expr, first: Expr, second: Expr) -> Stmt:
            place = self.out_index(self._at(places, lane, {c: first, d: second}, None))
            return when(self._guards(places, lane), store(self.out, place, out1[lane, first * inner + second]))

        return nest([("lane", self.t.lanes), ("outer", outer), ("inner", inner)], element)
