"""How a copy with short rows goes by lanes: candidates and their cost.

The vector engine pays for every row, so exchanging axes of which one is short is slow if done directly. By lanes, many
rows of such a copy lie side by side: a row of L1 is one place of the row for all lanes.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dsa_compiler.isa.dtypes import item_bytes
from dsa_compiler.target import Target

MOST_PLACES = 1024
MOST_LANES = 256
LEAST_LANES = 8
LEAST_GAIN = 0.8
"""Of the cycles of the direct way; estimates are not better than that."""


@dataclass(frozen=True)
class Copy:
    """A copy between views of the same extents: strides in elements as stored, and the types of both sides."""

    extents: tuple[int, ...]
    source: tuple[int, ...]
    out: tuple[int, ...]
    dtype: str
    out_dtype: str

    @property
    def widens(self) -> bool:
        """Whether the result's elements are wider than the source's."""
        return item_bytes(self.out_dtype) > item_bytes(self.dtype)

    @property
    def turned_back(self) -> str:
        """The type in which lanes become rows again: the narrower one."""
        return self.dtype if self.widens else self.out_dtype


@dataclass(frozen=True)
class LaneTiling:
    """A row is `part` neighbours along axis `split` times all of axis `other`; a tile has `lanes` of them.

    Lanes count along axis `lane`; if that is `split` itself, a lane is a whole part. `turned` loads rows transposed.
    """

    split: int
    part: int
    other: int
    lane: int
    lanes: int
    turned: bool
    cores: int

    def row(self, copy: Copy, strides: Sequence[int]) -> tuple[tuple[int, int], tuple[int, int]]:
        """(axis, extent in a row) of the two axes of a row, the one of the smaller stride last."""
        pair = [(self.split, self.part), (self.other, copy.extents[self.other])]
        pair.sort(key=lambda axis: -abs(strides[axis[0]]))
        return pair[0], pair[1]

    def counts(self, copy: Copy) -> dict[int, int]:
        """Tiles along each axis that has several: axes outside of the row one by one, parts, lanes."""
        counts = {a: n for a, n in enumerate(copy.extents) if a not in (self.split, self.other)}
        counts[self.split] = copy.extents[self.split] // self.part
        counts[self.lane] = -(-counts[self.lane] // self.lanes)
        return counts

    def step(self, copy: Copy) -> int:
        """The source's elements from one place of the inner axis of its row to the next."""
        return copy.source[self.row(copy, copy.source)[1][0]]


def choose_lanes(copy: Copy, target: Target, direct: float) -> LaneTiling | None:
    """The tiling of least expected cycles, None if none beats the `direct` way clearly."""
    ranked = ((lane_cycles(t, copy, target), n, t) for n, t in enumerate(_candidates(copy, target)))
    best = min(ranked, key=lambda x: x[:2], default=None)
    return None if best is None or best[0] > LEAST_GAIN * direct else best[2]


def _candidates(copy: Copy, target: Target) -> Iterator[LaneTiling]:
    axes = range(len(copy.extents))
    inner = min((a for a in axes if copy.extents[a] > 1), key=lambda a: abs(copy.source[a]), default=-1)
    last = min((a for a in axes if copy.extents[a] > 1), key=lambda a: abs(copy.out[a]), default=-1)
    turned = (False, True) if target.features.transpose_load else (False,)
    for split, other in itertools.permutations(axes, 2):
        if not {inner, last} <= {split, other} or copy.out[last] != 1 or copy.source[inner] < 1:
            continue
        for part in _parts(copy.extents[split], copy.extents[other]):
            whole = part == copy.extents[split]
            for lane in (a for a in axes if a != other and (a != split or not whole)):
                most = copy.extents[split] // part if lane == split else copy.extents[lane]
                for lanes in _lane_counts(most):
                    for turn in turned:
                        tiling = LaneTiling(split, part, other, lane, lanes, turn, 1)
                        count = math.prod(tiling.counts(copy).values())
                        tiling = LaneTiling(split, part, other, lane, lanes, turn, min(target.cores, count))
                        if _fits(tiling, copy, target):
                            yield tiling


def _parts(extent: int, others: int) -> list[int]:
    """Divisors of an axis that make rows of a useful length."""
    parts = [d for d in range(1, extent + 1) if extent % d == 0 and d * others <= MOST_PLACES]
    return [d for d in parts if d * others >= 16] if len(parts) > 12 else parts


