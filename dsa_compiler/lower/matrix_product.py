"""The product of one tile of a matrix kernel: moves to l0a and l0b, multiplication into l0c."""

from __future__ import annotations

from dsa_compiler.lower.matrix_loads import Held, MatrixLoads, Place
from dsa_compiler.lower.matrix_plan import MatrixPlan, Tile
from dsa_compiler.lower.pitch import accumulator_pitch, operand_pitch
from dsa_compiler.lower.tir import (
    Buffer,
    Expr,
    Stmt,
    allocate,
    buffer,
    cast,
    constant,
    integer,
    is_zero,
    nest,
    sequence,
    store,
    tile_loop,
    when,
)

Block = tuple[Expr, Expr, Expr]  # numbers of a k chunk: of channels, of kernel rows, of kernel columns


class MatrixProduct:
    """Accumulates one tile, k chunk by k chunk."""

    def __init__(self, plan: MatrixPlan, loads: MatrixLoads) -> None:
        self.plan, self.loads, self.p, self.t, self.o = plan, loads, plan.p, plan.t, plan.o

    def accumulators(self) -> Buffer:
        """The tile of accumulators."""
        p, t = self.p, self.t
        columns = accumulator_pitch(t.n, p.accumulator, self.plan.target)
        return buffer("acc", (t.rows, t.columns, columns), p.accumulator, "l0c")

    def move_bias(self, held: Held, ni: Expr) -> tuple[Buffer | None, Stmt | None]:
        """The bias row in l0b and the move that fills it."""
        if self.o.bias is None:
            return None, None
        p, t = self.p, self.t
        bias0 = buffer("bias0", (1, accumulator_pitch(t.n, p.accumulator, self.plan.target)), p.accumulator, "l0b")
        return bias0, nest([("n", t.n)], lambda n: store(bias0, [integer(0), n], held["bias1"][ni, n]))

    def accumulate(self, tile: Tile, a1: Buffer | None, held: Held, acc: Buffer, load_b: list[Expr]) -> Stmt:
        """All k chunks of a tile; `load_b` says when a part of the panel is not there yet."""
        t, blocks = self.t, self.plan.k_blocks

        def block(cc: Expr) -> Stmt:
            a_tile, load, base = a1, [], (tile.chunk.number * t.n if self.p.diagonal else cc * t.c)
            if a_tile is None:
                a_tile = self.loads.a_buffer()
                load = [allocate(a_tile, t.ring_a), self.loads.load_a(a_tile, tile.piece, cc * t.c)]
                base = integer(0)
            multiply = lambda kh, kw: self._multiply(tile, (cc, kh, kw), base, a_tile, held, acc, load_b)  # noqa: E731
            taps = tile_loop(
                "kh_block", blocks[1], lambda kh: tile_loop("kw_block", blocks[2], lambda kw: multiply(kh, kw))
            )
            return sequence(*load, taps)

        return tile_loop("c_block", blocks[0], block)

    def _multiply(
        self, tile: Tile, block: Block, base: Expr, a1: Buffer, held: Held, acc: Buffer, load_b: list[Expr]
    ) -> Stmt:
        """Moves and product of one k chunk; `base` is its first channel in `a1`."""
        p, t, plan = self.p, self.t, self.plan
        a0 = buffer("a0", (t.rows * t.columns, operand_pitch(plan.k_chunk, p.dtype, plan.target)), p.dtype, "l0a")
        b0 = buffer("b0", (plan.k_chunk, plan.n_pitch), p.b_dtype, "l0b")
        move_a = self._move_a(a0, a1, tile, block, base)
        load, b1, b_base = self.loads.b_source(held, tile.piece.b, tile.chunk, block, load_b)
        move_b = self._move_b(b0, b1, b_base, block[0], tile.chunk.number)
        first = [c for c in map(is_zero, block) if c is not True]
        start = self._product(acc, a0, b0, tile, block[0], held)
        multiply = when(first, start, self._product(acc, a0, b0, tile, block[0]) if first else None)
        return sequence(*load, allocate(a0, t.ring_l0), move_a, allocate(b0, t.ring_l0), move_b, multiply)

    def _move_a(self, a0: Buffer, a1: Buffer, tile: Tile, block: Block, base: Expr) -> Stmt:
        p, t, plan = self.p, self.t, self.plan
        cc, kh0, kw0 = block[0], block[1] * t.taps[0], block[2] * t.taps[1]

        def element(r: Expr, w: Expr, kh: Expr, kw: Expr, c: Expr) -> Stmt:
            guards = [*plan.inside(tile, r, w), plan.depth_guard(cc * t.c + c)]
            k = (kh * t.taps[1] + kw) * t.c + c
            if self.o.a_transposed:
                source = a1[base + c, tile.ty + r]
            else:
                y = (tile.ty + r) * p.stride[0] + (kh0 + kh) * p.dilation[0]
                x = (tile.tx + w) * p.stride[1] + (kw0 + kw) * p.dilation[1]
                source = a1[y, x, base + c]
            return when(guards, store(a0, [r * t.columns + w, k], source))

        return nest([("r", t.rows), ("w", t.columns), ("kh", t.taps[0]), ("kw", t.taps[1]), ("c", t.c)], element)

    def _move_b(self, b0: Buffer, b1: Buffer, index: Place, cc: Expr, number: Expr) -> Stmt:
        def element(k: Expr, n: Expr) -> Stmt:
            return when(self.plan.column_guards(cc, number, k, n), store(b0, [k, n], b1[tuple(index(k, n))]))

        return nest([("k", self.plan.k_chunk), ("n", self.t.n)], element)

    def _product(self, acc: Buffer, a0: Buffer, b0: Buffer, tile: Tile, cc: Expr, start: Held | None = None) -> Stmt:
        """Multiply and accumulate; `start` holds the bias, if any, from which the accumulators start."""
        p, t, plan, number = self.p, self.t, self.plan, tile.chunk.number

        def step(r: Expr, w: Expr, n: Expr, k: Expr) -> Stmt:
            guards = [*plan.inside(tile, r, w), *plan.column_guards(cc, number, k, n)]
            left, right = cast(a0[r * t.columns + w, k], p.accumulator), cast(b0[k, n], p.accumulator)
            right = right - constant(p.zero_b, p.accumulator) if p.zero_b else right
            return when(guards, store(acc, [r, w, n], acc[r, w, n] + left * right))

        def element(r: Expr, w: Expr, n: Expr) -> Stmt:
            steps = nest([("k", plan.k_chunk)], lambda k: step(r, w, n, k))
            if start is None:
                return steps
            value = start["bias0"][integer(0), n] if "bias0" in start else constant(0, p.accumulator)
            guards = [*plan.inside(tile, r, w), plan.channel_guard(number, n)]
            return sequence(when(guards, store(acc, [r, w, n], value)), steps)

        return nest(plan.tile_axes, element)
