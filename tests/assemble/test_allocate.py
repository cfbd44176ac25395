"""Addresses of a kernel's buffers: apart, aligned, in separate banks while there is room."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsa_compiler.assemble.allocate import SCRATCH, place_buffers
from dsa_compiler.assemble.trace import TRACE_ENTRY, TRACE_OPERAND, Trace, TraceBuffer
from dsa_compiler.errors import Infeasible
from tests.lower.drawing import drawn
from tests.lower.parts import changed, part

EDGE = part("npu-edge")
BANK = EDGE.memory["l1"].bank_bytes


def trace(*buffers: TraceBuffer) -> Trace:
    return Trace("kernel", np.zeros(0, TRACE_ENTRY), np.zeros(0, TRACE_OPERAND), ({},), buffers)


def test_slots_have_banks_of_their_own() -> None:
    placed = place_buffers(trace(TraceBuffer("a", "l1", 1000, 2), TraceBuffer("b", "l1", BANK + 1, 2)), EDGE).address
    assert placed.tolist() == [[0, BANK], [2 * BANK, 4 * BANK]]


def test_spread_where_banks_run_out() -> None:
    """Nine slots for eight banks: one bank holds two of them."""
    placed = place_buffers(trace(*(TraceBuffer(f"b{i}", "l1", 1000) for i in range(9))), EDGE).address
    assert placed[:, 0].tolist() == [BANK * i for i in range(8)] + [1024]


def test_a_slot_larger_than_a_bank_leaves_the_rest_of_its_last() -> None:
    large, small = TraceBuffer("l", "l1", 7 * BANK + 32), TraceBuffer("s", "l1", 64, 2)
    placed = place_buffers(trace(large, small), EDGE).address
    assert placed.tolist() == [[0, -1], [7 * BANK + 32, 7 * BANK + 96]]


def test_tight_where_slots_cannot_be_spread() -> None:
    """Three slots of three banks and a bit do not fit as whole banks."""
    size = 2 * BANK + BANK // 2
    placed = place_buffers(trace(*(TraceBuffer(f"b{i}", "l1", size) for i in range(3))), EDGE).address
    assert placed[:, 0].tolist() == [0, size, 2 * size]


def test_from_the_top() -> None:
    """Kernels that follow each other fill the scratchpads from both ends, so that the next one need not wait."""
    size = EDGE.memory["l1"].size
    buffers = TraceBuffer("a", "l1", 1000, 2), TraceBuffer("c", "l0c", 512)
    low, high = (place_buffers(trace(*buffers), EDGE, from_top=top).address for top in (False, True))
    assert low[0].tolist() == [0, BANK]
    assert high[0].tolist() == [size - 1024, size - BANK - 1024]
    assert (low[1, 0], high[1, 0]) == (0, EDGE.memory["l0c"].size - 512)


def test_memories_without_banks_are_packed() -> None:
    placed = place_buffers(trace(TraceBuffer("a", "l0a", 100, 2), TraceBuffer("b", "l0a", 32)), EDGE).address
    assert placed.tolist() == [[0, 128], [256, -1]]


def test_parameters_have_their_place_elsewhere() -> None:
    placed = place_buffers(
        trace(TraceBuffer("p", "ddr", 1 << 20, parameter=0), TraceBuffer("a", "l1", 64)), EDGE
    ).address
    assert placed.tolist() == [[-1], [0]]


@pytest.mark.parametrize("scope", SCRATCH)
def test_too_large(scope: str) -> None:
    size, unit = EDGE.memory[scope].size, EDGE.memory[scope].alignment
    needed = size + 2 * unit
    with pytest.raises(Infeasible, match=rf"^\[kernel\] {scope}: {needed} needed, {size} available$") as caught:
        place_buffers(trace(TraceBuffer("a", scope, size // 2 + 1, 2)), EDGE)
    assert (caught.value.limit, caught.value.needed, caught.value.available) == (scope, needed, size)


@drawn(100)
@given(
    st.lists(st.tuples(st.sampled_from(SCRATCH), st.integers(1, 9000), st.integers(1, 3)), max_size=8),
    st.booleans(),
    st.sampled_from(["npu-edge", "npu-v1", "tiny", "plain"]),
)
def test_slots_never_overlap(buffers: list[tuple[str, int, int]], top: bool, name: str) -> None:
    target = part(name)
    made = trace(*(TraceBuffer(f"b{i}", scope, size, ring) for i, (scope, size, ring) in enumerate(buffers)))
    try:
        placed = place_buffers(made, target, from_top=top).address
    except Infeasible as reason:
        unit = target.memory[reason.limit].alignment
        needed = sum(-(-size // unit) * unit * ring for scope, size, ring in buffers if scope == reason.limit)
        assert needed == reason.needed > target.memory[reason.limit].size
        return
    for scope in SCRATCH:
        memory = target.memory[scope]
        spans = sorted(
            (int(placed[i, s]), int(placed[i, s]) + size)
            for i, (where, size, ring) in enumerate(buffers)
            if where == scope
            for s in range(ring)
        )
        assert all(low >= 0 and high <= memory.size and low % memory.alignment == 0 for low, high in spans)
        assert all(a[1] <= b[0] for a, b in pairwise(spans))


def test_one_bank() -> None:
    target = changed(EDGE, **{"memory.l1.banks": 1})
    assert place_buffers(trace(TraceBuffer("a", "l1", 100, 2)), target).address.tolist() == [[0, 128]]


def test_footprint_counts_rings_and_no_parameters() -> None:
    made = trace(TraceBuffer("a", "l1", 100, 3), TraceBuffer("p", "l1", 999, parameter=1), TraceBuffer("c", "l0c", 64))
    assert (made.footprint("l1"), made.footprint("l0c"), made.footprint("l0a")) == (300, 64, 0)
