"""Candidate tilings of a matrix problem, as columns of arrays: l0 tiles first, then placements around them."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from dsa_compiler.isa.dtypes import item_bytes
from dsa_compiler.lower.matrix_problem import MatrixProblem, MatrixTiling, ceil_div
from dsa_compiler.lower.pitch import scope_pitch
from dsa_compiler.target import Target

KEPT_OF_SIZE = 2
KEPT_FASTEST = 12
STREAM_RINGS = (3, 8)
"""Slots of a streamed operand: what stores hold up has to be there already."""


@dataclass(frozen=True)
class MatrixTraffic:
    """What the epilogue and the operands ask for beyond the product itself.

    `extras`: operands of the epilogue as large as the output; `vector_ops`: vector instructions a tile, of which
    `transcendental` are slow and `vectors` have an operand with a value for each channel; `constant_b`: weights, laid
    out beforehand; `bias`: a bias row goes to l0b.
    """

    out_dtype: str
    extras: int = 0
    vector_ops: int = 1
    constant_b: bool = True
    bias: bool = False
    a_transposed: bool = False
    b_transposed: bool = False
    transcendental: int = 0
    vectors: int = 0


@dataclass(frozen=True)
class Tiles:
    """l0 tiles, one a row: see `MatrixTiling`.

    `products`, `moves` and `moves_b`, the part of the moves that is B's, are cycles of one k chunk.
    """

    rows: np.ndarray
    columns: np.ndarray
    n: np.ndarray
    kh: np.ndarray
    kw: np.ndarray
    c: np.ndarray
    products: np.ndarray
    moves: np.ndarray
    moves_b: np.ndarray

    def take(self, rows: np.ndarray) -> Tiles:
        """Those tiles."""
        return Tiles(*(getattr(self, f.name)[rows] for f in fields(self)))


@dataclass(frozen=True)
class Candidates:
    """Tilings, one a row; the fields of `MatrixTiling` as arrays, with the l0 tile's cycles."""

    tile: Tiles
    gb: np.ndarray
    gm: np.ndarray
    gn: np.ndarray
    piece_rows: np.ndarray
    piece_columns: np.ndarray
    panel: np.ndarray
    panel_outer: np.ndarray
    stream_a: np.ndarray
    stream_b: np.ndarray
    ring_a: np.ndarray
    ring_b: np.ndarray

    def take(self, rows: np.ndarray) -> Candidates:
        """Those candidates."""
        others = (getattr(self, f.name)[rows] for f in fields(self) if f.name != "tile")
        return Candidates(self.tile.take(rows), *others)

    def tiling(self, row: int) -> MatrixTiling:
        """One candidate."""
        t = self.tile
        return MatrixTiling(
            (int(self.gb[row]), int(self.gm[row]), int(self.gn[row])), int(self.piece_rows[row]),
            int(self.piece_columns[row]), int(t.rows[row]), int(t.columns[row]), int(t.n[row]), int(self.panel[row]),
            (int(t.kh[row]), int(t.kw[row])), int(t.c[row]), bool(self.panel_outer[row]), bool(self.stream_a[row]),
            bool(self.stream_b[row]), int(self.ring_a[row]), int(self.ring_b[row]),
        )  # fmt: skip


