"""3x3 convolution, float16, 256 to 256 channels, 56 x 56, batch 16, on the 32 cores of npu-v1.

Two cores share an image, each with half of the output channels: the image is read once, by multicast to both, without
halos, and half of the weights stays in l1. Output rows are taken two at a time: 112 pixels (7 units of m) x 128
channels x 128 of k, 896 cycles a product, 18 products a tile: for each tap two halves of the input channels. A left
operand is a window of the rows in l1, which have a pixel of zeros on both sides; no im2col is needed.

ddr carries 52.6 MB in 440k cycles against 452k of products, so the order of transfers is what matters. Input rows come
well ahead through a ring. At the start rows come by halves of channels and the weights of three taps after each, in the
order of use. The last tile is taken in three parts of its channels, so that little is left to store.
"""

from __future__ import annotations

import numpy as np

from ci.handwritten.program import Handwritten
from ci.handwritten.writer import Ring, Text, dst, operand, src

IMAGES, SIZE, CHANNELS, HALF = 16, 56, 256, 128
TILES = SIZE // 2
PIXELS = 2 * SIZE
PIXEL = CHANNELS * 2
ROW = (SIZE + 2) * PIXEL
"""Bytes of a row in l1, with its two pixels of zeros."""
STEPS = [(i, h, j) for i in range(3) for h in range(2) for j in range(3)]
"""Row of the tap, half of the input channels, column of the tap: one product each, in the order of the weights."""
CHUNK = HALF * HALF * 2
"""Bytes of the right operand of one step."""
STAGE = PIXELS * HALF * 2
RING = 10
"""Pairs of rows in l1."""
WEIGHTS_AT = 0
STAGE_AT = (len(STEPS) * CHUNK, len(STEPS) * CHUNK + STAGE)
ZERO_AT = STAGE_AT[1] + STAGE
ROWS_AT = ZERO_AT + ROW
PAIRS_FIRST, STORES_GO = 3, "core:load>store:0"
"""The pair of rows that must be there before the first store takes two thirds of ddr from the loads, and its flag."""
LAST = (64, 32, 32)
"""Output channels of the last tile's parts."""
X_AT, W_AT = 0, IMAGES * SIZE * SIZE * PIXEL
Y_AT = W_AT + 9 * CHANNELS * PIXEL


def row_at(row: int) -> int:
    """Where an image row lies in l1; rows outside the image are the row of zeros. Pair p holds rows 2p - 1 and 2p."""
    if not 0 <= row < SIZE:
        return ZERO_AT
    pair, second = divmod(row + 1, 2)
    return ROWS_AT + (pair % RING * 2 + second) * ROW


