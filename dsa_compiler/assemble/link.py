"""Join expanded kernels into a program: addresses, order between kernels, flags.

Where several cores take part, a barrier stands between the stores of one kernel and the first load of another that
reads what they wrote (`barriers`); loads of constants pass it. On a part with one core the bytes in ddr and llb are
followed like those of a scratchpad, and no barrier is needed.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dsa_compiler.assemble.allocate import SCRATCH
from dsa_compiler.assemble.barriers import barrier_rows, collects, gates, idle
from dsa_compiler.assemble.calls import AttrTable, ClusterPlace, KernelCall, Rows, concatenate
from dsa_compiler.assemble.dependences import CoreStream, find_edges
from dsa_compiler.assemble.flags import FlagUses, assign_flags
from dsa_compiler.assemble.relays import insert_relays
from dsa_compiler.isa.definition import ROLE_CODE, WRITTEN_ROLES
from dsa_compiler.isa.dtypes import DTYPES, item_bytes
from dsa_compiler.isa.table import OPCODES
from dsa_compiler.program.tables import ENTRY, FLAG, OPERAND, SCOPE_CODE
from dsa_compiler.target import Target

__all__ = ["ClusterPlace", "KernelCall", "Stream", "link"]

MEMORIES = ("ddr", "llb")
MEMORY_BLOCK = 64
MOST_FLAGS = 4


@dataclass(frozen=True)
class Stream:
    """The linked tables of a program; see `program.tables`."""

    entries: np.ndarray
    operands: np.ndarray
    flags: np.ndarray
    attrs: tuple[dict[str, object], ...]


def link(calls: Sequence[KernelCall], target: Target) -> Stream:
    """The program's tables for `calls` in their order.

    Raises `Infeasible` if a kernel's buffers do not fit, or if flags run out.
    """
    attrs = AttrTable()
    if not calls:
        return Stream(np.zeros(0, ENTRY), np.zeros(0, OPERAND), np.zeros(0, FLAG), tuple(attrs.values))
    rows = concatenate(calls, target, attrs)
    barriers = barrier_rows(calls, target, attrs, int(rows.entries["group"].max(initial=-1)) + 1)
    entries = np.concatenate([rows.entries, barriers])
    sequence = (entries["order"], entries["call"], entries["time"], entries["segment"], entries["chip_core"])
    entries = entries[np.lexsort(sequence)]
    return _synchronise(entries, rows, gates(entries, rows, calls), target, attrs)


def _classes(entries: np.ndarray, operands: np.ndarray) -> np.ndarray:
    """Class of each entry (see `dependences`): loads and stores have one for each memory that they reach."""
    klass = entries["engine"].astype(np.int64)
    far, near = (_touches(entries, operands, SCOPE_CODE[memory]) for memory in MEMORIES)
    return np.where((klass < 2) & ~far & (entries["operands"] > 0), klass + np.where(near, 6, 8), klass)


def _touches(entries: np.ndarray, operands: np.ndarray, scope: int) -> np.ndarray:
    hit = (operands["scope"] == scope).astype(np.int64)
    total = np.concatenate([[0], np.cumsum(hit)])
    return total[entries["operand"] + entries["operands"]] > total[entries["operand"]]


def _synchronise(
    entries: np.ndarray, rows: Rows, gate: np.ndarray, target: Target, attrs: AttrTable,
    source: np.ndarray | None = None,
) -> Stream:  # fmt: skip
    """The stream with flags; `source` as of `assemble.relays`, None before there are relays."""
    klass = _classes(entries, rows.operands)
    shadow = _shadow(rows, target)
    collect = collects(entries)
    sources = np.full(len(entries), -1, np.int64) if source is None else source
    sets: list[tuple[np.ndarray, FlagUses]] = []
    waits: list[tuple[np.ndarray, FlagUses]] = []
    detours: list[np.ndarray] = []
    known: dict[bytes, tuple[FlagUses, FlagUses, np.ndarray]] = {}
    place = entries["chip_core"].astype(np.int64) * (int(entries["segment"].max()) + 1) + entries["segment"]
    bounds = np.flatnonzero(np.diff(place, prepend=-1, append=-1))
    for low, high in itertools.pairwise(bounds):
        mine = slice(low, high)
        own, before = (np.where(a[mine] >= 0, a[mine] - low, -1) for a in (gate, sources))
        stream = _core_stream(entries[mine], klass[mine], rows.operands, shadow, collect[mine], own, before, target)
        key = stream.digest()
        if key not in known:
            edges = find_edges(stream)
            known[key] = (*assign_flags(klass[mine], edges, target.sync.flags), edges.detours)
        core_sets, core_waits, core_detours = known[key]
        sets.append((core_sets.entry + low, core_sets))
        waits.append((core_waits.entry + low, core_waits))
        detours.append(core_detours + low)
    if source is None and any(len(d) for d in detours):
        return _synchronise(*_relayed(entries, rows, gate, np.concatenate(detours), target, attrs))
    return _finish(entries, rows.operands, waits, sets, attrs)


def _relayed(
    entries: np.ndarray, rows: Rows, gate: np.ndarray, detours: np.ndarray, target: Target, attrs: AttrTable
) -> tuple[np.ndarray, Rows, np.ndarray, Target, AttrTable, np.ndarray]:
    """The arguments of `_synchronise` with relays among the entries."""
    entries, gate, source = insert_relays(entries, gate, detours)
    return entries, rows, gate, target, attrs, source


def _shadow(rows: Rows, target: Target) -> np.ndarray:
    """Number of the shadow map of each operand, -1 where no flag is needed."""
    scope = rows.operands["scope"]
    memory = np.full(len(scope), -1, np.int64)
    for number, name in enumerate(SCRATCH):
        memory[scope == SCOPE_CODE[name]] = number
    if target.cores == 1:
        for number, name in enumerate(MEMORIES, start=len(SCRATCH)):
            memory[(scope == SCOPE_CODE[name]) & ~rows.constant] = number
    return memory


def _core_stream(
    entries: np.ndarray, klass: np.ndarray, operands: np.ndarray, shadow: np.ndarray, collect: np.ndarray,
    gate: np.ndarray, source: np.ndarray, target: Target,
) -> CoreStream:  # fmt: skip
    counts = entries["operands"].astype(np.int64)
    first = np.concatenate([[0], np.cumsum(counts)])
    rows = np.repeat(entries["operand"] - first[:-1], counts) + np.arange(first[-1])
    mine = operands[rows]
    memory = shadow[rows]
    extents, strides = _right_aligned(mine)
    item = np.array([item_bytes(d) for d in DTYPES], np.int64)[mine["dtype"]]
    address = mine["address"].copy()
    reach = address + (np.maximum(extents - 1, 0) * strides).sum(axis=1) + item
    sizes = [target.memory[s].size for s in SCRATCH]
    for number in range(len(SCRATCH), len(SCRATCH) + len(MEMORIES)):
        there = memory == number
        origin = int(address[there].min()) // MEMORY_BLOCK * MEMORY_BLOCK if there.any() else 0
        address[there] -= origin
        sizes.append(int(reach[there].max(initial=origin)) - origin)
    written_roles = np.array([ROLE_CODE[r] for r in sorted(WRITTEN_ROLES)])
    blocks = [*(target.memory[s].alignment for s in SCRATCH), *(MEMORY_BLOCK for _ in MEMORIES)]
    return CoreStream(
        klass, first, memory, address, extents, strides, item, np.isin(mine["role"], written_roles),
        np.array(sizes, np.int64), np.array(blocks, np.int64), collect, gate, source,
    )  # fmt: skip


def _right_aligned(operands: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Extents and strides with the innermost dimension last, whatever the rank."""
    place = np.arange(3) - 3 + operands["rank"].astype(np.int64)[:, None]  # negative where there is no dimension
    extents = np.take_along_axis(operands["extents"], np.maximum(place, 0), axis=1)
    strides = np.take_along_axis(operands["strides"], np.maximum(place, 0), axis=1)
    return np.where(place < 0, 1, extents), np.where(place < 0, 0, strides)


