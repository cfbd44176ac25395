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
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tvm import tirx
from tvm.tirx import PrimFunc

from dsa_compiler.lower.pitch import accumulator_pitch, operand_pitch, scope_pitch
from dsa_compiler.lower.tir import (
    Buffer,
    Expr,
    Stmt,
    allocate,
    below,
    buffer,
    cast,
    constant,
    core_loop,
    function,
    integer,
    is_zero,
    nest,
    sequence,
    store,
    tile_loop,
    when,
)
from dsa_compiler.target import Target


def ceil_div(a: int, b: int) -> int:
    """a / b rounded up."""
    return -(-a // b)


def _divide(value: Expr, divisor: int) -> tuple[Expr, Expr]:
    """Quotient and remainder."""
    if divisor == 1:
        return value, integer(0)
    return tirx.floordiv(value, integer(divisor)), tirx.floormod(value, integer(divisor))


@dataclass(frozen=True)
class Lines:
    """An image read by lines: see `lower.lines`.

    `planes` lines of `extent` elements each make an image row; a phase starts `step` elements behind the one before,
    the first `offset` elements before the line. The result has `out_width` columns, every `phases`-th of one phase.
    """

    planes: int
    extent: int
    step: int
    offset: int
    phases: int
    out_width: int


@dataclass(frozen=True)
class MatrixProblem:
    """Shapes of `batches` problems, each a convolution of `images` x `height` x `width` x `channels`.

    `pad` is (top, left): rows and columns of zeros before the input; those behind follow from the output size.
    `source_channels`, if not 0, are the channels that exist; those up to `channels` are zeros, which make a pixel
    a multiple of 8 bytes for the img2col move. With `lines`, a pixel is a group of elements of a line, and batches
    are phases that share their weights.
    """

    batches: int
    images: int
    height: int
    width: int
    channels: int
    out_height: int
    out_width: int
    out_channels: int
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    pad: tuple[int, int] = (0, 0)
    dtype: str = "float16"
    accumulator: str = "float32"
    source_channels: int = 0
    lines: Lines | None = None

    @property
    def macs(self) -> int:
        """Multiply-accumulates of all batches."""
        reduction = self.channels * self.kernel[0] * self.kernel[1]
        return self.batches * self.images * self.out_height * self.out_width * self.out_channels * reduction

    def rows_in(self, rows: int) -> int:
        """Input rows under `rows` output rows."""
        return (rows - 1) * self.stride[0] + (self.kernel[0] - 1) * self.dilation[0] + 1

    def columns_in(self, columns: int) -> int:
        """Input columns under `columns` output columns."""
        return (columns - 1) * self.stride[1] + (self.kernel[1] - 1) * self.dilation[1] + 1

    @property
    def padded(self) -> bool:
        """Whether any window reaches outside the input."""
        return (
            self.pad != (0, 0)
            or self.rows_in(self.out_height) > self.height
            or self.columns_in(self.out_width) > self.width
        )


@dataclass(frozen=True)
class MatrixTiling:
    """The choices of one kernel; extents in elements.

    `cores` (b, m, n); a piece is `piece_rows` x `piece_columns` of output; an l0 tile `rows` x `columns` by `n`
    by `taps` (kh, kw) x `c`; a panel holds `panel` chunks of `n`. `stream_a`, `stream_b`: load with every k chunk
    instead of keeping piece or panel.
    """

    cores: tuple[int, int, int]
    piece_rows: int
    piece_columns: int
    rows: int
    columns: int
    n: int
    panel: int
    taps: tuple[int, int]
    c: int
    panel_outer: bool = True
    stream_a: bool = False
    stream_b: bool = False
    ring_a: int = 2
    ring_b: int = 1
    ring_out: int = 2
    ring_l0: int = 2
    ring_acc: int = 2


@dataclass(frozen=True)
class Point:
    """Coordinates of one output element: what an epilogue's operand is indexed with."""

    b: Expr
    image: Expr
    y: Expr
    x: Expr
    n: Expr


Index = Callable[[Point], Sequence[Expr]]


@dataclass(frozen=True)
class Extra:
    """An operand of the epilogue: `index` into `source`; `varies` names the coordinates it depends on."""

    source: Buffer
    index: Index
    varies: frozenset[str]


@dataclass(frozen=True)
class MatrixOperands:
    """How the kernel reaches its tensors in ddr.

    `a_index(b, image, y, x, c)` and `b_index(b, k, n)` index `a` and `b`. A constant `b` is laid out by chunks
    [batches, n chunks, k chunks, k, pitch of n] and has no `b_index`. `bias` is float32 [batches, n chunks, n].
    `a_transposed` (products only): the innermost dimension of `a` is the row. `b_transposed`: that of `b` is k.
    `epilogue(acc, extras)` is the value stored at a point.
    """

    a: Buffer
    a_index: Callable[..., Sequence[Expr]]
    b: Buffer
    b_index: Callable[..., Sequence[Expr]] | None
    out: Buffer
    out_index: Index
    bias: Buffer | None = None
    a_transposed: bool = False
    b_transposed: bool = False
    extras: tuple[Extra, ...] = ()
    epilogue: Callable[[Expr, Sequence[Expr]], Expr] | None = None


class MatrixKernel:
    """Builds the PrimFunc of one problem with one tiling."""

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
        self.k_blocks = (ceil_div(p.channels, t.c), p.kernel[0] // t.taps[0], p.kernel[1] // t.taps[1])
        self.k_chunk = t.taps[0] * t.taps[1] * t.c
        self.n_pitch = operand_pitch(t.n, p.dtype, target)
        self.extra_tiles: list[Buffer | None] = []

    def pitch(self, extent: int, dtype: str) -> int:
        """The pitch of a row in L1."""
        return scope_pitch(extent, dtype, self.target, "l1")

    # ---- structure -------------------------------------------------------------------------------------------
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
        def one_batch(bt: Expr) -> Stmt:
            b = cb * self.batches_core + bt
            guard = below(b, self.p.batches, self.t.cores[0] * self.batches_core - 1)
            order = self._panel_outer if self.t.panel_outer else self._piece_outer
            return when([guard], order(b, cm, cn))

        return tile_loop("batch", self.batches_core, one_batch)

    def _panel_outer(self, b: Expr, cm: Expr, cn: Expr) -> Stmt:
        def panel(no: Expr) -> Stmt:
            held = self._panel_buffers()
            inner = tile_loop(
                "piece", self.pieces_core, lambda po: self._piece(b, cm, cn, no, po, held, load_b=is_zero(po))
            )
            return sequence(*self._allocations(held), inner)

        return tile_loop("panel", self.panels, panel)

    def _piece_outer(self, b: Expr, cm: Expr, cn: Expr) -> Stmt:
        return tile_loop("piece", self.pieces_core, lambda po: self._piece(b, cm, cn, None, po, None, load_b=True))

    def _piece(
        self, b: Expr, cm: Expr, cn: Expr, no: Expr | None, po: Expr, held: dict[str, Buffer] | None, load_b: Expr
    ) -> Stmt:
        piece = cm * self.pieces_core + po
        guard = below(piece, self.pieces, self.t.cores[1] * self.pieces_core - 1)
        columns, rows = self.column_blocks, self.row_blocks
        image = tirx.floordiv(piece, integer(rows * columns)) if self.p.images > 1 else integer(0)
        rb, xb = _divide(piece, columns)
        if self.p.images > 1:
            rb = _divide(rb, rows)[1]
        rb = rb if rows > 1 else integer(0)
        y0, x0 = rb * self.t.piece_rows, xb * self.t.piece_columns
        a1 = None if self.t.stream_a else self._a_buffer()
        head = [] if a1 is None else [allocate(a1, self.t.ring_a)]
        if held is not None:
            return when([guard], sequence(*head, self._chunks(b, image, y0, x0, cn, no, a1, held, load_b, [])))

        def panel(no: Expr) -> Stmt:
            mine = self._panel_buffers()
            first = [is_zero(no)]
            return sequence(*self._allocations(mine), self._chunks(b, image, y0, x0, cn, no, a1, mine, load_b, first))

        return when([guard], sequence(*head, tile_loop("panel", self.panels, panel)))

    def _chunks(
        self, b: Expr, image: Expr, y0: Expr, x0: Expr, cn: Expr, no: Expr, a1: Buffer | None,
        held: dict[str, Buffer], load_b: Expr, load_a: list[Expr],
    ) -> Stmt:  # fmt: skip
        """The chunks of a panel; A and B are loaded piece by piece, each part when it is first needed."""
        t = self.t

        def chunk(ni: Expr) -> Stmt:
            local = no * t.panel + ni
            number = cn * self.chunks_core + local
            most = (
                t.cores[2] * self.chunks_core - 1
                if t.panel * self.panels == self.chunks_core
                else self.chunks + self.chunks_core
            )
            guards = [below(number, self.chunks, most)]
            if t.panel * self.panels != self.chunks_core:
                guards.append(below(local, self.chunks_core, t.panel * self.panels - 1))
            loads = self._load_chunk(held, b, number, ni)
            bias0, move = self._move_bias(held, ni)
            head = []
            if bias0 is not None:
                held["bias0"] = bias0
                head = [allocate(bias0, 2), move]

            def tile(ty: Expr, tx: Expr) -> Stmt:
                first_a = [*load_a, is_zero(ni), is_zero(tx)]
                rows = None if a1 is None else self._load_rows(a1, b, image, y0, x0, ty, first_a)
                first_b = [load_b, is_zero(ty), is_zero(tx)]
                work = self._tile(b, image, y0, x0, ty * t.rows, tx * t.columns, number, ni, a1, held, first_b)
                return sequence(rows, work)

            tiles = tile_loop("tile_y", ceil_div(t.piece_rows, t.rows), lambda ty: tile_loop(
                "tile_x", ceil_div(t.piece_columns, t.columns), lambda tx: tile(ty, tx)))  # fmt: skip
            return when(guards, sequence(when([load_b], loads) if loads is not None else None, *head, tiles))

        return tile_loop("chunk", t.panel, chunk)

    # ---- buffers ---------------------------------------------------------------------------------------------
    def _a_buffer(self) -> Buffer:
        p, t = self.p, self.t
        if self.o.a_transposed:
            depth = t.c if t.stream_a else p.channels
            return buffer("a1", (depth, self.pitch(t.piece_rows, p.dtype)), p.dtype, "l1")
        if p.lines is not None:
            groups = self.pitch(p.columns_in(t.piece_columns) * p.channels, p.dtype) // p.channels
            return buffer("a1", (p.rows_in(t.piece_rows), groups, p.channels), p.dtype, "l1")
        shape = (
            p.rows_in(t.piece_rows),
            p.columns_in(t.piece_columns),
            self.pitch(t.c if t.stream_a else p.channels, p.dtype),
        )
        return buffer("a1", shape, p.dtype, "l1")

    def _panel_buffers(self) -> dict[str, Buffer]:
        """Buffers of a panel by name: b1, bias1 and the epilogue's operands that depend on the channel alone."""
        p, t = self.p, self.t
        held: dict[str, Buffer] = {}
        if not t.stream_b:
            held["b1"] = buffer("b1", (t.panel, *self._b_chunk_shape()), p.dtype, "l1")
        if self.o.bias is not None:
            held["bias1"] = buffer("bias1", (t.panel, self.pitch(t.n, p.accumulator)), p.accumulator, "l1")
        for i, extra in enumerate(self.o.extras):
            if extra.varies <= {"b", "n"}:
                dtype = str(extra.source.dtype)
                held[f"extra{i}"] = buffer(f"extra{i}", (t.panel, self.pitch(t.n, dtype)), dtype, "l1")
        return held

    def _b_chunk_shape(self) -> tuple[int, ...]:
        if self.o.b_index is None:
            return (self.k_blocks[0] * self.k_blocks[1] * self.k_blocks[2], self.k_chunk, self.n_pitch)
        if self.o.b_transposed:
            return (self.t.n, self.pitch(self.p.channels, self.p.dtype))
        return (self.p.channels, self.n_pitch)

    def _allocations(self, held: dict[str, Buffer]) -> list[Stmt]:
        return [allocate(b, self.t.ring_b) for name, b in held.items() if name != "bias0"]

    # ---- loads -----------------------------------------------------------------------------------------------
    def _load_rows(
        self, a1: Buffer, b: Expr, image: Expr, y0: Expr, x0: Expr, ty: Expr, first: list[Expr]
    ) -> Stmt | None:
        """Load the input rows that row `ty` of tiles is the first to need."""
        p, t = self.p, self.t
        if self.o.a_transposed or t.piece_rows == t.rows:
            return when([*first, is_zero(ty)], self._load_a(a1, b, image, y0, x0))
        step = t.rows * p.stride[0]
        reach = p.rows_in(t.rows)
        total = p.rows_in(t.piece_rows)
        head = self._load_a(a1, b, image, y0, x0, rows=(integer(0), min(reach, total)))
        tail = self._load_a(a1, b, image, y0, x0, rows=(ty * step + (reach - step), step))
        return when(first, when([is_zero(ty)], head, tail))

    def _load_a(
        self, a1: Buffer, b: Expr, image: Expr, y0: Expr, x0: Expr, c0: Expr | None = None,
        rows: tuple[Expr, int] | None = None,
    ) -> Stmt:  # fmt: skip
        """Load a piece, or `rows` (first, how many) of it, or one block of channels of it."""
        p, t = self.p, self.t
        channels = p.channels if c0 is None else t.c
        base = integer(0) if c0 is None else c0
        if self.o.a_transposed:
            return nest(
                [("c", channels), ("y", t.piece_rows)],
                lambda c, y: when(
                    [
                        below(y0 + y, p.out_height, self.row_blocks * t.piece_rows - 1),
                        True if c0 is None else below(base + c, p.channels, self.k_blocks[0] * t.c - 1),
                    ],
                    store(a1, [c, y], self.o.a[tuple(self.o.a_index(b, image, y0 + y, integer(0), base + c))]),
                ),
            )
        if p.lines is not None:
            return self._load_lines(p.lines, a1, b, image, y0, x0, rows)
        top = y0 * p.stride[0] - p.pad[0]
        left = x0 * p.stride[1] - p.pad[1]
        piece = p.rows_in(t.piece_rows)
        first, count = rows if rows is not None else (integer(0), piece)
        columns = p.columns_in(t.piece_columns)
        partial = rows is not None and t.piece_rows % t.rows != 0

        def element(y: Expr, x: Expr, c: Expr) -> Stmt:
            yy, xx = top + y, left + x
            value = self.o.a[tuple(self.o.a_index(b, image, yy, xx, base + c))]
            guards = [] if c0 is None else [below(base + c, p.channels, self.k_blocks[0] * t.c - 1)]
            if p.padded or p.source_channels:
                inside = [yy >= 0, yy < p.height, xx >= 0, xx < p.width]
                if p.source_channels:
                    inside.append(base + c < integer(p.source_channels))
                value = tirx.if_then_else(tirx.all(*inside), value, constant(0, p.dtype))
            else:
                guards.append(
                    below(yy, p.height, (self.row_blocks * t.piece_rows - 1) * p.stride[0] + p.rows_in(1) - 1)
                )
                guards.append(
                    below(xx, p.width, (self.column_blocks * t.piece_columns - 1) * p.stride[1] + p.columns_in(1) - 1)
                )
            if partial:
                guards.append(y < integer(piece))
            return when(guards, store(a1, [y, x, c], value))

        return nest([("y", count), ("x", columns), ("c", channels)], element, start={"y": first})

    def _load_lines(
        self, lines: Lines, a1: Buffer, b: Expr, image: Expr, y0: Expr, x0: Expr, rows: tuple[Expr, int] | None
    ) -> Stmt:
        """Load the lines of a piece, or of `rows` of it: whole rows of the image, all planes of each."""
        p, t, planes = self.p, self.t, lines.planes
        piece = p.rows_in(t.piece_rows) // planes
        first, count = (
            (integer(0), piece) if rows is None else (tirx.floordiv(rows[0], integer(planes)), rows[1] // planes)
        )
        if rows is not None and planes == 1:
            first = rows[0]
        top = y0 * (p.stride[0] // planes) - p.pad[0] // planes
        left = x0 * (p.stride[1] * p.channels) + (b * lines.step - lines.offset)
        partial = rows is not None and t.piece_rows % t.rows != 0

        def element(r: Expr, plane: Expr, x: Expr) -> Stmt:
            y = first + r
            yy, xx = top + y, left + x
            inside = tirx.all(yy >= 0, yy < p.height // planes, xx >= 0, xx < lines.extent)
            value = tirx.if_then_else(
                inside, self.o.a[tuple(self.o.a_index(b, image, yy, xx, plane))], constant(0, p.dtype)
            )
            guards = [y < integer(piece)] if partial else []
            # the groups of a line are contiguous: `x` runs on through them
            return when(guards, store(a1, [y * planes + plane, integer(0), x], value))

        return nest([("y", count), ("plane", planes), ("x", int(a1.shape[1]) * p.channels)], element)

    def _shared(self, b: Expr) -> Expr:
        """The batch whose weights and bias serve batch `b`."""
        return b if self.p.lines is None else integer(0)

    def _load_chunk(self, held: dict[str, Buffer], b: Expr, number: Expr, ni: Expr) -> Stmt | None:
        """Loads of what the epilogue needs of one chunk of the panel: bias, channel vectors."""
        t, o = self.t, self.o
        stmts: list[Stmt] = []
        bias = o.bias
        if bias is not None:
            stmts.append(nest([("n", t.n)], lambda n: store(held["bias1"], [ni, n], bias[self._shared(b), number, n])))
        for i, extra in enumerate(o.extras):
            if f"extra{i}" in held:
                stmts.append(self._load_vector(held[f"extra{i}"], extra, b, number, ni))
        return sequence(*stmts) if stmts else None

    def _load_vector(self, target: Buffer, extra: Extra, b: Expr, number: Expr, ni: Expr) -> Stmt:
        t, zero = self.t, integer(0)
        axes = [("n", t.n if "n" in extra.varies else 1)]

        def element(n: Expr) -> Stmt:
            channel = number * t.n + n
            guard = below(channel, self.p.out_channels, self.chunks * t.n - 1) if "n" in extra.varies else True
            return when(
                [guard], store(target, [ni, n], extra.source[tuple(extra.index(Point(b, zero, zero, zero, channel)))])
            )

        return nest(axes, element)

    def _load_b(self, b1: Buffer, b: Expr, number: Expr, ni: Expr, cc: Expr, kc: Expr) -> Stmt:
        """Load one k chunk of the panel's chunk `ni`."""
        p, t, o = self.p, self.t, self.o
        if o.b_index is None:
            axes = [("k", self.k_chunk), ("n", self.n_pitch)]
            return nest(axes, lambda k, n: store(b1, [ni, kc, k, n], o.b[self._shared(b), number, kc, k, n]))
        index = o.b_index

        def element(k: Expr, n: Expr) -> Stmt:
            row = cc * t.c + k
            channel = number * t.n + n
            place = [ni, n, row] if o.b_transposed else [ni, row, n]
            guards = [
                below(channel, p.out_channels, self.chunks * t.n - 1),
                below(row, p.channels, self.k_blocks[0] * t.c - 1),
            ]
            return when(guards, store(b1, place, o.b[tuple(index(b, row, channel))]))

        if o.b_transposed:
            return nest([("n", t.n), ("k", t.c)], lambda n, k: element(k, n))
        return nest([("k", t.c), ("n", t.n)], element)

    def _move_bias(self, held: dict[str, Buffer], ni: Expr) -> tuple[Buffer | None, Stmt | None]:
        if self.o.bias is None:
            return None, None
        p, t = self.p, self.t
        bias0 = buffer("bias0", (1, accumulator_pitch(t.n, p.accumulator, self.target)), p.accumulator, "l0b")
        return bias0, nest([("n", t.n)], lambda n: store(bias0, [integer(0), n], held["bias1"][ni, n]))

    # ---- one tile --------------------------------------------------------------------------------------------
    def _tile(
        self, b: Expr, image: Expr, y0: Expr, x0: Expr, ty: Expr, tx: Expr, number: Expr, ni: Expr,
        a1: Buffer | None, held: dict[str, Buffer], load_b: list[Expr],
    ) -> Stmt:  # fmt: skip
        p, t = self.p, self.t
        acc = buffer(
            "acc", (t.rows, t.columns, accumulator_pitch(t.n, p.accumulator, self.target)), p.accumulator, "l0c"
        )
        guards = self._tile_guards(y0, x0, ty, tx)

        def block(cc: Expr) -> Stmt:
            a_tile, load, base = a1, [], cc * t.c
            if a_tile is None:
                a_tile = self._a_buffer()
                load = [allocate(a_tile, t.ring_a), self._load_a(a_tile, b, image, y0, x0, cc * t.c)]
                base = integer(0)
            taps = tile_loop("kh_block", self.k_blocks[1], lambda kh: tile_loop(
                "kw_block", self.k_blocks[2],
                lambda kw: self._multiply(
                    b, y0, x0, ty, tx, number, ni, (cc, kh, kw), base, a_tile, held, acc, load_b)))  # fmt: skip
            return sequence(*load, taps)

        body = sequence(
            allocate(acc, t.ring_acc),
            tile_loop("c_block", self.k_blocks[0], block),
            self._epilogue(b, image, y0, x0, ty, tx, number, ni, acc, held),
        )
        return when(guards, body)

    def _tile_guards(self, y0: Expr, x0: Expr, ty: Expr, tx: Expr) -> list[Expr]:
        """A tile may begin outside the output where pieces or tiles do not divide it."""
        p, t = self.p, self.t
        guards = []
        if t.piece_rows % t.rows or self.row_blocks * t.piece_rows - t.rows >= p.out_height:
            guards.append(below(y0 + ty, p.out_height, self.row_blocks * t.piece_rows - 1))
        if t.piece_columns % t.columns or self.column_blocks * t.piece_columns - t.columns >= p.out_width:
            guards.append(below(x0 + tx, p.out_width, self.column_blocks * t.piece_columns - 1))
        return guards

    def _inside(self, y0: Expr, x0: Expr, ty: Expr, tx: Expr, r: Expr, w: Expr) -> list[Expr]:
        """Guards of one row and column of an l0 tile: within its piece and within the output."""
        p, t = self.p, self.t
        guards = [
            below(y0 + ty + r, p.out_height, self.row_blocks * t.piece_rows + t.rows),
            below(x0 + tx + w, p.out_width, self.column_blocks * t.piece_columns + t.columns),
        ]
        # a tile of one row, or one column, lies inside by the guard of the tile
        if t.rows == 1 or (self.row_blocks * t.piece_rows == p.out_height and t.piece_rows % t.rows == 0):
            guards[0] = True
        if t.columns == 1 or (self.column_blocks * t.piece_columns == p.out_width and t.piece_columns % t.columns == 0):
            guards[1] = True
        if t.piece_rows % t.rows:
            guards.append(ty + r < integer(t.piece_rows))
        if t.piece_columns % t.columns:
            guards.append(tx + w < integer(t.piece_columns))
        return guards

    def _multiply(
        self, b: Expr, y0: Expr, x0: Expr, ty: Expr, tx: Expr, number: Expr, ni: Expr, block: tuple[Expr, Expr, Expr],
        base: Expr, a1: Buffer, held: dict[str, Buffer], acc: Buffer, load_b: list[Expr],
    ) -> Stmt:  # fmt: skip
        """Moves and product of one k chunk; `load_b` says when its part of the panel is not there yet."""
        p, t = self.p, self.t
        a0 = buffer("a0", (t.rows * t.columns, operand_pitch(self.k_chunk, p.dtype, self.target)), p.dtype, "l0a")
        b0 = buffer("b0", (self.k_chunk, self.n_pitch), p.dtype, "l0b")
        cc, kh, kw = block
        move_a = self._move_a(a0, a1, y0, x0, ty, tx, cc, kh * t.taps[0], kw * t.taps[1], base)
        load, b1, b_base = self._b_source(held, b, number, ni, block, load_b)
        move_b = self._move_b(b0, b1, b_base, cc, number)
        first = [c for c in (is_zero(cc), is_zero(kh), is_zero(kw)) if c is not True]
        start = self._product(acc, a0, b0, y0, x0, ty, tx, cc, number, held)
        multiply = when(first, start, self._product(acc, a0, b0, y0, x0, ty, tx, cc, number) if first else None)
        return sequence(*load, allocate(a0, t.ring_l0), move_a, allocate(b0, t.ring_l0), move_b, multiply)

    def _move_a(
        self, a0: Buffer, a1: Buffer, y0: Expr, x0: Expr, ty: Expr, tx: Expr, cc: Expr, kh0: Expr, kw0: Expr, base: Expr
    ) -> Stmt:
        p, t = self.p, self.t

        def element(r: Expr, w: Expr, kh: Expr, kw: Expr, c: Expr) -> Stmt:
            guards = [*self._inside(y0, x0, ty, tx, r, w), below(cc * t.c + c, p.channels, self.k_blocks[0] * t.c - 1)]
            k = (kh * t.taps[1] + kw) * t.c + c
            if self.o.a_transposed:
                source = a1[base + c, ty + r]
            else:
                y = (ty + r) * p.stride[0] + (kh0 + kh) * p.dilation[0]
                x = (tx + w) * p.stride[1] + (kw0 + kw) * p.dilation[1]
                source = a1[y, x, base + c]
            return when(guards, store(a0, [r * t.columns + w, k], source))

        return nest([("r", t.rows), ("w", t.columns), ("kh", t.taps[0]), ("kw", t.taps[1]), ("c", t.c)], element)

    def _b_source(
        self,
        held: dict[str, Buffer],
        b: Expr,
        number: Expr,
        ni: Expr,
        block: tuple[Expr, Expr, Expr],
        load_b: list[Expr],
    ) -> tuple[list[Stmt], Buffer, Callable[[Expr, Expr], list[Expr]]]:
        """Loads to do now, the buffer that holds the chunk's rows, and its index from (k, n)."""
        t, o = self.t, self.o
        cc, kh, kw = block
        kc = (cc * self.k_blocks[1] + kh) * self.k_blocks[2] + kw
        if not t.stream_b:
            loads = [when(load_b, self._load_b(held["b1"], b, number, ni, cc, kc))]
            if o.b_index is None:
                return loads, held["b1"], lambda k, n: [ni, kc, k, n]
            return loads, held["b1"], lambda k, n: [ni, n, cc * t.c + k] if o.b_transposed else [ni, cc * t.c + k, n]
        if o.b_index is None:
            b1 = buffer("b1", (self.k_chunk, self.n_pitch), self.p.dtype, "l1")
            load = nest(
                [("k", self.k_chunk), ("n", self.n_pitch)],
                lambda k, n: store(b1, [k, n], o.b[self._shared(b), number, kc, k, n]),
            )
            return [allocate(b1, t.ring_b), load], b1, lambda k, n: [k, n]
        return self._stream_b(b, number, cc)

    def _stream_b(
        self, b: Expr, number: Expr, cc: Expr
    ) -> tuple[list[Stmt], Buffer, Callable[[Expr, Expr], list[Expr]]]:
        p, t, o = self.p, self.t, self.o
        index = o.b_index
        assert index is not None  # the caller has looked
        shape = (t.n, self.pitch(t.c, p.dtype)) if o.b_transposed else (t.c, self.n_pitch)
        b1 = buffer("b1", shape, p.dtype, "l1")

        def element(k: Expr, n: Expr) -> Stmt:
            channel = number * t.n + n
            guards = [
                below(channel, p.out_channels, self.chunks * t.n - 1),
                below(cc * t.c + k, p.channels, self.k_blocks[0] * t.c - 1),
            ]
            return when(
                guards, store(b1, [n, k] if o.b_transposed else [k, n], o.b[tuple(index(b, cc * t.c + k, channel))])
            )

        if o.b_transposed:
            load = nest([("n", t.n), ("k", t.c)], lambda n, k: element(k, n))
            return [allocate(b1, t.ring_b), load], b1, lambda k, n: [n, k]
        return [allocate(b1, t.ring_b), nest([("k", t.c), ("n", t.n)], element)], b1, lambda k, n: [k, n]

    def _move_b(
        self, b0: Buffer, b1: Buffer, index: Callable[[Expr, Expr], list[Expr]], cc: Expr, number: Expr
    ) -> Stmt:
        def element(k: Expr, n: Expr) -> Stmt:
            return when(self._column_guards(cc, number, k, n), store(b0, [k, n], b1[tuple(index(k, n))]))

        return nest([("k", self.k_chunk), ("n", self.t.n)], element)

    def _column_guards(self, cc: Expr, number: Expr, k: Expr, n: Expr) -> list[Expr]:
        p, t = self.p, self.t
        guards = [below(number * t.n + n, p.out_channels, self.chunks * t.n - 1)]
        if p.channels % t.c:
            guards.append(cc * t.c + k < integer(p.channels))
        return guards

    def _product(
        self, acc: Buffer, a0: Buffer, b0: Buffer, y0: Expr, x0: Expr, ty: Expr, tx: Expr, cc: Expr, number: Expr,
        start: dict[str, Buffer] | None = None,
    ) -> Stmt:  # fmt: skip
        """Multiply and accumulate; `start` holds the bias, if any, from which the accumulators start."""
        p, t = self.p, self.t

        def step(r: Expr, w: Expr, n: Expr, k: Expr) -> Stmt:
            guards = [*self._inside(y0, x0, ty, tx, r, w), *self._column_guards(cc, number, k, n)]
            product = cast(a0[r * t.columns + w, k], p.accumulator) * cast(b0[k, n], p.accumulator)
            return when(guards, store(acc, [r, w, n], acc[r, w, n] + product))

        def element(r: Expr, w: Expr, n: Expr) -> Stmt:
            steps = nest([("k", self.k_chunk)], lambda k: step(r, w, n, k))
            if start is None:
                return steps
            value = start["bias0"][integer(0), n] if "bias0" in start else constant(0, p.accumulator)
            guards = [
                *self._inside(y0, x0, ty, tx, r, w),
                below(number * t.n + n, p.out_channels, self.chunks * t.n - 1),
            ]
            return sequence(when(guards, store(acc, [r, w, n], value)), steps)

        return nest([("r", t.rows), ("w", t.columns), ("n", t.n)], element)

    # ---- epilogue --------------------------------------------------------------------------------------------
    def _epilogue(
        self, b: Expr, image: Expr, y0: Expr, x0: Expr, ty: Expr, tx: Expr, number: Expr, ni: Expr,
        acc: Buffer, held: dict[str, Buffer],
    ) -> Stmt:  # fmt: skip
        p, t, o = self.p, self.t, self.o
        dtype = str(o.out.dtype)
        axes = [("r", t.rows), ("w", t.columns), ("n", t.n)]
        point = lambda r, w, n: Point(b, image, y0 + ty + r, x0 + tx + w, number * t.n + n)  # noqa: E731
        guards = lambda r, w, n: [  # noqa: E731
            *self._inside(y0, x0, ty, tx, r, w),
            *self._in_phase(b, x0 + tx + w),
            below(number * t.n + n, p.out_channels, self.chunks * t.n - 1),
        ]
        if o.epilogue is None and dtype == p.accumulator:
            return nest(
                axes, lambda r, w, n: when(guards(r, w, n), store(o.out, o.out_index(point(r, w, n)), acc[r, w, n]))
            )
        stmts, values = [], []
        for i, extra in enumerate(o.extras):
            if f"extra{i}" in held:
                whole = "n" in extra.varies
                values.append(lambda r, w, n, e=held[f"extra{i}"], whole=whole: e[ni, n if whole else integer(0)])
                continue
            tile, load, value = self._load_extra(i, extra, point, guards)
            stmts += [allocate(tile, t.ring_out), load]
            values.append(value)
        out1 = buffer("out1", (t.rows, t.columns, self.pitch(t.n, dtype)), dtype, "l1")

        def compute(r: Expr, w: Expr, n: Expr) -> Stmt:
            result = acc[r, w, n]
            if o.epilogue is not None:
                result = o.epilogue(result, [v(r, w, n) for v in values])
            return when(guards(r, w, n), store(out1, [r, w, n], cast(result, dtype)))

        back = nest(
            axes, lambda r, w, n: when(guards(r, w, n), store(o.out, o.out_index(point(r, w, n)), out1[r, w, n]))
        )
        return sequence(*stmts, allocate(out1, t.ring_out), nest(axes, compute), back)

    def _in_phase(self, b: Expr, x: Expr) -> list[Expr]:
        """The guard of output columns that the phases do not share evenly."""
        lines = self.p.lines
        if lines is None or lines.out_width % lines.phases == 0:
            return []
        return [x * lines.phases + b < integer(lines.out_width)]

    def _load_extra(
        self, number: int, extra: Extra, point: Callable[..., Point], guards: Callable[..., list[Expr]]
    ) -> tuple[Buffer, Stmt, Callable[..., Expr]]:
        """The tile of an epilogue's operand, its load, and its element; axes it does not depend on are one long."""
        t = self.t
        dtype = str(extra.source.dtype)
        rows = t.rows if "y" in extra.varies else 1
        columns = t.columns if "x" in extra.varies else 1
        n = t.n if "n" in extra.varies else 1
        tile = buffer(f"extra{number}", (rows, columns, self.pitch(n, dtype)), dtype, "l1")

        def element(r: Expr, w: Expr, c: Expr) -> Stmt:
            return when(guards(r, w, c), store(tile, [r, w, c], extra.source[tuple(extra.index(point(r, w, c)))]))

        def value(r: Expr, w: Expr, c: Expr) -> Expr:
            zero = integer(0)
            return tile[r if rows > 1 else zero, w if columns > 1 else zero, c if n > 1 else zero]

        return tile, nest([("r", rows), ("w", columns), ("n", n)], element), value
