"""Loads of a matrix kernel: pieces of the left operand, panels of the right one, rows of the epilogue."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tvm import tirx

from dsa_compiler.lower.matrix_plan import Chunk, MatrixPlan, Piece
from dsa_compiler.lower.matrix_problem import Extra, Lines, Point
from dsa_compiler.lower.tir import (
    Buffer,
    Expr,
    Stmt,
    allocate,
    below,
    buffer,
    constant,
    integer,
    is_zero,
    nest,
    sequence,
    store,
    when,
)

Held = dict[str, Buffer]
Place = Callable[[Expr, Expr], list[Expr]]  # where the element (k, n) lies in a buffer


class MatrixLoads:
    """Buffers in L1 and the loads that fill them."""

    def __init__(self, plan: MatrixPlan) -> None:
        self.plan, self.p, self.t, self.o = plan, plan.p, plan.t, plan.o

    # ---- buffers ---------------------------------------------------------------------------------------------
    def a_buffer(self) -> Buffer:
        """A piece of the left operand; one block of channels of it where it is streamed."""
        p, t, pitch = self.p, self.t, self.plan.pitch
        if self.o.a_transposed:
            depth = t.c if t.stream_a else p.channels
            return buffer("a1", (depth, pitch(t.piece_rows, p.dtype)), p.dtype, "l1")
        rows, columns = p.rows_in(t.piece_rows), p.columns_in(t.piece_columns)
        if p.lines is not None:
            groups = pitch(columns * p.channels, p.dtype) // p.channels
            return buffer("a1", (rows, groups, p.channels), p.dtype, "l1")
        return buffer("a1", (rows, columns, pitch(t.c if t.stream_a else p.channels, p.dtype)), p.dtype, "l1")

    def panel_buffers(self) -> Held:
        """Buffers of a panel by name: b1, bias1 and the epilogue's operands that depend on the channel alone."""
        p, t, pitch = self.p, self.t, self.plan.pitch
        held: Held = {}
        if not t.stream_b:
            held["b1"] = buffer("b1", (t.panel, *self._b_chunk_shape()), p.b_dtype, "l1")
        if self.o.bias is not None:
            held["bias1"] = buffer("bias1", (t.panel, pitch(t.n, p.accumulator)), p.accumulator, "l1")
        for i, extra in enumerate(self.o.extras):
            if extra.varies <= {"b", "n"}:
                dtype = str(extra.source.dtype)
                held[f"extra{i}"] = buffer(f"extra{i}", (t.panel, pitch(t.n, dtype)), dtype, "l1")
        return held

    def _b_chunk_shape(self) -> tuple[int, ...]:
        plan = self.plan
        if self.o.b_index is None:
            return (plan.k_blocks[0] * plan.k_blocks[1] * plan.k_blocks[2], plan.k_chunk, plan.n_pitch)
        if self.o.b_transposed:
            return (self.t.n, plan.pitch(self.p.channels, self.p.b_dtype))
        return (self.p.channels, plan.n_pitch)

    def allocations(self, held: Held) -> list[Stmt]:
        """Allocations of a panel's buffers."""
        return [allocate(b, self.t.ring_b) for name, b in held.items() if name not in ("bias0", "mask1")]

    # ---- left operand ----------------------------------------------------------------------------------------
    def load_rows(self, a1: Buffer, piece: Piece, ty: Expr, first: list[Expr]) -> Stmt | None:
        """Load the input rows that row `ty` of tiles is the first to need."""
        p, t = self.p, self.t
        if self.o.a_transposed or t.piece_rows == t.rows:
            return when([*first, is_zero(ty)], self.load_a(a1, piece))
        step = t.rows * p.stride[0]
        reach = p.rows_in(t.rows)
        total = p.rows_in(t.piece_rows)
        head = self.load_a(a1, piece, rows=(integer(0), min(reach, total)))
        tail = self.load_a(a1, piece, rows=(ty * step + (reach - step), step))
        return when(first, when([is_zero(ty)], head, tail))

    def load_a(self, a1: Buffer, piece: Piece, c0: Expr | None = None, rows: tuple[Expr, int] | None = None) -> Stmt:
        """Load a piece, or `rows` (first, how many) of it, or one block of channels of it."""
        if self.o.a_transposed:
            return self._load_transposed(a1, piece, c0)
        if self.p.lines is not None:
            return self._load_lines(self.p.lines, a1, piece, rows)
        return self._load_image(a1, piece, c0, rows)

    def _load_transposed(self, a1: Buffer, piece: Piece, c0: Expr | None) -> Stmt:
        p, t, plan = self.p, self.t, self.plan
        base = integer(0) if c0 is None else c0

        def element(c: Expr, y: Expr) -> Stmt:
            row = piece.y0 + y
            guards = [
                below(row, p.out_height, plan.row_blocks * t.piece_rows - 1),
                True if c0 is None else plan.depth_guard(base + c),
            ]
            source = self.o.a[tuple(self.o.a_index(piece.b, piece.image, row, integer(0), base + c))]
            return when(guards, store(a1, [c, y], source))

        return nest([("c", p.channels if c0 is None else t.c), ("y", t.piece_rows)], element)

    def _load_image(self, a1: Buffer, piece: Piece, c0: Expr | None, rows: tuple[Expr, int] | None) -> Stmt:
        p, t, plan = self.p, self.t, self.plan
        base = integer(0) if c0 is None else c0
        top = piece.y0 * p.stride[0] - p.pad[0]
        left = piece.x0 * p.stride[1] - p.pad[1]
        whole = p.rows_in(t.piece_rows)
        first, count = rows if rows is not None else (integer(0), whole)
        last_row = (plan.row_blocks * t.piece_rows - 1) * p.stride[0] + p.rows_in(1) - 1
        last_column = (plan.column_blocks * t.piece_columns - 1) * p.stride[1] + p.columns_in(1) - 1

        def element(y: Expr, x: Expr, c: Expr) -> Stmt:
            yy, xx = top + y, left + x
            value = self.o.a[tuple(self.o.a_index(piece.b, piece.image, yy, xx, base + c))]
            guards = [] if c0 is None else [plan.depth_guard(base + c)]
            if p.padded or p.source_channels:
                inside = [yy >= 0, yy < p.height, xx >= 0, xx < p.width]
                if p.source_channels:
                    inside.append(base + c < integer(p.source_channels))
                value = tirx.if_then_else(tirx.all(*inside), value, constant(p.pad_value, p.dtype))
            else:
                guards += [below(yy, p.height, last_row), below(xx, p.width, last_column)]
            if rows is not None and t.piece_rows % t.rows != 0:
                guards.append(y < integer(whole))
            return when(guards, store(a1, [y, x, c], value))

        axes = [("y", count), ("x", p.columns_in(t.piece_columns)), ("c", p.channels if c0 is None else t.c)]
        return nest(axes, element, start={"y": first})

    def _load_lines(self, lines: Lines, a1: Buffer, piece: Piece, rows: tuple[Expr, int] | None) -> Stmt:
        """Load the lines of a piece, or of `rows` of it: whole rows of the image, all planes of each."""
        p, t, planes = self.p, self.t, lines.planes
        whole = p.rows_in(t.piece_rows) // planes
        first, count = (
            (integer(0), whole) if rows is None else (tirx.floordiv(rows[0], integer(planes)), rows[1] // planes)
        )
        if rows is not None and planes == 1:
            first = rows[0]
        top = piece.y0 * (p.stride[0] // planes) - p.pad[0] // planes
        left = piece.x0 * (p.stride[1] * p.channels) + (piece.b * lines.step - lines.offset)
        partial = rows is not None and t.piece_rows % t.rows != 0

        def element(r: Expr, plane: Expr, x: Expr) -> Stmt:
            y = first + r
            yy, xx = top + y, left + x
            inside = tirx.all(yy >= 0, yy < p.height // planes, xx >= 0, xx < lines.extent)
            source = self.o.a[tuple(self.o.a_index(piece.b, piece.image, yy, xx, plane))]
            value = tirx.if_then_else(inside, source, constant(p.pad_value, p.dtype))
            guards = [y < integer(whole)] if partial else []
            # the groups of a line are contiguous: `x` runs on through them
            return when(guards, store(a1, [y * planes + plane, integer(0), x], value))

        return nest([("y", count), ("plane", planes), ("x", int(a1.shape[1]) * p.channels)], element)

    # ---- right operand ---------------------------------------------------------------------------------------
    def load_chunk(self, held: Held, b: Expr, chunk: Chunk) -> Stmt | None:
        """Loads of what the epilogue needs of one chunk of the panel: bias, channel vectors."""
        t, o = self.t, self.o
        stmts: list[Stmt] = []
        bias, shared = o.bias, self.plan.shared(b)
        if bias is not None:
            row = nest([("n", t.n)], lambda n: store(held["bias1"], [chunk.ni, n], bias[shared, chunk.number, n]))
            stmts.append(row)
        for i, extra in enumerate(o.extras):
            if f"extra{i}" in held:
                stmts.append(self._load_vector(held[f"extra{i}"], extra, b, chunk))
        return sequence(*stmts) if stmts else None

    def _load_vector(self, target: Buffer, extra: Extra, b: Expr, chunk: Chunk) -> Stmt:
        zero, wide = integer(0), "n" in extra.varies

        def element(n: Expr) -> Stmt:
            guard = self.plan.channel_guard(chunk.number, n) if wide else True
            point = Point(b, zero, zero, zero, chunk.number * self.t.n + n)
            return when([guard], store(target, [chunk.ni, n], extra.source[tuple(extra.index(point))]))

        return nest([("n", self.t.n if wide else 1)], element)

    def b_source(
        self, held: Held, b: Expr, chunk: Chunk, block: tuple[Expr, Expr, Expr], load_b: list[Expr]
    ) -> tuple[list[Stmt], Buffer, Place]:
        """Loads to do now, the buffer that holds the k chunk's rows, and its index from (k, n)."""
        t, o, plan, index = self.t, self.o, self.plan, self.o.b_index
        cc, kh, kw = block
        kc = (cc * plan.k_blocks[1] + kh) * plan.k_blocks[2] + kw
        ni, first = chunk.ni, cc * t.c
        if not t.stream_b:
            b1 = held["b1"]
            if self.p.diagonal:
                return [when(load_b, self._expand_taps(held, chunk, kc))], b1, lambda k, n: [ni, kc, k, n]
            if index is None:
                load = self._load_weights(b1, [ni, kc], b, chunk, kc)
                return [when(load_b, load)], b1, lambda k, n: [ni, kc, k, n]
            place = lambda k, n: [ni, n, first + k] if o.b_transposed else [ni, first + k, n]  # noqa: E731
            return [when(load_b, self._load_computed(b1, place, index, b, chunk, cc))], b1, place
        if index is None:
            b1 = buffer("b1", (plan.k_chunk, plan.n_pitch), self.p.b_dtype, "l1")
            load = self._load_weights(b1, [], b, chunk, kc)
            return [allocate(b1, t.ring_b), load], b1, lambda k, n: [k, n]
        shape = (t.n, plan.pitch(t.c, self.p.b_dtype)) if o.b_transposed else (t.c, plan.n_pitch)
        b1 = buffer("b1", shape, self.p.b_dtype, "l1")
        place = lambda k, n: [n, k] if o.b_transposed else [k, n]  # noqa: E731
        return [allocate(b1, t.ring_b), self._load_computed(b1, place, index, b, chunk, cc)], b1, place

    def mask_buffer(self) -> Buffer:
        """The mask of a diagonal block."""
        return buffer("mask1", (self.p.diagonal, self.plan.pitch(self.p.diagonal, "bool")), "bool", "l1")

    def load_mask(self, mask1: Buffer) -> Stmt:
        """Load the mask of a diagonal block."""
        n, mask = self.p.diagonal, self.o.mask
        return nest([("k", n), ("n", n)], lambda k, c: store(mask1, [k, c], mask[k, c]))  # type: ignore[index]

    def _expand_taps(self, held: Held, chunk: Chunk, kc: Expr) -> Stmt:
        """Load the taps of a k chunk and lay each row of them on the diagonal of a block of its own."""
        t, b1, mask1 = self.t, held["b1"], held["mask1"]
        count = t.taps[0] * t.taps[1]
        taps1 = buffer("taps1", (count, self.plan.n_pitch), self.p.b_dtype, "l1")
        weights, zero = self.o.b, constant(self.p.zero_b, self.p.b_dtype)
        load = nest(
            [("tap", count), ("n", self.plan.n_pitch)],
            lambda tap, n: store(taps1, [tap, n], weights[integer(0), chunk.number, kc, tap, n]),
        )

        def element(tap: Expr, k: Expr, n: Expr) -> Stmt:
            value = tirx.Select(mask1[k, n], taps1[tap, n], zero)
            return store(b1, [chunk.ni, kc, tap * t.c + k, n], value)

        return sequence(allocate(taps1, 2), load, nest([("tap", count), ("k", t.c), ("n", t.n)], element))

    def _load_weights(self, b1: Buffer, lead: list[Expr], b: Expr, chunk: Chunk, kc: Expr) -> Stmt:
        """Load one k chunk of constant weights, whose rows are tight, to `lead` of the buffer."""
        shared, weights = self.plan.shared(b), self.o.b
        axes = [("k", self.plan.k_chunk), ("n", self.plan.n_pitch)]
        return nest(axes, lambda k, n: store(b1, [*lead, k, n], weights[shared, chunk.number, kc, k, n]))

    def _load_computed(
        self, b1: Buffer, place: Place, index: Callable[..., Sequence[Expr]], b: Expr, chunk: Chunk, cc: Expr
    ) -> Stmt:
        """Load one k chunk of a right operand that other layers compute."""
        p, t, o, plan = self.p, self.t, self.o, self.plan

        def element(k: Expr, n: Expr) -> Stmt:
            row, channel = cc * t.c + k, chunk.number * t.n + n
            guards = [below(channel, p.out_channels, plan.chunks * t.n - 1), plan.depth_guard(row)]
            return when(guards, store(b1, place(k, n), o.b[tuple(index(b, row, channel))]))

        if o.b_transposed:
            return nest([("n", t.n), ("k", t.c)], lambda n, k: element(k, n))
        return nest([("k", t.c), ("n", t.n)], element)
