"""The kernel of reductions and normalisations whose reduced axes do not fit L1: block after block of them.

A core takes tiles of the kept axes. Statistics of a tile stay in L1; each fold over the reduced axes loads the data
once more, block by block, as does the last pass, which stores the result.

    for tile of the kept axes
      total = 0
      for block of the reduced axes: load x; total += sum of the block
      for block of the reduced axes: load x and the other operands; store f(x, total)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dsa_compiler.errors import Infeasible
from dsa_compiler.isa.dtypes import item_bytes
from dsa_compiler.lower.tile_kernel import TileContext, TileKernel, TileOperand, TileSpace, ceil_div
from dsa_compiler.lower.tir import (
    Buffer,
    Expr,
    Stmt,
    allocate,
    buffer,
    cast,
    constant,
    integer,
    nest,
    sequence,
    store,
    tile_loop,
    when,
)
from dsa_compiler.target import Target

Element = Callable[..., Expr]
Combine = Callable[[Expr, Expr], Expr]


class StreamKernel(TileKernel):
    """Builds the PrimFunc of one layer in blocks of the axes `reduced`; `passes(stream)` writes its computation.

    `out_varies` are the axes of the result: without those reduced, it is stored once for a tile.
    """

    def __init__(
        self,
        space: TileSpace,
        operands: Sequence[TileOperand],
        out: Buffer,
        out_index: Callable[[Sequence[Expr]], Sequence[Expr]],
        reduced: frozenset[int],
        passes: Callable[[Stream], Stmt],
        target: Target,
        *,
        out_varies: frozenset[int] | None = None,
    ) -> None:
        super().__init__(space, operands, out, out_index, lambda _: sequence(), target, out_varies=out_varies)
        self.reduced, self.passes = reduced, passes
        self.kept_counts = [1 if a in reduced else n for a, n in enumerate(space.counts)]
        self.block_counts = [n if a in reduced else 1 for a, n in enumerate(space.counts)]
        self.total = math.prod(self.kept_counts)
        self.per_core = ceil_div(self.total, space.cores)

    def _tile(self, core: Expr, step: Expr) -> Stmt:
        number = core * self.per_core + step
        body = self.passes(Stream(self, self._starts(number, self.kept_counts)))
        return when(self._exists(number), body)

    def blocks(self, starts: Sequence[Expr], body: Callable[[list[Expr]], Stmt]) -> Stmt:
        """`body(starts of the block)` for every block of the reduced axes."""

        def one(number: Expr) -> Stmt:
            inner = self._starts(number, self.block_counts)
            return body([b if a in self.reduced else s for a, (s, b) in enumerate(zip(starts, inner, strict=True))])

        return tile_loop("block", math.prod(self.block_counts), one)


@dataclass(frozen=True)
class Stream:
    """A tile of the kept axes, seen by the computation. Values are functions of a block's context and coordinates."""

    kernel: StreamKernel
    starts: list[Expr]

    def row(self, at: Sequence[Expr]) -> list[Expr]:
        """`at` with the reduced axes at 0: the place of a statistic."""
        return [integer(0) if a in self.kernel.reduced else e for a, e in enumerate(at)]

    def statistic(self, name: str, dtype: str) -> Buffer:
        """A buffer with one element for each place of the kept axes."""
        shape = [1 if a in self.kernel.reduced else n for a, n in enumerate(self.kernel.space.tile)]
        shape[-1] = self.kernel.target.pitch(shape[-1], item_bytes(dtype))
        return buffer(name, shape, dtype, "l1")

    def each_row(self, target: Buffer, value: Element) -> Stmt:
        """`target[row] = value(*row)` for each place of the kept axes."""
        reduced = self.kernel.reduced
        axes = [(f"i{a}", 1 if a in reduced else n) for a, n in enumerate(self.kernel.space.tile)]
        kept = frozenset(range(len(axes))) - reduced

        def element(*at: Expr) -> Stmt:
            guards = self.kernel.inside(self.starts, at, inner=True, axes=kept)
            return when(guards, store(target, list(at), cast(value(*at), str(target.dtype))))

        return nest(axes, element)

    def fold(self, target: Buffer, first: float, combine: Combine, value: Callable[[TileContext], Element]) -> Stmt:
        """`target[row]` = all of `value` of the row combined, from `first` on, over all blocks."""
        dtype = str(target.dtype)

        def block(starts: list[Expr]) -> Stmt:
            context, loads = self.kernel.context(starts, only=[0], out=target)
            part = self.statistic("part", dtype)
            partial = self._fold_block(context, part, first, combine, value(context))
            joined = self.each_row(target, lambda *at: combine(target[tuple(at)], part[tuple(at)]))
            return sequence(*loads, allocate(part, 1), partial, joined)

        init = self.each_row(target, lambda *_: constant(first, dtype))
        return sequence(allocate(target, 1), init, self.kernel.blocks(self.starts, block))

    def _fold_block(self, context: TileContext, part: Buffer, first: float, combine: Combine, value: Element) -> Stmt:
        reduced, dtype = self.kernel.reduced, str(part.dtype)
        order = [a for a in range(len(context.axes)) if a not in reduced] + sorted(reduced)

        def element(*loops: Expr) -> Stmt:
            by_axis = dict(zip(order, loops, strict=True))
            at = [by_axis[a] for a in range(len(order))]
            row = self.row(at)
            result = combine(part[tuple(row)], cast(value(*at), dtype))
            return when(context.inside(at), store(part, row, result))

        init = self.each_row(part, lambda *_: constant(first, dtype))
        return sequence(init, nest([context.axes[a] for a in order], element))

    def each(self, value: Callable[[TileContext], Element]) -> Stmt:
        """The result of every element, block by block, stored."""

        def block(starts: list[Expr]) -> Stmt:
            context, loads = self.kernel.context(starts)
            of = value(context)
            dtype = str(context.out.dtype)
            compute = nest(
                context.axes, lambda *at: when(context.inside(at), store(context.out, list(at), cast(of(*at), dtype)))
            )
            return sequence(*loads, compute, self.kernel.store(context, starts))

        return self.kernel.blocks(self.starts, block)

    def each_result(self, value: Callable[[TileContext], Element]) -> Stmt:
        """The result of each place of the kept axes, stored; operands but the first are loaded."""
        context, loads = self.kernel.context(self.starts, only=range(1, len(self.kernel.operands)))
        return sequence(*loads, self.each_row(context.out, value(context)), self.kernel.store(context, self.starts))


