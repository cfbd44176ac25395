"""Whole bursts of strided operands, counted by the periodicity of alignment: no row is walked.

An operand is `extents` and byte `strides`, outermost first, in three places of which `rank` are used; its element has
`bits` bits. A *run* is what is contiguous; the *grid* are the places at which runs start.
"""

# mypy: disable-error-code="no-any-return"
from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True, inline="never")  # type: ignore[untyped-decorator]
def gcd(a: int, b: int) -> int:
    """Greatest common divisor of magnitudes."""
    while b:
        a, b = b, a % b
    return a


@njit(cache=True)  # type: ignore[untyped-decorator]
def row_bytes(extent: int, bits: int) -> int:
    """Bytes of a row of `extent` elements, rounded up to whole bytes."""
    return (extent * bits + 7) // 8


@njit(cache=True)  # type: ignore[untyped-decorator]
def merge_rows(extents: np.ndarray, strides: np.ndarray, rank: int, bits: int) -> tuple[int, int]:
    """Elements of a contiguous run, and how many outer dimensions remain as a grid of runs."""
    run = extents[rank - 1]
    left = rank - 1
    while left > 0 and (extents[left - 1] == 1 or strides[left - 1] * 8 == run * bits):
        run *= extents[left - 1]
        left -= 1
    return run, left


@njit(cache=True)  # type: ignore[untyped-decorator]
def period(stride: int, burst: int) -> int:
    """After how many steps of `stride` the place within a burst repeats."""
    rest = stride % burst
    return 1 if rest == 0 else burst // gcd(burst, rest)


