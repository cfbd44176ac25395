"""The kernel of convolutions and matrix products: tiles through L1 and l0 to the matrix engine.

One template serves both: a product is a convolution with a 1x1 window over an image of one column. The axes
are `b` (independent problems: groups, heads), image, output row `y` and column `x`, output channel `n`, and the
reduction over (kh, kw, c).

    for each core (b, m, n)                            core axes
      for batch, for panel of n / for piece of m       order by `panel_outer`
        A piece: input rows of one image               l1, ring
        B panel: k x n columns, chunk by chunk         l1, ring (loaded at the first piece)
        for n chunk, for row and column tile           l0 tiles
          for k chunk: move A, move B, multiply        l0a, l0b, l0c double-buffered
          epilogue l0c -> l1, store l1 -> ddr

Here are the loops; `matrix_loads`, `matrix_product` and `matrix_epilogue` fill them.
"""

from __future__ import annotations

from collections.abc import Sequence

from tvm import tirx
from tvm.tirx import PrimFunc

from dsa_compiler.lower.matrix_epilogue import MatrixEpilogue
from dsa_compiler.lower.matrix_loads import Held, MatrixLoads
from dsa_compiler.lower.matrix_plan import Chunk, MatrixPlan, Piece, Tile
from dsa_compiler.lower.matrix_problem import MatrixOperands, MatrixProblem, MatrixTiling, ceil_div
from dsa_compiler.lower.matrix_product import MatrixProduct
from dsa_compiler.lower.tir import (
    Buffer,
    Expr,
    Stmt,
    allocate,
    below,
    core_loop,
    function,
    integer,
    is_zero,
    sequence,
    tile_loop,
    when,
)
from dsa_compiler.target import Target


def _divide(value: Expr, divisor: int) -> tuple[Expr, Expr]:
    """Quotient and remainder."""
    if divisor == 1:
        return value, integer(0)
    return tirx.floordiv(value, integer(divisor)), tirx.floormod(value, integer(divisor))


