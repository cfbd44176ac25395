"""1x1 convolution, float16, 256 to 256 channels, 56 x 56, batch 16, on the 32 cores of npu-v1; see `streaming`.

Bound by ddr eight times over. Each core has 1,568 pixels, all of them in l1 with the weights, which come by one
multicast to all. 112 pixels at a time go through l0 in four products and come back over their own input.
"""

from __future__ import annotations

import numpy as np

from ci.handwritten.program import Handwritten
from ci.handwritten.streaming import Stream
from ci.handwritten.writer import Ring, Text, dst, operand, src

PIXELS, CHANNELS, CORES, TILE, HALF = 16 * 56 * 56, 256, 32, 112, 128
MINE = PIXELS // CORES
TILES = MINE // TILE
PIXEL = CHANNELS * 2
WEIGHTS_AT = 8 * 131072
X_AT, Y_AT = 0, PIXELS * PIXEL
W_AT = 2 * PIXELS * PIXEL


class Core:
    """The queues of one core."""

    def __init__(self, text: Text, core: int) -> None:
        self.text, self.core = text, core
        self.stream = Stream(text, core, TILES, worker="move")
        self.l0 = Ring("move", "matrix", 0, 2)
        self.sums = Ring("matrix", "vector", 0, 2)
        self.products = 0

    def weights(self) -> None:
        """One load for all cores."""
        self.text.on(
            self.core, "load", "load_multicast", dst(f"l1[{WEIGHTS_AT}]", "f16", (CHANNELS, CHANNELS)),
            src(f"ddr[{W_AT}]", "f16", (CHANNELS, CHANNELS)), group=0,
        )  # fmt: skip

    def tile(self, tile: int) -> None:
        """All entries of 112 pixels."""
        place = tile * TILE * PIXEL
        far, shape = (self.core * MINE + tile * TILE) * PIXEL, (TILE, CHANNELS)
        self.stream.load(tile, dst(f"l1[{place}]", "f16", shape), src(f"ddr[{X_AT + far}]", "f16", shape))
        sums = tile % 2 * 131072
        for k in range(2):
            for n in range(2):
                self.product(tile, k, n, place, sums)
        cast = (dst(f"l1[{place}]", "f16", shape), src(f"l0c[{sums}]", "f32", shape))
        self.text.on(
            self.core, "vector", "cast", *cast, wait=[self.sums.full], set=[self.sums.free, self.stream.done(tile)]
        )
        self.stream.store(tile, dst(f"ddr[{Y_AT + far}]", "f16", shape), src(f"l1[{place}]", "f16", shape))

    def product(self, tile: int, k: int, n: int, place: int, sums: int) -> None:
        """Half of the input channels by half of the output channels."""
        left, right = k * 32768, self.products % 2 * 32768
        room, full = self.l0.room(self.products), [self.stream.arrived(tile)] if k == 0 and n == 0 else []
        if n == 0:
            self.text.on(
                self.core, "move", "move_a", dst(f"l0a[{left}]", "f16", (TILE, HALF)),
                src(f"l1[{place + k * HALF * 2}]", "f16", (TILE, HALF), (PIXEL,)), wait=room + full,
            )  # fmt: skip
        self.text.on(
            self.core, "move", "move_b", dst(f"l0b[{right}]", "f16", (HALF, HALF)),
            src(f"l1[{WEIGHTS_AT + k * HALF * PIXEL + n * HALF * 2}]", "f16", (HALF, HALF), (PIXEL,)),
            wait=room if n else [], set=[self.l0.full],
        )  # fmt: skip
        self.text.on(
            self.core, "matrix", "matmul_acc" if k else "matmul",
            operand("acc" if k else "dst", f"l0c[{sums + n * HALF * 4}]", "f32", (TILE, HALF), (CHANNELS * 4,)),
            operand("lhs", f"l0a[{left}]", "f16", (TILE, HALF)), operand("rhs", f"l0b[{right}]", "f16", (HALF, HALF)),
            wait=[self.l0.full, *(self.sums.room(tile) if k == 0 and n == 0 else [])],
            set=[self.l0.free, *([self.sums.full] if k and n else [])],
        )  # fmt: skip
        self.products += 1


def text() -> str:
    """The program."""
    lines = Text("npu-v1")
    lines.tensor("input", "x", X_AT, "f16", (16, 56, 56, CHANNELS))
    lines.tensor("input", "w", W_AT, "f16", (CHANNELS, CHANNELS))
    lines.tensor("output", "y", Y_AT, "f16", (16, 56, 56, CHANNELS))
    lines.macs(PIXELS * CHANNELS * CHANNELS)
    for number in range(CORES):
        core = Core(lines, number)
        core.weights()
        for tile in range(TILES):
            core.tile(tile)
    return lines.text()


def inputs(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Random images and weights."""
    x = rng.standard_normal((16, 56, 56, CHANNELS), np.float32)
    return {"x": x.astype(np.float16), "w": (rng.standard_normal((CHANNELS, CHANNELS)) / 16).astype(np.float16)}


def reference(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The product in float32."""
    return {"y": arrays["x"].astype(np.float32) @ arrays["w"].astype(np.float32)}


PROGRAM = Handwritten("1x1 convolution", 0.92, text, inputs, reference)
