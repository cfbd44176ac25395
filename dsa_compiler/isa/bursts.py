"""Whole bursts of strided operands, counted by the periodicity of alignment: no row is walked.

An operand is `extents` and byte `strides`, outermost first, in three places of which `rank` are used; its element has
`bits` bits. A *run* is what is contiguous; a *grid* says where runs start: `GRID` numbers, namely the first address,
the bytes of a run, four counts, four steps and the burst, then room for four periods. Grids are described in several
ways but counted in one place, since every call of a compiled function is compiled anew.
"""

# mypy: disable-error-code="no-any-return"
from __future__ import annotations

import numpy as np
from numba import njit

GRID = 15
_BURST, _PERIODS = 10, 11
_INNER = {"cache": True, "error_model": "numpy", "no_cfunc_wrapper": True, "no_cpython_wrapper": True}
_OUTER = {"cache": True, "error_model": "numpy", "no_cfunc_wrapper": True}


@njit(**_INNER)  # type: ignore[untyped-decorator]
def gcd(a: int, b: int) -> int:
    """Greatest common divisor of numbers that are not negative."""
    while b:
        a, b = b, a % b
    return a


@njit(**_INNER)  # type: ignore[untyped-decorator]
def row_bytes(extent: int, bits: int) -> int:
    """Bytes of a row of `extent` elements, rounded up to whole bytes."""
    return (extent * bits + 7) // 8


@njit(**_INNER)  # type: ignore[untyped-decorator]
def merge_rows(extents: np.ndarray, strides: np.ndarray, rank: int, bits: int) -> tuple[int, int]:
    """Elements of a contiguous run, and how many outer dimensions remain as a grid of runs."""
    run = extents[rank - 1]
    left = rank - 1
    while left > 0 and (extents[left - 1] == 1 or strides[left - 1] * 8 == run * bits):
        run *= extents[left - 1]
        left -= 1
    return run, left


@njit(**_INNER)  # type: ignore[untyped-decorator]
def describe_rows(grid: np.ndarray, address: int, step: int, rows: int, pieces: int, length: int, burst: int) -> None:
    """`rows` rows, `step` bytes apart, each of `pieces` adjacent runs of `length` bytes."""
    grid[0], grid[1], grid[_BURST] = address, length, burst
    for axis in range(4):
        grid[2 + axis], grid[6 + axis] = 1, 0
    grid[2], grid[6], grid[3], grid[7] = rows, step, pieces, length


@njit(**_INNER)  # type: ignore[untyped-decorator]
def describe_side(
    grid: np.ndarray, address: int, extents: np.ndarray, strides: np.ndarray, rank: int, bits: int, other: int,
    burst: int,
) -> bool:  # fmt: skip
    """One side of a copy, where runs of `other` elements of the other side end runs too (0: they do not).

    Returns False, describing nothing, if the runs of neither side divide those of the other.
    """
    run, left = merge_rows(extents, strides, rank, bits)
    piece = run if other == 0 else min(run, other)
    if run % piece != 0 or (other != 0 and other % piece != 0):
        return False
    describe_rows(grid, address, 0, 1, 1, row_bytes(piece, bits), burst)
    for axis in range(left):
        grid[2 + axis], grid[6 + axis] = extents[axis], strides[axis]
    grid[5], grid[9] = run // piece, piece * bits // 8
    return True


@njit(**_INNER)  # type: ignore[untyped-decorator]
def describe_window(
    grid: np.ndarray, address: int, strides: np.ndarray, high: int, wide: int, window: np.ndarray, pixel: int,
    burst: int,
) -> None:  # fmt: skip
    """What an img2col reads: a run for each output and row of taps, or for each tap if taps are apart.

    `window` is (kernel h, w, stride h, w, dilation h, w, pad top, left, ..); padding counts as read.
    """
    tight = window[1] == 1 or strides[1] * window[5] == pixel
    start = address - window[6] * strides[0] - window[7] * strides[1]
    describe_rows(grid, start, window[2] * strides[0], high, 1, pixel * window[1] if tight else pixel, burst)
    grid[3], grid[7] = wide, window[3] * strides[1]
    grid[4], grid[8] = window[0], window[4] * strides[0]
    grid[5], grid[9] = 1 if tight else window[1], window[5] * strides[1]


