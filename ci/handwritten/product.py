"""Matrix product, float16, 4096 x 1024 x 1024, on one cluster: eight cores as 4 (rows) x 2 (columns).

Prefetch brings the right operand to the LLB once, then the left row tiles one after another; the cores load from
there by multicast, left rows to the two cores that share them, right columns to four, again for each row tile. A load
engine that waits for its share of ddr is lost to the loads behind it, so only the first row tile, and the last that the
LLB has no room for, come from ddr. Eight stores would leave prefetch a ninth of ddr, so the first wait for row tile 1.
Products are 128 x 256 x 64 (1,024 cycles) with two accumulators and two slots in l0a and l0b.

The start decides: until the first tile is done its operands must come faster than they are used. So the first row
tile runs over k once for all of the core's columns, in both accumulators: 2,084 cycles for 64 columns of the left
and rows of the right operand, which ddr brings in 1,650 and the load engine in 1,770; the first chunks are small, since
a chunk can be little longer than the one before it, and the very first of the right operand skips the LLB. The end
matters as much: the last tile gets narrower, so that little is left to store.
The vector engine rounds to float16 in l1: a rounding store would move float32's bytes.
"""

from __future__ import annotations

import numpy as np

from ci.handwritten.cluster import one_cluster
from ci.handwritten.program import Handwritten
from ci.handwritten.writer import Ring, Text, dst, operand, src

M, N, K = 4096, 1024, 1024
ROW_GROUPS, COLUMN_GROUPS = 4, 2
TM, TN, TK = 128, 256, 64
CORE_M, CORE_N = M // ROW_GROUPS, N // COLUMN_GROUPS
ROW_TILES, COLUMN_TILES = CORE_M // TM, CORE_N // TN
BANK = 131072
LEFT_AT, RIGHT_AT, STAGE_AT = (0, 2 * BANK), tuple(BANK * b for b in (4, 5, 6, 7)), (8 * BANK, 9 * BANK)
A_AT, B_AT = 0, M * K * 2
C_AT = B_AT + K * N * 2
FIRST = (*(32,) * 8, *(64,) * 12)
"""Chunks of k in the first row tile, all columns of the core at once."""
CHUNKS = (256, 256, 256, 256)
"""Chunks of k afterwards, one column tile at a time."""
LEFT_ROWS = 6
"""Row tiles of the left operand that the LLB holds behind the right one."""
LEFT_HERE, STORES_GO = 48, 56
"""Cluster flags: a row group's left rows are in the LLB; the stores may begin."""
LAST = (128, 64, 64)
"""Widths of the last tile's parts."""


def starts(widths: tuple[int, ...]) -> list[int]:
    """Where each of several adjacent parts begins."""
    return [sum(widths[:i]) for i in range(len(widths))]


def parts(widths: tuple[int, ...]) -> list[tuple[int, int]]:
    """Start and width of each."""
    return list(zip(starts(widths), widths, strict=True))


