"""Choose cores, tiles and loop order of a convolution or matrix product by an analytic model of the pipeline.

Candidates come in two steps: l0 tiles, of which the few with the cheapest products and moves survive, then the
placement around them (core split, pieces, panels, what stays in L1). A candidate costs the busiest of the
engines and of the shared memory, plus the time until the first product can start and after the last one ends.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from dsa_compiler.errors import Infeasible
from dsa_compiler.isa.dtypes import item_bytes
from dsa_compiler.lower.matrix_kernel import MatrixProblem, MatrixTiling, ceil_div
from dsa_compiler.lower.pipeline_model import LONGEST, Machine, Steps, simulate_steps
from dsa_compiler.lower.pitch import accumulator_pitch, operand_pitch
from dsa_compiler.target import Target

L0_KEPT = 6
PRUNE = 1.1
SIMULATED = 96
NEAR = 1.4
FLAG_USES = 3
"""Waits and sets that a product or move carries, typically."""


@dataclass(frozen=True)
class MatrixTraffic:
    """What the epilogue and the operands ask for beyond the product itself.

    `extras`: operands of the epilogue as large as the output; `vector_ops`: vector instructions a tile;
    `constant_b`: weights, laid out beforehand; `bias`: a bias row goes to l0b.
    """

    out_dtype: str
    extras: int = 0
    vector_ops: int = 1
    constant_b: bool = True
    bias: bool = False
    a_transposed: bool = False
    b_transposed: bool = False


@dataclass(frozen=True)
class Estimate:
    """Cycles of one kernel by resource, and in all."""

    matrix: float
    move: float
    vector: float
    load: float
    store: float
    ddr: float
    fill: float
    drain: float

    @property
    def cycles(self) -> float:
        """The whole kernel."""
        return max(self.matrix, self.move, self.vector, self.load, self.store, self.ddr) + self.fill + self.drain


@dataclass(frozen=True)
class L0Tile:
    """An l0 tile: `rows` x `columns` x `n`, k in chunks of `taps` x `c`."""

    rows: int
    columns: int
    n: int
    taps: tuple[int, int]
    c: int


def choose_matrix_tiling(problem: MatrixProblem, traffic: MatrixTraffic, target: Target, *, rank: int = 0) -> MatrixTiling:
    """The tiling of least estimated time, or the one `rank` places behind it.

    Raises `Infeasible` if no candidate fits the scratchpads.
    """
    ranked = rank_matrix_tilings(problem, traffic, target)
    if rank >= len(ranked):
        raise Infeasible("tilings", rank + 1, len(ranked), where="lower.matrix_tiling")
    return ranked[rank][1]


def rank_matrix_tilings(
    problem: MatrixProblem, traffic: MatrixTraffic, target: Target
) -> list[tuple[float, MatrixTiling]]:
    """Feasible candidates with their estimated cycles, best first; those that cannot come near are left out."""
    model = _Model(problem, traffic, target)
    tiles = sorted(model.l0_tiles(), key=model.inner_cycles)
    ranked: list[tuple[float, MatrixTiling]] = []
    best = float("inf")
    for tile in _diverse(tiles):
        if model.least_cycles(tile) > best * PRUNE and ranked:
            continue
        for tiling in model.tilings(tile):
            if model.l1_bytes(tiling) <= target.memory["l1"].size:
                cycles = model.estimate(tiling).cycles
                best = min(best, cycles)
                ranked.append((cycles, tiling))
    ranked.sort(key=lambda item: item[0])
    near = [t for cycles, t in ranked[:SIMULATED] if cycles <= ranked[0][0] * NEAR]
    simulated = sorted(((model.simulate(t), t) for t in near), key=lambda item: item[0])
    return simulated + ranked[len(near) :]


def _diverse(tiles: list[L0Tile]) -> list[L0Tile]:
    """The cheapest tiles of every width in n, a few of one shape at most, and the smallest as a last resort."""
    kept: list[L0Tile] = []
    shapes: Counter[tuple[int, int, int]] = Counter()
    widths: Counter[int] = Counter()
    for tile in tiles:
        shape = (tile.rows, tile.columns, tile.n)
        if shapes[shape] < 2 and widths[tile.n] < L0_KEPT:
            kept.append(tile)
            shapes[shape] += 1
            widths[tile.n] += 1
    small = sorted(tiles, key=lambda t: t.rows * t.columns * t.n * t.c)[:2]
    return kept + [t for t in small if t not in kept]


class _Model:
    def __init__(self, problem: MatrixProblem, traffic: MatrixTraffic, target: Target) -> None:
        self.p, self.traffic, self.target = problem, traffic, target
        self.item = item_bytes(problem.dtype)
        self.out_item = item_bytes(traffic.out_dtype)
        self.acc_item = item_bytes(problem.accumulator)
        self.um, self.un, self.uk = target.engine.matrix.unit[problem.dtype]

    # ---- candidates ------------------------------------------------------------------------------------------
    def l0_tiles(self) -> Iterator[L0Tile]:
        """Every l0 tile that fits, with two slots of each operand."""
        memory = self.target.memory
        for rows, columns in self._pixel_tiles():
            m = rows * columns
            for n in self._n_tiles():
                if 2 * m * self._acc_pitch(n) * self.acc_item > memory["l0c"].size:
                    continue
                bias = 2 * self._acc_pitch(n) * self.acc_item if self.traffic.bias else 0
                for taps, c in self._k_chunks():
                    k_pitch = operand_pitch(taps[0] * taps[1] * c, self.p.dtype, self.target)
                    n_pitch = operand_pitch(n, self.p.dtype, self.target)
                    a, b = m * k_pitch * self.item, taps[0] * taps[1] * c * n_pitch * self.item
                    if 2 * a <= memory["l0a"].size and 2 * _up(b, memory["l0b"].alignment) + bias <= memory["l0b"].size:
                        yield L0Tile(rows, columns, n, taps, c)

    def _pixel_tiles(self) -> list[tuple[int, int]]:
        p, limit = self.p, self.target.limits.matrix_m
        columns = {ceil_div(p.out_width, j) for j in range(1, 9)} | {_up(ceil_div(p.out_width, j), self.um) for j in range(1, 9)}
        tiles = []
        for w in sorted(c for c in columns if c <= p.out_width and c <= limit):
            most = min(p.out_height, max(1, min(limit, 512) // w))
            rows = {most} | {r for r in range(1, most + 1) if r <= 8 or r % 8 == 0} | {ceil_div(p.out_height, j) for j in range(1, 17)}
            rows |= {min(most, _up(ceil_div(p.out_height, j), self.um)) for j in range(1, 33)}
            if self.traffic.a_transposed:
                unit = self.target.row_elements(self.item)
                rows = {min(_up(r, unit), p.out_height) for r in rows if _up(r, unit) <= limit}
            for r in sorted(rows):
                if r > 1 and p.out_width % w:
                    continue            # the rows of an img2col are tight, those of a short tile would not be
                if self.traffic.a_transposed or (r <= most and (self._waste(r * w) <= 1.35 or r in (most, 1))):
                    tiles.append((r, w))
        return tiles

    def _waste(self, m: int) -> float:
        return _up(m, self.um) / m

    def _n_tiles(self) -> list[int]:
        n, limit = self.p.out_channels, min(self.target.limits.matrix_n, 512)
        sizes = {self.un * f for f in (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)} | {_up(ceil_div(n, j), self.un) for j in range(1, 9)}
        top = _up(n, self.un)
        return sorted(s for s in sizes if s <= min(limit, top)) or [min(top, limit)]

    def _k_chunks(self) -> list[tuple[tuple[int, int], int]]:
        p, limit = self.p, self.target.limits.matrix_k
        unit = self.target.row_elements(self.item)
        kh, kw = p.kernel
        chunks: list[tuple[tuple[int, int], int]] = []
        divisors = [c for c in range(unit, p.channels, unit) if p.channels % c == 0]
        if kh * kw > 1:
            for taps in ((kh, kw), (1, kw), (1, 1)):
                chunks += [(taps, c) for c in (*divisors, p.channels)]
        else:
            tails = {unit * f for f in (1, 2, 4, 8, 16, 32)} | {_up(ceil_div(p.channels, j), unit) for j in range(1, 17)}
            chunks = [((1, 1), c) for c in sorted({*divisors, *tails, p.channels}) if c <= p.channels]
        if (1, 1) not in [t for t, _ in chunks] or not divisors:
            chunks += [((1, 1), min(unit * f, p.channels)) for f in (1, 2, 4, 8)]
        return sorted({(t, c) for t, c in chunks if t[0] * t[1] * c <= limit})

    def inner_cycles(self, tile: L0Tile) -> float:
        """Cycles of products, or of moves if they take longer, for one image on one core."""
        p = self.p
        tiles = ceil_div(p.out_height, tile.rows) * ceil_div(p.out_width, tile.columns) * ceil_div(p.out_channels, tile.n)
        chunks = ceil_div(p.channels, tile.c) * (p.kernel[0] // tile.taps[0]) * (p.kernel[1] // tile.taps[1])
        return tiles * chunks * max(self._product(tile), self._moves(tile)) + tiles * 8

    def least_cycles(self, tile: L0Tile) -> float:
        """Cycles that no placement of the tile can go below: its products and moves, evenly over all cores."""
        return self.inner_cycles(tile) * self.p.images * self.p.batches / self.target.cores

    def _product(self, tile: L0Tile) -> float:
        k = min(tile.c, self.p.channels) * tile.taps[0] * tile.taps[1]
        steps = ceil_div(tile.rows * tile.columns, self.um) * ceil_div(tile.n, self.un) * ceil_div(k, self.uk)
        return self.target.engine.matrix.startup + FLAG_USES * self.target.sync.flag_cost + steps

    def _moves(self, tile: L0Tile) -> float:
        move = self.target.engine.move
        k = tile.c * tile.taps[0] * tile.taps[1]
        a = tile.rows * tile.columns * self.target.pitch(k, self.item) * self.item
        if tile.taps[1] * tile.c * self.item % self.target.memory["l1"].alignment:
            a = tile.rows * tile.columns * tile.taps[0] * (_up(tile.taps[1] * tile.c * self.item, 32) + 32)
        b = k * self.target.pitch(tile.n, self.item) * self.item
        return 2 * (move.startup + 2 * self.target.sync.flag_cost) + (a + b) / move.port_bandwidth

    def tilings(self, tile: L0Tile) -> Iterator[MatrixTiling]:
        """Placements around an l0 tile."""
        p = self.p
        row_tiles, column_tiles = ceil_div(p.out_height, tile.rows), ceil_div(p.out_width, tile.columns)
        chunks = ceil_div(p.out_channels, tile.n)
        for cores in self._core_splits(chunks):
            for in_rows in sorted({1, 2, 3, 4, 8, 16, row_tiles} & set(range(1, row_tiles + 1))):
                for in_columns in {1, column_tiles}:
                    base = MatrixTiling(
                        cores, tile.rows * in_rows, tile.columns * in_columns, tile.rows, tile.columns, tile.n,
                        1, tile.taps, tile.c,
                    )  # fmt: skip
                    yield from self._residence(base, ceil_div(chunks, cores[2]), in_rows * in_columns == 1)

    def _residence(self, base: MatrixTiling, chunks: int, single: bool) -> Iterator[MatrixTiling]:
        panels = sorted({1, 2, 4, chunks, ceil_div(chunks, 2)} & set(range(1, chunks + 1)))
        for panel in panels:
            ring_b = 1 if panel == chunks else 2
            for outer in (True, False):
                yield replace(base, panel=panel, panel_outer=outer, ring_b=ring_b if outer else 2)
        yield replace(base, panel=chunks, stream_b=True, ring_b=3)
        yield replace(base, panel=chunks, stream_b=True, ring_b=3, ring_a=1)
        if single:
            yield replace(base, panel=chunks, stream_a=True, stream_b=True, ring_a=3, ring_b=3)
            yield replace(base, panel=1, stream_a=True, ring_a=3, ring_b=2)

    def _core_splits(self, chunks: int) -> list[tuple[int, int, int]]:
        """Cores by (batch, m, n): no more than there is work along each, and no fewer in all than half the best."""
        cores, p = self.target.cores, self.p
        pixels = p.images * p.out_height * p.out_width
        splits = {
            (min(gb, p.batches), min(gm, pixels), min(cores // gb // gm, chunks))
            for gb in _divisors(cores)
            for gm in _divisors(cores // gb)
        }
        most = max(gb * gm * gn for gb, gm, gn in splits)
        return sorted(s for s in splits if 2 * s[0] * s[1] * s[2] >= most)

    # ---- costs -----------------------------------------------------------------------------------------------
    def _acc_pitch(self, n: int) -> int:
        """Elements of a row of accumulators in l0c."""
        return accumulator_pitch(n, self.p.accumulator, self.target)

    def l1_bytes(self, t: MatrixTiling) -> int:
        """L1 bytes of all rings; pieces, panels, output tiles and operands of the epilogue."""
        p, pitch = self.p, self.target.pitch
        a = self._a_piece_bytes(t) * t.ring_a
        chunk = self._b_chunk_bytes(t)
        b = (t.c * t.taps[0] * t.taps[1] * pitch(t.n, self.item) * self.item if t.stream_b else chunk * t.panel) * t.ring_b
        if t.stream_b and self.traffic.b_transposed:
            b = t.n * pitch(t.c, self.item) * self.item * t.ring_b
        bias = t.panel * pitch(t.n, 4) * 4 * t.ring_b * (2 if self.traffic.bias else 1)
        tile = t.rows * t.columns * pitch(t.n, self.out_item) * self.out_item
        temporaries = self.traffic.vector_ops > 2
        spare = tile * 2 if temporaries else 0
        del p
        return a + b + bias + tile * t.ring_out * (1 + self.traffic.extras) + spare + 4096

    def _a_piece_bytes(self, t: MatrixTiling) -> int:
        p, pitch = self.p, self.target.pitch
        if self.traffic.a_transposed:
            return (t.c if t.stream_a else p.channels) * pitch(t.piece_rows, self.item) * self.item
        channels = pitch(t.c if t.stream_a else p.channels, self.item)
        return p.rows_in(t.piece_rows) * p.columns_in(t.piece_columns) * channels * self.item

    def _b_chunk_bytes(self, t: MatrixTiling) -> int:
        p, pitch = self.p, self.target.pitch
        blocks = ceil_div(p.channels, t.c) * (p.kernel[0] // t.taps[0]) * (p.kernel[1] // t.taps[1])
        if self.traffic.constant_b:
            return blocks * t.taps[0] * t.taps[1] * t.c * pitch(t.n, self.item) * self.item
        if self.traffic.b_transposed:
            return t.n * pitch(p.channels, self.item) * self.item
        return p.channels * pitch(t.n, self.item) * self.item

    def estimate(self, t: MatrixTiling) -> Estimate:
        """The time of a tiling, by resource."""
        p, target = self.p, self.target
        tile = L0Tile(t.rows, t.columns, t.n, t.taps, t.c)
        gb, gm, gn = t.cores
        pieces = p.images * ceil_div(p.out_height, t.piece_rows) * ceil_div(p.out_width, t.piece_columns)
        pieces_core, batches_core = ceil_div(pieces, gm), ceil_div(p.batches, gb)
        chunks = ceil_div(p.out_channels, t.n)
        chunks_core = ceil_div(chunks, gn)
        panels = ceil_div(chunks_core, t.panel)
        tiles_piece = ceil_div(t.piece_rows, t.rows) * ceil_div(t.piece_columns, t.columns)
        # the last piece of an image may be short: count real tiles
        share = self._real_tiles(t) / (ceil_div(p.out_height, t.piece_rows) * ceil_div(p.out_width, t.piece_columns) * tiles_piece)
        even = (p.out_channels / t.n) / chunks if chunks_core > 1 else 1.0
        k_chunks = ceil_div(p.channels, t.c) * (p.kernel[0] // t.taps[0]) * (p.kernel[1] // t.taps[1])
        tiles = batches_core * pieces_core * chunks_core * tiles_piece * share * even
        matrix = tiles * k_chunks * self._product(tile)
        move = tiles * k_chunks * self._moves(tile)
        vector = tiles * self._vector(t)
        # bytes
        a_bytes = self._a_piece_bytes(t)
        a_loads = pieces_core * (panels if t.panel_outer else 1)
        if t.stream_a:
            a_bytes *= ceil_div(p.channels, t.c)
            a_loads = pieces_core * chunks_core
        chunk_bytes = self._b_chunk_bytes(t)
        b_loads = chunks_core * (1 if t.panel_outer else pieces_core)
        if t.stream_b:
            b_loads = chunks_core * pieces_core * tiles_piece
        out_bytes = t.rows * t.columns * t.n * self.out_item
        load = batches_core * (a_loads * a_bytes + b_loads * chunk_bytes) + tiles * out_bytes * self.traffic.extras
        stored = tiles * out_bytes
        used_m, used_n = min(gm, pieces), min(gn, chunks)
        multicast = target.features.multicast
        a_copies, b_copies = (1, 1) if multicast else (used_n, used_m)
        ddr = batches_core * gb * (
            a_loads * a_bytes * used_m * a_copies + b_loads * chunk_bytes * used_n * b_copies
        ) + (1 + self.traffic.extras) * tiles * out_bytes * used_m * used_n * gb  # fmt: skip
        loads, stores = self._transfers(t, batches_core, a_loads, b_loads, tiles)
        bandwidth = target.memory["ddr"].bandwidth
        engine = target.engine
        first = (a_bytes * used_m * a_copies + (chunk_bytes if not t.stream_b else chunk_bytes / k_chunks) * used_n * b_copies) * gb
        fill = target.memory["ddr"].latency + max(first / bandwidth, a_bytes / engine.load.port_bandwidth)
        drain = self._vector(t) + out_bytes * max(used_m * used_n * gb / bandwidth, 1 / engine.store.port_bandwidth) + target.memory["ddr"].latency
        return Estimate(
            matrix, move, vector, load / engine.load.port_bandwidth + loads * engine.load.startup,
            stored / engine.store.port_bandwidth + stores * engine.store.startup, ddr / bandwidth * 1.02, fill, drain,
        )  # fmt: skip

    def simulate(self, t: MatrixTiling) -> float:
        """The time of a tiling by a simulation of its pipeline; see `pipeline_model`."""
        p, target = self.p, self.target
        gb, gm, gn = t.cores
        row_tiles, column_tiles = ceil_div(t.piece_rows, t.rows), ceil_div(t.piece_columns, t.columns)
        row_blocks, column_blocks = ceil_div(p.out_height, t.piece_rows), ceil_div(p.out_width, t.piece_columns)
        pieces = p.images * row_blocks * column_blocks
        pieces_core, batches_core = ceil_div(pieces, gm), ceil_div(p.batches, gb)
        chunks_core = ceil_div(ceil_div(p.out_channels, t.n), gn)
        panels = ceil_div(chunks_core, t.panel)
        order = _tile_order(t, batches_core, pieces_core, panels, chunks_core, row_tiles, column_tiles)
        total = batches_core * pieces_core * chunks_core * row_tiles * column_tiles
        batch, piece, chunk, ty, tx = order
        inside = ty * t.rows + (piece % (row_blocks * column_blocks)) // column_blocks * t.piece_rows < p.out_height
        k_chunks = ceil_div(p.channels, t.c) * (p.kernel[0] // t.taps[0]) * (p.kernel[1] // t.taps[1])
        tile = L0Tile(t.rows, t.columns, t.n, t.taps, t.c)
        work = np.where(inside, k_chunks * max(self._product(tile), self._moves(tile)), 0.0)
        first_chunk = chunk % t.panel == 0 if t.panel_outer else chunk == 0
        load_a, load_b = self._load_bytes(t, first_chunk, chunk, piece, ty, tx, k_chunks)
        share = 1 if target.features.multicast else 0
        a_flows = gb * min(gm, pieces) * (1 if share else gn)
        b_flows = gb * gn * (1 if share else min(gm, pieces))
        out = float(t.rows * t.columns * t.n * self.out_item)
        load = load_a + load_b + self.traffic.extras * out
        cores = min(target.cores, gb * min(gm, pieces) * gn)
        flows = (load_a * a_flows + load_b * b_flows + self.traffic.extras * out * cores) / np.maximum(load, 1.0)
        early = np.where(load_b > 0, 1.0 - 1.0 / k_chunks, 0.0)
        after = _slots(batch, piece, chunk, load_a, t)
        if t.stream_a or t.stream_b:
            # a streamed operand is at most a ring of k chunks ahead, and waits behind other loads of its queue
            ahead = 1 + min(t.ring_b if t.stream_b else 99, t.ring_a if t.stream_a else 99) // (k_chunks + 1)
            after = np.maximum(after, np.arange(len(ty)) - ahead)
            early = np.full(len(ty), 1.0 - 1.0 / k_chunks)
        engine = target.engine
        startup = engine.load.startup + 2
        steps = Steps(
            np.where(load > 0, load + startup * engine.load.port_bandwidth, 0.0), np.maximum(flows, 1.0), after, early, work,
            np.where(inside, self._vector(t), 0.0), np.where(inside, out, 1.0),
        )  # fmt: skip
        machine = Machine(
            engine.load.port_bandwidth, engine.store.port_bandwidth, target.memory["ddr"].bandwidth,
            target.memory["ddr"].latency, cores, t.ring_out,
        )  # fmt: skip
        return simulate_steps(steps, machine, total)

    def _load_bytes(self, t, first_chunk, chunk, piece, ty, tx, k_chunks):  # type: ignore[no-untyped-def]
        """Bytes of A and of B that each step is the first to need."""
        p = self.p
        whole = float(self._a_piece_bytes(t))
        rows_all = p.rows_in(t.piece_rows)
        head, step = min(p.rows_in(t.rows), rows_all), min(t.rows * p.stride[0], rows_all)
        chunk_bytes = float(self._b_chunk_bytes(t))
        if t.stream_a:
            load_a = np.full(len(ty), whole * ceil_div(p.channels, t.c))
        else:
            part = np.where(ty == 0, whole * head / rows_all, whole * step / rows_all)
            load_a = np.where(first_chunk & (tx == 0), part, 0.0)
        if t.stream_b:
            load_b = np.full(len(ty), chunk_bytes)
        else:
            first = (ty == 0) & (tx == 0) & ((piece == 0) if t.panel_outer else True)
            load_b = np.where(first, chunk_bytes, 0.0)
        del chunk, k_chunks
        return load_a, load_b

    def _transfers(self, t: MatrixTiling, batches: int, a_loads: int, b_loads: int, tiles: float) -> tuple[float, float]:
        k_chunks = ceil_div(self.p.channels, t.c)
        loads = batches * (a_loads * (k_chunks if t.stream_a else 1) + b_loads * (k_chunks if t.stream_b else 1))
        return loads + tiles * self.traffic.extras, tiles

    def _real_tiles(self, t: MatrixTiling) -> float:
        p = self.p
        full, rest = divmod(p.out_height, t.piece_rows)
        rows = full * ceil_div(t.piece_rows, t.rows) + ceil_div(rest, t.rows)
        full, rest = divmod(p.out_width, t.piece_columns)
        columns = full * ceil_div(t.piece_columns, t.columns) + ceil_div(rest, t.columns)
        return rows * columns

    def _vector(self, t: MatrixTiling) -> float:
        vector = self.target.engine.vector
        elements = t.rows * t.columns * t.n
        first = elements * self.acc_item / vector.width
        others = max(0, self.traffic.vector_ops - 1) * elements * self.out_item / vector.width
        aligned = self.target.pitch(t.n, self.out_item) == t.n
        rows = 0 if aligned else t.rows * t.columns * vector.row_overhead
        return first + others + self.traffic.vector_ops * (vector.startup + rows + 3)


def _tile_order(t, batches, pieces, panels, chunks, row_tiles, column_tiles):  # type: ignore[no-untyped-def]
    """Batch, piece, chunk, row and column of the first tiles of a core, in the order of the kernel's loops."""
    inner = row_tiles * column_tiles
    number = np.arange(min(batches * pieces * chunks * inner, LONGEST))
    tx, ty = number % column_tiles, number // column_tiles % row_tiles
    rest = number // inner
    if not t.panel_outer or panels == 1:
        return rest // (chunks * pieces), rest // chunks % pieces, rest % chunks, ty, tx
    # panel by panel; the last one may hold fewer chunks
    batch, place = rest // (chunks * pieces), rest % (chunks * pieces)
    panel = np.minimum(place // (t.panel * pieces), panels - 1)
    width = np.minimum(t.panel, chunks - panel * t.panel)
    place = place - panel * t.panel * pieces
    return batch, place // width, panel * t.panel + place % width, ty, tx


def _slots(batch, piece, chunk, load_a, t):  # type: ignore[no-untyped-def]
    """For each step that loads, the last step that uses the slot which its load of A fills; -1 if it is free."""
    visit = np.cumsum(np.diff(batch * 1_000_003 + piece * 1009 + (chunk // t.panel if t.panel_outer else 0), prepend=-1) != 0)
    last = np.searchsorted(visit, visit - t.ring_a, side="right") - 1
    return np.where((load_a > 0) & (visit > t.ring_a), last, -1).astype(np.int64)


def _up(value: int, unit: int) -> int:
    return ceil_div(value, unit) * unit


def _divisors(n: int) -> list[int]:
    return [d for d in range(1, n + 1) if n % d == 0]
