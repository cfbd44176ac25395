"""Max pooling 3x3, stride 2, padding 1, float16, 64 channels, 112 x 112, batch 16, on 32 cores; see `streaming`.

Two cores share an image, 28 result rows each; the one row at the seam that both need is read twice (0.9 %). Input and
result both stay in l1.
"""

from __future__ import annotations

import numpy as np

from ci.handwritten.program import Handwritten
from ci.handwritten.streaming import Stream
from ci.handwritten.writer import Text, dst, src

IMAGES, SIZE, CHANNELS = 16, 112, 64
HALF = SIZE // 2
ROW, OUT_ROW = SIZE * CHANNELS * 2, HALF * CHANNELS * 2
MINE, PER = HALF // 2, 2
"""Result rows of a core, and of a tile."""
TILES = MINE // PER
OUT_AT = (SIZE // 2 + 1) * ROW
X_AT = 0
Y_AT = IMAGES * SIZE * ROW


def core(lines: Text, number: int) -> None:
    """The queues of one core; its input rows are counted from the one before its first result's middle row."""
    image, lower = divmod(number, 2)
    stream = Stream(lines, number, TILES)
    top = lower * SIZE // 2 - 1
    have = 0 if lower else 1
    for tile in range(TILES):
        last = 2 * PER * (tile + 1)
        shape = (last - have + 1, SIZE * CHANNELS)
        far = X_AT + (image * SIZE + top + have) * ROW
        stream.load(tile, dst(f"l1[{have * ROW}]", "f16", shape), src(f"ddr[{far}]", "f16", shape))
        have = last + 1
        first = 2 * PER * tile
        missing = int(tile == 0 and not lower)
        window = {"kernel": [3, 3], "stride": [2, 2], "dilation": [1, 1], "pad": [missing, 1, 0, 0], "taps": 9}
        out = f"l1[{OUT_AT + tile * PER * OUT_ROW}]"
        rows = (2 * PER + 1 - missing, SIZE, CHANNELS)
        pool = (
            dst(out, "f16", (PER, HALF, CHANNELS)),
            src(f"l1[{(first + missing) * ROW}]", "f16", rows),
        )
        stream.vector(tile, [("pool_max", pool, window)])
        far = Y_AT + (image * HALF + lower * MINE + tile * PER) * OUT_ROW
        shape = (PER, HALF * CHANNELS)
        stream.store(tile, dst(f"ddr[{far}]", "f16", shape), src(out, "f16", shape))


def text() -> str:
    """The program."""
    lines = Text("npu-v1")
    lines.tensor("input", "x", X_AT, "f16", (IMAGES, SIZE, SIZE, CHANNELS))
    lines.tensor("output", "y", Y_AT, "f16", (IMAGES, HALF, HALF, CHANNELS))
    for number in range(2 * IMAGES):
        core(lines, number)
    return lines.text()


def inputs(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Random images."""
    return {"x": rng.standard_normal((IMAGES, SIZE, SIZE, CHANNELS), np.float32).astype(np.float16)}


def reference(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Tap by tap."""
    x = np.pad(arrays["x"], ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-np.inf)
    y = np.full((IMAGES, HALF, HALF, CHANNELS), -np.inf, np.float16)
    for i in range(3):
        for j in range(3):
            y = np.maximum(y, x[:, i : i + SIZE : 2, j : j + SIZE : 2])
    return {"y": y}


PROGRAM = Handwritten("max pooling", 0.85, text, inputs, reference, tolerance=0.0)