class Product:
    """Writes the queues one after another; entries of different queues need no order in the text."""

    def __init__(self, text: Text) -> None:
        self.text = text
        self.group = self.turn = 0
        self.l0 = Ring("move", "matrix", 0, 2)
        self.right = Ring("load", "move", 1, len(RIGHT_AT))
        self.sums = Ring("matrix", "vector", 0, 2)
        self.stage = Ring("vector", "store", 0, 2)
        self.left_free, self.first_right = "core:move>load:0", "core:load>move:2"

    @staticmethod
    def left_full(row: int) -> str:
        """The flag of a chunk of a row tile: one for those from the LLB, one for those from ddr."""
        return "core:load>move:3" if 0 < row <= LEFT_ROWS else "core:load>move:0"

    @staticmethod
    def llb(group: int, k: int) -> int:
        """Where row k of a group's columns lies in the LLB."""
        return (group * K + k) * CORE_N * 2

    def prefetch(self) -> None:
        """The right operand in the order in which it is needed; the first chunk, not needed from here yet, last."""
        order = [*parts(FIRST)[1:], parts(FIRST)[0]]
        for i, (k, width) in enumerate(order):
            self.text.on(
                0, "prefetch", "prefetch",
                dst(f"llb[{self.llb(0, k)}]", "f16", (COLUMN_GROUPS, width, CORE_N), (K * CORE_N * 2, CORE_N * 2)),
                src(f"ddr[{B_AT + k * N * 2}]", "f16", (COLUMN_GROUPS, width, CORE_N), (CORE_N * 2, N * 2)),
                set=[f"cluster:{i * COLUMN_GROUPS + g}" for g in range(COLUMN_GROUPS)],
            )  # fmt: skip

        for row in range(1, 1 + LEFT_ROWS):
            for k, width in parts(CHUNKS):
                self.prefetch_left(row, k, width)
            if row == 1:
                for _ in range(2):
                    self.text.on(0, "prefetch", "set", set=[f"cluster:{STORES_GO}"] * 4)

    @staticmethod
    def left_llb(row: int, group: int, k: int) -> int:
        """Where column k of a row tile lies in the LLB."""
        return K * N * 2 + (((row - 1) * ROW_GROUPS + group) * TM * K + k) * 2

    @staticmethod
    def left_here(k: int, group: int) -> str:
        """The flag of a row group's chunk in the LLB; two in turn, as all of the chunks may come before their use."""
        return f"cluster:{LEFT_HERE + k // CHUNKS[0] % 2 * ROW_GROUPS + group}"

    def prefetch_left(self, row: int, k: int, width: int) -> None:
        """Columns k.. of a row tile of every row group."""
        self.text.on(
            0, "prefetch", "prefetch",
            dst(f"llb[{self.left_llb(row, 0, k)}]", "f16", (ROW_GROUPS, TM, width), (TM * K * 2, K * 2)),
            src(f"ddr[{A_AT + (row * TM * K + k) * 2}]", "f16", (ROW_GROUPS, TM, width), (CORE_M * K * 2, K * 2)),
            set=[self.left_here(k, g) for g in range(ROW_GROUPS)],
        )  # fmt: skip

    def load_left(self, row: int, k: int, width: int) -> None:
        """Columns k.. of a row tile, to the two cores that share the rows."""
        llb = 0 < row <= LEFT_ROWS
        for rows in range(ROW_GROUPS):
            self.group += 1
            far = f"ddr[{A_AT + ((rows * CORE_M + row * TM) * K + k) * 2}]"
            here = [self.left_here(k, rows)] if llb else []
            for g in range(COLUMN_GROUPS):
                self.text.on(
                    rows * COLUMN_GROUPS + g, "load", "load_multicast",
                    dst(f"l1[{LEFT_AT[row % 2] + k * 2}]", "f16", (TM, width), (K * 2,)),
                    src(f"llb[{self.left_llb(row, rows, k)}]" if llb else far, "f16", (TM, width), (K * 2,)),
                    wait=([self.left_free] if k == 0 and row > 1 else []) + (here if g == 0 else []),
                    set=[self.left_full(row)], group=self.group,
                )  # fmt: skip

    def load_right(
        self, place: tuple[int, int], shape: tuple[int, int], arrived: int | None, ddr: bool = False
    ) -> None:
        """Rows and columns of the right operand, to the four cores that share them; `arrived` is prefetch's flag."""
        (k, n), full = place, self.first_right if ddr else self.right.full
        for g in range(COLUMN_GROUPS):
            self.group += 1
            far = f"ddr[{B_AT + (k * N + g * CORE_N + n) * 2}]" if ddr else f"llb[{self.llb(g, k) + n * 2}]"
            for rows in range(ROW_GROUPS):
                here = [f"cluster:{arrived * COLUMN_GROUPS + g}"] if arrived is not None and rows == 0 else []
                self.text.on(
                    rows * COLUMN_GROUPS + g, "load", "load_multicast",
                    dst(f"l1[{RIGHT_AT[self.turn % 4]}]", "f16", shape),
                    src(far, "f16", shape, ((N if ddr else CORE_N) * 2,)),
                    wait=self.right.room(self.turn) + here, set=[full], group=self.group,
                )  # fmt: skip
        self.turn += 1

    def loads(self) -> None:
        """The load queues. A row tile's left chunks stand late among the loads of the tile before it: at the
        head of the queue, waiting for prefetch, they would hold up the right chunks behind them."""
        for i, (k, width) in enumerate(parts(FIRST)):
            self.load_left(0, k, width)
            self.load_right((k, 0), (width, CORE_N), i - 1 if i else None, ddr=i == 0)
        for row in range(1, ROW_TILES):
            for column in range(COLUMN_TILES):
                for i, (k, width) in enumerate(parts(CHUNKS)):
                    if row == 1 and column == 0:
                        self.load_left(1, k, width)
                    arrived = len(FIRST) - 1 if (row, column, i) == (1, 0, 0) else None
                    self.load_right((k, column * TN), (width, TN), arrived)
                    if column == COLUMN_TILES - 1 and row + 1 < ROW_TILES:
                        self.load_left(row + 1, k, width)

    def compute(self, core: int) -> None:
        """Move, matrix, vector and store of one core."""
        queue = Core(self, core)
        queue.first_row()
        for row in range(1, ROW_TILES):
            for column in range(COLUMN_TILES):
                queue.tile(row, column)


