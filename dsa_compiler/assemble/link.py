"""Join expanded kernels into a program: addresses, order between kernels, flags.

Kernels follow one another on all cores. Where several cores take part, a barrier stands between the stores of
one kernel and the first load of another that reads what they wrote; loads of constants pass it. On a part with
one core the bytes in ddr are followed like those of a scratchpad, and no barrier is needed.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dsa_compiler.assemble.allocate import SCRATCH, place_buffers
from dsa_compiler.assemble.dependences import CoreStream, find_edges
from dsa_compiler.assemble.flags import FlagUses, assign_flags
from dsa_compiler.assemble.trace import Trace
from dsa_compiler.isa.definition import ROLE_CODE, WRITTEN_ROLES
from dsa_compiler.isa.dtypes import DTYPES, item_bytes
from dsa_compiler.isa.table import BY_CODE, OPCODES
from dsa_compiler.program.tables import ENGINE_CODE, ENTRY, FLAG, OPERAND, SCOPE_CODE
from dsa_compiler.target import Target

DDR_BLOCK = 64
MOST_FLAGS = 4
_LOAD, _STORE, _PREFETCH = ENGINE_CODE["load"], ENGINE_CODE["store"], ENGINE_CODE["prefetch"]


@dataclass(frozen=True)
class KernelCall:
    """A kernel in the program: where its parameters lie in ddr, and which of them nothing writes.

    `segment` counts the host steps before it.
    """

    trace: Trace
    addresses: tuple[int, ...]
    constant: tuple[bool, ...]
    node: int = -1
    segment: int = 0
    number: int = 0


@dataclass(frozen=True)
class Stream:
    """The linked tables of a program; see `program.tables`."""

    entries: np.ndarray
    operands: np.ndarray
    flags: np.ndarray
    attrs: tuple[dict[str, object], ...]


STREAM_ENTRY = np.dtype(
    [
        *((n, ENTRY.fields[n][0]) for n in ENTRY.names or () if ENTRY.fields),
        ("order", np.int64),
        ("chip_core", np.int32),
    ]
)


def link(calls: Sequence[KernelCall], target: Target) -> Stream:
    """The program's tables for `calls` in their order.

    Raises `Infeasible` if a kernel's buffers do not fit, or if flags run out.
    """
    attrs = _AttrTable()
    if not calls:
        return Stream(np.zeros(0, ENTRY), np.zeros(0, OPERAND), np.zeros(0, FLAG), tuple(attrs.values))
    entries, operands = _concatenate(calls, target, attrs)
    if target.cores > 1:
        entries = np.concatenate([entries, *_barriers(calls, entries, operands, target, attrs)])
    entries = entries[np.lexsort((entries["order"], entries["kernel"], entries["segment"], entries["chip_core"]))]
    constant = _constant_operands(calls, entries, operands)
    return _synchronise(entries, operands, constant, target, attrs)


class _AttrTable:
    def __init__(self) -> None:
        self.values: list[dict[str, object]] = [{}]
        self._numbers: dict[str, int] = {"{}": 0}

    def intern(self, value: dict[str, object]) -> int:
        """Number of `value` in the program's attributes."""
        text = repr(sorted(value.items()))
        if not value:
            return 0
        if text not in self._numbers:
            self._numbers[text] = len(self.values)
            self.values.append(value)
        return self._numbers[text]


def _engine_of_opcode() -> np.ndarray:
    table = np.zeros(max(BY_CODE) + 1, np.uint8)
    for code, definition in BY_CODE.items():
        table[code] = ENGINE_CODE.get(definition.engine, 0)
    return table


def _concatenate(calls: Sequence[KernelCall], target: Target, attrs: _AttrTable) -> tuple[np.ndarray, np.ndarray]:
    engine = _engine_of_opcode()
    all_entries, all_operands, operand_base, group_base = [], [], 0, 0
    for number, call in enumerate(calls):
        trace = call.trace
        entries = np.zeros(len(trace.entries), STREAM_ENTRY)
        for name in ("opcode", "operands"):
            entries[name] = trace.entries[name]
        entries["engine"] = engine[trace.entries["opcode"]]
        entries["chip_core"] = trace.entries["core"]
        entries["cluster"] = trace.entries["core"] // target.cores_per_cluster
        entries["core"] = trace.entries["core"] % target.cores_per_cluster
        group = trace.entries["group"].astype(np.int64)
        entries["group"] = np.where(group >= 0, group + group_base, -1)
        group_base += int(group.max(initial=-1)) + 1
        codes = np.array([attrs.intern(dict(a)) for a in trace.attrs], np.int32)
        entries["attrs"] = codes[trace.entries["attrs"]]
        entries["operand"] = trace.entries["operand"] + operand_base
        entries["kernel"], entries["node"], entries["segment"] = call.number, call.node, call.segment
        entries["order"] = trace.entries["key"] * 2 + 2
        operands = _bind(call, target, from_top=bool(number % 2))
        operand_base += len(operands)
        all_entries.append(entries)
        all_operands.append(operands)
    return np.concatenate(all_entries), np.concatenate(all_operands)


