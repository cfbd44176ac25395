"""Choose cores, tiles and loop order of a convolution or matrix product.

Candidates are estimated by resource, all at once; those near the best are simulated as a pipeline, which decides.
"""

from __future__ import annotations

import numpy as np

from dsa_compiler.errors import Infeasible
from dsa_compiler.lower.matrix_candidates import (
    Candidates,
    MatrixTraffic,
    diverse,
    inner_cycles,
    l0_tiles,
    placements,
)
from dsa_compiler.lower.matrix_cost import Shape, constant_bandwidth, estimate, l1_bytes, shape_of
from dsa_compiler.lower.matrix_problem import MatrixProblem, MatrixTiling
from dsa_compiler.lower.pipeline_model import LONGEST, Machine, Steps, simulate_steps
from dsa_compiler.target import Target

SIMULATED = 128
NEAR = 1.4
DOUBLING = 0.01
"""What a program of twice as many instructions has to gain: between equals, the shorter program wins."""

__all__ = ["MatrixTraffic", "choose_matrix_tiling", "rank_matrix_tilings"]


def choose_matrix_tiling(
    problem: MatrixProblem, traffic: MatrixTraffic, target: Target, *, rank: int = 0
) -> MatrixTiling:
    """The tiling of least expected time, or the one `rank` places behind it.

    Raises `Infeasible` if no candidate fits the scratchpads.
    """
    ranked = rank_matrix_tilings(problem, traffic, target)
    if rank >= len(ranked):
        raise Infeasible("tilings", rank + 1, len(ranked), where="lower.matrix_tiling")
    return ranked[rank][1]


def rank_matrix_tilings(
    problem: MatrixProblem, traffic: MatrixTraffic, target: Target
) -> list[tuple[float, MatrixTiling]]:
    """The best feasible candidates with their expected cycles, best first."""
    tiles = l0_tiles(problem, traffic, target)
    if not len(tiles.rows):
        return []
    tiles = diverse(tiles)
    x = placements(tiles, problem, traffic, target)
    least = inner_cycles(x.tile, problem) * problem.images * problem.batches / target.cores
    s = shape_of(x, problem, traffic, target)
    fits = np.flatnonzero(l1_bytes(x, s, problem, traffic, target) <= target.memory["l1"].size)
    if not len(fits):
        return []
    x, least = x.take(fits), least[fits]
    s = shape_of(x, problem, traffic, target)
    cycles = np.maximum(estimate(x, s, problem, traffic, target), least)
    count = 4 * s.k_chunks * s.tiles_piece * s.pieces * s.chunks * problem.batches
    order = np.argsort(cycles * (1.0 + DOUBLING * np.log2(count / count.min())), kind="stable")[:SIMULATED]
    order = order[cycles[order] <= cycles[order[0]] * NEAR]
    ranked = [(_simulate(x, s, int(i), problem, traffic, target), int(i)) for i in order]
    fewest = float(count[order].min())
    ranked.sort(key=lambda item: item[0] * (1.0 + DOUBLING * np.log2(count[item[1]] / fewest)))
    return [(cycles, x.tiling(i)) for cycles, i in ranked]


