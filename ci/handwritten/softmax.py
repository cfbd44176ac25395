"""Softmax over the rows of 4096 x 1024, float16, on the eight cores of one cluster; see `streaming`.

Each core has 512 rows, all of them in l1, worked on in place sixteen at a time. The row's sum is kept in float32, its
reciprocal and the row's maximum in float16: a broadcast operand counts as wide as it is written.
"""

from __future__ import annotations

import numpy as np

from ci.handwritten.cluster import one_cluster
from ci.handwritten.program import Handwritten
from ci.handwritten.streaming import Step, Stream
from ci.handwritten.writer import Text, dst, operand, src

ROWS, WIDTH, CORES, TILE = 4096, 1024, 8, 16
MINE = ROWS // CORES
TILES = MINE // TILE
BYTES = TILE * WIDTH * 2
STAT = 32
"""Bytes from one row's statistic to the next: the alignment of l1."""
MAX_AT = MINE * WIDTH * 2
SUM_AT, FACTOR_AT = MAX_AT + TILE * STAT, MAX_AT + 2 * TILE * STAT
X_AT, Y_AT = 0, ROWS * WIDTH * 2


def steps(tile: int) -> list[Step]:
    """The instructions of one tile, in place."""
    place, whole, column = f"l1[{tile * BYTES}]", (TILE, WIDTH), (TILE, 1)
    x, to = src(place, "f16", whole), dst(place, "f16", whole)

    def spread(at: int) -> str:
        return operand("src2", f"l1[{at}]", "f16", whole, (STAT, 0))

    return [
        ("reduce_max", (dst(f"l1[{MAX_AT}]", "f16", column, (STAT,)), x), {"reduce": "row"}),
        ("sub", (to, x, spread(MAX_AT)), {}),
        ("exp", (to, x), {}),
        ("reduce_sum", (dst(f"l1[{SUM_AT}]", "f32", column, (STAT,)), x), {"reduce": "row"}),
        (
            "reciprocal",
            (dst(f"l1[{FACTOR_AT}]", "f16", column, (STAT,)), src(f"l1[{SUM_AT}]", "f32", column, (STAT,))),
            {},
        ),
        ("mul", (to, x, spread(FACTOR_AT)), {}),
    ]


def text() -> str:
    """The program."""
    lines = Text(one_cluster())
    lines.tensor("input", "x", X_AT, "f16", (ROWS, WIDTH))
    lines.tensor("output", "y", Y_AT, "f16", (ROWS, WIDTH))
    for core in range(CORES):
        stream = Stream(lines, core, TILES)
        for tile in range(TILES):
            place, far = f"l1[{tile * BYTES}]", core * MINE * WIDTH * 2 + tile * BYTES
            stream.load(tile, dst(place, "f16", (TILE, WIDTH)), src(f"ddr[{X_AT + far}]", "f16", (TILE, WIDTH)))
            stream.vector(tile, steps(tile))
            stream.store(tile, dst(f"ddr[{Y_AT + far}]", "f16", (TILE, WIDTH)), src(place, "f16", (TILE, WIDTH)))
    return lines.text()


def inputs(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Random rows."""
    return {"x": rng.standard_normal((ROWS, WIDTH)).astype(np.float16)}


def reference(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Softmax in float64."""
    e = np.exp(arrays["x"].astype(np.float64) - arrays["x"].max(axis=1, keepdims=True))
    return {"y": e / e.sum(axis=1, keepdims=True)}


PROGRAM = Handwritten("softmax", 0.97, text, inputs, reference, tolerance=1e-2)
