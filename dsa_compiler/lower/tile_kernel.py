"""The kernel of layers that work on tiles in L1: load the operands of a tile, compute, store the result.

Elementwise chains, softmax, normalisations, reductions and copies differ only in what is computed between the
loads and the store. The space of tiles is divided evenly over all cores; every buffer is double-buffered.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tvm import tirx
from tvm.tirx import PrimFunc

from dsa_compiler.errors import Infeasible
from dsa_compiler.isa.dtypes import item_bytes
from dsa_compiler.lower.tir import (
    Buffer,
    Expr,
    Stmt,
    allocate,
    below,
    buffer,
    constant,
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

Coordinates = Sequence[Expr]


def ceil_div(a: int, b: int) -> int:
    """a / b rounded up."""
    return -(-a // b)


@dataclass(frozen=True)
class TileOperand:
    """A tensor read by the kernel: `index(coordinates)` into `source`; `varies` are the axes it depends on."""

    source: Buffer
    index: Callable[[Coordinates], Sequence[Expr]]
    varies: frozenset[int]

    @property
    def dtype(self) -> str:
        """Element type in ddr and in L1."""
        return str(self.source.dtype)


@dataclass(frozen=True)
class TileSpace:
    """The axes of the result, outermost first: `extents`, those of one tile, and how many cores share the tiles."""

    extents: tuple[int, ...]
    tile: tuple[int, ...]
    cores: int

    @property
    def counts(self) -> tuple[int, ...]:
        """Tiles along each axis."""
        return tuple(ceil_div(e, t) for e, t in zip(self.extents, self.tile, strict=True))


@dataclass(frozen=True)
class TileContext:
    """What a kernel's computation sees of one tile.

    `tiles[i]` is operand i in L1 with extent 1 along axes it does not vary with; `out` the result's tile.
    `axes` are the loops over the tile, `inside(indices)` the guards of one element, `element(i, indices)` the value.
    """

    tiles: tuple[Buffer, ...]
    out: Buffer
    axes: tuple[tuple[str, int], ...]
    inside: Callable[[Coordinates], list[Expr]]
    element: Callable[[int, Coordinates], Expr]
    scratch: Callable[[str, Sequence[int], str], tuple[Buffer, Stmt]]


Compute = Callable[[TileContext], Stmt]


class TileKernel:
    """Builds the PrimFunc of one layer on tiles.

    `out_varies` are the axes of the result; those reduced away are not among them, and have to be whole in a tile.
    `compute` None copies the first operand. `fill` pads the innermost dimension of every tile up to whole L1 rows
    with zeros, so that rows join into long runs; results of the padding are never stored.
    """

    def __init__(
        self,
        space: TileSpace,
        operands: Sequence[TileOperand],
        out: Buffer,
        out_index: Callable[[Coordinates], Sequence[Expr]],
        compute: Compute | None,
        target: Target,
        *,
        fill: bool = False,
        ring: int = 2,
        out_varies: frozenset[int] | None = None,
    ) -> None:
        self.space, self.operands, self.out, self.out_index = space, tuple(operands), out, out_index
        self.compute, self.target, self.fill, self.ring = compute, target, fill, ring
        self.out_varies = frozenset(range(len(space.extents))) if out_varies is None else out_varies
        self.total = 1
        for count in space.counts:
            self.total *= count
        self.per_core = ceil_div(self.total, space.cores)
        self.held: dict[int, Buffer] = {}

    def build(self, name: str, parameters: Sequence[Buffer]) -> PrimFunc:
        """The kernel over `parameters`, the ddr buffers in the order of the call."""
        loads = self._hold()
        tiles: Callable[[Expr], Stmt] = lambda core: tile_loop("tile", self.per_core, lambda t: self._tile(core, t))  # noqa: E731
        return function(
            name, parameters, core_loop("core", self.space.cores, 1, lambda core: sequence(*loads, tiles(core)))
        )

    def _hold(self) -> list[Stmt]:
        """Loads, once for a core, of the operands that are the same for every tile."""
        divided = {a for a, count in enumerate(self.space.counts) if count > 1}
        starts = [integer(0)] * len(self.space.extents)
        extent, loads = self._extent(), []
        for number, operand in enumerate(self.operands):
            if not operand.varies & divided and divided:
                tile = self._buffer(f"in{number}", operand.dtype, operand.varies, extent)
                self.held[number] = tile
                loads += [allocate(tile), self._load(tile, operand, starts, extent)]
        return loads

    def _tile(self, core: Expr, step: Expr) -> Stmt:
        number = core * self.per_core + step
        starts = self._starts(number)
        context, stmts = self.context(starts)
        work = self.compute(context) if self.compute is not None else None
        body = sequence(*stmts, work, self.store(context, starts))
        return when(self._exists(number), body)

    def _exists(self, number: Expr) -> list[Expr]:
        """The guard of tile `number`."""
        return [below(number, self.total, self.space.cores * self.per_core - 1)]

    def _starts(self, number: Expr, along: Sequence[int] | None = None) -> list[Expr]:
        """First coordinates of tile `number` of `along` tiles for each axis; the innermost axis varies fastest."""
        starts: list[Expr] = []
        counts = self.space.counts if along is None else along
        first = min((i for i, c in enumerate(counts) if c > 1), default=0)
        rest = number
        for axis in reversed(range(len(counts))):
            count = counts[axis]
            if count == 1:
                starts.insert(0, integer(0))
                continue
            place = rest if axis == first else tirx.floormod(rest, integer(count))
            rest = tirx.floordiv(rest, integer(count))
            starts.insert(0, place * self.space.tile[axis])
        return starts

    def _extent(self) -> int:
        """Elements of the innermost axis in a tile's buffers."""
        return max(self._inner_extent(d) for d in [*(o.dtype for o in self.operands), str(self.out.dtype)])

    def _inner_extent(self, dtype: str) -> int:
        inner = self.space.tile[-1]
        return self.target.pitch(inner, item_bytes(dtype)) if self.fill else inner

    def context(
        self, starts: list[Expr], *, only: Sequence[int] | None = None, out: Buffer | None = None
    ) -> tuple[TileContext, list[Stmt]]:
        """The tiles at `starts`: the operands `only` (None: all), allocated and loaded; the result's unless given."""
        extent = self._extent()
        axes = tuple((f"i{a}", e) for a, e in enumerate((*self.space.tile[:-1], extent)))
        tiles, stmts = [], []
        for number, operand in enumerate(self.operands):
            if number in self.held:
                tiles.append(self.held[number])
                continue
            tile = self._buffer(f"in{number}", operand.dtype, operand.varies, extent)
            tiles.append(tile)
            if only is None or number in only:
                stmts += [allocate(tile, self.ring), self._load(tile, operand, starts, extent)]
        if self.compute is None:
            out = tiles[0]
        elif out is None:
            out = self._buffer("out1", str(self.out.dtype), self.out_varies, extent)
            stmts.append(allocate(out, self.ring))
        context = TileContext(
            tuple(tiles), out, axes, lambda i: self.inside(starts, i, inner=not self.fill),
            lambda n, i: tiles[n][tuple(self._place(self.operands[n].varies, i))], self._scratch,
        )  # fmt: skip
        return context, stmts

    def _scratch(self, name: str, shape: Sequence[int], dtype: str) -> tuple[Buffer, Stmt]:
        """A buffer of the computation's own, and its allocation."""
        padded = (*shape[:-1], self.target.pitch(shape[-1], item_bytes(dtype)))
        tile = buffer(name, padded, dtype, "l1")
        return tile, allocate(tile, 1)

    def _buffer(self, name: str, dtype: str, varies: frozenset[int], inner: int) -> Buffer:
        last = len(self.space.tile) - 1
        shape = [e if a in varies else 1 for a, e in enumerate(self.space.tile)]
        shape[last] = self.target.pitch(inner if last in varies else 1, item_bytes(dtype))
        return buffer(name, shape, dtype, "l1")

    @staticmethod
    def _place(varies: frozenset[int], indices: Coordinates) -> list[Expr]:
        return [i if a in varies else integer(0) for a, i in enumerate(indices)]

    def inside(
        self, starts: list[Expr], indices: Coordinates, *, inner: bool, axes: frozenset[int] | None = None
    ) -> list[Expr]:
        """Guards of one element along `axes` (None: all), along the innermost only if `inner`."""
        guards = []
        for axis, (start, index, extent, tile) in enumerate(
            zip(starts, indices, self.space.extents, self.space.tile, strict=True)
        ):
            if (axes is not None and axis not in axes) or (axis == len(starts) - 1 and not inner):
                continue
            guards.append(below(start + index, extent, ceil_div(extent, tile) * tile - 1))
        return guards

    def _load(self, tile: Buffer, operand: TileOperand, starts: list[Expr], extent: int) -> Stmt:
        last = len(starts) - 1
        axes = [
            (f"i{a}", (extent if a == last else e) if a in operand.varies else 1) for a, e in enumerate(self.space.tile)
        ]
        pad = self.fill and last in operand.varies

        def element(*indices: Expr) -> Stmt:
            at = [
                s + i if a in operand.varies else integer(0)
                for a, (s, i) in enumerate(zip(starts, indices, strict=True))
            ]
            value = operand.source[tuple(operand.index(at))]
            if pad:
                value = tirx.if_then_else(
                    at[last] < integer(self.space.extents[last]), value, constant(0, operand.dtype)
                )
            guards = self.inside(starts, indices, inner=not pad, axes=operand.varies)
            return when(guards, store(tile, list(indices), value))

        return nest(axes, element)

    def store(self, context: TileContext, starts: list[Expr]) -> Stmt:
        """The store of the result's tile."""
        axes = [(f"i{a}", e if a in self.out_varies else 1) for a, e in enumerate(self.space.tile)]

        def element(*indices: Expr) -> Stmt:
            at = [
                s + i if a in self.out_varies else integer(0)
                for a, (s, i) in enumerate(zip(starts, indices, strict=True))
            ]
            guards = self.inside(starts, indices, inner=True, axes=self.out_varies)
            place = indices if self.compute is not None else self._place(self.operands[0].varies, indices)
            return when(guards, store(self.out, self.out_index(at), context.out[tuple(place)]))

        return nest(axes, element)