def _bind(call: KernelCall, target: Target, *, from_top: bool) -> np.ndarray:
    """The operands of a kernel with addresses."""
    trace = call.trace
    placement = place_buffers(trace, target, from_top=from_top).address
    for n, buffer in enumerate(trace.buffers):
        if buffer.parameter >= 0:
            placement[n, 0] = call.addresses[buffer.parameter]
    scopes = np.array([SCOPE_CODE[b.scope] for b in trace.buffers], np.uint8)
    operands = np.zeros(len(trace.operands), OPERAND)
    for name in ("role", "dtype", "rank", "extents", "strides"):
        operands[name] = trace.operands[name]
    operands["scope"] = scopes[trace.operands["buffer"]]
    operands["address"] = placement[trace.operands["buffer"], trace.operands["slot"]] + trace.operands["offset"]
    return operands


def _constant_operands(calls: Sequence[KernelCall], entries: np.ndarray, operands: np.ndarray) -> np.ndarray:
    """Which operands lie in ddr that nothing writes."""
    constant = np.zeros(len(operands), bool)
    base = 0
    for call in calls:
        flags = np.array([b.parameter >= 0 and call.constant[b.parameter] for b in call.trace.buffers])
        n = len(call.trace.operands)
        if n:
            constant[base : base + n] = flags[call.trace.operands["buffer"]]
        base += n
    return constant


def _barriers(
    calls: Sequence[KernelCall], entries: np.ndarray, operands: np.ndarray, target: Target, attrs: _AttrTable
) -> list[np.ndarray]:
    """Barrier entries before every kernel but the first, in the load and store queues of all cores."""
    constant = _constant_operands(calls, entries, operands)
    group = int(entries["group"].max(initial=-1)) + 1
    scope = "chip" if target.clusters > 1 else "cluster"
    code = attrs.intern({"scope": scope, "queues": ["load", "store"]})
    source = entries["operand"] + np.minimum(entries["operands"].astype(np.int64) - 1, 1)
    reads = (entries["engine"] == _LOAD) & (entries["operands"] > 1) & ~constant[source]
    reads &= operands["scope"][source] == SCOPE_CODE["ddr"]
    result = []
    for before, call in itertools.pairwise(calls):
        if before.segment != call.segment:
            continue  # between segments every queue runs out
        rows = np.zeros(2 * target.cores, STREAM_ENTRY)
        cores = np.repeat(np.arange(target.cores), 2)
        rows["opcode"], rows["attrs"], rows["group"] = OPCODES["barrier"].code, code, group
        rows["engine"] = np.tile([_LOAD, _STORE], target.cores)
        rows["chip_core"], rows["cluster"] = cores, cores // target.cores_per_cluster
        rows["core"] = cores % target.cores_per_cluster
        rows["kernel"], rows["node"], rows["segment"] = call.number, call.node, call.segment
        mine = entries[reads & (entries["kernel"] == call.number)]
        # at one place in all queues, so that no multicast has members on both sides
        first = int(mine["order"].min()) - 1 if len(mine) else 1
        rows["order"] = np.where(rows["engine"] == _STORE, 0, first)
        result.append(rows)
        group += 1
    return result


def _classes(entries: np.ndarray, operands: np.ndarray) -> np.ndarray:
    """Class of each entry (see `dependences`): load and store of a nearer memory have one of their own."""
    klass = entries["engine"].astype(np.int64)
    far = _touches(entries, operands, SCOPE_CODE["ddr"])
    return np.where((klass < 2) & ~far & (entries["operands"] > 0), klass + 6, klass)


