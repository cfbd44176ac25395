"""A tile that holds its reduced axes whole, and the nests over it that softmax, norms and reductions are made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dsa_compiler.lower.tile_kernel import TileContext
from dsa_compiler.lower.tir import Buffer, Expr, Stmt, cast, constant, integer, nest, sequence, store, when

Element = Callable[..., Expr]


def add(a: Expr, b: Expr) -> Expr:
    """The sum, as a function to fold with."""
    return a + b


@dataclass(frozen=True)
class ReduceTile:
    """A tile seen by a computation over whole reduced axes: helpers that write nests."""

    context: TileContext
    reduced: frozenset[int]

    def row(self, at: Sequence[Expr]) -> list[Expr]:
        """`at` with the reduced axes at 0: the place of a statistic."""
        return [integer(0) if a in self.reduced else i for a, i in enumerate(at)]

    def each(self, target: Buffer, value: Element) -> Stmt:
        """`target[at] = value(at)` for every element."""
        return nest(
            self.context.axes,
            lambda *at: when(self.context.inside(at), store(target, list(at), cast(value(*at), str(target.dtype)))),
        )

    def each_row(self, target: Buffer, value: Element) -> Stmt:
        """`target[row] = value(row)` for every row."""
        axes = [(n, 1 if a in self.reduced else e) for a, (n, e) in enumerate(self.context.axes)]
        inside: Element = lambda at: [g for a, g in enumerate(self.context.inside(at)) if a not in self.reduced]  # noqa: E731
        return nest(axes, lambda *at: when(inside(at), store(target, list(at), cast(value(*at), str(target.dtype)))))

    def fold(self, target: Buffer, first: float, combine: Callable[[Expr, Expr], Expr], value: Element) -> Stmt:
        """`target[row]` = all of `value(at)` of the row combined, from `first` on."""
        dtype = str(target.dtype)
        kept = [(n, e) for a, (n, e) in enumerate(self.context.axes) if a not in self.reduced]
        inner = [(n, e) for a, (n, e) in enumerate(self.context.axes) if a in self.reduced]
        order = [a for a in range(len(self.context.axes)) if a not in self.reduced]
        order += sorted(self.reduced)

        def place(loops: Sequence[Expr]) -> list[Expr]:
            by_axis = dict(zip(order, [*loops, *[integer(0)] * (len(order) - len(loops))], strict=True))
            return [by_axis[a] for a in range(len(order))]

        def step(*loops: Expr) -> Stmt:
            at = place(loops)
            row = self.row(at)
            result = combine(target[tuple(row)], cast(value(*at), dtype))
            return when(self.context.inside(at), store(target, row, result))

        def each(*outer: Expr) -> Stmt:
            at = place(outer)
            guards = [g for a, g in enumerate(self.context.inside(at)) if a not in self.reduced]
            init = when(guards, store(target, self.row(at), constant(first, dtype)))
            return sequence(init, nest(inner, lambda *loops: step(*outer, *loops)))

        return nest(kept, each)

    def each_statistic(self, target: Buffer, value: Element) -> Stmt:
        """`target[row] = value(row)` for every row, where `value` reads statistics of the same dtype alone.

        Statistics that lie a row of L1 apart are taken whole, what fills the gaps with them: one run instead of many.
        """
        axes = [(n, int(e)) for (n, _), e in zip(self.context.axes, target.shape, strict=True)]
        if len(axes) - 1 not in self.reduced:
            return self.each_row(target, value)
        return nest(axes, lambda *at: store(target, list(at), cast(value(*at), str(target.dtype))))

    def statistic(self, name: str, dtype: str, *, filled: bool = False) -> tuple[Buffer, Stmt]:
        """A buffer with one element a row; gaps between rows hold ones if `filled`, as `each_statistic` needs."""
        shape = [1 if a in self.reduced else e for a, (_, e) in enumerate(self.context.axes)]
        target, allocation = self.context.scratch(name, shape, dtype)
        if len(shape) - 1 not in self.reduced or not filled:
            return target, allocation
        axes = [(n, int(e)) for (n, _), e in zip(self.context.axes, target.shape, strict=True)]
        return target, sequence(allocation, nest(axes, lambda *at: store(target, list(at), constant(1.0, dtype))))

    def narrow(self, source: Buffer, name: str, dtype: str, value: Element) -> tuple[Buffer, Stmt]:
        """`value` of a statistic in `dtype`, in place where that is the statistic's own."""
        if str(source.dtype) == dtype:
            return source, self.each_statistic(source, value)
        shape = [1 if a in self.reduced else e for a, (_, e) in enumerate(self.context.axes)]
        target, allocation = self.context.scratch(name, shape, dtype)
        return target, sequence(allocation, self.each_row(target, value))

    def whole(self, name: str, dtype: str) -> tuple[Buffer, Stmt]:
        """A buffer as large as the tile."""
        return self.context.scratch(name, [e for _, e in self.context.axes], dtype)


def fold_squares(tile: ReduceTile, total: Buffer, value: Element) -> list[Stmt]:
    """`total[row]` = the squares of a row added up: in one step along one axis, else by a buffer of squares."""
    square: Element = lambda *at: cast(value(*at), "float32") * cast(value(*at), "float32")  # noqa: E731
    if tile.reduced == {len(tile.context.axes) - 1}:
        return [tile.fold(total, 0.0, add, square)]
    squares, allocation = tile.whole("squares", "float32")
    return [allocation, tile.each(squares, square), tile.fold(total, 0.0, add, lambda *at: squares[tuple(at)])]