@njit(cache=True)  # type: ignore[untyped-decorator]
def grid_bursts(address: int, length: int, counts: np.ndarray, strides: np.ndarray, burst: int) -> int:
    """Bursts that runs of `length` bytes touch, one run at each place of a grid of four dimensions."""
    p0, p1 = min(counts[0], period(strides[0], burst)), min(counts[1], period(strides[1], burst))
    p2, p3 = min(counts[2], period(strides[2], burst)), min(counts[3], period(strides[3], burst))
    total = 0
    for i in range(p0):
        n0 = counts[0] // p0 + (1 if i < counts[0] % p0 else 0)
        for j in range(p1):
            n1 = n0 * (counts[1] // p1 + (1 if j < counts[1] % p1 else 0))
            for k in range(p2):
                n2 = n1 * (counts[2] // p2 + (1 if k < counts[2] % p2 else 0))
                for l in range(p3):
                    n3 = n2 * (counts[3] // p3 + (1 if l < counts[3] % p3 else 0))
                    start = address + i * strides[0] + j * strides[1] + k * strides[2] + l * strides[3]
                    total += n3 * ((start % burst + length - 1) // burst + 1)
    return total


@njit(cache=True)  # type: ignore[untyped-decorator]
def split_bytes(
    address: int, extents: np.ndarray, strides: np.ndarray, rank: int, bits: int, piece: int, burst: int
) -> int:
    """Bytes of whole bursts of one side, whose runs end every `piece` elements (which divide them)."""
    run, left = merge_rows(extents, strides, rank, bits)
    counts, steps = np.ones(4, np.int64), np.zeros(4, np.int64)
    for d in range(left):
        counts[d], steps[d] = extents[d], strides[d]
    counts[3], steps[3] = run // piece, piece * bits // 8
    return grid_bursts(address, row_bytes(piece, bits), counts, steps, burst) * burst


@njit(cache=True)  # type: ignore[untyped-decorator]
def side_bytes(address: int, extents: np.ndarray, strides: np.ndarray, rank: int, bits: int, burst: int) -> int:
    """Bytes of whole bursts of an operand on its own."""
    run, _ = merge_rows(extents, strides, rank, bits)
    return split_bytes(address, extents, strides, rank, bits, run, burst)


@njit(cache=True)  # type: ignore[untyped-decorator]
def _run_address(address: int, extents: np.ndarray, strides: np.ndarray, left: int, number: int) -> int:
    """Where run `number` of an operand starts, with `left` grid dimensions."""
    for d in range(left - 1, -1, -1):
        address += number % extents[d] * strides[d]
        number //= extents[d]
    return address


@njit(cache=True)  # type: ignore[untyped-decorator]
def _uneven_bytes(
    address: int, extents: np.ndarray, strides: np.ndarray, rank: int, bits: int, other: int, burst: int
) -> int:
    """The same where the other side's runs of `other` elements neither divide this side's nor are divided: walked.

    One of the sides lies in a scratchpad, so that there are few runs.
    """
    run, left = merge_rows(extents, strides, rank, bits)
    total = 1
    for d in range(rank):
        total *= extents[d]
    bursts, done = 0, 0
    while done < total:
        stop = min((done // run + 1) * run, (done // other + 1) * other)
        start = _run_address(address, extents, strides, left, done // run) + done % run * bits // 8
        bursts += (start % burst + row_bytes(stop - done, bits) - 1) // burst + 1
        done = stop
    return bursts * burst


@njit(cache=True)  # type: ignore[untyped-decorator]
def shared_bytes(
    address: int, extents: np.ndarray, strides: np.ndarray, rank: int, bits: int, other: int, burst: int
) -> int:
    """Bytes of whole bursts of one side, where runs of `other` elements of the other side end runs too."""
    run, _ = merge_rows(extents, strides, rank, bits)
    if run % other == 0:
        return split_bytes(address, extents, strides, rank, bits, other, burst)
    if other % run == 0:
        return split_bytes(address, extents, strides, rank, bits, run, burst)
    return _uneven_bytes(address, extents, strides, rank, bits, other, burst)


@njit(cache=True)  # type: ignore[untyped-decorator]
def worst_row_bytes(address: int, strides: np.ndarray, rank: int, length: int, rows: int, burst: int) -> int:
    """Bytes of `rows` rows by index, each at the worst alignment that base and row strides allow."""
    common = address
    for d in range(rank - 1):
        common = gcd(common, strides[d])
    step = common & -common if common else burst
    worst = 0 if step >= burst else burst - step
    return rows * ((worst + length - 1) // burst + 1) * burst


@njit(cache=True)  # type: ignore[untyped-decorator]
def window_bytes(
    address: int, strides: np.ndarray, grid: np.ndarray, window: np.ndarray, pixel: int, burst: int
) -> int:
    """Bytes that an img2col reads: a run for each output and row of taps, or for each tap if taps are apart.

    `window` is (kernel h, w, stride h, w, dilation h, w, pad top, left); padding counts as read.
    """
    kh, kw, sh, sw, dh, dw = window[0], window[1], window[2], window[3], window[4], window[5]
    tight = kw == 1 or strides[1] * dw == pixel
    start = address - window[6] * strides[0] - window[7] * strides[1]
    counts, steps = np.empty(4, np.int64), np.empty(4, np.int64)
    counts[0], steps[0] = grid[0], sh * strides[0]
    counts[1], steps[1] = grid[1], sw * strides[1]
    counts[2], steps[2] = kh, dh * strides[0]
    counts[3], steps[3] = (1 if tight else kw), dw * strides[1]
    return grid_bursts(start, pixel * kw if tight else pixel, counts, steps, burst) * burst


@njit(cache=True)  # type: ignore[untyped-decorator]
def row_grid_bytes(address: int, step: int, rows: int, pieces: int, length: int, burst: int) -> int:
    """Bytes of `rows` rows, `step` bytes apart, each of `pieces` adjacent runs of `length` bytes."""
    counts, steps = np.ones(4, np.int64), np.zeros(4, np.int64)
    counts[0], steps[0], counts[1], steps[1] = rows, step, pieces, length
    return grid_bursts(address, length, counts, steps, burst) * burst


@njit(cache=True)  # type: ignore[untyped-decorator]
def bank_mask(
    address: int, extents: np.ndarray, strides: np.ndarray, rank: int, bits: int, bank: int, banks: int
) -> np.uint64:
    """The banks that hold at least one byte of an operand, as bits.

    Dimensions whose stride is at most a bank skip none, so that their rows span an interval; the others have few rows.
    """
    span = row_bytes(extents[rank - 1], bits)
    n0, s0, n1, s1 = 1, 0, 1, 0
    for d in range(rank - 1):
        if strides[d] <= bank:
            span += (extents[d] - 1) * strides[d]
        elif n0 == 1:
            n0, s0 = extents[d], strides[d]
        else:
            n1, s1 = extents[d], strides[d]
    mask = np.uint64(0)
    for i in range(min(n0, banks + 1)):
        for j in range(min(n1, banks + 1)):
            first = (address + i * s0 + j * s1) // bank
            last = (address + i * s0 + j * s1 + span - 1) // bank
            for b in range(max(first, 0), min(last, banks - 1) + 1):
                mask |= np.uint64(1) << np.uint64(b)
    return mask
