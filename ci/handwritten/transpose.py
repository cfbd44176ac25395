"""Transpose of 4096 x 2048, float16, on the 32 cores of npu-v1; see `streaming`.

The transposing load does it: 16 bytes a cycle on each of 32 cores are more than ddr gives. A tile is 128 columns of the
source wide, so that its rows are whole bursts, and becomes 128 rows of the result.
"""

from __future__ import annotations

import numpy as np

from ci.handwritten.program import Handwritten
from ci.handwritten.streaming import Stream
from ci.handwritten.writer import Text, dst, src

ROWS, COLUMNS, CORES, TILE = 4096, 2048, 32, 128
MINE = ROWS // CORES
TILES = COLUMNS // TILE
X_AT, Y_AT = 0, ROWS * COLUMNS * 2


def text() -> str:
    """The program."""
    lines = Text("npu-v1")
    lines.tensor("input", "x", X_AT, "f16", (ROWS, COLUMNS))
    lines.tensor("output", "y", Y_AT, "f16", (COLUMNS, ROWS))
    for core in range(CORES):
        stream = Stream(lines, core, TILES, worker="store")
        first = core * MINE
        for tile in range(TILES):
            place, column = f"l1[{tile * TILE * MINE * 2}]", tile * TILE
            stream.load(
                tile,
                dst(place, "f16", (TILE, MINE)),
                src(f"ddr[{X_AT + (first * COLUMNS + column) * 2}]", "f16", (MINE, TILE), (COLUMNS * 2,)),
                "load_transpose",
                transpose=True,
            )
            lines.on(
                core, "store", "store",
                dst(f"ddr[{Y_AT + (column * ROWS + first) * 2}]", "f16", (TILE, MINE), (ROWS * 2,)),
                src(place, "f16", (TILE, MINE)), wait=[stream.arrived(tile)],
            )  # fmt: skip
    return lines.text()


def inputs(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Random elements."""
    return {"x": rng.standard_normal((ROWS, COLUMNS), np.float32).astype(np.float16)}


def reference(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The transpose."""
    return {"y": arrays["x"].T}


PROGRAM = Handwritten("transpose", 0.85, text, inputs, reference, tolerance=0.0)
