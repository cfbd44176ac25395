"""How much of a kernel's work was emitted: multiply-accumulates, element operations, bytes copied.

Counts are at the greatest extents and trips of all loops, so that shares are exact where tiles are whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from tvm import tirx
from tvm.ir import TensorLoad
from tvm.tirx import BufferStore, For

from dsa_compiler.emit import tir
from dsa_compiler.emit.accumulation import accumulation, reduced_axes
from dsa_compiler.emit.emission import Emission, Emitted
from dsa_compiler.emit.expression import Apply, Const, Load
from dsa_compiler.emit.nest import Nest
from dsa_compiler.emit.outline import Leftover
from dsa_compiler.isa.dtypes import item_bytes


@dataclass(frozen=True)
class Work:
    """Multiply-accumulates, element operations and bytes copied."""

    macs: int = 0
    elements: int = 0
    bytes: int = 0

    def __add__(self, other: Work) -> Work:
        return Work(self.macs + other.macs, self.elements + other.elements, self.bytes + other.bytes)


def emitted_work(emission: Emission) -> Work:
    """Work that instructions do."""
    return sum((_of_instruction(e) for e in emission.emitted), Work())


def left_work(emission: Emission) -> Work:
    """Work of the nests that stayed."""
    return sum((_of_leftover(l) for l in emission.leftovers), Work())


def _of_instruction(emitted: Emitted) -> Work:
    return _of_nest(emitted.nests[-1], emitted.trips)


def _of_nest(nest: Nest, trips: int) -> Work:
    count = nest.elements * trips
    if isinstance(nest.value, (Load, Const)):
        return Work(bytes=count * item_bytes(nest.store.dtype))
    added = accumulation(nest.value, nest.store, nest.loads)
    if added is not None and reduced_axes(nest.store) and isinstance(added.rest, Apply) and added.rest.op == "mul":
        return Work(macs=count)
    return Work(elements=count)


def _of_leftover(leftover: Leftover) -> Work:
    """Work of a nest by its form; loops of unknown extent count as one iteration."""
    loops, body = tir.peel(leftover.stmt)
    _, store = tir.peel_guards(body)
    count = leftover.trips * prod(_extent(l) for l in loops)
    if not isinstance(store, BufferStore):
        return Work(elements=count)
    value = store.value
    if isinstance(value, TensorLoad) or tir.is_select(value):
        return Work(bytes=count * item_bytes(str(store.buffer.dtype)))
    if isinstance(value, tirx.Add) and any(isinstance(v, tirx.Mul) for v in (value.a, value.b)):
        reads = [l.source for l in tir.loads_of(value)]
        if any(b.same_as(store.buffer) for b in reads):
            return Work(macs=count)
    return Work(elements=count)


def _extent(loop: For) -> int:
    return tir.constant(loop.extent) or 1