def _touches(entries: np.ndarray, operands: np.ndarray, scope: int) -> np.ndarray:
    hit = (operands["scope"] == scope).astype(np.int64)
    total = np.concatenate([[0], np.cumsum(hit)])
    return total[entries["operand"] + entries["operands"]] > total[entries["operand"]]


def _synchronise(
    entries: np.ndarray, operands: np.ndarray, constant: np.ndarray, target: Target, attrs: _AttrTable
) -> Stream:
    klass = _classes(entries, operands)
    shadow = _shadow(operands, constant, target)
    sets: list[tuple[np.ndarray, FlagUses]] = []
    waits: list[tuple[np.ndarray, FlagUses]] = []
    place = entries["chip_core"].astype(np.int64) * (int(entries["segment"].max()) + 1) + entries["segment"]
    bounds = np.flatnonzero(np.diff(place, prepend=-1, append=-1))
    for low, high in itertools.pairwise(bounds):
        stream = _core_stream(entries[low:high], klass[low:high], operands, shadow, target)
        core_sets, core_waits = assign_flags(klass[low:high], find_edges(stream), target.sync.flags)
        sets.append((core_sets.entry + low, core_sets))
        waits.append((core_waits.entry + low, core_waits))
    return _finish(entries, operands, waits, sets, attrs)


def _shadow(operands: np.ndarray, constant: np.ndarray, target: Target) -> np.ndarray:
    """Number of the shadow map of each operand, -1 where no flag is needed."""
    memory = np.full(len(operands), -1, np.int64)
    for number, scope in enumerate(SCRATCH):
        memory[operands["scope"] == SCOPE_CODE[scope]] = number
    if target.cores == 1:
        memory[(operands["scope"] == SCOPE_CODE["ddr"]) & ~constant] = len(SCRATCH)
    return memory


def _core_stream(
    entries: np.ndarray, klass: np.ndarray, operands: np.ndarray, shadow: np.ndarray, target: Target
) -> CoreStream:
    counts = entries["operands"].astype(np.int64)
    first = np.concatenate([[0], np.cumsum(counts)])
    rows = np.repeat(entries["operand"] - first[:-1], counts) + np.arange(first[-1])
    mine = operands[rows]
    memory = shadow[rows]
    ddr = mine["address"][memory == len(SCRATCH)]
    origin = int(ddr.min(initial=0)) // DDR_BLOCK * DDR_BLOCK if len(ddr) else 0
    address = mine["address"] - np.where(memory == len(SCRATCH), origin, 0)
    extents, strides = _right_aligned(mine)
    item = np.array([item_bytes(d) for d in DTYPES], np.int64)[mine["dtype"]]
    written_roles = np.array([ROLE_CODE[r] for r in sorted(WRITTEN_ROLES)])
    reach = address + (np.maximum(extents - 1, 0) * strides).sum(axis=1) + item
    ddr_bytes = int(reach[memory == len(SCRATCH)].max(initial=0))
    sizes = [*(target.memory[s].size for s in SCRATCH), ddr_bytes]
    blocks = [*(target.memory[s].alignment for s in SCRATCH), DDR_BLOCK]
    return CoreStream(
        klass, first, memory, address, extents, strides, item, np.isin(mine["role"], written_roles),
        np.array(sizes, np.int64), np.array(blocks, np.int64), entries["opcode"] == OPCODES["barrier"].code,
    )  # fmt: skip


def _right_aligned(operands: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Extents and strides with the innermost dimension last, whatever the rank."""
    extents, strides = operands["extents"].copy(), operands["strides"].copy()
    for rank in (1, 2):
        rows = operands["rank"] == rank
        extents[rows] = np.roll(operands["extents"][rows], 3 - rank, axis=1)
        strides[rows] = np.roll(operands["strides"][rows], 3 - rank, axis=1)
        extents[rows, : 3 - rank] = 1
        strides[rows, : 3 - rank] = 0
    return extents, strides


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
    attrs: _AttrTable,
) -> Stream:
    """Attach flags; an entry with more than it may carry gets `wait` or `set` entries beside it."""
    wait_entry, wait_flags = _flag_rows(waits)
    set_entry, set_flags = _flag_rows(sets)
    wait_count = np.bincount(wait_entry, minlength=len(entries))
    set_count = np.bincount(set_entry, minlength=len(entries))
    before = np.maximum(-(-wait_count // MOST_FLAGS) - 1, 0)
    after = np.maximum(-(-set_count // MOST_FLAGS) - 1, 0)
    copies = 1 + before + after
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
