"""Sum over the first axis of 16384 x 1024, float16 to float32, on the 32 cores of npu-v1.

Each core sums 512 rows, as they arrive, into one row of float32. The rows of a cluster's cores meet in its LLB, where
its first core adds them; the four clusters' rows meet in ddr, where the first core of all adds them. The last tiles
are small, so that little is left to add after the last load.
"""

from __future__ import annotations

import numpy as np

from ci.handwritten.program import Handwritten
from ci.handwritten.writer import CORES as PER_CLUSTER
from ci.handwritten.writer import Ring, Text, dst, operand, src

ROWS, WIDTH, CORES = 16384, 1024, 32
CLUSTERS = CORES // PER_CLUSTER
MINE = ROWS // CORES
SLOT, SLOTS = 131072, 8
"""Buffers of 64 rows, one in each bank; sums and parts have the last two banks."""
TILES = (64, 64, 64, 64, 64, 64, 64, 32, 16, 8, 8)
SUM_AT, PART_AT, OTHERS_AT = 8 * SLOT, 8 * SLOT + 4096, 9 * SLOT
X_AT, Y_AT = 0, ROWS * WIDTH * 2
PARTS_AT = Y_AT + WIDTH * 4
LINE = WIDTH * 4


def row(place: str, role: str = "src") -> str:
    """A row of float32."""
    return operand(role, place, "f32", (1, WIDTH))


def sum_own(lines: Text, core: int) -> None:
    """A core's 512 rows into the row at SUM_AT."""
    ring = Ring("load", "vector", 0, SLOTS)
    done = 0
    for tile, rows in enumerate(TILES):
        place = f"l1[{tile % SLOTS * SLOT}]"
        lines.on(
            core, "load", "load", dst(place, "f16", (rows, WIDTH)),
            src(f"ddr[{X_AT + (core * MINE + done) * WIDTH * 2}]", "f16", (rows, WIDTH)),
            wait=ring.room(tile), set=[ring.full],
        )  # fmt: skip
        done += rows
        lines.on(
            core, "vector", "reduce_sum", row(f"l1[{PART_AT if tile else SUM_AT}]", "dst"),
            src(place, "f16", (rows, WIDTH)), reduce="column", wait=[ring.full],
            set=[ring.free] if tile + SLOTS < len(TILES) else [],
        )  # fmt: skip
        if tile:
            last = ["core:vector>store:0"] if tile == len(TILES) - 1 else []
            lines.on(
                core, "vector", "add", row(f"l1[{SUM_AT}]", "dst"), row(f"l1[{SUM_AT}]"), row(f"l1[{PART_AT}]", "src2"),
                set=last,
            )  # fmt: skip


def collect(lines: Text, core: int, count: int, far: str, waits: list[list[str]], number: int) -> None:
    """Add `count` rows that lie in llb or ddr into the row at SUM_AT; `waits` are taken four at a time."""
    for wait in waits[:-1]:
        lines.on(core, "load", "wait", wait=wait)
    arrived = f"core:load>vector:{number}"
    shape = (count, WIDTH)
    lines.on(
        core,
        "load",
        "load",
        dst(f"l1[{OTHERS_AT}]", "f32", shape),
        src(far, "f32", shape),
        wait=waits[-1],
        set=[arrived],
    )
    lines.on(
        core, "vector", "reduce_sum", row(f"l1[{SUM_AT}]", "dst"), src(f"l1[{OTHERS_AT}]", "f32", shape),
        reduce="column", wait=[arrived], set=["core:vector>store:0"],
    )  # fmt: skip


def give(lines: Text, core: int, far: str, flags: list[str]) -> None:
    """Store the row at SUM_AT."""
    lines.on(
        core, "store", "store", dst(far, "f32", (1, WIDTH)), src(f"l1[{SUM_AT}]", "f32", (1, WIDTH)),
        wait=["core:vector>store:0"], set=flags,
    )  # fmt: skip


def text() -> str:
    """The program."""
    lines = Text("npu-v1")
    lines.tensor("input", "x", X_AT, "f16", (ROWS, WIDTH))
    lines.tensor("output", "y", Y_AT, "f32", (WIDTH,))
    for core in range(CORES):
        sum_own(lines, core)
        give(lines, core, f"llb[{core % PER_CLUSTER * LINE}]", [f"cluster:{core % PER_CLUSTER}"])
    for cluster in range(CLUSTERS):
        flags = [f"cluster:{i}" for i in range(PER_CLUSTER)]
        leader = cluster * PER_CLUSTER
        collect(lines, leader, PER_CLUSTER, "llb[0]", [flags[:4], flags[4:]], 1)
        give(lines, leader, f"ddr[{PARTS_AT + cluster * LINE}]", [f"chip:{cluster}"])
    collect(lines, 0, CLUSTERS, f"ddr[{PARTS_AT}]", [[f"chip:{i}" for i in range(CLUSTERS)]], 2)
    give(lines, 0, f"ddr[{Y_AT}]", [])
    return lines.text()


def inputs(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Random rows."""
    return {"x": rng.standard_normal((ROWS, WIDTH), np.float32).astype(np.float16)}


def reference(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The sum in float64."""
    return {"y": arrays["x"].sum(axis=0, dtype=np.float64)}


PROGRAM = Handwritten("reduction", 0.85, text, inputs, reference, tolerance=1e-4)
