"""The epilogue of a matrix kernel: from the accumulators of a tile to the result in ddr."""

from __future__ import annotations

from collections.abc import Callable

from dsa_compiler.lower.matrix_loads import Held
from dsa_compiler.lower.matrix_plan import MatrixPlan, Tile
from dsa_compiler.lower.matrix_problem import Extra
from dsa_compiler.lower.tir import Buffer, Expr, Stmt, allocate, buffer, cast, integer, nest, sequence, store, when


class MatrixEpilogue:
    """Applies the layer's further calls to a tile and stores it."""

    def __init__(self, plan: MatrixPlan) -> None:
        self.plan, self.p, self.t, self.o = plan, plan.p, plan.t, plan.o

    def finish(self, tile: Tile, acc: Buffer, held: Held) -> Stmt:
        """Compute and store a tile."""
        t, o, axes = self.t, self.o, self.plan.tile_axes
        dtype = str(o.out.dtype)
        if o.epilogue is None and dtype == self.p.accumulator:
            return self._store(tile, acc)
        stmts, values = self._operands(tile, held)
        out1 = buffer("out1", (t.rows, t.columns, self.plan.pitch(t.n, dtype)), dtype, "l1")
        source, rounded = acc, None
        if o.round_first:
            source, rounded = (
                out1,
                nest(
                    axes,
                    lambda r, w, n: when(
                        self.plan.stored_guards(tile, r, w, n), store(out1, [r, w, n], cast(acc[r, w, n], dtype))
                    ),
                ),
            )

        def compute(r: Expr, w: Expr, n: Expr) -> Stmt:
            result = cast(source[r, w, n], self.p.accumulator)
            if o.epilogue is not None:
                result = o.epilogue(result, [v(r, w, n) for v in values])
            return when(self.plan.stored_guards(tile, r, w, n), store(out1, [r, w, n], cast(result, dtype)))

        return sequence(*stmts, allocate(out1, t.ring_out), rounded, nest(axes, compute), self._store(tile, out1))

    def _store(self, tile: Tile, source: Buffer) -> Stmt:
        def element(r: Expr, w: Expr, n: Expr) -> Stmt:
            place = self.o.out_index(self.plan.point(tile, r, w, n))
            return when(self.plan.stored_guards(tile, r, w, n), store(self.o.out, place, source[r, w, n]))

        return nest(self.plan.tile_axes, element)

    def _operands(self, tile: Tile, held: Held) -> tuple[list[Stmt], list[Callable[..., Expr]]]:
        """Loads of the epilogue's operands that the panel does not hold, and the element of each operand."""
        stmts: list[Stmt] = []
        values: list[Callable[..., Expr]] = []
        for i, extra in enumerate(self.o.extras):
            if f"extra{i}" in held:
                values.append(_row_element(held[f"extra{i}"], tile.chunk.ni, "n" in extra.varies))
                continue
            target, load, value = self._load_extra(i, extra, tile)
            stmts += [allocate(target, self.t.ring_out), load]
            values.append(value)
        return stmts, values

    def _load_extra(self, number: int, extra: Extra, tile: Tile) -> tuple[Buffer, Stmt, Callable[..., Expr]]:
        """The tile of an epilogue's operand, its load, and its element; axes it does not depend on are one long."""
        t, plan = self.t, self.plan
        dtype = str(extra.source.dtype)
        rows = t.rows if "y" in extra.varies else 1
        columns = t.columns if "x" in extra.varies else 1
        n = t.n if "n" in extra.varies else 1
        target = buffer(f"extra{number}", (rows, columns, plan.pitch(n, dtype)), dtype, "l1")

        def element(r: Expr, w: Expr, c: Expr) -> Stmt:
            value = extra.source[tuple(extra.index(plan.point(tile, r, w, c)))]
            return when(plan.stored_guards(tile, r, w, c), store(target, [r, w, c], value))

        def value(r: Expr, w: Expr, c: Expr) -> Expr:
            zero = integer(0)
            return target[r if rows > 1 else zero, w if columns > 1 else zero, c if n > 1 else zero]

        return target, nest([("r", rows), ("w", columns), ("n", n)], element), value


def _row_element(row: Buffer, ni: Expr, wide: bool) -> Callable[..., Expr]:
    """The element of a channel vector of a panel; of one number for all channels unless `wide`."""
    return lambda r, w, n: row[ni, n if wide else integer(0)]
