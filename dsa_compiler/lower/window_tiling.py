"""Choose the tile of a pooling or depthwise layer: estimated time of every candidate by its busiest resource."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from math import gcd

from dsa_compiler.errors import Infeasible
from dsa_compiler.isa.dtypes import item_bytes
from dsa_compiler.lower.tile_kernel import ceil_div
from dsa_compiler.lower.window_kernel import WindowProblem, WindowTiling, accumulator_dtype, tile_depth
from dsa_compiler.target import Target

ROW_PARTS = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 56, 64, 80, 112)
COLUMN_PARTS = (1, 2, 3, 4, 7, 8, 14, 16)
STEP_CYCLES = 16
"""Cycles that a tile costs beyond its busiest resource: between tilings of about equal time, fewer and larger win."""
CHANNEL_PARTS = (2, 3, 4, 5, 6, 8, 10, 12, 15, 16, 20, 24, 30, 32, 48, 64)


def choose_window_tiling(
    problem: WindowProblem, extras: int, target: Target, *, rank: int = 0, vectors: int = 0, operations: int = 0
) -> WindowTiling:
    """Rows, columns and channels of least estimated time, or the choice `rank` places behind it.

    `extras` counts operands of the epilogue as large as the result, `vectors` those with a value for each channel,
    `operations` the epilogue's vector instructions. Raises `Infeasible` if not even one output pixel of one row of
    channels fits L1.
    """
    model = _Model(problem, extras, vectors, max(operations, extras + vectors), target)
    ranked = sorted(model.candidates(), key=model.cycles)
    if rank >= len(ranked):
        raise Infeasible(
            "l1", model.bytes(WindowTiling(1, 1, 1, 1)), target.memory["l1"].size, where="lower.window_tiling"
        )
    return ranked[rank]


def burst_bytes(run: int, step: int, burst: int) -> float:
    """Average bytes charged for a run of `run` bytes whose start is a multiple of gcd(run, step)."""
    align = gcd(gcd(run, step), burst)
    return ((run - align) / burst + 1) * burst


@dataclass
class _Model:
    p: WindowProblem
    extras: int
    vectors: int
    operations: int
    target: Target
    _reach: dict[tuple[int, bool], int] = field(default_factory=dict)

    @property
    def item(self) -> int:
        """Bytes of an element in ddr."""
        return item_bytes(self.p.dtype)

    def candidates(self) -> Iterator[WindowTiling]:
        """Tilings whose buffers fit L1."""
        p, target = self.p, self.target
        unit = tile_depth(p, 1, target)
        channels = {p.channels} | {
            min(p.channels, ceil_div(ceil_div(p.channels, j), unit) * unit) for j in CHANNEL_PARTS
        }
        for c in sorted(channels):
            for columns in sorted({ceil_div(p.out_width, j) for j in (*COLUMN_PARTS, p.out_width)}):
                for rows in sorted({ceil_div(p.out_height, j) for j in (*ROW_PARTS, p.out_height)}):
                    one = WindowTiling(rows, columns, c, 1)
                    tiling = WindowTiling(rows, columns, c, min(target.cores, self._tiles(one)))
                    if self.bytes(tiling) <= target.memory["l1"].size:
                        yield tiling

    def _tiles(self, t: WindowTiling) -> int:
        p = self.p
        return (
            p.images
            * ceil_div(p.out_height, t.rows)
            * ceil_div(p.out_width, t.columns)
            * ceil_div(p.channels, t.channels)
        )

    def bytes(self, t: WindowTiling) -> int:
        """L1 bytes of a tile's buffers with their rings."""
        p, depth = self.p, tile_depth(self.p, t.channels, self.target)
        acc = item_bytes(accumulator_dtype(p))
        source = p.rows_in(t.rows) * p.columns_in(t.columns) * depth * self.item
        out = t.rows * t.columns * depth
        wide = acc + (self.item if acc != self.item else 0) + self.item * self.extras
        spare = out * acc * (2 if self.operations > self.extras + self.vectors + 2 else 0)
        fixed = depth * 4 * (p.kernel[0] * p.kernel[1] * (p.reduction == "multiply") + self.vectors * t.columns)
        return 2 * (source + out * wide + fixed) + spare + 4096

    def _input(self, extent: int, outputs: int, tile: int, axis: int) -> int:
        """Input rows, or columns, that all tiles along an axis load together."""
        key = (tile, axis == 0)
        if key not in self._reach:
            p = self.p
            reach = p.rows_in if axis == 0 else p.columns_in
            starts = [b * tile * p.stride[axis] - p.pad[axis] for b in range(ceil_div(outputs, tile))]
            self._reach[key] = sum(min(s + reach(tile), extent) - max(s, 0) for s in starts)
        return self._reach[key]

    def _source(self, t: WindowTiling) -> float:
        """Bytes that all loads of one image are charged."""
        p, burst = self.p, self.target.memory["ddr"].burst
        rows = self._input(p.height, p.out_height, t.rows, 0)
        columns = self._input(p.width, p.out_width, t.columns, 1)
        return max(self._runs(rows, columns, t, burst), rows * columns * self._blocks(t) * self._depth_bytes(t))

    def _runs(self, rows: int, columns: int, t: WindowTiling, burst: int) -> float:
        """Bytes of whole bursts of `rows` x `columns` pixels of all channels, in runs of a tile."""
        pitch = self.target.pitch(self.p.channels, self.item) * self.item
        if self._joined(t):
            return rows * columns * pitch
        run = min(t.channels, self.p.channels) * self.item
        return rows * columns * self._blocks(t) * burst_bytes(run, gcd(t.channels * self.item, pitch), burst)

    def _joined(self, t: WindowTiling) -> bool:
        """Whether the pixels of a tile are contiguous in ddr and in L1."""
        whole = t.channels >= self.p.channels
        return whole and tile_depth(self.p, t.channels, self.target) == self.p.channels

    def _blocks(self, t: WindowTiling) -> int:
        return ceil_div(self.p.channels, t.channels)

    def _depth_bytes(self, t: WindowTiling) -> int:
        return tile_depth(self.p, t.channels, self.target) * self.item

    def _vector(self, t: WindowTiling) -> float:
        """Cycles of the vector engine for one tile."""
        p, vector = self.p, self.target.engine.vector
        depth = tile_depth(p, t.channels, self.target)
        acc = item_bytes(accumulator_dtype(p))
        size = t.rows * t.columns * depth
        one = vector.row_overhead + ceil_div(size * acc, vector.width)
        cycles = p.kernel[0] * p.kernel[1] * one + vector.startup
        row = t.columns * depth if self._blocks(t) == 1 else depth
        repeated = size // row * (vector.row_overhead + ceil_div(row * self.item, vector.width))
        plain = self.operations - self.vectors + (acc != self.item)
        return cycles + self.vectors * (repeated + vector.startup) + plain * (one + vector.startup)

    def cycles(self, t: WindowTiling) -> float:
        """Estimated time: the busiest of vector engine, ports and ddr, and one tile through the others."""
        p, target = self.p, self.target
        load, store, ddr = target.engine.load, target.engine.store, target.memory["ddr"]
        tiles = self._tiles(t)
        steps = ceil_div(tiles, t.cores)
        source = self._source(t) * p.images / tiles
        out = self._runs(p.out_height, p.out_width, t, ddr.burst) * p.images / tiles
        loads = source + out * self.extras
        flags = 2 * target.sync.flag_cost
        stages = (
            loads / load.port_bandwidth + (1 + self.extras) * (load.startup + flags),
            self._vector(t) + flags,
            out / store.port_bandwidth + store.startup + flags,
        )
        shared = (loads + out) * tiles / steps / ddr.bandwidth
        # a buffer of the ring of two is free again when its tile has been worked on
        turn = (max(stages[0], stages[2]) + stages[1] + ddr.latency) / 2
        busiest = max(*stages, shared, turn)
        first = max(stages[0], loads * t.cores / ddr.bandwidth)
        last = max(stages[2], out * t.cores / ddr.bandwidth)
        passing = first + stages[1] + last
        return (steps - 1) * busiest + max(passing, shared) + 2 * ddr.latency + steps * STEP_CYCLES
