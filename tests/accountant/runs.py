"""Walks over the bytes of operands: bursts of a transfer, banks touched. All positions are in bits, for int4."""

from __future__ import annotations

import numpy as np
from numba import njit

BITS = {
    "float32": 32, "float16": 16, "bfloat16": 16, "float8_e4m3fn": 8, "float8_e5m2": 8,
    "int32": 32, "int16": 16, "int8": 8, "uint8": 8, "int4": 4, "bool": 8,
}  # fmt: skip


class Shape:
    """An operand's extents and bit strides, as three of each (outermost first), and the size of an element."""

    def __init__(self, operand: dict) -> None:
        self.bits = BITS[operand["dtype"]]
        extents, strides = list(operand["extents"]), list(operand["strides"])
        self.rank = len(extents)
        fill = 3 - self.rank
        self.extents = (1,) * fill + tuple(int(e) for e in extents)
        self.strides = (0,) * fill + tuple(int(s * 8) for s in strides)
        self.address = int(operand["address"])

    @property
    def elements(self) -> int:
        return self.extents[0] * self.extents[1] * self.extents[2]

    @property
    def rows(self) -> int:
        return self.extents[0] * self.extents[1]

    @property
    def row_bytes(self) -> int:
        return -(-self.extents[2] * self.bits // 8)


@njit(cache=True)
def _spanned(start: int, stop: int, burst: int) -> int:
    """Bits of the whole bursts that [start, stop) touches."""
    return (-(-stop // burst) - start // burst) * burst


@njit(cache=True)
def _position(place: int, extents, strides) -> int:
    """Bit offset of element number `place` in row-major order."""
    inner = place % extents[2]
    outer = place // extents[2]
    return (outer // extents[1]) * strides[0] + (outer % extents[1]) * strides[1] + inner * strides[2]


@njit(cache=True)
def _step(place: int, extents, strides, bits: int) -> int:
    """Elements from `place` on that follow each other in memory within the row."""
    if strides[2] == bits:
        return extents[2] - place % extents[2]
    return 1


@njit(cache=True)
def walk_pair(ea, sa, oa, bits_a, burst_a, eb, sb, ob, bits_b, burst_b, whole_a, whole_b):
    """Bits of whole bursts on both sides of a copy of the elements of A to those of B, in order.

    `oa`, `ob` are the bit addresses. A side with `whole` true is taken as one run (its breaks do not count).
    """
    total = ea[0] * ea[1] * ea[2]
    place = 0
    start_a = end_a = oa
    start_b = end_b = ob
    sum_a = sum_b = 0
    first = True
    while place < total:
        at_a = oa + (place * bits_a if whole_a else _position(place, ea, sa))
        at_b = ob + (place * bits_b if whole_b else _position(place, eb, sb))
        count = total - place
        if not whole_a:
            count = min(count, _step(place, ea, sa, bits_a))
        if not whole_b:
            count = min(count, _step(place, eb, sb, bits_b))
        if first or at_a != end_a or at_b != end_b:
            if not first:
                sum_a += _spanned(start_a, end_a, burst_a)
                sum_b += _spanned(start_b, end_b, burst_b)
            start_a, start_b = at_a, at_b
            first = False
        end_a = at_a + count * bits_a
        end_b = at_b + count * bits_b
        place += count
    sum_a += _spanned(start_a, end_a, burst_a)
    sum_b += _spanned(start_b, end_b, burst_b)
    return sum_a, sum_b


@njit(cache=True)
def merged_runs(extents, strides, bits):
    """Elements of each contiguous run of one operand, in order."""
    total = extents[0] * extents[1] * extents[2]
    most = extents[0] * extents[1] if strides[2] == bits else total
    found = np.zeros(most, np.int64)
    n = 0
    place = 0
    end = -1
    run = 0
    while place < total:
        at = _position(place, extents, strides)
        count = min(total - place, _step(place, extents, strides, bits))
        if place and at == end:
            run += count
        else:
            if place:
                found[n] = run
                n += 1
            run = count
        end = at + count * bits
        place += count
    found[n] = run
    return found[: n + 1]


@njit(cache=True)
def window_bits(
    base, height, width, channels, sh, sw, bits, kernel, stride, dilation, pad, burst, l0_row, l0_burst_side
):
    """Bits that an img2col move reads: a run for each row of taps, or for each tap where they are apart.

    With `l0_burst_side` the runs are counted where they are written: `l0_row` bits apart, tight in a row.
    """
    oh = (height + pad[0] + pad[2] - dilation[0] * (kernel[0] - 1) - 1) // stride[0] + 1
    ow = (width + pad[1] + pad[3] - dilation[1] * (kernel[1] - 1) - 1) // stride[1] + 1
    tap = channels * bits
    joined = kernel[1] == 1 or (dilation[1] == 1 and sw == tap)
    runs = 1 if joined else kernel[1]
    length = tap * kernel[1] if joined else tap
    total = 0
    for y in range(oh):
        for x in range(ow):
            for i in range(kernel[0]):
                for j in range(runs):
                    if l0_burst_side:
                        at = (y * ow + x) * l0_row + (i * kernel[1] + j) * tap
                    else:
                        at = base + (y * stride[0] - pad[0] + i * dilation[0]) * sh
                        at += (x * stride[1] - pad[1] + j * dilation[1]) * sw
                    total += _spanned(at, at + length, burst)
    return total, oh * ow


@njit(cache=True)
def bank_mask(address, extents, strides, bits, bank_bits):
    """Banks that hold at least one byte of the operand."""
    mask = 0
    row = extents[2] * bits if strides[2] else bits
    for i in range(extents[0]):
        for j in range(extents[1]):
            start = address * 8 + i * strides[0] + j * strides[1]
            for bank in range(start // bank_bits, (start + row - 1) // bank_bits + 1):
                mask |= 1 << bank
            if strides[1] == 0:
                break
        if strides[0] == 0:
            break
    return mask
