"""Attention of one head, float16, 2048 positions of 64, on the eight cores of one cluster.

Each core has 256 queries, 32 at a time; keys and values come by multicast and stay in l1. The vector engine is the
busiest: for 32 x 2048 scores it scales and rounds to float16 out of l0c, takes the maximum, subtracts, and takes the
exponential. The sums are left to the matrix engine: a column of ones beside the values gives them with the weighted
values. Scores never leave the core.

The matrix engine makes the next tile's scores between this tile's weighted values, a chunk of 512 keys of each in turn,
so the vector engine always finds both scores to round and a chunk to take the exponential of. A tile is divided by its
sums one step late, when they have long been there.
"""

from __future__ import annotations

import numpy as np

from ci.handwritten.cluster import one_cluster
from ci.handwritten.program import Handwritten
from ci.handwritten.writer import Ring, Text, dst, operand, src

LENGTH, WIDTH, CORES, TILE = 2048, 64, 8, 32
MINE = LENGTH // CORES
TILES = MINE // TILE
CHUNK, PIECE = 512, 128
CHUNKS, PIECES = LENGTH // CHUNK, CHUNK // PIECE
VALUE = 160
"""Bytes of a row of values in l1: 64 values, a one, and what fills an alignment unit with it."""
K_LOADS = (128, 128, 128, 128, 512, 512, 512)
V_LOADS = (512, 512, 512, 512)
Q_AT, K_AT = 0, MINE * WIDTH * 2
V_AT = K_AT + LENGTH * WIDTH * 2
BANK = 131072
S_AT = 5 * BANK
"""Two tiles of scores, a bank each: what is moved is in another bank than what is rounded."""
MAX_AT = 9 * BANK
SUM_AT = MAX_AT + TILE * 32
OUT_AT = SUM_AT + TILE * 32
O_AT = 3 * TILE * CHUNK * 4
"""In l0c: three chunks of scores, then two tiles of weighted values."""
O_ROW = 80 * 4
TENSOR = LENGTH * WIDTH * 2
DDR_Q, DDR_K, DDR_V, DDR_O = 0, TENSOR, 2 * TENSOR, 3 * TENSOR