@njit(**_INNER)  # type: ignore[untyped-decorator]
def _period(count: int, step: int, burst: int) -> int:
    """How many of `count` steps it takes until the place within a burst repeats."""
    if count == 1:
        return 1
    rest = step % burst
    return 1 if rest == 0 else min(count, burst // gcd(burst, rest))


@njit(**_OUTER)  # type: ignore[untyped-decorator]
def grid_bytes(grid: np.ndarray) -> int:
    """Bytes of the whole bursts that the runs of a grid touch."""
    length, burst = grid[1], grid[_BURST]
    places = 1
    for axis in range(4):
        grid[_PERIODS + axis] = _period(grid[2 + axis], grid[6 + axis], burst)
        places *= grid[_PERIODS + axis]
    bursts = 0
    for place in range(places):
        start, runs, rest = grid[0], 1, place
        for axis in range(4):
            count, period = grid[2 + axis], grid[_PERIODS + axis]
            if period == 1:
                runs *= count
                continue
            step, rest = rest % period, rest // period
            start += step * grid[6 + axis]
            runs *= count // period + (1 if step < count % period else 0)
        bursts += runs * ((start % burst + length - 1) // burst + 1)
    return bursts * burst


@njit(**_INNER)  # type: ignore[untyped-decorator]
def uneven_bytes(
    address: int, extents: np.ndarray, strides: np.ndarray, rank: int, bits: int, other: int, burst: int
) -> int:
    """Bytes of one side of a copy where `describe_side` gives up: the runs are walked.

    One of the sides lies in a scratchpad, so that there are few.
    """
    run, left = merge_rows(extents, strides, rank, bits)
    total = 1
    for axis in range(rank):
        total *= extents[axis]
    bursts, done = 0, 0
    while done < total:
        stop = min((done // run + 1) * run, (done // other + 1) * other)
        start, number = address + done % run * bits // 8, done // run
        for axis in range(left - 1, -1, -1):
            start += number % extents[axis] * strides[axis]
            number //= extents[axis]
        bursts += (start % burst + row_bytes(stop - done, bits) - 1) // burst + 1
        done = stop
    return bursts * burst


@njit(**_INNER)  # type: ignore[untyped-decorator]
def planes_abut(extents: np.ndarray, strides: np.ndarray, rank: int, bits: int) -> bool:
    """Whether each plane begins where the last row of the one before ends, though its rows lie apart."""
    run, left = merge_rows(extents, strides, rank, bits)
    apart = left == 2 and extents[0] > 1 and strides[1] > 0  # a repeated row is a run each time
    return apart and strides[0] == (extents[1] - 1) * strides[1] + row_bytes(run, bits)


@njit(**_INNER)  # type: ignore[untyped-decorator]
def place_of(done: int, address: int, extents: np.ndarray, strides: np.ndarray, rank: int, bits: int) -> int:
    """The byte address of element number `done` of an operand in row-major order."""
    place = address + done % extents[rank - 1] * strides[rank - 1]
    if rank == 1:
        return place
    number = done // extents[rank - 1]
    for axis in range(rank - 2, -1, -1):
        place += number % extents[axis] * strides[axis]
        number //= extents[axis]
    return place


@njit(**_INNER)  # type: ignore[untyped-decorator]
def worst_row_bytes(address: int, strides: np.ndarray, rank: int, length: int, rows: int, burst: int) -> int:
    """Bytes of `rows` rows by index, each at the worst alignment that base and row strides allow."""
    common = address
    for axis in range(rank - 1):
        common = gcd(common, strides[axis])
    step = common & -common if common else burst
    worst = 0 if step >= burst else burst - step
    return rows * ((worst + length - 1) // burst + 1) * burst


@njit(**_OUTER)  # type: ignore[untyped-decorator]
def bank_mask(
    address: int, extents: np.ndarray, strides: np.ndarray, rank: int, bits: int, bank: int, banks: int
) -> np.uint64:
    """The banks that hold at least one byte of an operand, as bits.

    Dimensions whose stride is at most a bank skip none, so that their rows span an interval; the others have few rows.
    """
    span = row_bytes(extents[rank - 1] if strides[rank - 1] else 1, bits)
    n0, s0, n1, s1 = 1, 0, 1, 0
    for axis in range(rank - 1):
        if strides[axis] <= bank:
            span += (extents[axis] - 1) * strides[axis]
        elif n0 == 1:
            n0, s0 = extents[axis], strides[axis]
        else:
            n1, s1 = extents[axis], strides[axis]
    mask = np.uint64(0)
    for i in range(min(n0, banks + 1)):
        for j in range(min(n1, banks + 1)):
            first = (address + i * s0 + j * s1) // bank
            last = (address + i * s0 + j * s1 + span - 1) // bank
            for b in range(max(first, 0), min(last, banks - 1) + 1):
                mask |= np.uint64(1) << np.uint64(b)
    return mask


@njit(**_OUTER)  # type: ignore[untyped-decorator]
def many_row_bytes(
    address: np.ndarray, length: np.ndarray, rows: np.ndarray, stride: np.ndarray, burst: int
) -> np.ndarray:
    """Whole bursts in bytes of rows at regular distances, for arrays of problems."""
    result = np.empty(len(address), np.int64)
    grid = np.empty(GRID, np.int64)
    for i in range(len(address)):
        describe_rows(grid, address[i], stride[i], rows[i], 1, length[i], burst)
        result[i] = grid_bytes(grid)
    return result
