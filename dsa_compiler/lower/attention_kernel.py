"""The kernel of attention: scores, softmax and weighted values of one tile of queries, all in L1.

Three stages follow one another, each a step behind the one before, so that the engines always find work: products
of step u, softmax of step u - 1, weighted values of step u - 2. What passes between them lies in `SLOTS` slots:

    step u        scores = q k^T, through l0c and the epilogue into a row block in L1
    step u - 1    top = max(scores); scores = exp(scores - top)
    step u - 2    (mix, total) = scores (v, 1); out = mix / total, through the epilogue, to ddr

The sums of the exponentials come from the matrix engine, by a column of ones beside the values: the vector engine is
the busiest, and accumulators are float32.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tvm import tirx
from tvm.tirx import PrimFunc

from dsa_compiler.lower.pitch import accumulator_pitch, operand_pitch, scope_pitch
from dsa_compiler.lower.tile_kernel import ceil_div
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
from dsa_compiler.lower.window_kernel import lowest
from dsa_compiler.target import Target

SLOTS = 3
Index = Callable[..., Sequence[Expr]]


@dataclass(frozen=True)
class AttentionProblem:
    """`batches` heads of `rows` queries and `keys` keys of `depth`, with values of `width`."""

    batches: int
    rows: int
    keys: int
    depth: int
    width: int
    dtype: str


@dataclass(frozen=True)
class AttentionTiling:
    """`cores` (batches, rows); a tile of `rows` queries; scores by `columns` keys, values by `chunk` keys.

    `ahead` slots hold the keys and the values of that many batches.
    """

    cores: tuple[int, int]
    rows: int
    columns: int
    chunk: int
    ahead: int


@dataclass(frozen=True)
class AttentionExtra:
    """An operand of an epilogue: `index(b, row, column)` into `source`, one element a row or a column or each."""

    source: Buffer
    index: Index
    by_row: bool
    by_column: bool


@dataclass(frozen=True)
class AttentionOperands:
    """Tensors in ddr: `q_index(b, row, k)`, `k_index(b, k, key)`, `v_index(b, key, n)`, `out_index(b, row, n)`.

    `k_by_key`: rows of the keys' buffer in ddr are keys (the usual case); else they are k. Epilogues take the value
    and the elements of their operands.
    """

    q: Buffer
    q_index: Index
    k: Buffer
    k_index: Index
    v: Buffer
    v_index: Index
    out: Buffer
    out_index: Index
    k_by_key: bool
    score_extras: tuple[AttentionExtra, ...]
    score_epilogue: Callable[[Expr, Sequence[Expr]], Expr]
    out_extras: tuple[AttentionExtra, ...]
    out_epilogue: Callable[[Expr, Sequence[Expr]], Expr]


@dataclass(frozen=True)
class _Step:
    """Where a stage works: the batch, its number on the core, the first query, and the slot of its tile."""

    b: Expr
    bt: Expr
    row: Expr
    first: Expr
    slot: Expr


class AttentionKernel:
    """Builds the PrimFunc of one attention layer."""

    def __init__(
        self, problem: AttentionProblem, tiling: AttentionTiling, operands: AttentionOperands, target: Target
    ) -> None:
        self.p, self.t, self.o, self.target = problem, tiling, operands, target
        self.tiles = ceil_div(ceil_div(problem.rows, tiling.rows), tiling.cores[1])
        self.batches = ceil_div(problem.batches, tiling.cores[0])
        self.steps = self.tiles * self.batches

    def pitch(self, extent: int, dtype: str) -> int:
        """The pitch of a row in L1."""
        return scope_pitch(extent, dtype, self.target, "l1")

    def build(self, name: str, parameters: Sequence[Buffer]) -> PrimFunc:
        """The kernel over `parameters`, the ddr buffers in the order of the call."""
        gb, gm = self.t.cores
        body = core_loop("core_b", gb, gm, lambda cb: core_loop("core_m", gm, 1, lambda cm: self._core(cb, cm)))
        return function(name, parameters, body)

    def _core(self, cb: Expr, cm: Expr) -> Stmt:
        p, t = self.p, self.t
        wide = self.pitch(p.keys, p.dtype)
        key_shape = (p.keys, self.pitch(p.depth, p.dtype)) if self.o.k_by_key else (p.depth, wide)
        self.k1 = buffer("k1", (t.ahead, *key_shape), p.dtype, "l1")
        self.v1 = buffer("v1", (t.ahead, p.keys, self.pitch(p.width + 1, p.dtype)), p.dtype, "l1")
        self.scores = buffer("scores", (SLOTS, t.rows, wide), p.dtype, "l1")
        self.top = buffer("top", (t.rows, self.pitch(1, p.dtype)), p.dtype, "l1")
        held = [self.k1, self.v1, self.scores, self.top]

        def step(u: Expr) -> Stmt:
            stages = (self._scores, self._softmax, self._values)
            return sequence(*(self._stage(stage, u, behind, cb, cm) for behind, stage in enumerate(stages)))

        return sequence(*(allocate(b) for b in held), tile_loop("step", self.steps + SLOTS - 1, step))

    def _stage(self, stage: Callable[[_Step], Stmt], u: Expr, behind: int, cb: Expr, cm: Expr) -> Stmt:
        """A stage of the step `behind` steps ago, if there is one."""
        step = u - behind if behind else u
        bt = tirx.floordiv(step, integer(self.tiles)) if self.tiles > 1 else step
        qt = tirx.floormod(step, integer(self.tiles)) if self.tiles > 1 else integer(0)
        place = _Step(
            cb * self.batches + bt, bt, (cm * self.tiles + qt) * self.t.rows, is_zero(qt),
            tirx.floormod(step, integer(SLOTS)),
        )  # fmt: skip
        guards = [step >= 0] if behind else []
        guards.append(step < integer(self.steps))
        guards.append(below(place.b, self.p.batches, self.t.cores[0] * self.batches - 1))
        guards.append(below(place.row, self.p.rows, (self.t.cores[1] * self.tiles - 1) * self.t.rows))
        return when(guards, stage(place))

    def _inside(self, s: _Step, r: Expr) -> Expr:
        most = self.t.cores[1] * self.tiles * self.t.rows - 1
        return below(s.row + r, self.p.rows, most)

    def _held(self, s: _Step) -> Expr:
        """The slot of the keys or values of the step's batch."""
        return tirx.floormod(s.bt, integer(self.t.ahead)) if self.t.ahead > 1 else integer(0)

    # ---- scores ----------------------------------------------------------------------------------------------
    def _scores(self, s: _Step) -> Stmt:
        p, t, o = self.p, self.t, self.o
        q1 = buffer("q1", (t.rows, self.pitch(p.depth, p.dtype)), p.dtype, "l1")
        load = nest(
            [("r", t.rows), ("k", p.depth)],
            lambda r, k: when([self._inside(s, r)], store(q1, [r, k], o.q[tuple(o.q_index(s.b, s.row + r, k))])),
        )
        q0 = buffer("q0", (t.rows, operand_pitch(p.depth, p.dtype, self.target)), p.dtype, "l0a")
        move = nest(
            [("r", t.rows), ("k", p.depth)], lambda r, k: when([self._inside(s, r)], store(q0, [r, k], q1[r, k]))
        )
        extras, loads = self._load_extras(o.score_extras, s, p.keys, "mask")
        chunks = tile_loop(
            "chunk", ceil_div(p.keys, t.columns), lambda ni: self._score_chunk(s, ni * t.columns, q0, extras)
        )
        return sequence(allocate(q1, 2), load, allocate(q0, 2), move, *loads, chunks)

    def _score_chunk(self, s: _Step, n0: Expr, q0: Buffer, extras: list[tuple[Buffer, AttentionExtra]]) -> Stmt:
        p, t, o = self.p, self.t, self.o
        most = ceil_div(p.keys, t.columns) * t.columns - 1
        slot = self._held(s)
        key = lambda n: below(n0 + n, p.keys, most)  # noqa: E731
        place = lambda k, n: [slot, n0 + n, k] if o.k_by_key else [slot, k, n0 + n]  # noqa: E731
        axes = [("n", t.columns), ("k", p.depth)] if o.k_by_key else [("k", p.depth), ("n", t.columns)]

        def load(*at: Expr) -> Stmt:
            n, k = at if o.k_by_key else (at[1], at[0])
            return when([key(n)], store(self.k1, place(k, n), o.k[tuple(o.k_index(s.b, k, n0 + n))]))

        b0 = buffer("k0", (p.depth, operand_pitch(t.columns, p.dtype, self.target)), p.dtype, "l0b")
        move = nest(
            [("k", p.depth), ("n", t.columns)],
            lambda k, n: when([key(n)], store(b0, [k, n], self.k1[tuple(place(k, n))])),
        )
        acc = buffer("acc", (t.rows, accumulator_pitch(t.columns, "float32", self.target)), "float32", "l0c")
        product = self._product(
            acc, q0, b0, t.columns, p.depth, lambda r, n: [self._inside(s, r), key(n)], lambda k: True, first=True
        )

        def scaled(r: Expr, n: Expr) -> Stmt:
            values = [_element(tile, extra, r, n0 + n) for tile, extra in extras]
            result = o.score_epilogue(acc[r, n], values)
            return when([self._inside(s, r), key(n)], store(self.scores, [s.slot, r, n0 + n], cast(result, p.dtype)))

        return sequence(
            when([s.first], nest(axes, load)), allocate(b0, 2), move, allocate(acc, 2), product,
            nest([("r", t.rows), ("n", t.columns)], scaled),
        )  # fmt: skip

    def _product(
        self, acc: Buffer, left: Buffer, right: Buffer, columns: int, depth: int,
        inside: Callable[[Expr, Expr], list[Expr]],
        valid: Callable[[Expr], Expr], *, first: bool,
    ) -> Stmt:  # fmt: skip
        """acc[r, n] += left[r, k] * right[k, n], from 0 if `first`."""

        def step(r: Expr, n: Expr, k: Expr) -> Stmt:
            value = cast(left[r, k], "float32") * cast(right[k, n], "float32")
            return when([*inside(r, n), valid(k)], store(acc, [r, n], acc[r, n] + value))

        def element(r: Expr, n: Expr) -> Stmt:
            steps = nest([("k", depth)], lambda k: step(r, n, k))
            if not first:
                return steps
            return sequence(when(inside(r, n), store(acc, [r, n], constant(0.0, "float32"))), steps)

        return nest([("r", self.t.rows), ("n", columns)], element)

    # ---- softmax ---------------------------------------------------------------------------------------------
    def _softmax(self, s: _Step) -> Stmt:
        p = self.p
        each = [("r", self.t.rows), ("n", p.keys)]
        wide = lambda r, n: cast(self.scores[s.slot, r, n], "float32")  # noqa: E731
        zero = integer(0)

        def write(value: Callable[[Expr, Expr], Expr]) -> Stmt:
            return nest(
                each,
                lambda r, n: when([self._inside(s, r)], store(self.scores, [s.slot, r, n], cast(value(r, n), p.dtype))),
            )

        return sequence(
            self._fold(s, self.top, lowest(p.dtype), tirx.max),
            write(lambda r, n: wide(r, n) - cast(self.top[r, zero], "float32")),
            write(lambda r, n: tirx.exp(wide(r, n))),
        )

    def _fold(self, s: _Step, target: Buffer, first: float, combine: Callable[[Expr, Expr], Expr]) -> Stmt:
        dtype, zero = str(target.dtype), integer(0)

        def row(r: Expr) -> Stmt:
            init = when([self._inside(s, r)], store(target, [r, zero], constant(first, dtype)))

            def step(n: Expr) -> Stmt:
                value = combine(target[r, zero], cast(self.scores[s.slot, r, n], dtype))
                return when([self._inside(s, r)], store(target, [r, zero], value))

            return sequence(init, nest([("n", self.p.keys)], step))

        return nest([("r", self.t.rows)], row)

    # ---- values ----------------------------------------------------------------------------------------------
    def _values(self, s: _Step) -> Stmt:
        p, t, o = self.p, self.t, self.o
        dtype = str(o.out.dtype)
        acc = buffer("mix", (t.rows, accumulator_pitch(p.width + 1, "float32", self.target)), "float32", "l0c")
        share = buffer("share", (t.rows, self.pitch(1, "float32")), "float32", "l1")
        zero = integer(0)
        divide = nest(
            [("r", t.rows)],
            lambda r: when([self._inside(s, r)], store(share, [r, zero], constant(1.0, "float32") / acc[r, p.width])),
        )
        chunks = tile_loop("chunk", ceil_div(p.keys, t.chunk), lambda ki: self._value_chunk(s, ki, acc))
        extras, loads = self._load_extras(o.out_extras, s, p.width, "other")
        out1 = buffer("out1", (t.rows, self.pitch(p.width, dtype)), dtype, "l1")

        def finish(r: Expr, n: Expr) -> Stmt:
            mixed = acc[r, n] * share[r, zero]
            values = [_element(tile, extra, r, n) for tile, extra in extras]
            return when([self._inside(s, r)], store(out1, [r, n], cast(o.out_epilogue(mixed, values), dtype)))

        axes = [("r", t.rows), ("n", p.width)]
        back = nest(
            axes, lambda r, n: when([self._inside(s, r)], store(o.out, o.out_index(s.b, s.row + r, n), out1[r, n]))
        )
        work = sequence(allocate(share, 2), divide, allocate(out1, 2), nest(axes, finish), back)
        return sequence(allocate(acc, 2), chunks, *loads, work)

    def _value_chunk(self, s: _Step, ki: Expr, acc: Buffer) -> Stmt:
        p, t, o = self.p, self.t, self.o
        k0 = ki * t.chunk
        slot = self._held(s)
        valid = lambda k: below(k0 + k, p.keys, ceil_div(p.keys, t.chunk) * t.chunk - 1)  # noqa: E731
        a0 = buffer("w0", (t.rows, operand_pitch(t.chunk, p.dtype, self.target)), p.dtype, "l0a")
        width = p.width + 1
        b0 = buffer("v0", (t.chunk, operand_pitch(width, p.dtype, self.target)), p.dtype, "l0b")
        load = nest(
            [("k", t.chunk), ("n", p.width)],
            lambda k, n: when([valid(k)], store(self.v1, [slot, k0 + k, n], o.v[tuple(o.v_index(s.b, k0 + k, n))])),
        )
        move_a = nest(
            [("r", t.rows), ("k", t.chunk)],
            lambda r, k: when([self._inside(s, r), valid(k)], store(a0, [r, k], self.scores[s.slot, r, k0 + k])),
        )
        fill = nest(
            [("k", t.chunk), ("n", self.pitch(width, p.dtype) - p.width)],
            lambda k, n: when([valid(k)], store(self.v1, [slot, k0 + k, n + p.width], constant(1.0, p.dtype))),
        )
        move_b = nest(
            [("k", t.chunk), ("n", width)], lambda k, n: when([valid(k)], store(b0, [k, n], self.v1[slot, k0 + k, n]))
        )
        inside = lambda r, n: [self._inside(s, r)]  # noqa: E731
        start = self._product(acc, a0, b0, width, t.chunk, inside, valid, first=True)
        first = is_zero(ki)
        more = None if first is True else self._product(acc, a0, b0, width, t.chunk, inside, valid, first=False)
        return sequence(
            when([s.first], sequence(load, fill)),
            allocate(a0, 2),
            move_a,
            allocate(b0, 2),
            move_b,
            when([first], start, more),
        )

    # ---- operands of the epilogues -----------------------------------------------------------------------------
    def _load_extras(
        self, extras: Sequence[AttentionExtra], s: _Step, columns: int, name: str
    ) -> tuple[list[tuple[Buffer, AttentionExtra]], list[Stmt]]:
        """A tile of each operand, one row or one column where it does not vary, and the loads."""
        tiles, stmts = [], []
        for number, extra in enumerate(extras):
            dtype = str(extra.source.dtype)
            rows, width = self.t.rows if extra.by_row else 1, columns if extra.by_column else 1
            tile = buffer(f"{name}{number}", (rows, self.pitch(width, dtype)), dtype, "l1")

            def element(r: Expr, n: Expr, extra: AttentionExtra = extra, tile: Buffer = tile) -> Stmt:
                guard = self._inside(s, r) if extra.by_row else True
                return when([guard], store(tile, [r, n], extra.source[tuple(extra.index(s.b, s.row + r, n))]))

            tiles.append((tile, extra))
            stmts += [allocate(tile, 2), nest([("r", rows), ("n", width)], element)]
        return tiles, stmts


def _element(tile: Buffer, extra: AttentionExtra, r: Expr, n: Expr) -> Expr:
    return tile[r if extra.by_row else integer(0), n if extra.by_column else integer(0)]