def choose_tile(
    extents: Sequence[int],
    bytes_per_element: float,
    target: Target,
    *,
    whole: frozenset[int] = frozenset(),
    tiles_per_core: int = 4,
) -> TileSpace:
    """Tile extents: inner axes whole first, then as much of the next as L1 holds and as feeds every core.

    `bytes_per_element` counts all buffers of a tile with their rings; axes in `whole` are never divided. Raises
    `Infeasible` if the undivided axes alone do not fit.
    """
    unit = target.row_elements(2)
    padding = ceil_div(extents[-1], unit) * unit / extents[-1] if extents else 1.0
    budget = target.memory["l1"].size / (bytes_per_element * padding)
    total = 1
    for e in extents:
        total *= e
    wanted = max(1.0, min(budget, max(total / (target.cores * tiles_per_core), 2048.0)))
    tile = [e if a in whole else 1 for a, e in enumerate(extents)]
    size = 1
    for e in tile:
        size *= e
    if size > budget:
        raise Infeasible("l1", int(size * bytes_per_element), target.memory["l1"].size, where="lower.tile_kernel")
    for axis in reversed(range(len(extents))):
        if axis in whole:
            continue
        most = max(1, int(wanted // size))
        if most >= extents[axis]:
            tile[axis] = extents[axis]
        else:
            whole_bursts = max(unit, target.memory["ddr"].burst // 2)
            tile[axis] = _even_part(extents[axis], most, whole_bursts if axis == len(extents) - 1 else 1)
            size *= tile[axis]
            break
        size *= tile[axis]
    counts = 1
    for e, t in zip(extents, tile, strict=True):
        counts *= ceil_div(e, t)
    return TileSpace(tuple(extents), tuple(tile), min(target.cores, counts))


def _even_part(extent: int, most: int, unit: int) -> int:
    """The largest part up to `most` that divides `extent` into nearly equal parts, a multiple of `unit`."""
    parts = ceil_div(extent, max(most, 1))
    part = ceil_div(extent, parts)
    return min(extent, max(unit, ceil_div(part, unit) * unit if unit > 1 else part))