class MatrixKernel(MatrixPlan):
    """Builds the PrimFunc of one problem with one tiling."""

    def __init__(self, problem: MatrixProblem, tiling: MatrixTiling, operands: MatrixOperands, target: Target) -> None:
        super().__init__(problem, tiling, operands, target)
        self.loads = MatrixLoads(self)
        self.product = MatrixProduct(self, self.loads)
        self.epilogue = MatrixEpilogue(self)

    def build(self, name: str, parameters: Sequence[Buffer]) -> PrimFunc:
        """The kernel over `parameters`, the ddr buffers in the order of the call."""
        gb, gm, gn = self.t.cores
        body = core_loop(
            "core_b",
            gb,
            gm * gn,
            lambda cb: core_loop(
                "core_m", gm, gn, lambda cm: core_loop("core_n", gn, 1, lambda cn: self._core(cb, cm, cn))
            ),
        )
        return function(name, parameters, body)

    def _core(self, cb: Expr, cm: Expr, cn: Expr) -> Stmt:
        mask: list[Stmt] = []
        if self.p.diagonal:
            self.mask1 = self.loads.mask_buffer()
            mask = [allocate(self.mask1), self.loads.load_mask(self.mask1)]

        def one_batch(bt: Expr) -> Stmt:
            b = cb * self.batches_core + bt
            guard = below(b, self.p.batches, self.t.cores[0] * self.batches_core - 1)
            order = self._panel_outer if self.t.panel_outer else self._piece_outer
            return when([guard], order(b, cm, cn))

        return sequence(*mask, tile_loop("batch", self.batches_core, one_batch))

    def _panel_buffers(self) -> Held:
        held = self.loads.panel_buffers()
        return {**held, "mask1": self.mask1} if self.p.diagonal else held

    def _panel_outer(self, b: Expr, cm: Expr, cn: Expr) -> Stmt:
        def panel(no: Expr) -> Stmt:
            held = self._panel_buffers()
            inner = tile_loop("piece", self.pieces_core, lambda po: self._piece(b, cm, cn, po, (no, held)))
            return sequence(*self.loads.allocations(held), inner)

        return tile_loop("panel", self.panels, panel)

    def _piece_outer(self, b: Expr, cm: Expr, cn: Expr) -> Stmt:
        return tile_loop("piece", self.pieces_core, lambda po: self._piece(b, cm, cn, po, None))

    def _piece(self, b: Expr, cm: Expr, cn: Expr, po: Expr, outer: tuple[Expr, Held] | None) -> Stmt:
        """The work of a piece: of one panel, `outer` (its number and buffers), or of each in turn."""
        piece = cm * self.pieces_core + po
        guard = below(piece, self.pieces, self.t.cores[1] * self.pieces_core - 1)
        columns, rows = self.column_blocks, self.row_blocks
        image = tirx.floordiv(piece, integer(rows * columns)) if self.p.images > 1 else integer(0)
        rb, xb = _divide(piece, columns)
        if self.p.images > 1:
            rb = _divide(rb, rows)[1]
        rb = rb if rows > 1 else integer(0)
        place = Piece(b, image, rb * self.t.piece_rows, xb * self.t.piece_columns)
        a1 = None if self.t.stream_a else self.loads.a_buffer()
        head = [] if a1 is None else [allocate(a1, self.t.ring_a)]
        if outer is not None:
            no, held = outer
            return when([guard], sequence(*head, self._chunks(place, cn, no, a1, held, is_zero(po), [])))

        def panel(no: Expr) -> Stmt:
            mine = self._panel_buffers()
            work = self._chunks(place, cn, no, a1, mine, True, [is_zero(no)])
            return sequence(*self.loads.allocations(mine), work)

        return when([guard], sequence(*head, tile_loop("panel", self.panels, panel)))

    def _chunks(
        self, piece: Piece, cn: Expr, no: Expr, a1: Buffer | None, held: Held, load_b: Expr, load_a: list[Expr]
    ) -> Stmt:
        """The chunks of a panel; A and B are loaded piece by piece, each part when it is first needed."""
        t = self.t
        even = t.panel * self.panels == self.chunks_core

        def chunk(ni: Expr) -> Stmt:
            local = no * t.panel + ni
            number = cn * self.chunks_core + local
            most = t.cores[2] * self.chunks_core - 1 if even else self.chunks + self.chunks_core
            guards = [below(number, self.chunks, most)]
            if not even:
                guards.append(below(local, self.chunks_core, t.panel * self.panels - 1))
            place = Chunk(number, ni)
            loads = self.loads.load_chunk(held, piece.b, place)
            bias0, move = self.product.move_bias(held, ni)
            head = []
            if bias0 is not None:
                held["bias0"] = bias0
                head = [allocate(bias0, 2), move]
            tiles = self._tiles(piece, place, a1, held, load_b, [*load_a, is_zero(ni)])
            return when(guards, sequence(when([load_b], loads) if loads is not None else None, *head, tiles))

        return tile_loop("chunk", t.panel, chunk)

    def _tiles(
        self, piece: Piece, chunk: Chunk, a1: Buffer | None, held: Held, load_b: Expr, load_a: list[Expr]
    ) -> Stmt:
        """The tiles of a piece and a chunk, rows first."""
        t = self.t

        def tile(ty: Expr, tx: Expr) -> Stmt:
            rows = None if a1 is None else self.loads.load_rows(a1, piece, ty, [*load_a, is_zero(tx)])
            place = Tile(piece, chunk, ty * t.rows, tx * t.columns)
            return sequence(rows, self._tile(place, a1, held, [load_b, is_zero(ty), is_zero(tx)]))

        columns = ceil_div(t.piece_columns, t.columns)
        return tile_loop(
            "tile_y",
            ceil_div(t.piece_rows, t.rows),
            lambda ty: tile_loop("tile_x", columns, lambda tx: tile(ty, tx)),
        )

    def _tile(self, tile: Tile, a1: Buffer | None, held: Held, load_b: list[Expr]) -> Stmt:
        acc = self.product.accumulators()
        body = sequence(
            allocate(acc, self.t.ring_acc),
            self.product.accumulate(tile, a1, held, acc, load_b),
            self.epilogue.finish(tile, acc, held),
        )
        return when(self.tile_guards(tile), body)
