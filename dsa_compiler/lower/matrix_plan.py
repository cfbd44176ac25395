"""What loads, product and epilogue of a matrix kernel share: how often each loop runs, guards, row pitches."""

from __future__ import annotations

from dataclasses import dataclass

from dsa_compiler.lower.matrix_problem import MatrixOperands, MatrixProblem, MatrixTiling, Point, ceil_div
from dsa_compiler.lower.pitch import operand_pitch, scope_pitch
from dsa_compiler.lower.tir import Expr, below, integer
from dsa_compiler.target import Target


@dataclass(frozen=True)
class Piece:
    """A piece of the left operand: its batch and image, and the output row and column at which it begins."""

    b: Expr
    image: Expr
    y0: Expr
    x0: Expr


@dataclass(frozen=True)
class Chunk:
    """A chunk of output channels: its number, and its place `ni` within the panel that holds it."""

    number: Expr
    ni: Expr


@dataclass(frozen=True)
class Tile:
    """An l0 tile of a piece and a chunk: the row `ty` and the column `tx` of the piece at which it begins."""

    piece: Piece
    chunk: Chunk
    ty: Expr
    tx: Expr


class MatrixPlan:
    """The loops that a tiling makes of a problem."""

    def __init__(self, problem: MatrixProblem, tiling: MatrixTiling, operands: MatrixOperands, target: Target) -> None:
        self.p, self.t, self.o, self.target = problem, tiling, operands, target
        p, t = problem, tiling
        self.row_blocks = ceil_div(p.out_height, t.piece_rows)
        self.column_blocks = ceil_div(p.out_width, t.piece_columns)
        self.pieces = p.images * self.row_blocks * self.column_blocks
        self.pieces_core = ceil_div(self.pieces, t.cores[1])
        self.batches_core = ceil_div(p.batches, t.cores[0])
        self.chunks = ceil_div(p.out_channels, t.n)
        self.chunks_core = ceil_div(self.chunks, t.cores[2])
        self.panels = ceil_div(self.chunks_core, t.panel)
        self.k_blocks = (ceil_div(p.depth, t.c), p.kernel[0] // t.taps[0], p.kernel[1] // t.taps[1])
        self.k_chunk = t.taps[0] * t.taps[1] * t.c
        self.n_pitch = operand_pitch(t.n, p.b_dtype, target)

    @property
    def tile_axes(self) -> list[tuple[str, int]]:
        """The axes of a result tile."""
        return [("r", self.t.rows), ("w", self.t.columns), ("n", self.t.n)]

    def pitch(self, extent: int, dtype: str) -> int:
        """The pitch of a row in L1."""
        return scope_pitch(extent, dtype, self.target, "l1")

    def shared(self, b: Expr) -> Expr:
        """The batch whose weights and bias serve batch `b`."""
        return b if self.p.lines is None else integer(0)

    def point(self, tile: Tile, r: Expr, w: Expr, n: Expr) -> Point:
        """The output element at (r, w, n) of a tile."""
        piece = tile.piece
        row, column = piece.y0 + tile.ty + r, piece.x0 + tile.tx + w
        return Point(piece.b, piece.image, row, column, tile.chunk.number * self.t.n + n)

    # ---- guards ----------------------------------------------------------------------------------------------
    def tile_guards(self, tile: Tile) -> list[Expr]:
        """A tile may begin outside the output where pieces or tiles do not divide it."""
        p, t = self.p, self.t
        guards = []
        if t.piece_rows % t.rows or self.row_blocks * t.piece_rows - t.rows >= p.out_height:
            guards.append(below(tile.piece.y0 + tile.ty, p.out_height, self.row_blocks * t.piece_rows - 1))
        if t.piece_columns % t.columns or self.column_blocks * t.piece_columns - t.columns >= p.out_width:
            guards.append(below(tile.piece.x0 + tile.tx, p.out_width, self.column_blocks * t.piece_columns - 1))
        return guards

    def inside(self, tile: Tile, r: Expr, w: Expr) -> list[Expr]:
        """Guards of one row and column of an l0 tile: within its piece and within the output."""
        p, t = self.p, self.t
        guards = [
            below(tile.piece.y0 + tile.ty + r, p.out_height, self.row_blocks * t.piece_rows + t.rows),
            below(tile.piece.x0 + tile.tx + w, p.out_width, self.column_blocks * t.piece_columns + t.columns),
        ]
        # a tile of one row, or one column, lies inside by the guard of the tile
        if t.rows == 1 or (self.row_blocks * t.piece_rows == p.out_height and t.piece_rows % t.rows == 0):
            guards[0] = True
        if t.columns == 1 or (self.column_blocks * t.piece_columns == p.out_width and t.piece_columns % t.columns == 0):
            guards[1] = True
        if t.piece_rows % t.rows:
            guards.append(tile.ty + r < integer(t.piece_rows))
        if t.piece_columns % t.columns:
            guards.append(tile.tx + w < integer(t.piece_columns))
        return guards

    def channel_guard(self, number: Expr, n: Expr) -> Expr:
        """Whether output channel `n` of a chunk exists."""
        return below(number * self.t.n + n, self.p.out_channels, self.chunks * self.t.n - 1)

    def depth_guard(self, row: Expr) -> Expr:
        """Whether input channel `row` exists."""
        return below(row, self.p.depth, self.k_blocks[0] * self.t.c - 1)

    def column_guards(self, cc: Expr, number: Expr, k: Expr, n: Expr) -> list[Expr]:
        """Whether the element (k, n) of a chunk of the right operand exists."""
        guards = [self.channel_guard(number, n)]
        if self.p.depth % self.t.c:
            guards.append(cc * self.t.c + k < integer(self.p.depth))
        return guards

    def stored_guards(self, tile: Tile, r: Expr, w: Expr, n: Expr) -> list[Expr]:
        """Whether the element (r, w, n) of a tile is part of the result."""
        column = tile.piece.x0 + tile.tx + w
        return [
            *self.inside(tile, r, w),
            *self._in_phase(tile.piece.b, column),
            self.channel_guard(tile.chunk.number, n),
        ]

    def _in_phase(self, b: Expr, x: Expr) -> list[Expr]:
        """The guard of output columns that the phases do not share evenly."""
        lines = self.p.lines
        if lines is None or lines.out_width % lines.phases == 0:
            return []
        return [x * lines.phases + b < integer(lines.out_width)]
