"""Layer normalisation over the rows of 4096 x 1024, float16, on the eight cores of one cluster; see `streaming`.

Scale and shift come by one multicast each to all cores. Statistics are summed in float32; mean and the reciprocal of
the deviation are float16, since a broadcast operand counts as wide as it is written.
"""

from __future__ import annotations

import numpy as np

from ci.handwritten.cluster import one_cluster
from ci.handwritten.program import Handwritten
from ci.handwritten.streaming import Step, Stream
from ci.handwritten.writer import Text, dst, operand, src

ROWS, WIDTH, CORES, TILE, EPSILON = 4096, 1024, 8, 16, 1e-5
MINE = ROWS // CORES
TILES = MINE // TILE
BYTES = TILE * WIDTH * 2
STAT = 32
"""Bytes from one row's statistic to the next: the alignment of l1."""
SCALE_AT = MINE * WIDTH * 2
SHIFT_AT = SCALE_AT + WIDTH * 2
SUM_AT = SHIFT_AT + WIDTH * 2
STAT_AT = SUM_AT + TILE * STAT
X_AT, Y_AT = 0, ROWS * WIDTH * 2
GAMMA_AT = Y_AT + ROWS * WIDTH * 2
BETA_AT = GAMMA_AT + WIDTH * 2


def steps(tile: int) -> list[Step]:
    """The instructions of one tile, in place."""
    place, whole, column = f"l1[{tile * BYTES}]", (TILE, WIDTH), (TILE, 1)
    x, to = src(place, "f16", whole), dst(place, "f16", whole)
    sums = dst(f"l1[{SUM_AT}]", "f32", column, (STAT,))
    mean = (sums, src(f"l1[{SUM_AT}]", "f32", column, (STAT,)))
    stat = dst(f"l1[{STAT_AT}]", "f16", column, (STAT,))
    spread = operand("src2", f"l1[{STAT_AT}]", "f16", whole, (STAT, 0))
    affine = [operand(r, f"l1[{at}]", "f16", whole, (0,)) for r, at in (("src2", SCALE_AT), ("src3", SHIFT_AT))]
    return [
        ("reduce_sum", (sums, x), {"reduce": "row"}),
        ("mul_scalar", (stat, mean[1]), {"value": 1 / WIDTH}),
        ("sub", (to, x, spread), {}),
        ("reduce_sumsq", (sums, x), {"reduce": "row"}),
        ("mul_scalar", mean, {"value": 1 / WIDTH}),
        ("add_scalar", mean, {"value": EPSILON}),
        ("rsqrt", (stat, mean[1]), {}),
        ("mul", (to, x, spread), {}),
        ("fma", (to, x, *affine), {}),
    ]


def text() -> str:
    """The program."""
    lines = Text(one_cluster())
    lines.tensor("input", "x", X_AT, "f16", (ROWS, WIDTH))
    lines.tensor("input", "gamma", GAMMA_AT, "f16", (WIDTH,))
    lines.tensor("input", "beta", BETA_AT, "f16", (WIDTH,))
    lines.tensor("output", "y", Y_AT, "f16", (ROWS, WIDTH))
    for core in range(CORES):
        stream = Stream(lines, core, TILES)
        for group, (near, far) in enumerate(((SCALE_AT, GAMMA_AT), (SHIFT_AT, BETA_AT))):
            lines.on(
                core, "load", "load_multicast", dst(f"l1[{near}]", "f16", (WIDTH,)),
                src(f"ddr[{far}]", "f16", (WIDTH,)), group=group,
            )  # fmt: skip
        for tile in range(TILES):
            place, far = f"l1[{tile * BYTES}]", core * MINE * WIDTH * 2 + tile * BYTES
            stream.load(tile, dst(place, "f16", (TILE, WIDTH)), src(f"ddr[{X_AT + far}]", "f16", (TILE, WIDTH)))
            stream.vector(tile, steps(tile))
            stream.store(tile, dst(f"ddr[{Y_AT + far}]", "f16", (TILE, WIDTH)), src(place, "f16", (TILE, WIDTH)))
    return lines.text()


def inputs(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Random rows, scale and shift."""
    shapes = {"x": (ROWS, WIDTH), "gamma": (WIDTH,), "beta": (WIDTH,)}
    return {name: (rng.standard_normal(shape) + 0.5).astype(np.float16) for name, shape in shapes.items()}


def reference(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Layer normalisation in float64."""
    x, gamma, beta = (arrays[name].astype(np.float64) for name in ("x", "gamma", "beta"))
    x = x - x.mean(axis=1, keepdims=True)
    return {"y": x / np.sqrt((x * x).mean(axis=1, keepdims=True) + EPSILON) * gamma + beta}


PROGRAM = Handwritten("layer normalisation", 0.85, text, inputs, reference)
