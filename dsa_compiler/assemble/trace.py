"""A kernel expanded for every core: the relocatable instruction stream, as columns.

A trace owns no address and no flag: an operand is (buffer, slot of its ring, byte offset). Rows are in the
order in which one core would execute them, cores one after another.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

TRACE_OPERAND = np.dtype(
    [
        ("role", np.uint8),
        ("dtype", np.uint8),
        ("rank", np.uint8),
        ("buffer", np.int32),  # index into Trace.buffers
        ("slot", np.int32),  # place in the buffer's ring
        ("offset", np.int64),  # bytes from the start of the slot
        ("extents", np.int64, (3,)),
        ("strides", np.int64, (3,)),  # bytes
    ]
)

TRACE_ENTRY = np.dtype(
    [
        ("opcode", np.uint16),
        ("core", np.int32),  # number in the chip
        ("key", np.int64),  # place in the core's sequential order
        ("group", np.int32),  # multicast group within the kernel, or -1
        ("attrs", np.int32),  # index into Trace.attrs
        ("operand", np.int64),
        ("operands", np.uint8),
    ]
)


@dataclass(frozen=True)
class TraceBuffer:
    """A buffer of a kernel: `ring` slots of `bytes` each in `scope`; a parameter has its place in the call."""

    name: str
    scope: str
    bytes: int
    ring: int = 1
    parameter: int = -1


@dataclass(frozen=True)
class Trace:
    """The expanded kernel; `entries` are sorted by core, then by `key`."""

    name: str
    entries: np.ndarray
    operands: np.ndarray
    attrs: tuple[Mapping[str, Any], ...]
    buffers: tuple[TraceBuffer, ...]

    @property
    def cores(self) -> np.ndarray:
        """The cores that take part, ascending."""
        return np.unique(self.entries["core"])

    def footprint(self, scope: str) -> int:
        """Bytes of the kernel's own buffers in `scope`, rings included."""
        return sum(b.bytes * b.ring for b in self.buffers if b.scope == scope and b.parameter < 0)