def up(value: np.ndarray | int, unit: int) -> np.ndarray:
    """`value` rounded up to a multiple of `unit`."""
    return -(-np.asarray(value) // unit) * unit


def burst_bytes(run: np.ndarray, step: np.ndarray, burst: int) -> np.ndarray:
    """Average bytes charged for a run of `run` bytes whose start is a multiple of gcd(run, step)."""
    align = np.gcd(np.gcd(run, step), burst)
    return ((run - align) / burst + 1) * burst


def pitch(extent: np.ndarray, dtype: str, target: Target, *scopes: str) -> np.ndarray:
    """Row pitches in elements where rows lie in each of `scopes`."""
    return up(extent, scope_pitch(1, dtype, target, *scopes))


def l0_tiles(p: MatrixProblem, traffic: MatrixTraffic, target: Target) -> Tiles:
    """Every l0 tile that fits with two slots of each operand, the fastest first."""
    pixels = np.array(_pixel_tiles(p, traffic, target))
    chunks = np.array([(kh, kw, c) for (kh, kw), c in _k_chunks(p, target)])
    n = np.array(_n_tiles(p, target))
    grid = np.stack(np.meshgrid(*(np.arange(len(x)) for x in (pixels, n, chunks)), indexing="ij"), -1).reshape(-1, 3)
    rows, columns = pixels[grid[:, 0]].T
    kh, kw, c = chunks[grid[:, 2]].T
    tiles = _with_cycles(rows, columns, n[grid[:, 1]], kh, kw, c, p, target)
    tiles = tiles.take(np.flatnonzero(_fits_l0(tiles, p, traffic, target)))
    return tiles.take(np.argsort(inner_cycles(tiles, p), kind="stable"))


def _with_cycles(rows, columns, n, kh, kw, c, p: MatrixProblem, target: Target) -> Tiles:  # type: ignore[no-untyped-def]
    um, un, uk = target.engine.matrix.unit[p.dtype]
    item, flag = item_bytes(p.dtype), target.sync.flag_cost
    k = kh * kw * np.minimum(c, p.depth)
    products = target.engine.matrix.startup + 3 * flag + -(-rows * columns // um) * -(-n // un) * -(-k // uk)
    run = kw * c * item
    if p.lines is not None:
        row = kh * burst_bytes(run, run * 0 + p.stride[1] * p.channels * item, target.memory["l1"].alignment)
    else:
        row = np.where(run % target.memory["l1"].alignment == 0, kh * run, kh * (up(run, 32) + 32))
    a = rows * columns * np.maximum(pitch(k, p.dtype, target, "l1", "l0a") * item, row)
    b = k * pitch(n, p.dtype, target, "l1", "l0b") * item
    moves = 2 * (target.engine.move.startup + 2 * flag) + (a + b) / target.engine.move.port_bandwidth
    return Tiles(rows, columns, n, kh, kw, c, products.astype(float), moves, b / target.engine.move.port_bandwidth)


def _fits_l0(t: Tiles, p: MatrixProblem, traffic: MatrixTraffic, target: Target) -> np.ndarray:
    memory, item, acc = target.memory, item_bytes(p.dtype), item_bytes(p.accumulator)
    k, m = t.kh * t.kw * t.c, t.rows * t.columns
    a = m * pitch(k, p.dtype, target, "l1", "l0a") * item
    b = up(k * pitch(t.n, p.dtype, target, "l1", "l0b") * item, memory["l0b"].alignment)
    width = pitch(t.n, p.accumulator, target, "l0b", "l0c")
    bias = 2 * up(width * acc, memory["l0b"].alignment) if traffic.bias else 0
    fits = (2 * a <= memory["l0a"].size) & (2 * b + bias <= memory["l0b"].size)
    return fits & (2 * m * width * acc <= memory["l0c"].size)


def inner_cycles(t: Tiles, p: MatrixProblem) -> np.ndarray:
    """Cycles of products, or of moves where they take longer, for one image on one core."""
    tiles = -(-p.out_height // t.rows) * -(-p.out_width // t.columns) * -(-p.out_channels // t.n)
    chunks = -(-p.depth // t.c) * (p.kernel[0] // t.kh) * (p.kernel[1] // t.kw)
    return tiles * (chunks * np.maximum(t.products, t.moves) + 8)


def _pixel_tiles(p: MatrixProblem, traffic: MatrixTraffic, target: Target) -> list[tuple[int, int]]:
    """(rows, columns): rows of an img2col are tight, so several rows need columns that divide the width."""
    limit, um = target.limits.matrix_m, target.engine.matrix.unit[p.dtype][0]
    widths = {ceil_div(p.out_width, j) for j in range(1, 9)} | {
        int(up(ceil_div(p.out_width, j), um)) for j in range(1, 9)
    }
    if p.lines is not None:
        unit = target.memory["l1"].alignment
        widths = {
            w for w in widths if w == p.out_width or w * p.stride[1] * p.channels * item_bytes(p.dtype) % unit == 0
        } | {unit // 8}
    tiles = set()
    for w in (w for w in widths if w <= min(p.out_width, limit)):
        most = min(p.out_height, max(1, min(limit, 512) // w)) if p.out_width % w == 0 else 1
        rows = {most, 1} | {r for r in range(1, most + 1) if r <= 8 or r % 8 == 0}
        rows |= {ceil_div(p.out_height, j) for j in range(1, 17)}
        rows |= {ceil_div(p.out_height, target.cores * j) for j in (1, 2, 3, 4)}
        rows |= {int(up(ceil_div(p.out_height, target.cores * j), um)) for j in (1, 2, 3, 4)}
        rows |= {int(up(ceil_div(p.out_height, j), um)) for j in range(1, 33)}
        if traffic.a_transposed:
            unit = target.row_elements(item_bytes(p.dtype))
            rows = (
                {r for r in rows if r % unit == 0 and r <= limit}
                | ({p.out_height} if p.out_height <= limit else set())
                | {unit}
            )
            tiles |= {(r, w) for r in rows}
            continue
        tiles |= {(r, w) for r in rows if r <= most and (up(r * w, um) <= 1.35 * r * w or r in (1, most))}
    return sorted(tiles)


def _n_tiles(p: MatrixProblem, target: Target) -> list[int]:
    if p.diagonal:
        return [p.diagonal]
    un = target.engine.matrix.unit[p.dtype][1]
    limit, top = min(target.limits.matrix_n, 512), int(up(p.out_channels, un))
    sizes = {un * f for f in (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)} | {
        int(up(ceil_div(p.out_channels, j), un)) for j in range(1, 9)
    }
    return sorted(s for s in sizes if s <= min(limit, top)) or [min(top, limit)]


def _k_chunks(p: MatrixProblem, target: Target) -> list[tuple[tuple[int, int], int]]:
    """(taps, channels): several taps only where the channels of a chunk divide all channels."""
    limit = target.limits.matrix_k
    unit = target.row_elements(item_bytes(p.dtype))
    kh, kw = p.kernel
    if p.diagonal:
        blocks = {(kh, kw), (1, kw), (1, 1)}
        return sorted((t, p.diagonal) for t in blocks if t[0] * t[1] * p.diagonal <= limit)
    if p.lines is not None:
        return [((h, kw), p.channels) for h in range(1, kh + 1) if kh % h == 0 and h * kw * p.channels <= limit]
    divisors = [c for c in range(unit, p.channels, unit) if p.channels % c == 0] + [p.channels]
    chunks = {((1, 1), min(unit * f, p.channels)) for f in (1, 2, 4, 8)}
    for taps in {(kh, kw), (1, kw), (1, 1)}:
        chunks |= {(taps, c) for c in divisors}
    if kh * kw == 1:
        tails = {unit * f for f in (1, 2, 4, 8, 16, 32)} | {
            int(up(ceil_div(p.channels, j), unit)) for j in range(1, 17)
        }
        chunks |= {((1, 1), c) for c in tails if c <= p.channels}
    return sorted((t, c) for t, c in chunks if t[0] * t[1] * c <= limit)


def diverse(tiles: Tiles) -> Tiles:
    """The fastest tiles of each size: by n and by the power of two of the pixels; the smallest two as a last resort.

    Small tiles are slower on one core, but only they divide little work evenly over many.
    """
    kept: list[int] = []
    seen: dict[tuple[int, int], int] = {}
    sizes = np.ceil(np.log2(np.maximum(tiles.rows * tiles.columns, 8))).astype(int)
    for i, bucket in enumerate(zip(tiles.n.tolist(), sizes.tolist(), strict=True)):
        if i < KEPT_FASTEST or seen.get(bucket, 0) < KEPT_OF_SIZE:
            kept.append(i)
            seen[bucket] = seen.get(bucket, 0) + 1
    size = tiles.rows * tiles.columns * tiles.n * tiles.c
    small = [int(i) for i in np.argsort(size, kind="stable")[:2] if int(i) not in kept]
    return tiles.take(np.array(kept + small, np.int64))


def placements(tiles: Tiles, p: MatrixProblem, traffic: MatrixTraffic, target: Target) -> Candidates:
    """Every placement around the tiles: core splits, pieces, panels, and what is streamed.

    Tiles that cut the result into as many parts have the same placements, which are listed once.
    """
    parts = [-(-p.out_height // tiles.rows), -(-p.out_width // tiles.columns), -(-p.out_channels // tiles.n)]
    distinct, which = np.unique(np.stack(parts, axis=1), axis=0, return_inverse=True)
    listed = [np.array(_placements_of(r, c, n, p, target), np.int64).reshape(-1, 11) for r, c, n in distinct.tolist()]
    counts = np.array([len(places) for places in listed], np.int64)[which.reshape(-1)]
    table = np.concatenate([listed[d] for d in which.reshape(-1)])
    gb, gm, gn, in_rows, in_columns, panel, outer, stream_a, stream_b, ring_a, ring_b = table.T
    tile = tiles.take(np.repeat(np.arange(len(tiles.rows)), counts))
    flags = outer.astype(bool), stream_a.astype(bool), stream_b.astype(bool)
    piece_rows, piece_columns = tile.rows * in_rows, tile.columns * in_columns
    return Candidates(tile, gb, gm, gn, piece_rows, piece_columns, panel, *flags, ring_a, ring_b)


def _placements_of(
    row_tiles: int, column_tiles: int, chunks: int, p: MatrixProblem, target: Target
) -> list[tuple[int, ...]]:
    """Places of tiles that cut the result into so many: cores, tiles of a piece, panel, order, streams and rings."""
    result: list[tuple[int, ...]] = []
    for gb, gm, gn in core_splits(p, chunks, target):
        mine = ceil_div(chunks, gn)
        panels = sorted({1, 2, 4, mine, ceil_div(mine, 2)} & set(range(1, mine + 1)))
        for in_rows in sorted({1, 2, 3, 4, 8, 16, row_tiles} & set(range(1, row_tiles + 1))):
            for in_columns in {1, column_tiles}:
                place = (gb, gm, gn, in_rows, in_columns)
                for panel in panels:
                    result.append((*place, panel, 1, 0, 0, 2, 1 if panel == mine else 2))
                    result.append((*place, panel, 0, 0, 0, 2, 2))
                if p.diagonal:  # blocks are made where they are kept
                    continue
                result += [(*place, mine, 1, 0, 1, a, b) for a in (2, 1) for b in STREAM_RINGS]
                if in_rows * in_columns == 1 and p.lines is None:
                    result += [(*place, mine, 1, 1, 1, r, r) for r in STREAM_RINGS]
                    result.append((*place, 1, 1, 1, 0, 3, 2))
    return result


def core_splits(p: MatrixProblem, chunks: int, target: Target) -> list[tuple[int, int, int]]:
    """Cores by (batch, m, n): no more than there is work along each, and no fewer in all than half the best."""
    cores, pixels = target.cores, p.images * p.out_height * p.out_width
    divisors = [d for d in range(1, cores + 1) if cores % d == 0]
    splits = {
        (min(gb, p.batches), min(gm, pixels), min(cores // gb // gm, chunks))
        for gb in divisors
        for gm in divisors
        if cores % (gb * gm) == 0
    }
    most = max(gb * gm * gn for gb, gm, gn in splits)
    return sorted(s for s in splits if 2 * s[0] * s[1] * s[2] >= most)