def arrivals() -> list[tuple[str, int, int]]:
    """What the load queue brings, in order: ("half", row, half), ("weights", step, 0), ("pair", pair, 0)."""
    result = []
    for step, (i, h, j) in enumerate(STEPS):
        if j == 0:
            result.append(("half", i, h))
        result.append(("weights", step, 0))
    return result + [("pair", pair, 0) for pair in range(2, SIZE // 2 + 1)]


class Core:
    """The queues of one core."""

    def __init__(self, text: Text, core: int) -> None:
        self.text, self.core = text, core
        self.image, self.half = divmod(core, 2)
        self.l0 = Ring("move", "matrix", 0, 2)
        self.sums = Ring("matrix", "vector", 0, 2)
        self.stage = Ring("vector", "store", 0, 2)
        self.pairs = Ring("load", "move", 0, RING)
        self.products = self.parts = self.arrived = 0
        self.order = {what: number for number, what in enumerate(arrivals(), 1)}

    def zeros(self) -> None:
        """The row of zeros, and the zero pixels of all rows of the ring."""
        rows = (2 * RING, CHANNELS)
        self.text.on(self.core, "vector", "fill", dst(f"l1[{ZERO_AT}]", "f16", (ROW // 2,)), value=0.0)
        self.text.on(self.core, "vector", "fill", dst(f"l1[{ROWS_AT}]", "f16", rows, (ROW,)), value=0.0)
        self.text.on(
            self.core, "vector", "fill", dst(f"l1[{ROWS_AT + ROW - PIXEL}]", "f16", rows, (ROW,)), value=0.0,
            set=["core:vector>move:0"],
        )  # fmt: skip

    def loads(self) -> None:
        """Everything that comes from ddr; rows by multicast to the image's two cores, weights to all of one half."""
        for number, (kind, index, half) in enumerate(arrivals()):
            group = number * 64 + (32 + self.half if kind == "weights" else self.image)
            if kind == "weights":
                to = dst(f"l1[{WEIGHTS_AT + index * CHUNK}]", "f16", (HALF, HALF))
                of = src(f"ddr[{W_AT + (self.half * len(STEPS) + index) * CHUNK}]", "f16", (HALF, HALF))
            else:
                to, of = self.rows(kind, index, half)
            room = self.pairs.room(index) if kind == "pair" else []
            go = [STORES_GO] if (kind, index) == ("pair", PAIRS_FIRST) else []
            self.text.on(
                self.core, "load", "load_multicast", to, of, wait=room, set=[self.full(number), *go], group=group
            )

    @staticmethod
    def full(number: int) -> str:
        """The flag of a load; four in turn, as more than 15 loads may be ahead of their use."""
        return f"core:load>move:{number % 4}"

    def rows(self, kind: str, index: int, half: int) -> tuple[str, str]:
        """Destination and source of half the channels of a row, or of a pair of rows (the last pair has but one)."""
        first = index if kind == "half" else 2 * index - 1
        place, far = row_at(first) + PIXEL, X_AT + (self.image * SIZE + first) * SIZE * PIXEL
        if kind == "half":
            shape, offset = (SIZE, HALF), half * HALF * 2
            return dst(f"l1[{place + offset}]", "f16", shape, (PIXEL,)), src(
                f"ddr[{far + offset}]", "f16", shape, (PIXEL,)
            )
        shape = (min(2, SIZE - first), SIZE * CHANNELS)
        return dst(f"l1[{place}]", "f16", shape, (ROW,)), src(f"ddr[{far}]", "f16", shape)

    def need(self, *what: tuple[str, int, int]) -> list[str]:
        """Waits for things that are to have arrived: loads complete in order, so a count tells."""
        until = max((self.order[w] for w in what if w in self.order), default=0)
        waits = [self.full(number) for number in range(self.arrived, until)]
        self.arrived = max(self.arrived, until)
        return waits

    def tile(self, tile: int) -> None:
        """Output rows 2 * tile and the next."""
        parts = LAST if tile == TILES - 1 else (HALF,)
        for part, width in enumerate(parts):
            column = sum(parts[:part])
            for step in range(len(STEPS)):
                self.move(tile, step, (column, width))
                self.multiply(step, width)
            self.finish(tile, column, width)

    def move(self, tile: int, step: int, columns: tuple[int, int]) -> None:
        """Both operands of a product into l0."""
        i, h, j = STEPS[step]
        column, width = columns
        slot = self.products % 2 * 32768
        row = 2 * tile + i - 1
        offset = j * PIXEL + h * HALF * 2
        rows = (
            self.need(("half", i, h), ("pair", tile + 1 if i else tile, 0))
            if tile == 0
            else self.need(("pair", tile + (i > 0), 0))
        )
        wait = self.l0.room(self.products) + rows + (["core:vector>move:0"] if self.products == 0 else [])
        done = [self.pairs.free] if step == len(STEPS) - 1 and tile + RING <= TILES and column + width == HALF else []
        pieces: list[tuple[int, int, tuple[int, ...], tuple[int, ...]]]
        if row_at(row + 1) == row_at(row) + ROW:
            pieces = [(slot, row_at(row) + offset, (2, SIZE, HALF), (ROW, PIXEL))]
        else:
            pieces = [
                (slot + r * SIZE * HALF * 2, row_at(row + r) + offset, (SIZE, HALF), (PIXEL,)) for r in range(2)
            ]  # fmt: skip
        for number, (to, of, shape, strides) in enumerate(pieces):
            self.text.on(
                self.core, "move", "move_a", dst(f"l0a[{to}]", "f16", shape), src(f"l1[{of}]", "f16", shape, strides),
                wait=wait if number == 0 else [], set=done if number == len(pieces) - 1 else [],
            )  # fmt: skip
        self.text.on(
            self.core, "move", "move_b", dst(f"l0b[{slot}]", "f16", (HALF, width)),
            src(f"l1[{WEIGHTS_AT + step * CHUNK + column * 2}]", "f16", (HALF, width), (HALF * 2,)),
            wait=self.need(("weights", step, 0)), set=[self.l0.full],
        )  # fmt: skip

    def multiply(self, step: int, width: int) -> None:
        """One product into the tile's accumulator."""
        slot, first, last = self.products % 2 * 32768, step == 0, step == len(STEPS) - 1
        self.text.on(
            self.core, "matrix", "matmul" if first else "matmul_acc",
            operand("dst" if first else "acc", f"l0c[{self.parts % 2 * 131072}]", "f32", (PIXELS, width)),
            operand("lhs", f"l0a[{slot}]", "f16", (PIXELS, HALF)), operand("rhs", f"l0b[{slot}]", "f16", (HALF, width)),
            wait=[self.l0.full, *(self.sums.room(self.parts) if first else [])],
            set=[self.l0.free, *([self.sums.full] if last else [])],
        )  # fmt: skip
        self.products += 1

    def finish(self, tile: int, column: int, width: int) -> None:
        """Round a tile into l1 and store it."""
        stage = f"l1[{STAGE_AT[self.parts % 2]}]"
        far = Y_AT + (self.image * SIZE + 2 * tile) * SIZE * PIXEL + (self.half * HALF + column) * 2
        self.text.on(
            self.core, "vector", "cast", dst(stage, "f16", (PIXELS, width)),
            src(f"l0c[{self.parts % 2 * 131072}]", "f32", (PIXELS, width)),
            wait=[self.sums.full, *self.stage.room(self.parts)], set=[self.sums.free, self.stage.full],
        )  # fmt: skip
        self.text.on(
            self.core, "store", "store", dst(f"ddr[{far}]", "f16", (PIXELS, width), (PIXEL,)),
            src(stage, "f16", (PIXELS, width)),
            wait=[self.stage.full, *([STORES_GO] if self.parts == 0 else [])], set=[self.stage.free],
        )  # fmt: skip
        self.parts += 1


def text() -> str:
    """The program."""
    lines = Text("npu-v1")
    lines.tensor("input", "x", X_AT, "f16", (IMAGES, SIZE, SIZE, CHANNELS))
    lines.tensor("input", "w", W_AT, "f16", (2, len(STEPS), HALF, HALF))
    lines.tensor("output", "y", Y_AT, "f16", (IMAGES, SIZE, SIZE, CHANNELS))
    lines.macs(IMAGES * SIZE * SIZE * CHANNELS * CHANNELS * 9)
    for core in range(2 * IMAGES):
        queues = Core(lines, core)
        queues.zeros()
        queues.loads()
        for tile in range(TILES):
            queues.tile(tile)
    return lines.text()


def inputs(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Random images and weights; the weights by half of the output channels and step."""
    x = rng.standard_normal((IMAGES, SIZE, SIZE, CHANNELS), np.float32)
    w = rng.standard_normal((2, len(STEPS), HALF, HALF), np.float32) / 48
    return {"x": x.astype(np.float16), "w": w.astype(np.float16)}


def reference(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Tap by tap in float32."""
    x = np.pad(arrays["x"].astype(np.float32), ((0, 0), (1, 1), (1, 1), (0, 0)))
    w = arrays["w"].astype(np.float32)
    y = np.zeros((IMAGES, SIZE, SIZE, CHANNELS), np.float32)
    for step, (i, h, j) in enumerate(STEPS):
        window = x[:, i : i + SIZE, j : j + SIZE, h * HALF : (h + 1) * HALF]
        for half in range(2):
            y[..., half * HALF : (half + 1) * HALF] += window @ w[half, step]
    return {"y": y}


PROGRAM = Handwritten("3x3 convolution", 0.92, text, inputs, reference)
