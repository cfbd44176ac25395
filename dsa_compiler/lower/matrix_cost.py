"""What a candidate tiling costs, by resource, for many candidates at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dsa_compiler.isa.dtypes import item_bytes
from dsa_compiler.lower.matrix_candidates import Candidates, MatrixTraffic, burst_bytes, pitch, up
from dsa_compiler.lower.matrix_problem import MatrixProblem
from dsa_compiler.target import Target

Array = np.ndarray


@dataclass(frozen=True)
class Shape:
    """Counts that follow from candidates: how often each loop runs, and how large each transfer is.

    Bytes of transfers are those that the DMA is charged, with whole bursts of ddr.
    """

    k_chunks: Array
    pieces: Array
    pieces_core: Array
    batches_core: Array
    chunks: Array
    chunks_core: Array
    panels: Array
    tiles_piece: Array
    used: Array
    a_bytes: Array
    a_charged: Array
    b_bytes: Array
    b_charged: Array
    out_charged: Array
    extra_charged: Array
    vector: Array


def shape_of(x: Candidates, p: MatrixProblem, traffic: MatrixTraffic, target: Target) -> Shape:
    """The counts and transfers of candidates."""
    t = x.tile
    item, out_item = item_bytes(p.dtype), item_bytes(traffic.out_dtype)
    pieces = p.images * -(-p.out_height // x.piece_rows) * -(-p.out_width // x.piece_columns)
    chunks = -(-p.out_channels // t.n)
    chunks_core = -(-chunks // x.gn)
    k_chunks = -(-p.depth // t.c) * (p.kernel[0] // t.kh) * (p.kernel[1] // t.kw)
    burst = target.memory["ddr"].burst
    rows_in, columns_in = p.rows_in(x.piece_rows), p.columns_in(x.piece_columns)  # type: ignore[arg-type]
    channels = np.where(x.stream_a, t.c, p.channels)
    width = pitch(channels, p.dtype, target, "l1")
    if traffic.a_transposed:
        a_bytes = channels * pitch(x.piece_rows, p.dtype, target, "l1") * item
        a_charged = channels * burst_bytes(np.minimum(x.piece_rows, p.out_height) * item, x.piece_rows * item, burst)
    elif p.lines is not None:
        line = columns_in * p.channels * item
        a_bytes = rows_in * up(line, target.memory["l1"].alignment)
        a_charged = np.maximum(
            rows_in * burst_bytes(np.minimum(line, p.lines.extent * item), np.full_like(line, item), burst), a_bytes
        )
    else:
        a_bytes = rows_in * columns_in * width * item
        whole = (channels == p.channels) & (width == channels)
        short = burst_bytes(channels * item, width * item, burst) * rows_in * columns_in
        a_charged = np.where(whole, a_bytes, np.maximum(short, a_bytes))
    b_bytes, b_charged = _panel_chunk(x, k_chunks, p, traffic, target)
    m = t.rows * t.columns
    joined = (t.n >= p.out_channels) & (pitch(t.n, traffic.out_dtype, target, "l1") == p.out_channels)
    run = np.minimum(t.n, p.out_channels) * out_item
    out_charged = np.where(joined, m * run, m * burst_bytes(run, np.where(chunks > 1, t.n * out_item, run), burst))
    return Shape(
        k_chunks, pieces, -(-pieces // x.gm), -(-p.batches // x.gb), chunks, chunks_core, -(-chunks_core // x.panel),
        -(-x.piece_rows // t.rows) * -(-x.piece_columns // t.columns),
        np.minimum(x.gm, pieces) * np.minimum(x.gn, chunks) * x.gb,
        a_bytes, a_charged, b_bytes, b_charged, out_charged, out_charged * traffic.extras,
        _vector(x, p, traffic, target),
    )  # fmt: skip


def _panel_chunk(
    x: Candidates, k_chunks: Array, p: MatrixProblem, traffic: MatrixTraffic, target: Target
) -> tuple[Array, Array]:
    """Bytes in L1, and charged, of the columns of B that one n chunk needs."""
    t, item, burst = x.tile, item_bytes(p.dtype), target.memory["ddr"].burst
    width = pitch(t.n, p.dtype, target, "l1", "l0b") * item
    if traffic.constant_b:
        size = k_chunks * t.kh * t.kw * t.c * width
        return size, size // t.c if p.diagonal else size
    if traffic.b_transposed:
        run = np.minimum(t.c, p.channels) * item
        size = t.n * pitch(np.full(len(t.n), p.channels), p.dtype, target, "l1") * item
        return size, t.n * k_chunks * burst_bytes(run, run, burst)
    run = np.minimum(t.n, p.out_channels) * item
    return p.channels * width, p.channels * burst_bytes(run, run, burst)


def _vector(x: Candidates, p: MatrixProblem, traffic: MatrixTraffic, target: Target) -> Array:
    """Vector cycles of one tile's epilogue: rows of all of a pitch join, others are paid one by one.

    Rows that meet a row of channels do not join. Between accumulators and 8-bit results values are in float32.
    """
    vector, t = target.engine.vector, x.tile
    out_item = item_bytes(traffic.out_dtype)
    n, rows = np.minimum(t.n, p.out_channels), t.rows * t.columns
    joined = pitch(n, traffic.out_dtype, target, "l1") == n

    def each(item: int, number: int) -> Array:
        apart = rows * (vector.row_overhead + -(-n * item // vector.width))
        plain = rows * n * item / vector.width
        return np.where(joined & (number >= traffic.vectors), plain, apart)

    steps = [4] + [4 if out_item == 1 else out_item] * (traffic.vector_ops - 1)
    slow = traffic.transcendental * (vector.cost["transcendental"] - 1) * each(steps[-1], traffic.vectors)
    return sum(each(item, n) for n, item in enumerate(steps)) + slow + traffic.vector_ops * (vector.startup + 3)


def l1_bytes(x: Candidates, s: Shape, p: MatrixProblem, traffic: MatrixTraffic, target: Target) -> Array:
    """L1 bytes of all rings: pieces, panels, result tiles, operands of the epilogue and its temporaries."""
    t, item, out_item = x.tile, item_bytes(p.dtype), item_bytes(traffic.out_dtype)
    a = s.a_bytes * x.ring_a
    streamed = t.kh * t.kw * t.c * pitch(t.n, p.dtype, target, "l1", "l0b") * item
    if traffic.b_transposed:
        streamed = t.n * pitch(t.c, p.dtype, target, "l1") * item
    b = np.where(x.stream_b, streamed, s.b_bytes * x.panel) * x.ring_b
    vectors = x.panel * up(t.n * 4, 64) * x.ring_b * 2
    tile = t.rows * t.columns * pitch(t.n, traffic.out_dtype, target, "l1") * out_item
    spare = 2 * tile * (4 // out_item) if traffic.vector_ops > 2 else 0
    return a + b + vectors + tile * 2 * (1 + traffic.extras) + spare + 4096


def estimate(x: Candidates, s: Shape, p: MatrixProblem, traffic: MatrixTraffic, target: Target) -> Array:
    """Cycles of each candidate: its busiest resource, the first load and the last store."""
    t, engine, ddr = x.tile, target.engine, target.memory["ddr"]
    share = _real_tiles(x, p) / (-(-p.out_height // x.piece_rows) * -(-p.out_width // x.piece_columns) * s.tiles_piece)
    even = np.where(s.chunks_core > 1, (p.out_channels / t.n) / s.chunks, 1.0)
    tiles = s.batches_core * s.pieces_core * s.chunks_core * s.tiles_piece * share * even
    a_loads = np.where(x.stream_a, s.pieces_core * s.chunks_core, s.pieces_core * np.where(x.panel_outer, s.panels, 1))
    a_parts = np.where(x.stream_a, -(-p.channels // t.c), 1)
    b_loads = s.chunks_core * np.where(
        x.stream_b, s.pieces_core * s.tiles_piece, np.where(x.panel_outer, 1, s.pieces_core)
    )
    load_a = s.batches_core * a_loads * s.a_charged * a_parts
    load_b = s.batches_core * b_loads * s.b_charged
    extra, out = tiles * s.extra_charged, tiles * s.out_charged
    m_flows, n_flows = np.minimum(x.gm, s.pieces), np.minimum(x.gn, s.chunks)
    a_copies, b_copies = (1, 1) if target.features.multicast else (n_flows, m_flows)
    constants = constant_bandwidth(traffic, target)
    near = x.gb * load_a * m_flows * a_copies + (extra + out) * s.used
    far = x.gb * load_b * n_flows * b_copies
    apart = "constants" in target.memory and traffic.constant_b
    memory = np.maximum(near / ddr.bandwidth, far / constants) if apart else (near + far) / ddr.bandwidth
    slow_b = np.maximum(1.0, x.gb * n_flows * b_copies * engine.load.port_bandwidth / constants) if apart else 1.0
    transfers = s.batches_core * (a_loads * a_parts + b_loads * s.k_chunks) + tiles * traffic.extras
    load = (load_a + load_b * slow_b + extra) / engine.load.port_bandwidth + transfers * (engine.load.startup + 2)
    store = out / engine.store.port_bandwidth + tiles * (engine.store.startup + 2)
    matrix, move = tiles * s.k_chunks * t.products, tiles * s.k_chunks * t.moves
    first = (s.a_charged * m_flows * a_copies + s.b_charged / s.k_chunks * n_flows * b_copies) * x.gb / ddr.bandwidth
    fill = ddr.latency + np.maximum(first, s.a_charged / engine.load.port_bandwidth)
    drain = s.vector + s.out_charged * np.maximum(s.used / ddr.bandwidth, 1 / engine.store.port_bandwidth) + ddr.latency
    busiest = np.maximum.reduce([matrix, move, tiles * s.vector, load, store, memory * 1.02])
    return np.maximum(busiest, _latency(x, s, a_loads * s.batches_core, tiles, p, target)) + fill + drain


def constant_bandwidth(traffic: MatrixTraffic, target: Target) -> float:
    """Bytes a cycle of the memory that B comes from; see `scheduled_kernels.cluster_view`."""
    constants = target.memory.get("constants") if traffic.constant_b else None
    return (constants or target.memory["ddr"]).bandwidth


def _latency(x: Candidates, s: Shape, a_loads: Array, tiles: Array, p: MatrixProblem, target: Target) -> Array:
    """Cycles that the rings cannot hide: a slot is filled, used and freed before it can be filled again."""
    engine, latency = target.engine, target.memory["ddr"].latency
    work = s.k_chunks * np.maximum(x.tile.products, x.tile.moves)
    out = s.vector + s.out_charged / engine.store.port_bandwidth + engine.store.startup + latency
    piece = latency + engine.load.startup + s.a_charged / engine.load.port_bandwidth
    used = np.where(x.stream_a, work, work * s.tiles_piece)
    in_pieces = a_loads * (piece + used) / x.ring_a
    chunk = latency + engine.load.startup + s.b_charged / s.k_chunks / engine.load.port_bandwidth
    streamed = np.where(x.stream_b, tiles * s.k_chunks * (chunk + work / s.k_chunks) / x.ring_b, 0.0)
    return np.maximum.reduce([tiles * out / 2, in_pieces, streamed])


def _real_tiles(x: Candidates, p: MatrixProblem) -> Array:
    """l0 tiles of one image: the last piece may hold fewer."""

    def along(extent: int, piece: Array, tile: Array) -> Array:
        full, rest = extent // piece, extent % piece
        return full * -(-piece // tile) + -(-rest // tile)

    return along(p.out_height, x.piece_rows, x.tile.rows) * along(p.out_width, x.piece_columns, x.tile.columns)