class Core:
    """The queues of one core."""

    def __init__(self, text: Text, core: int) -> None:
        self.text, self.core = text, core
        self.l0 = Ring("move", "matrix", 0, 2)
        self.scores = Ring("matrix", "vector", 0, 3)
        self.sums = Ring("matrix", "vector", 1, 2)
        self.out = Ring("vector", "store", 0, 2)
        self.products = 0
        self.seen = {"core:load>move:0": 0, "core:load>move:1": 0}

    # -- loads

    def loads(self) -> None:
        """The first queries, keys, the other queries, values; what is shared by multicast, in the order of use."""
        text, core = self.text, self.core
        self.queries(0, TILE)
        for number, rows in enumerate(K_LOADS):
            begin = sum(K_LOADS[:number]) * WIDTH * 2
            text.on(
                core, "load", "load_multicast", dst(f"l1[{K_AT + begin}]", "f16", (rows, WIDTH)),
                src(f"ddr[{DDR_K + begin}]", "f16", (rows, WIDTH)), set=["core:load>move:0"], group=number,
            )  # fmt: skip
        self.queries(TILE, MINE - TILE)
        ones = dst(f"l1[{V_AT + WIDTH * 2}]", "f16", (LENGTH, VALUE // 2 - WIDTH), (VALUE,))
        text.on(core, "load", "load_fill", ones, value=1.0)
        for number, rows in enumerate(V_LOADS):
            begin = sum(V_LOADS[:number])
            text.on(
                core, "load", "load_multicast", dst(f"l1[{V_AT + begin * VALUE}]", "f16", (rows, WIDTH), (VALUE,)),
                src(f"ddr[{DDR_V + begin * WIDTH * 2}]", "f16", (rows, WIDTH)), set=["core:load>move:1"],
                group=len(K_LOADS) + number,
            )  # fmt: skip

    def queries(self, first: int, rows: int) -> None:
        """Some of the core's queries."""
        place = first * WIDTH * 2
        self.text.on(
            self.core, "load", "load", dst(f"l1[{Q_AT + place}]", "f16", (rows, WIDTH)),
            src(f"ddr[{DDR_Q + self.core * MINE * WIDTH * 2 + place}]", "f16", (rows, WIDTH)), set=["core:load>move:0"],
        )  # fmt: skip

    def need(self, flag: str, count: int) -> list[str]:
        """Waits until `count` loads that set `flag` are in."""
        missing = max(0, count - self.seen[flag])
        self.seen[flag] += missing
        return [flag] * missing

    # -- products

    def score(self, tile: int, chunk: int) -> None:
        """Scores of 32 queries with a chunk of keys."""
        for piece in range(PIECES):
            keys = chunk * CHUNK + piece * PIECE
            if chunk == 0 and piece == 0:
                self.text.on(
                    self.core, "move", "move_a", dst(f"l0a[{tile % 2 * 4096}]", "f16", (TILE, WIDTH)),
                    src(f"l1[{Q_AT + tile * TILE * WIDTH * 2}]", "f16", (TILE, WIDTH)),
                    wait=self.need("core:load>move:0", len(K_LOADS) + 2 if tile else 1),
                )  # fmt: skip
            loaded = 2 + next(i for i in range(len(K_LOADS)) if sum(K_LOADS[: i + 1]) >= keys + PIECE)
            slot = self.products % 2 * 32768
            self.text.on(
                self.core, "move", "move_b_transpose", dst(f"l0b[{slot}]", "f16", (WIDTH, PIECE)),
                src(f"l1[{K_AT + keys * WIDTH * 2}]", "f16", (PIECE, WIDTH)), transpose=True,
                wait=self.l0.room(self.products) + (self.need("core:load>move:0", loaded) if tile == 0 else []),
                set=[self.l0.full],
            )  # fmt: skip
            turn = tile * CHUNKS + chunk
            place = turn % 3 * TILE * CHUNK * 4 + piece * PIECE * 4
            self.text.on(
                self.core, "matrix", "matmul", dst(f"l0c[{place}]", "f32", (TILE, PIECE), (CHUNK * 4,)),
                operand("lhs", f"l0a[{tile % 2 * 4096}]", "f16", (TILE, WIDTH)),
                operand("rhs", f"l0b[{slot}]", "f16", (WIDTH, PIECE)),
                wait=[self.l0.full, *(self.scores.room(turn) if piece == 0 else [])],
                set=[self.l0.free, *([self.scores.full] if piece == PIECES - 1 else [])],
            )  # fmt: skip
            self.products += 1

    def weigh(self, tile: int, chunk: int) -> None:
        """Values of a chunk of keys, weighted, and the sums of their weights."""
        for piece in range(PIECES):
            keys = chunk * CHUNK + piece * PIECE
            first, last = keys == 0, keys + PIECE == LENGTH
            left, right = 8192 + self.products % 2 * 8192, self.products % 2 * 32768
            ready = ["core:vector>move:0"] if piece == 0 else []
            self.text.on(
                self.core, "move", "move_a", dst(f"l0a[{left}]", "f16", (TILE, PIECE)),
                src(f"l1[{self.buffer(tile) + keys * 2}]", "f16", (TILE, PIECE), (LENGTH * 2,)),
                wait=self.l0.room(self.products) + ready,
            )  # fmt: skip
            wait = self.need("core:load>move:1", chunk + 1) if tile == 0 else []
            self.text.on(
                self.core, "move", "move_b", dst(f"l0b[{right}]", "f16", (PIECE, WIDTH + 1), (VALUE,)),
                src(f"l1[{V_AT + keys * VALUE}]", "f16", (PIECE, WIDTH + 1), (VALUE,)), wait=wait, set=[self.l0.full],
            )  # fmt: skip
            self.text.on(
                self.core, "matrix", "matmul" if first else "matmul_acc",
                operand("dst" if first else "acc", f"l0c[{self.weighted(tile)}]", "f32", (TILE, WIDTH + 1), (O_ROW,)),
                operand("lhs", f"l0a[{left}]", "f16", (TILE, PIECE)),
                operand("rhs", f"l0b[{right}]", "f16", (PIECE, WIDTH + 1), (VALUE,)),
                wait=[self.l0.full, *(self.sums.room(tile) if first else [])],
                set=[self.l0.free, *([self.sums.full] if last else [])],
            )  # fmt: skip
            self.products += 1

    @staticmethod
    def buffer(tile: int) -> int:
        """Where a tile's scores, then weights, lie in l1."""
        return S_AT + tile % 2 * TILE * LENGTH * 2

    @staticmethod
    def weighted(tile: int) -> int:
        """Where a tile's weighted values lie in l0c."""
        return O_AT + tile % 2 * TILE * O_ROW

    # -- vector

    def round(self, tile: int, chunk: int) -> None:
        """A chunk of scores, divided by the root of the width, to float16 in l1."""
        place = self.buffer(tile) + chunk * CHUNK * 2
        self.text.on(
            self.core, "vector", "mul_scalar", dst(f"l1[{place}]", "f16", (TILE, CHUNK), (LENGTH * 2,)),
            src(f"l0c[{(tile * CHUNKS + chunk) % 3 * TILE * CHUNK * 4}]", "f32", (TILE, CHUNK)), value=WIDTH**-0.5,
            wait=[self.scores.full], set=[self.scores.free],
        )  # fmt: skip

    def shift(self, tile: int) -> None:
        """Scores less their row's maximum."""
        place, whole = f"l1[{self.buffer(tile)}]", (TILE, LENGTH)
        scores = src(place, "f16", whole)
        self.text.on(
            self.core, "vector", "reduce_max", dst(f"l1[{MAX_AT}]", "f16", (TILE, 1), (32,)), scores, reduce="row"
        )
        most = operand("src2", f"l1[{MAX_AT}]", "f16", whole, (32, 0))
        self.text.on(self.core, "vector", "sub", dst(place, "f16", whole), scores, most)

    def exponential(self, tile: int, chunk: int) -> None:
        """A chunk of weights."""
        place, shape, pitch = f"l1[{self.buffer(tile) + chunk * CHUNK * 2}]", (TILE, CHUNK), (LENGTH * 2,)
        self.text.on(
            self.core, "vector", "exp", dst(place, "f16", shape, pitch), src(place, "f16", shape, pitch),
            set=["core:vector>move:0"],
        )  # fmt: skip

    def divide(self, tile: int) -> None:
        """Weighted values by their sums, and away."""
        weighted, column, shape = self.weighted(tile), (TILE, 1), (TILE, WIDTH)
        out = f"l1[{OUT_AT + tile % 2 * TILE * WIDTH * 2}]"
        self.text.on(
            self.core, "vector", "reciprocal", dst(f"l1[{SUM_AT}]", "f32", column, (32,)),
            src(f"l0c[{weighted + WIDTH * 4}]", "f32", column, (O_ROW,)), wait=[self.sums.full],
        )  # fmt: skip
        self.text.on(
            self.core, "vector", "mul", dst(out, "f16", shape), src(f"l0c[{weighted}]", "f32", shape, (O_ROW,)),
            operand("src2", f"l1[{SUM_AT}]", "f32", shape, (32, 0)),
            wait=self.out.room(tile), set=[self.sums.free, self.out.full],
        )  # fmt: skip
        far = DDR_O + (self.core * MINE + tile * TILE) * WIDTH * 2
        self.text.on(
            self.core, "store", "store", dst(f"ddr[{far}]", "f16", shape), src(out, "f16", shape), wait=[self.out.full],
            set=[self.out.free],
        )  # fmt: skip

    # -- the whole

    def run(self) -> None:
        """All queues."""
        self.loads()
        for chunk in range(CHUNKS):
            self.score(0, chunk)
            self.round(0, chunk)
        for tile in range(TILES):
            self.shift(tile)
            if tile:
                self.divide(tile - 1)
            for chunk in range(CHUNKS):
                if tile + 1 < TILES:
                    self.score(tile + 1, chunk)
                self.weigh(tile, chunk)
                self.exponential(tile, chunk)
                if tile + 1 < TILES:
                    self.round(tile + 1, chunk)
        self.divide(TILES - 1)


def text() -> str:
    """The program."""
    lines = Text(one_cluster())
    for kind, name, place in (
        ("input", "q", DDR_Q),
        ("input", "k", DDR_K),
        ("input", "v", DDR_V),
        ("output", "o", DDR_O),
    ):
        lines.tensor(kind, name, place, "f16", (LENGTH, WIDTH))
    lines.macs(2 * LENGTH * LENGTH * WIDTH)
    for core in range(CORES):
        Core(lines, core).run()
    return lines.text()


def inputs(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Random queries, keys and values."""
    return {name: rng.standard_normal((LENGTH, WIDTH)).astype(np.float16) for name in "qkv"}


def reference(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Attention in float64."""
    q, k, v = (arrays[name].astype(np.float64) for name in "qkv")
    scores = q @ k.T / WIDTH**0.5
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    return {"o": weights / weights.sum(axis=1, keepdims=True) @ v}


PROGRAM = Handwritten("attention", 0.85, text, inputs, reference, tolerance=5e-3)