def choose_stream_tile(
    extents: Sequence[int], bytes_per_element: float, reduced: frozenset[int], size: int, target: Target
) -> TileSpace:
    """One place of the kept axes, but whole bursts of the innermost, and as much of the reduced axes as L1 holds.

    `bytes_per_element` counts all buffers of a block with their rings. Raises `Infeasible` if one row does not fit.
    """
    last, unit = len(extents) - 1, target.row_elements(size)
    tile = [1] * len(extents)
    if last not in reduced:
        burst = max(unit, target.memory["ddr"].burst // size)
        share = ceil_div(ceil_div(extents[last], target.cores), burst) * burst
        tile[last] = min(extents[last], share)
    budget = int(target.memory["l1"].size / bytes_per_element)
    while tile[last] > unit and ceil_div(tile[last], unit) * unit > budget:
        tile[last] = max(unit, tile[last] // 2 // unit * unit)
    used = ceil_div(tile[last], unit) * unit
    if used > budget:
        raise Infeasible("l1", int(used * bytes_per_element), target.memory["l1"].size, where="lower.stream_kernel")
    if last in reduced:
        most = budget // unit * unit
        tile[last] = min(extents[last], most)
        used = ceil_div(tile[last], unit) * unit
    for axis in sorted(reduced - {last}, reverse=True):
        tile[axis] = max(1, min(extents[axis], budget // used))
        used *= tile[axis]
        if tile[axis] < extents[axis]:
            break
    kept = math.prod(ceil_div(n, t) for a, (n, t) in enumerate(zip(extents, tile, strict=True)) if a not in reduced)
    return TileSpace(tuple(extents), tuple(tile), min(target.cores, kept))
