"""Bursts and banks counted by periods against a walk over every row; the array functions against single costs."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsa_compiler.isa.bursts import bank_mask, grid_bytes
from dsa_compiler.isa.cost import (
    CostRules,
    dma_bytes,
    matrix_cycles,
    move_cycles,
    row_bursts,
    vector_cycles,
    window_cycles,
)
from dsa_compiler.program.builder import Operand
from dsa_compiler.target import SCOPES, load_target

PARTS = {name: load_target(name) for name in ("npu-v1", "npu-v2", "npu-edge", "npu-bench")}
RULES = {name: CostRules(target) for name, target in PARTS.items()}


def spanned(start: int, length: int, burst: int) -> int:
    """Bursts that a run touches."""
    return (start + length - 1) // burst - start // burst + 1


def nested_runs(address, extents, strides, item):
    """Runs of (address, elements), rows merged where they adjoin; rows of stride 0 are a run each time."""
    length, outer = extents[-1], list(zip(extents[:-1], strides[:-1], strict=True))
    while outer and (outer[-1][0] == 1 or outer[-1][1] == length * item):
        length *= outer.pop()[0]
    places = [address]
    for extent, stride in outer:
        places = [p + i * stride for p in places for i in range(extent)]
    runs = []
    repeated = any(n > 1 and s == 0 for n, s in outer)
    for place in places:
        if runs and not repeated and runs[-1][0] + runs[-1][1] * item == place:
            runs[-1][1] += length
        else:
            runs.append([place, length])
    return [(p, n) for p, n in runs]


def cut(runs, pieces, item):
    """Runs cut where runs of the other side, given by their lengths in order, end."""
    ends = set(itertools.accumulate(pieces))
    result, done = [], 0
    for place, length in runs:
        start = 0
        for i in range(1, length + 1):
            if i == length or done + i in ends:
                result.append((place + start * item, i - start))
                start = i
        done += length
    return result


@st.composite
def operands(draw, extents=None):
    """Extents and strides: each outer stride adjoins, leaves a gap, or is 0."""
    if extents is None:
        extents = tuple(draw(st.lists(st.integers(1, 9), min_size=1, max_size=3)))
    item = 2
    strides = [item]
    for axis in range(len(extents) - 1, 0, -1):
        span = extents[axis] * strides[0] if strides[0] else item
        kind = draw(st.sampled_from(["adjoin", "gap", "gap", "zero"]))
        strides.insert(0, {"adjoin": span, "gap": span + 2 * draw(st.integers(1, 60)), "zero": 0}[kind])
    return draw(st.integers(0, 100)) * 2, extents, tuple(strides)


@st.composite
def pairs(draw):
    """A source and a destination of as many elements, sometimes in other views."""
    address, extents, strides = draw(operands())
    views = [extents, (int(np.prod(extents)),), (extents[0], int(np.prod(extents[1:])))]
    return (address, extents, strides), draw(operands(extents=draw(st.sampled_from(views))))


@settings(max_examples=400, deadline=None, derandomize=True)
@given(pairs(), st.sampled_from([("ddr", "l1"), ("llb", "l1")]), st.sampled_from(sorted(PARTS)))
def test_copies(pair, scopes, part):
    target, (src, dst) = PARTS[part], pair
    if not target.has_llb and "llb" in scopes:
        return
    bursts = [target.memory[s].burst for s in scopes]
    near = bursts[0] >= bursts[1]
    (address, extents, strides), other = (src, dst) if near else (dst, src)
    runs = cut(nested_runs(address, extents, strides, 2), [n for _, n in nested_runs(*other, 2)], 2)
    expected = sum(spanned(p, n * 2, max(bursts)) for p, n in runs) * max(bursts)
    rows = (
        Operand("dst", scopes[1], dst[0], "float16", *dst[1:]),
        Operand("src", scopes[0], src[0], "float16", *src[1:]),
    )
    assert RULES[part].instruction("load", rows).work == expected


def element_places(address, extents, strides):
    """The byte address of every element, in order."""
    return [
        address + sum(n * t for n, t in zip(at, strides, strict=True))
        for at in itertools.product(*(range(n) for n in extents))
    ]


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("address", [0, 32, 46, 64])
@pytest.mark.parametrize(("extents", "strides", "other"), [
    ((3, 65, 16), (4128, 64, 2), (2080, 32, 2)),   # planes of the other side adjoin: last and first rows are one run
    ((3, 65, 16), (4128, 64, 2), (2112, 32, 2)),   # they do not
    ((4, 5, 16), (288, 64, 2), (416, 96, 2)),      # both abut
    ((2, 3, 7), (94, 40, 2), (94, 40, 2)),
])  # fmt: skip
def test_planes_that_abut(extents, strides, other, address, turned):
    """A plane may begin where the last row of the one before ends, though its rows lie apart."""
    far, near = (other, strides) if turned else (strides, other)
    runs = []
    for a, b in zip(element_places(address, extents, far), element_places(0, extents, near), strict=True):
        if runs and runs[-1][1] == a and runs[-1][2] == b:
            runs[-1][1:] = [a + 2, b + 2]
        else:
            runs.append([a, a + 2, b + 2])
    rows = (Operand("dst", "l1", 0, "float16", extents, near), Operand("src", "ddr", address, "float16", extents, far))
    expected = sum(spanned(start, end - start, 64) for start, end, _ in runs) * 64
    assert RULES["npu-v1"].instruction("load", rows).work == expected


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.integers(-500, 500), st.integers(1, 200), st.lists(st.tuples(st.integers(1, 40), st.integers(0, 300)),
 min_size=4, max_size=4),
       st.sampled_from([1, 32, 48, 64]))  # fmt: skip
def test_grids(address, length, grid, burst):
    starts = [address]
    for count, stride in grid[:2]:
        starts = [s + i * stride for s in starts for i in range(count)]
    for count, stride in grid[2:]:
        starts = [s + i * stride for s in starts for i in range(min(count, 5))]
    counts = np.array([c for c, _ in grid[:2]] + [min(c, 5) for c, _ in grid[2:]])
    expected = sum(spanned(s, length, burst) for s in starts)
    numbers = np.array([address, length, *counts, *(s for _, s in grid), burst, 0, 0, 0, 0])
    assert grid_bytes(numbers) == expected * burst


def test_the_largest_grid_takes_no_time():
    """65535 x 65535 rows of 112 bytes, 6553503 and 100 apart: 4.3e9 runs."""

    def moved(count):
        rows = [
            Operand(r, p, 6, "float16", (count, count, 56), (6553503, 100, 2))
            for r, p in (("dst", "l1"), ("src", "ddr"))
        ]
        return RULES["npu-v1"].instruction("load", rows).work

    assert moved(64) == sum(spanned(6 + i * 6553503 + j * 100, 112, 64) for i in range(64) for j in range(64)) * 64
    assert 65535**2 * 128 <= moved(65535) <= 65535**2 * 192


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.integers(0, 4000), st.lists(st.tuples(st.integers(1, 6), st.integers(0, 1500)), min_size=2, max_size=2),
       st.integers(1, 600))  # fmt: skip
def test_banks(address, grid, row):
    """Ten banks of 1000 bytes."""
    touched = set()
    for i, j in itertools.product(range(grid[0][0]), range(grid[1][0])):
        start = address + i * grid[0][1] + j * grid[1][1]
        touched |= {b for b in range(start // 1000, (start + row - 1) // 1000 + 1) if b < 10}
    extents, strides = np.array([grid[0][0], grid[1][0], row]), np.array([grid[0][1], grid[1][1], 1])
    mask = int(bank_mask(address, extents, strides, 3, 8, 1000, 10))
    stop = address + sum((n - 1) * s for n, s in grid) + row
    if stop <= 10000:
        assert mask == sum(1 << b for b in touched)


# the functions for tile searches


@pytest.mark.parametrize("part", sorted(PARTS))
def test_matrix_cycles(part):
    target = PARTS[part]
    m, n, k = (np.array(v) for v in ([1, 16, 17, 64], [5, 16, 48, 64], [8, 9, 64, 147]))
    found = matrix_cycles(target, "float16", m, n, k)
    for i in range(4):
        rows = (Operand("dst", "l0c", 0, "float32", (int(m[i]), int(n[i]))), Operand("lhs", "l0a", 0, "float16",
         (int(m[i]), int(k[i]))),
                Operand("rhs", "l0b", 0, "float16", (int(k[i]), int(n[i]))))  # fmt: skip
        assert found[i] == RULES[part].instruction("matmul", rows).cycles
    assert matrix_cycles(PARTS["npu-v2"], "float16", 16, 16, 64, sparse=True) == 16 + 2


def test_vector_cycles():
    target = PARTS["npu-v1"]
    size = np.array([10, 100, 1000])
    assert vector_cycles(target, 8, size).tolist() == [8 + 8 * 2, 8 + 8 * 2, 8 + 8 * 9]
    assert vector_cycles(target, 8, 200, "transcendental") == 8 + 8 * (1 + 2 * 4)
    assert vector_cycles(target, 8, 200, "slide") == 8 + 8 * (1 + 2 * 2)
    assert vector_cycles(target, 8, 200, "stage") == 8 + 8 * (1 + 2 * 2)
    assert vector_cycles(target, 64, 200, reduced_itemsize=2) == 8 + 576
    with pytest.raises(KeyError):
        vector_cycles(target, 1, 1, "nothing")
    assert window_cycles(target, 9, np.array([64, 1]), np.array([48, 2048])).tolist() == [8 + 9 * 64 * 2, 8 + 9 * 17]
    assert move_cycles(target, np.array([256, 512])).tolist() == [9, 10]


def test_dma_bytes():
    target = PARTS["npu-v1"]
    assert dma_bytes(target, "ddr", "l1", 112, 8, 224, 128, 6) == 1280
    assert dma_bytes(target, "ddr", "l1", np.array([128, 112]), 8, np.array([128, 112]), 128).tolist() == [1024, 1280]
    assert dma_bytes(target, "l1", "ddr", 112, 8, 128, 112) == 1280
    assert dma_bytes(target, "l0c", "llb", 32, 16, 64, 32) == 1024
    assert row_bursts(np.array([[0], [60]]), np.array([64, 8]), 1, 0, 64).tolist() == [[64, 64], [128, 128]]
    for address, row, pitch in itertools.product((0, 6, 32), (48, 112), (112, 128, 224)):
        strides = max(row, pitch)
        rows = (
            Operand("dst", "l1", 0, "float16", (8, row // 2), (128, 2)),
            Operand("src", "ddr", address, "float16", (8, row // 2), (strides, 2)),
        )
        single = RULES["npu-v1"].instruction("load", rows).work
        assert dma_bytes(target, "ddr", "l1", row, 8, strides, 128, address) == single


def test_scopes_are_ordered_by_nearness_to_ddr():
    assert SCOPES[:3] == ("ddr", "llb", "l1")
