"""Depthwise 3x3 convolution, float16, 96 channels, 112 x 112, batch 16, on the 32 cores of npu-v1; see `streaming`.

Two cores share an image, 56 rows each and one row more at the seam, where both go outwards from, so that the two rows
that both need come first, by multicast. A core's 57 rows stay in l1; a pair of result rows is written over rows
that no later one needs, three places further. The window's padding makes the zeros.
"""

from __future__ import annotations

import numpy as np

from ci.handwritten.program import Handwritten
from ci.handwritten.streaming import Stream
from ci.handwritten.writer import Text, dst, operand, src

IMAGES, SIZE, CHANNELS = 16, 112, 96
ROW = SIZE * CHANNELS * 2
PAIRS = SIZE // 4
"""Pairs of result rows of a core."""
SHIFT = 3
"""Places that results lie behind the rows that they are made of."""
TAPS_AT = (SIZE // 2 + 1 + SHIFT) * ROW
X_AT, Y_AT = 0, IMAGES * SIZE * ROW
W_AT = 2 * Y_AT


class Core:
    """One core: rows are counted from the seam outwards, row 0 being the neighbour's."""

    def __init__(self, text: Text, core: int) -> None:
        self.text, self.core = text, core
        self.image, self.lower = divmod(core, 2)
        self.stream = Stream(text, core, PAIRS)

    def image_row(self, row: int) -> int:
        """The image's row."""
        return SIZE // 2 - 1 + row if self.lower else SIZE // 2 - row

    def place(self, row: int) -> int:
        """Where a row lies in l1: in the image's order, the spare places where the walk began."""
        return (SHIFT + row if self.lower else SIZE // 2 - row) * ROW

    def span(self, first: int, last: int) -> int:
        """Of the rows `first` to `last` the one that comes first in memory."""
        return first if self.lower else last

    def load(self, tile: int) -> None:
        """Rows 2 * tile + 2 and the next, or for tile -1 the two rows of the seam, which both cores need."""
        first, last = (0, 1) if tile < 0 else (2 * tile + 2, min(2 * tile + 3, SIZE // 2))
        start = self.span(first, last)
        shape = (last - first + 1, SIZE * CHANNELS)
        to = dst(f"l1[{self.place(start)}]", "f16", shape)
        of = src(f"ddr[{X_AT + (self.image * SIZE + self.image_row(start)) * ROW}]", "f16", shape)
        if tile < 0:
            self.text.on(self.core, "load", "load_multicast", to, of, group=1 + self.image)
        else:
            self.stream.load(tile, to, of)

    def work(self, tile: int) -> None:
        """Result rows 2 * tile + 1 and the next."""
        first, last = 2 * tile + 1, 2 * tile + 2
        edge = last == SIZE // 2
        low = self.span(first - 1, last if edge else last + 1)
        rows = 3 if edge else 4
        pad = [int(edge and not self.lower), 1, int(edge and self.lower), 1]
        result = self.result(tile)
        step = (
            "depthwise",
            (
                dst(f"l1[{result}]", "f16", (2, SIZE, CHANNELS)),
                src(f"l1[{self.place(low)}]", "f16", (rows, SIZE, CHANNELS)),
                operand("taps", f"l1[{TAPS_AT}]", "f16", (3, 3, CHANNELS)),
            ),
            {"kernel": [3, 3], "stride": [1, 1], "dilation": [1, 1], "pad": pad, "taps": 9, "macs": True},
        )
        self.stream.vector(tile, [step])
        far = Y_AT + (self.image * SIZE + self.image_row(self.span(first, last))) * ROW
        shape = (2, SIZE * CHANNELS)
        self.stream.store(tile, dst(f"ddr[{far}]", "f16", shape), src(f"l1[{result}]", "f16", shape))

    def result(self, tile: int) -> int:
        """Where the result rows lie: behind row 2 * tile, the first that they need."""
        first = 2 * tile
        return (first + SHIFT - 2) * ROW - ROW if self.lower else (SIZE // 2 - first + 1) * ROW


def text() -> str:
    """The program."""
    lines = Text("npu-v1")
    lines.tensor("input", "x", X_AT, "f16", (IMAGES, SIZE, SIZE, CHANNELS))
    lines.tensor("input", "w", W_AT, "f16", (3, 3, CHANNELS))
    lines.tensor("output", "y", Y_AT, "f16", (IMAGES, SIZE, SIZE, CHANNELS))
    lines.macs(IMAGES * SIZE * SIZE * CHANNELS * 9)
    for number in range(2 * IMAGES):
        core = Core(lines, number)
        taps = 9 * CHANNELS
        lines.on(
            number, "load", "load_multicast", dst(f"l1[{TAPS_AT}]", "f16", (taps,)),
            src(f"ddr[{W_AT}]", "f16", (taps,)), group=0,
        )  # fmt: skip
        for tile in range(-1, PAIRS):
            core.load(tile)
        for tile in range(PAIRS):
            core.work(tile)
    return lines.text()


def inputs(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Random images and weights."""
    x = rng.standard_normal((IMAGES, SIZE, SIZE, CHANNELS), np.float32)
    return {"x": x.astype(np.float16), "w": (rng.standard_normal((3, 3, CHANNELS)) / 3).astype(np.float16)}


def reference(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Tap by tap in float32."""
    x = np.pad(arrays["x"].astype(np.float32), ((0, 0), (1, 1), (1, 1), (0, 0)))
    w = arrays["w"].astype(np.float32)
    windows = (x[:, i : i + SIZE, j : j + SIZE] * w[i, j] for i in range(3) for j in range(3))
    return {"y": sum(windows, np.zeros((IMAGES, SIZE, SIZE, CHANNELS), np.float32))}


PROGRAM = Handwritten("depthwise convolution", 0.92, text, inputs, reference)