def _lane_counts(most: int) -> list[int]:
    counts = {min(most, c) for c in (16, 32, 64, 128, MOST_LANES)} | {-(-most // j) for j in range(1, 9)}
    return sorted(c for c in counts if LEAST_LANES <= c <= MOST_LANES)


def _span(tiling: LaneTiling, copy: Copy) -> tuple[int, int]:
    """Rows and columns of a row as it is loaded: all elements from its first to its last."""
    (_, rows), (_, columns) = tiling.row(copy, copy.source)
    return rows, (columns - 1) * tiling.step(copy) + 1


def _fits(tiling: LaneTiling, copy: Copy, target: Target) -> bool:
    """Whether the buffers fit L1 and the rows within a row start aligned where DMA walks them one by one."""
    unit, out_unit = (target.row_elements(item_bytes(d)) for d in (copy.dtype, copy.out_dtype))
    rows, columns = _span(tiling, copy)
    (outer_axis, outer), (inner_axis, inner) = tiling.row(copy, copy.out)
    if not tiling.turned and columns % unit and not _dense(tiling, copy, columns):
        return False
    if copy.out[outer_axis] != inner * copy.out[inner_axis] and inner % out_unit:
        return False
    return _l1_bytes(tiling, copy, target, rows * columns, outer * inner) <= target.memory["l1"].size


def _dense(tiling: LaneTiling, copy: Copy, columns: int) -> bool:
    (outer, rows), _ = tiling.row(copy, copy.source)
    return rows == 1 or copy.source[outer] == columns


def _l1_bytes(tiling: LaneTiling, copy: Copy, target: Target, loaded: int, stored: int) -> int:
    size, out_size = item_bytes(copy.dtype), item_bytes(copy.out_dtype)
    lanes = target.pitch(tiling.lanes, size) * size
    turned = loaded * lanes * (2 if tiling.turned else 1)
    rows = 0 if tiling.turned else 2 * tiling.lanes * target.pitch(loaded, size) * size
    back = item_bytes(copy.turned_back)
    moved = stored * target.pitch(tiling.lanes, back) * back
    narrow = tiling.lanes * target.pitch(stored, back) * back if copy.widens else 0
    return turned + rows + moved + narrow + 2 * tiling.lanes * target.pitch(stored, out_size) * out_size


def transpose_cycles(rows: int, columns: int, size: int, target: Target) -> float:
    """Vector cycles of one transposition of `rows` x `columns` elements."""
    vector = target.engine.vector

    def side(count: int, length: int) -> float:
        return count * (vector.row_overhead + -(-length * size // vector.width) * vector.cost["gather"])

    return vector.startup + 3 * target.sync.flag_cost + max(side(rows, columns), side(columns, rows))


def lane_cycles(tiling: LaneTiling, copy: Copy, target: Target) -> float:
    """Expected cycles of the whole copy."""
    size, out_size = item_bytes(copy.dtype), item_bytes(copy.out_dtype)
    vector, load, memory = target.engine.vector, target.engine.load, target.memory["ddr"]
    rows, columns = _span(tiling, copy)
    (outer_axis, outer), (inner_axis, inner) = tiling.row(copy, copy.out)
    lanes = tiling.lanes
    work = transpose_cycles(lanes, outer * inner, item_bytes(copy.turned_back), target)
    if copy.widens:
        work += vector.startup + lanes * (vector.row_overhead + -(-outer * inner * out_size // vector.width))
    if not tiling.turned:
        work += transpose_cycles(lanes, rows * columns, size, target)
    if _moves(tiling, copy):
        width = -(-lanes * max(size, out_size) // vector.width)
        work += vector.startup + outer * inner * (vector.row_overhead + width * vector.cost["simple"])
    total = math.prod(tiling.counts(copy).values())
    per_core = -(-total // tiling.cores)
    share = memory.bandwidth / tiling.cores
    run = (rows * columns, 1) if _dense(tiling, copy, columns) else (columns, rows)
    read = lanes * run[1] * charged(run[0] * size, memory.burst)
    rate = min(load.port_bandwidth, load.transpose_rate) if tiling.turned else load.port_bandwidth
    joined = copy.out[outer_axis] == inner * copy.out[inner_axis]
    out_run, out_runs = (outer * inner, 1) if joined else (inner, outer)
    written = lanes * out_runs * charged(out_run * out_size, memory.burst)
    taken = load.startup + read / min(rate, share)
    put = target.engine.store.startup + written / min(target.engine.store.port_bandwidth, share)
    return per_core * max(work, taken, put, (read + written) / share) + work + taken + put


def _moves(tiling: LaneTiling, copy: Copy) -> bool:
    """Whether rows change order, are left out, or change their type between the transpositions."""
    same = tiling.row(copy, copy.source) == tiling.row(copy, copy.out)
    return not same or tiling.step(copy) != 1 or copy.dtype != copy.turned_back


def charged(run: int, burst: int) -> float:
    """Bytes of a run of `run` bytes in whole bursts, its start anywhere."""
    return run if run % burst == 0 else (run // burst + 1.5) * burst
