"""Addresses of a kernel's own buffers in the scratchpads of a core.

Every slot of a ring gets a place of its own. Slots go to separate banks while there is room, since engines that
work in one bank at the same time slow each other; what does not fit so is packed tightly.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dsa_compiler.assemble.trace import Trace
from dsa_compiler.errors import Infeasible
from dsa_compiler.target import Target

SCRATCH = ("l1", "l0a", "l0b", "l0c")


@dataclass(frozen=True)
class Placement:
    """Addresses by buffer and slot: `address[buffer, slot]`, -1 for parameters."""

    address: np.ndarray


def place_buffers(trace: Trace, target: Target, *, from_top: bool = False) -> Placement:
    """Addresses for the buffers of `trace`; `from_top` fills L1 from its end.

    Raises `Infeasible` naming the scope whose size the buffers exceed.
    """
    rings = max((b.ring for b in trace.buffers), default=1)
    address = np.full((len(trace.buffers), rings), -1, np.int64)
    for scope in SCRATCH:
        slots = [
            (n, s) for n, b in enumerate(trace.buffers) if b.scope == scope and b.parameter < 0 for s in range(b.ring)
        ]
        sizes = [trace.buffers[n].bytes for n, _ in slots]
        for (n, s), where in zip(slots, _place(sizes, scope, target, trace.name), strict=True):
            size = trace.buffers[n].bytes
            top = from_top and scope == "l1"
            address[n, s] = (
                target.memory[scope].size - _up(where + size, target.memory[scope].alignment) if top else where
            )
    return Placement(address)


def _up(value: int, unit: int) -> int:
    return -(-value // unit) * unit


def _place(sizes: list[int], scope: str, target: Target, kernel: str) -> list[int]:
    memory = target.memory[scope]
    for unit in (memory.bank_bytes, memory.alignment):
        if unit == memory.bank_bytes and memory.banks == 1:
            continue
        starts, place = [], 0
        for size in sizes:
            starts.append(place)
            place += _up(size, unit)
        if place <= memory.size:
            return starts
    needed = sum(_up(size, memory.alignment) for size in sizes)
    raise Infeasible(scope, needed, memory.size, where=kernel)
