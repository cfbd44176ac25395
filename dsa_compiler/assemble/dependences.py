"""Dependences between the engines of one core, found from the bytes that instructions touch, then minimised.

The stream of a core has a sequential meaning: its entries in order. Engines run it in parallel, so each
read-after-write, write-after-read and write-after-write across engines needs a flag, unless another flag, or
the order of a queue, already implies it. What is implied is tracked as in vector clocks: for every entry, the
last entry of each class that is known to be complete when it starts.

Within a queue, reads after writes and writes by DMA of less latency than the one before are ordered by nothing, since
DMAs complete latencies after they leave their engine; no flag joins a queue with itself. Such a pair is a detour: the
caller puts a relay into the scalar queue (`assemble.relays`).

A class is an engine and, for load and store, the latency of its memory: a flag proves its own entry and those
before it in the queue with no greater latency.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import numba
import numpy as np

CLASSES = 10
"""load, store, move, matrix, vector, scalar (as ENGINES), then load and store of the memory of less latency, then those
within the core (fills), whose latency is the least."""

LEVELS = 3
"""Memories of loads and stores by latency, the greatest first."""

DMA_CLASSES = (0, 1, 6, 7, 8, 9)
"""The classes whose entries a barrier waits for."""

_SCALAR = 5

QUEUE_OF_CLASS = np.array([0, 1, 2, 3, 4, 5, 0, 1, 0, 1], np.int64)


_inner = numba.njit(cache=True, no_cpython_wrapper=True, no_cfunc_wrapper=True, forceinline=True)


@dataclass(frozen=True)
class CoreStream:
    """One core's entries as flat arrays; operands of entry e are rows first[e] to first[e + 1].

    `memory` numbers the shadow maps of the operands (-1: not tracked); addresses are in bytes within the
    memory; `shadow_bytes[m]` is the size of memory m and `block[m]` its granule. `collect` marks the entries that wait
    until all earlier entries of the load and store queues are complete; `gate[e]` is an entry of the scalar queue that
    e must wait for, -1 without (see `assemble.barriers`); `source[e]` is a load or store that e, a relay, waits for.
    """

    klass: np.ndarray
    first: np.ndarray
    memory: np.ndarray
    address: np.ndarray
    extents: np.ndarray
    strides: np.ndarray
    item: np.ndarray
    written: np.ndarray
    shadow_bytes: np.ndarray
    block: np.ndarray
    collect: np.ndarray | None = None
    gate: np.ndarray | None = None
    source: np.ndarray | None = None

    def digest(self) -> bytes:
        """What the edges depend on, as a key: cores that do the same work have the same edges."""
        tracked = self.memory >= 0
        masked = (np.where(tracked, self.address, 0), *(a * tracked[:, None] for a in (self.extents, self.strides)))
        tables = (self.klass, self.first, self.memory, *masked, self.item, self.written, self.collect, self.gate,
                  self.source)  # fmt: skip
        key = hashlib.blake2b(digest_size=16)
        for table in tables:
            key.update(b"|" if table is None else np.ascontiguousarray(table).data)
        return key.digest()


@dataclass(frozen=True)
class Edges:
    """Flags needed: entry `consumer` waits for entry `producer` (numbers within the core's stream).

    known: (entries, CLASSES), the last complete entry of each class when the entry starts, or -1; detours: rows
    (producer, consumer) of one queue that the consumer has to wait for through another, in the order of consumers.
    """

    producer: np.ndarray
    consumer: np.ndarray
    known: np.ndarray
    detours: np.ndarray = field(default_factory=lambda: np.zeros((0, 2), np.int32))


def find_edges(stream: CoreStream) -> Edges:
    """The minimised dependences of one core's stream."""
    blocks = -(-stream.shadow_bytes // stream.block)
    base = np.concatenate([[0], np.cumsum(blocks)]).astype(np.int64)
    producer, consumer, known, detours = _find(
        stream.klass.astype(np.int64), stream.first, stream.memory, stream.address, stream.extents,
        stream.strides, stream.item, stream.written, base, stream.block, QUEUE_OF_CLASS,
        np.zeros(len(stream.klass), np.bool_) if stream.collect is None else stream.collect,
        *(np.full(len(stream.klass), -1, np.int64) if a is None else a for a in (stream.gate, stream.source)),
    )  # fmt: skip
    return Edges(producer, consumer, known, detours)


@numba.njit(cache=True)
def _find(  # type: ignore[no-untyped-def]
    klass, first, memory, address, extents, strides, item, written, base, block, queue_of, collect, gate, source
):
    entries = klass.shape[0]
    segment = _segments(memory, address, extents, strides, item, base, block)
    segments = segment[-1] + 1
    writer = np.full(segments, -1, np.int32)
    reader = np.full((segments, CLASSES), -1, np.int32)
    known = np.full((entries, CLASSES), -1, np.int32)
    clock = np.full((6, CLASSES), -1, np.int32)
    need = np.empty(CLASSES + LEVELS, np.int32)  # by class; then of the own queue by level
    detours = np.empty((entries, 2), np.int32)
    found = 0
    latest = np.full(CLASSES, -1, np.int32)
    capacity = entries * 2 + 16
    producers = np.empty(capacity, np.int32)
    consumers = np.empty(capacity, np.int32)
    edges = 0
    for e in range(entries):
        need[:] = -1
        _collect(
            e, klass, first, memory, address, extents, strides, item, written, base, block, segment, writer, reader,
            need,
        )
        queue = queue_of[klass[e]]
        known[e] = clock[queue]
        if collect[e]:
            for c in DMA_CLASSES:
                need[c] = max(need[c], latest[c])
        if gate[e] >= 0:
            need[_SCALAR] = max(need[_SCALAR], gate[e])
        if source[e] >= 0:
            need[klass[source[e]]] = max(need[klass[source[e]]], source[e])
        latest[klass[e]] = e
        while True:
            best = _latest_unknown(need, known[e], queue, queue_of, known)
            if best < 0:
                break
            if edges == capacity:
                capacity *= 2
                producers = _grown(producers, capacity)
                consumers = _grown(consumers, capacity)
            producers[edges], consumers[edges] = best, e
            edges += 1
            _learn(known[e], best, klass, known)
        for own in need[CLASSES:]:
            if own >= 0 and known[e, klass[own]] < own and found < entries:
                detours[found, 0], detours[found, 1] = own, e
                found += 1
                _learn(known[e], own, klass, known)
        clock[queue] = known[e]
        if queue > 1:
            clock[queue, klass[e]] = e
    return producers[:edges].copy(), consumers[:edges].copy(), known, detours[:found].copy()


@_inner
def _grown(array, capacity):  # type: ignore[no-untyped-def]
    result = np.empty(capacity, array.dtype)
    result[: array.shape[0]] = array
    return result


@_inner
def _latest_unknown(need, known, queue, queue_of, all_known):  # type: ignore[no-untyped-def]
    """The producer to wait for next: one that implies as many of the others as possible, or -1."""
    best, best_count = -1, -1
    for c in range(CLASSES):
        if need[c] <= known[c] or queue_of[c] == queue:
            continue
        count = 0
        for d in range(CLASSES):
            if d != c and need[d] > known[d] and all_known[need[c], d] >= need[d]:
                count += 1
        if count > best_count or (count == best_count and need[c] > best):
            best, best_count = need[c], count
    return best


@_inner
def _learn(known, producer, klass, all_known):  # type: ignore[no-untyped-def]
    """Completion of `producer` proves what it knew, itself, and its queue's earlier entries of less latency."""
    for c in range(CLASSES):
        if all_known[producer, c] > known[c]:
            known[c] = all_known[producer, c]
    k = klass[producer]
    if producer > known[k]:
        known[k] = producer
    if k in DMA_CLASSES:
        for nearer in range(6 + k % 2 + 2 * _level(k), CLASSES, 2):
            known[nearer] = max(known[nearer], producer)


@_inner
def _level(k):  # type: ignore[no-untyped-def]
    """Of the memory of a load or store: 0 for ddr, 1 for llb, 2 within the core."""
    return 0 if k < 6 else (k - 4) // 2


@_inner
def _rows(o, memory, extents, strides, item, block):  # type: ignore[no-untyped-def]
    """Planes, rows and bytes of a row of operand o; rows that lie close together count as one."""
    row_bytes = (extents[o, 2] - 1) * strides[o, 2] + item[o]
    rows = extents[o, 1]
    if 0 < strides[o, 1] <= row_bytes + block[memory[o]]:
        return extents[o, 0], 1, (rows - 1) * strides[o, 1] + row_bytes
    return extents[o, 0], rows, row_bytes


@_inner
def _segments(memory, address, extents, strides, item, base, block):  # type: ignore[no-untyped-def]
    """The number of the segment of each block: blocks between which no row begins or ends are one.

    What holds of one block of a segment holds of all, so that long rows cost no more than short ones.
    """
    cut = np.zeros(base[-1] + 1, np.bool_)
    for o in range(memory.shape[0]):
        m = memory[o]
        if m < 0:
            continue
        planes, rows, row_bytes = _rows(o, memory, extents, strides, item, block)
        for i in range(planes):
            for j in range(rows):
                start = address[o] + i * strides[o, 0] + j * strides[o, 1]
                cut[base[m] + start // block[m]] = True
                cut[base[m] + (start + row_bytes - 1) // block[m] + 1] = True
    return np.cumsum(cut)


@_inner
def _collect(  # type: ignore[no-untyped-def]
    e, klass, first, memory, address, extents, strides, item, written, base, block, segment, writer, reader, need
):
    """Needs of entry e over all segments that it touches; then mark its own accesses."""
    for marking in range(2):
        for o in range(first[e], first[e + 1]):
            m = memory[o]
            if m < 0:
                continue
            planes, rows, row_bytes = _rows(o, memory, extents, strides, item, block)
            for i in range(planes):
                for j in range(rows):
                    start = address[o] + i * strides[o, 0] + j * strides[o, 1]
                    low = segment[base[m] + start // block[m]]
                    high = segment[base[m] + (start + row_bytes - 1) // block[m]]
                    if marking == 0:
                        _needs(low, high, written[o], writer, reader, klass, klass[e], need)
                    else:
                        _mark(low, high, written[o], writer, reader, klass[e], e)


@_inner
def _needs(low, high, is_written, writer, reader, klass, k, need):  # type: ignore[no-untyped-def]
    """What an access of class `k` to those segments needs; see `_find` for the places of `need`."""
    last = -1
    for b in range(low, high + 1):
        w = writer[b]
        if w != last and w >= 0:
            of = klass[w]
            if w > need[of]:
                need[of] = w
            mine = of in DMA_CLASSES and k in DMA_CLASSES and of % 2 == k % 2
            if mine and (not is_written or _level(of) < _level(k)):
                own = CLASSES + _level(of)
                need[own] = max(need[own], w)
            last = w
        if is_written:
            for c in range(CLASSES):
                if reader[b, c] > need[c]:
                    need[c] = reader[b, c]


@_inner
def _mark(low, high, is_written, writer, reader, k, e):  # type: ignore[no-untyped-def]
    for b in range(low, high + 1):
        if is_written:
            writer[b] = e
            reader[b] = -1
        else:
            reader[b, k] = e
