"""Addresses of a kernel's own buffers in the scratchpads of a core.

Every slot of a ring gets a place of its own. Slots go to separate banks while there is room, since engines that
work in one bank at the same time slow each other; what does not fit so is packed tightly.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from dsa_compiler.assemble.trace import Trace
from dsa_compiler.errors import Infeasible
from dsa_compiler.target import Memory, Target

SCRATCH = ("l1", "l0a", "l0b", "l0c")


@dataclass(frozen=True)
class Placement:
    """Addresses by buffer and slot: `address[buffer, slot]`, -1 for parameters."""

    address: np.ndarray


def place_buffers(
    trace: Trace, target: Target, *, from_top: bool = False, region: tuple[int, int] | None = None
) -> Placement:
    """Addresses for the buffers of `trace`; `from_top` fills the scratchpads from their ends.

    `region` is the part of L1 (first byte, end; multiples of a bank where it has banks) to stay in. Raises `Infeasible`
    naming the scope whose size the buffers exceed.
    """
    rings = max((b.ring for b in trace.buffers), default=1)
    address = np.full((len(trace.buffers), rings), -1, np.int64)
    for scope in SCRATCH:
        low, high = region if region is not None and scope == "l1" else (0, target.memory[scope].size)
        memory = part_of(target.memory[scope], high - low)
        slots = [
            (n, s) for n, b in enumerate(trace.buffers) if b.scope == scope and b.parameter < 0 for s in range(b.ring)
        ]
        sizes = [trace.buffers[n].bytes for n, _ in slots]
        for (n, s), where in zip(slots, _place(sizes, scope, memory, trace.name), strict=True):
            size = trace.buffers[n].bytes
            place = memory.size - _up(where + size, memory.alignment) if from_top else where
            address[n, s] = low + place
    return Placement(address)


def part_of(memory: Memory, size: int) -> Memory:
    """`size` bytes of a memory, with as many of its banks."""
    banks = max(1, memory.banks * size // memory.size) if memory.banks else memory.banks
    return replace(memory, size=size, banks=banks)


def _up(value: int, unit: int) -> int:
    return -(-value // unit) * unit


def _place(sizes: list[int], scope: str, memory: Memory, kernel: str) -> list[int]:
    """Start of each slot: a bank of its own, else spread evenly over banks, else packed tightly."""
    if memory.banks > 1:
        apart = _pack(sizes, memory.bank_bytes)
        if apart[-1] <= memory.size:
            return apart[:-1]
        spread = _spread(sizes, memory)
        if spread is not None:
            return spread
    tight = _pack(sizes, memory.alignment)
    if tight[-1] <= memory.size:
        return tight[:-1]
    raise Infeasible(scope, tight[-1], memory.size, where=kernel)


def _pack(sizes: list[int], unit: int) -> list[int]:
    """Starts one behind the other at multiples of `unit`, and at last where the next would start."""
    starts = [0]
    for size in sizes:
        starts.append(starts[-1] + _up(size, unit))
    return starts


def _spread(sizes: list[int], memory: Memory) -> list[int] | None:
    """Starts with several slots a bank, as even in number as they fit, so that slots of a ring lie in different banks.

    Larger slots come first; one larger than a bank takes whole banks but for the rest of its last. None if the slots
    do not fit in this way.
    """
    used, count = [0] * memory.banks, [0] * memory.banks
    starts, first = [0] * len(sizes), 0
    for n in sorted(range(len(sizes)), key=lambda i: -sizes[i]):
        size = _up(sizes[n], memory.alignment)
        if size > memory.bank_bytes:
            banks = -(-size // memory.bank_bytes)
            if first + banks > memory.banks:
                return None
            starts[n] = first * memory.bank_bytes
            for bank in range(first, first + banks):
                used[bank], count[bank] = memory.bank_bytes, len(sizes)
            used[first + banks - 1] = size - (banks - 1) * memory.bank_bytes
            first += banks
            continue
        free = [b for b in range(memory.banks) if used[b] + size <= memory.bank_bytes]
        if not free:
            return None
        bank = min(free, key=lambda b: (count[b], used[b]))
        starts[n] = bank * memory.bank_bytes + used[bank]
        used[bank], count[bank] = used[bank] + size, count[bank] + 1
    return starts