def _simulate(x: Candidates, s: Shape, row: int, p: MatrixProblem, traffic: MatrixTraffic, target: Target) -> float:
    """The time of one candidate by a simulation of its pipeline; see `pipeline_model`."""
    t = x.tiling(row)
    one = lambda a: float(a[row])  # noqa: E731
    tiles_y, tiles_x = -(-t.piece_rows // t.rows), -(-t.piece_columns // t.columns)
    blocks = -(-p.out_height // t.piece_rows), -(-p.out_width // t.piece_columns)
    counts = int(s.batches_core[row]), int(s.pieces_core[row]), int(s.panels[row]), int(s.chunks_core[row])
    batch, piece, chunk, ty, tx = _tile_order(t, counts, tiles_y, tiles_x)
    inside = ty * t.rows + piece % (blocks[0] * blocks[1]) // blocks[1] * t.piece_rows < p.out_height
    k_chunks = int(s.k_chunks[row])
    load_a, load_b = _first_loads(t, p, one(s.a_charged), one(s.b_charged), chunk, piece, ty, tx)
    extra, out = one(s.extra_charged), one(s.out_charged)
    m_flows, n_flows = min(t.cores[1], int(s.pieces[row])), min(t.cores[2], int(s.chunks[row]))
    shared = target.features.multicast
    a_flows, b_flows = (
        t.cores[0] * m_flows * (1 if shared else n_flows),
        t.cores[0] * n_flows * (1 if shared else m_flows),
    )
    cores = int(s.used[row])
    load = load_a + load_b + extra
    port, memory = target.engine.load.port_bandwidth, target.memory["ddr"].bandwidth
    rate_b = min(port, constant_bandwidth(traffic, target) / b_flows)
    rates = ((load_a, min(port, memory / a_flows)), (load_b, rate_b), (extra, min(port, memory / cores)))
    alone = sum(bytes_ / rate for bytes_, rate in rates)
    flows = memory * alone / np.maximum(load, 1.0)  # that give the loads, one after another, the time they take
    early = np.where(load_b > 0, 1.0 - 1.0 / k_chunks, 0.0)
    after = _slots(batch, piece, chunk, load_a, t)
    if t.stream_a or t.stream_b:
        # a streamed operand is at most a ring of k chunks ahead, and waits behind other loads of its queue
        ring = min(t.ring_b if t.stream_b else 99, t.ring_a if t.stream_a else 99)
        after = np.maximum(after, np.arange(len(ty)) - 1 - ring // (k_chunks + 1))
        early = np.full(len(ty), 1.0 - 1.0 / k_chunks)
    engine, ddr = target.engine, target.memory["ddr"]
    startup = (engine.load.startup + 2) * engine.load.port_bandwidth
    chunk_work = max(one(x.tile.products), one(x.tile.moves))
    work = k_chunks * chunk_work
    shared_bank = 0.0 if t.stream_b else max(0.0, 2 * rate_b - port) * one(x.tile.moves_b) * k_chunks
    clash = np.where(load_b > 0, shared_bank, 0.0)
    burst = out * cores / memory
    if t.stream_a:
        work += _stall(one(s.a_charged), a_flows, t.ring_a, chunk_work, burst, cores, memory)
    if t.stream_b:
        work += _stall(one(s.b_charged) / k_chunks, b_flows, t.ring_b, chunk_work, burst, cores, memory)
    steps = Steps(
        np.where(load > 0, load + startup, 0.0), np.maximum(flows, 1.0), after, early, clash,
        np.where(inside, work, 0.0), np.where(inside, one(s.vector), 0.0), np.where(inside, out, 1.0),
    )  # fmt: skip
    machine = Machine(
        engine.load.port_bandwidth, engine.store.port_bandwidth, ddr.bandwidth, ddr.latency, cores, t.ring_out
    )
    return simulate_steps(steps, machine, counts[0] * counts[1] * counts[3] * tiles_y * tiles_x)


def _stall(chunk: float, flows: int, ring: int, work: float, burst: float, cores: int, memory: float) -> float:
    """Cycles that a tile's products wait for a streamed operand while all cores store a result for `burst` cycles.

    Memory is shared by flow, so the stores leave the stream a small part, and it is only its ring ahead.
    """
    share = memory / (flows + cores)
    missing = burst * (1.0 - min(1.0, share * work / max(chunk, 1.0)))
    return max(0.0, missing - (ring - 1) * work)


def _first_loads(t: MatrixTiling, p: MatrixProblem, piece_bytes: float, chunk_bytes: float, chunk, piece, ty, tx):  # type: ignore[no-untyped-def]
    """Bytes of A and of B that each step is the first to need."""
    rows = p.rows_in(t.piece_rows)
    head, step = min(p.rows_in(t.rows), rows), min(t.rows * p.stride[0], rows)
    if t.stream_a:
        load_a = np.full(len(ty), piece_bytes * -(-p.channels // t.c))
    else:
        first = chunk % t.panel == 0 if t.panel_outer else chunk == 0
        load_a = np.where(
            first & (tx == 0), np.where(ty == 0, piece_bytes * head / rows, piece_bytes * step / rows), 0.0
        )
    if t.stream_b:
        return load_a, np.full(len(ty), chunk_bytes)
    first = (ty == 0) & (tx == 0) & ((piece == 0) | (not t.panel_outer))
    return load_a, np.where(first, chunk_bytes, 0.0)


def _tile_order(t: MatrixTiling, counts: tuple[int, int, int, int], tiles_y: int, tiles_x: int):  # type: ignore[no-untyped-def]
    """Batch, piece, chunk, row and column of the first tiles of a core, in the order of the kernel's loops."""
    batches, pieces, panels, chunks = counts
    inner = tiles_y * tiles_x
    number = np.arange(min(batches * pieces * chunks * inner, LONGEST))
    tx, ty = number % tiles_x, number // tiles_x % tiles_y
    rest = number // inner
    if not t.panel_outer or panels == 1:
        return rest // (chunks * pieces), rest // chunks % pieces, rest % chunks, ty, tx
    batch, place = rest // (chunks * pieces), rest % (chunks * pieces)
    panel = np.minimum(place // (t.panel * pieces), panels - 1)
    width = np.minimum(t.panel, chunks - panel * t.panel)
    place = place - panel * t.panel * pieces
    return batch, place // width, panel * t.panel + place % width, ty, tx


def _slots(batch, piece, chunk, load_a, t: MatrixTiling):  # type: ignore[no-untyped-def]
    """For each step that loads, the last step that uses the slot which its load of A fills; -1 if it is free."""
    visit_of = (batch * 1_000_003 + piece) * 1009 + (chunk // t.panel if t.panel_outer else 0)
    visit = np.cumsum(np.diff(visit_of, prepend=-1) != 0)
    last = np.searchsorted(visit, visit - t.ring_a, side="right") - 1
    return np.where((load_a > 0) & (visit > t.ring_a), last, -1).astype(np.int64)