def _flag_rows(uses: list[tuple[np.ndarray, FlagUses]]) -> tuple[np.ndarray, np.ndarray]:
    """(entry, flag row) of all cores, sorted by entry."""
    entry = np.concatenate([e for e, _ in uses]) if uses else np.zeros(0, np.int64)
    flags = np.zeros(len(entry), FLAG)
    for name in ("source", "target", "number"):
        flags[name] = np.concatenate([getattr(u, name) for _, u in uses]) if uses else 0
    order = np.argsort(entry, kind="stable")
    return entry[order], flags[order]


def _finish(
    entries: np.ndarray,
    operands: np.ndarray,
    waits: list[tuple[np.ndarray, FlagUses]],
    sets: list[tuple[np.ndarray, FlagUses]],
    attrs: AttrTable,
) -> Stream:
    """Attach flags; an entry with more than it may carry gets `wait` or `set` entries beside it."""
    wait_entry, wait_flags = _flag_rows(waits)
    set_entry, set_flags = _flag_rows(sets)
    wait_count = np.bincount(wait_entry, minlength=len(entries))
    set_count = np.bincount(set_entry, minlength=len(entries))
    before = np.maximum(-(-wait_count // MOST_FLAGS) - 1, 0)
    after = np.maximum(-(-set_count // MOST_FLAGS) - 1, 0)
    copies = np.where(idle(entries, wait_count, set_count), 0, 1 + before + after)
    result = np.repeat(entries, copies)
    start = np.cumsum(copies) - copies
    place = np.arange(len(result)) - np.repeat(start, copies)
    own = np.repeat(before, copies)
    for name, extra in (("wait", place < own), ("set", place > own)):
        result["opcode"][extra] = OPCODES[name].code
        result["operands"][extra] = 0
        result["attrs"][extra] = 0
        result["group"][extra] = -1
    wait_rows = start[wait_entry] + _rank(wait_entry) // MOST_FLAGS
    set_rows = start[set_entry] + before[set_entry] + _rank(set_entry) // MOST_FLAGS
    _attach(result, "wait", "waits", wait_rows, 0)
    _attach(result, "set", "sets", set_rows, len(wait_flags))
    table = np.zeros(len(result), ENTRY)
    for name in ENTRY.names or ():
        table[name] = result[name]
    return Stream(table, operands, np.concatenate([wait_flags, set_flags]), tuple(attrs.values))


def _rank(sorted_entry: np.ndarray) -> np.ndarray:
    """Place of each row among the rows of its entry."""
    first = np.searchsorted(sorted_entry, sorted_entry)
    return np.arange(len(sorted_entry)) - first


def _attach(table: np.ndarray, first: str, count: str, rows: np.ndarray, base: int) -> None:
    numbers = np.bincount(rows, minlength=len(table))
    table[count] = numbers
    table[first] = base + np.cumsum(numbers) - numbers