class Core:
    """The queues of one core behind its loads; counts products, left moves, chunks of the right operand and tiles."""

    def __init__(self, whole: Product, core: int) -> None:
        self.whole, self.text, self.core = whole, whole.text, core
        self.products = self.lefts = self.chunk = self.tiles = 0

    def first_row(self) -> None:
        """Row tile 0: each chunk of k for both column tiles."""
        for i, (begin, width) in enumerate(parts(FIRST)):
            full = self.whole.first_right if i == 0 else self.whole.right.full
            for k in range(begin, begin + width, TK):
                tk = min(TK, begin + width - k)
                for column in range(COLUMN_TILES):
                    if column == 0:
                        self.move_left(0, k, tk, k == begin, k + tk == K)
                    place = RIGHT_AT[i % 4] + ((k - begin) * CORE_N + column * TN) * 2
                    done = k + tk == begin + width and column == COLUMN_TILES - 1
                    new = [full] if k == begin and column == 0 else []
                    self.move_right(place, (tk, TN), CORE_N, new, done, column == 0)
                    self.multiply(k, tk, TN, column)
        self.chunk = len(FIRST)
        for column in range(COLUMN_TILES):
            self.finish(0, column * TN, TN)

    def tile(self, row: int, column: int) -> None:
        """A tile of a later row; the very last in parts."""
        last = row == ROW_TILES - 1 and column == COLUMN_TILES - 1
        for part, (n, width) in enumerate(parts(LAST if last else (TN,))):
            tk = 2 * TK if last else TK
            for k in range(0, K, tk):
                i, inside = divmod(k, CHUNKS[0])
                self.move_left(row, k, tk, column == 0 and inside == 0, column == COLUMN_TILES - 1 and k + tk == K)
                place = RIGHT_AT[(self.chunk + i) % 4] + (inside * TN + n) * 2
                new = [self.whole.right.full] if inside == 0 and part == 0 else []
                self.move_right(place, (tk, width), TN, new, not last and inside + tk == CHUNKS[0], True)
                self.multiply(k, tk, width, self.tiles)
            self.finish(row, column * TN + n, width)
        self.chunk += len(CHUNKS)

    def move_left(self, row: int, k: int, tk: int, new: bool, done: bool) -> None:
        """The left operand of the next products into l0a."""
        self.text.on(
            self.core, "move", "move_a", dst(f"l0a[{self.lefts % 2 * 32768}]", "f16", (TM, tk)),
            src(f"l1[{LEFT_AT[row % 2] + k * 2}]", "f16", (TM, tk), (K * 2,)),
            wait=self.whole.l0.room(self.products) + ([self.whole.left_full(row)] if new else []),
            set=[self.whole.left_free] if done and row + 2 < ROW_TILES else [],
        )  # fmt: skip
        self.lefts += 1

    def move_right(
        self, place: int, shape: tuple[int, int], pitch: int, new: list[str], done: bool, after_left: bool
    ) -> None:
        """The right operand of the next product into l0b; a left move just before it has waited for room."""
        room = [] if after_left else self.whole.l0.room(self.products)
        self.text.on(
            self.core, "move", "move_b", dst(f"l0b[{self.products % 2 * 32768}]", "f16", shape),
            src(f"l1[{place}]", "f16", shape, (pitch * 2,)), wait=room + new,
            set=[self.whole.l0.full, *([self.whole.right.free] if done else [])],
        )  # fmt: skip

    def multiply(self, k: int, tk: int, width: int, sums: int) -> None:
        """One product into an accumulator."""
        lhs = operand("lhs", f"l0a[{(self.lefts - 1) % 2 * 32768}]", "f16", (TM, tk))
        rhs = operand("rhs", f"l0b[{self.products % 2 * 32768}]", "f16", (tk, width))
        result = operand("acc" if k else "dst", f"l0c[{sums % 2 * 131072}]", "f32", (TM, width))
        room = self.whole.sums.room(self.tiles) if k == 0 else []
        done = [self.whole.sums.full] if k + tk == K else []
        self.text.on(
            self.core, "matrix", "matmul_acc" if k else "matmul", result, lhs, rhs,
            wait=[self.whole.l0.full, *room], set=[self.whole.l0.free, *done],
        )  # fmt: skip
        self.products += 1

    def finish(self, row: int, column: int, width: int) -> None:
        """Round a tile into l1 and store it."""
        rows = self.core // COLUMN_GROUPS * CORE_M + row * TM
        columns = self.core % COLUMN_GROUPS * CORE_N + column
        stage, sums = f"l1[{STAGE_AT[self.tiles % 2]}]", f"l0c[{self.tiles % 2 * 131072}]"
        self.text.on(
            self.core, "vector", "cast", dst(stage, "f16", (TM, width)), src(sums, "f32", (TM, width)),
            wait=[self.whole.sums.full, *self.whole.stage.room(self.tiles)],
            set=[self.whole.sums.free, self.whole.stage.full],
        )  # fmt: skip
        go = [f"cluster:{STORES_GO}"] if self.tiles == 0 else []
        self.text.on(
            self.core, "store", "store", dst(f"ddr[{C_AT + (rows * N + columns) * 2}]", "f16", (TM, width), (N * 2,)),
            src(stage, "f16", (TM, width)), wait=[self.whole.stage.full, *go], set=[self.whole.stage.free],
        )  # fmt: skip
        self.tiles += 1


def text() -> str:
    """The program."""
    lines = Text(one_cluster())
    lines.tensor("input", "a", A_AT, "f16", (M, K))
    lines.tensor("input", "b", B_AT, "f16", (K, N))
    lines.tensor("output", "c", C_AT, "f16", (M, N))
    lines.macs(M * N * K)
    product = Product(lines)
    product.prefetch()
    product.loads()
    for core in range(ROW_GROUPS * COLUMN_GROUPS):
        product.compute(core)
    return lines.text()


def inputs(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Random operands."""
    a, b = rng.standard_normal((M, K)), rng.standard_normal((K, N)) / 32
    return {"a": a.astype(np.float16), "b": b.astype(np.float16)}


def reference(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The product in float32."""
    return {"c": arrays["a"].astype(np.float32) @ arrays["b"].astype(np.float32)}


PROGRAM = Handwritten("matrix product", 0.93, text, inputs, reference)
