"""Calls of kernels in a program, and their rows in the stream: cores, addresses, groups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dsa_compiler.assemble.allocate import place_buffers
from dsa_compiler.assemble.trace import Trace
from dsa_compiler.isa.table import BY_CODE, OPCODES
from dsa_compiler.program.tables import ENGINE_CODE, ENTRY, OPERAND, SCOPE_CODE
from dsa_compiler.target import Target

STREAM_ENTRY = np.dtype(
    [
        *((n, ENTRY.fields[n][0]) for n in ENTRY.names or () if ENTRY.fields),
        ("order", np.int64),
        ("chip_core", np.int32),
        ("call", np.int32),  # place of the kernel call in the program
        ("time", np.float64),  # on the time line of calls
    ]
)
MULTICAST_OF = {"load": "load_multicast", "load_pad": "load_pad_multicast"}


@dataclass(frozen=True)
class ClusterPlace:
    """A cluster that runs a kernel, and where the kernel's parameters lie for it."""

    cluster: int
    addresses: tuple[int, ...]


@dataclass(frozen=True)
class KernelCall:
    """A kernel in the program: where its parameters lie, and which of them nothing writes.

    A kernel for the whole chip has `addresses`; one for the cores of a cluster has a place in each of `clusters`.
    `segment` counts the host steps before it. `after` is the place of the last call that must be complete before this
    one reads or writes tensors (None: the call before it; -1: none); `chip_wide` says that calls of other clusters
    must be complete too. Calls whose stretches from `start` to `end` overlap take turns, instruction by instruction;
    without one (0 to 0) a call follows the one before it. `from_top` fills the scratchpads from their ends (None: every
    second call does); `region` is the part of L1 to stay in, all of it without.
    """

    trace: Trace
    addresses: tuple[int, ...]
    constant: tuple[bool, ...]
    node: int = -1
    segment: int = 0
    number: int = 0
    clusters: tuple[ClusterPlace, ...] = ()
    after: int | None = None
    chip_wide: bool = True
    instance: int = 0
    start: float = 0.0
    end: float = 0.0
    from_top: bool | None = None
    region: tuple[int, int] | None = None

    @property
    def places(self) -> tuple[ClusterPlace, ...]:
        """Where copies of the trace run; a kernel for the chip counts its cores from cluster 0."""
        return self.clusters or (ClusterPlace(0, self.addresses),)


class AttrTable:
    """The distinct attributes of a program, by number."""

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


@dataclass(frozen=True)
class Rows:
    """Entries and operands of all calls; `constant` marks operands in tensors that nothing writes."""

    entries: np.ndarray
    operands: np.ndarray
    constant: np.ndarray


def concatenate(calls: Sequence[KernelCall], target: Target, attrs: AttrTable) -> Rows:
    """The rows of `calls`, one after another, with addresses and with multicast groups of the program.

    Raises `Infeasible` if the buffers of a kernel do not fit a scratchpad.
    """
    engine = _engine_of_opcode()
    entries, operands, constants, operand_base, group_base = [], [], [], 0, 0
    for position, call in enumerate(calls):
        groups = _Groups(call, target, group_base)
        group_base = groups.end
        codes = np.array([attrs.intern(dict(a)) for a in call.trace.attrs], np.int32)
        top = bool(position % 2) if call.from_top is None else call.from_top
        own = place_buffers(call.trace, target, from_top=top, region=call.region).address
        turns = _turns(call, position)
        fixed = np.array([b.parameter >= 0 and call.constant[b.parameter] for b in call.trace.buffers])
        for copy, place in enumerate(call.places):
            rows = _copy(call, place, target, engine, codes)
            rows["opcode"], rows["group"] = groups.of_copy(copy)
            rows["call"], rows["time"] = position, turns
            rows["operand"] += operand_base
            bound = _bind(call.trace, own, place.addresses)
            operand_base += len(bound)
            entries.append(rows)
            operands.append(bound)
            constants.append(fixed[call.trace.operands["buffer"]])
    return Rows(np.concatenate(entries), np.concatenate(operands), np.concatenate(constants).astype(bool))


def _engine_of_opcode() -> np.ndarray:
    table = np.zeros(max(BY_CODE) + 1, np.uint8)
    for code, definition in BY_CODE.items():
        table[code] = ENGINE_CODE.get(definition.engine, 0)
    return table


def stretch(call: KernelCall, position: int) -> tuple[float, float]:
    """When the call at a place of the program begins and ends."""
    return (call.start, call.end) if call.end > call.start else (float(position), position + 1.0)


def _turns(call: KernelCall, position: int) -> np.ndarray:
    """The moment of each entry: equal places in the streams of all cores have the same."""
    start, end = stretch(call, position)
    keys, place = np.unique(call.trace.entries["key"], return_inverse=True)
    return start + (end - start) * place.reshape(-1) / max(len(keys), 1)


def _copy(call: KernelCall, place: ClusterPlace, target: Target, engine: np.ndarray, codes: np.ndarray) -> np.ndarray:
    trace = call.trace
    rows = np.zeros(len(trace.entries), STREAM_ENTRY)
    for name in ("operands", "operand"):
        rows[name] = trace.entries[name]
    rows["engine"] = engine[trace.entries["opcode"]]
    rows["chip_core"] = trace.entries["core"] + place.cluster * target.cores_per_cluster
    rows["cluster"] = rows["chip_core"] // target.cores_per_cluster
    rows["core"] = rows["chip_core"] % target.cores_per_cluster
    rows["attrs"] = codes[trace.entries["attrs"]]
    rows["kernel"], rows["node"], rows["segment"] = call.number, call.node, call.segment
    rows["instance"] = call.instance
    rows["order"] = trace.entries["key"]
    return rows


def _bind(trace: Trace, own: np.ndarray, addresses: Sequence[int]) -> np.ndarray:
    """The operands of a kernel with addresses."""
    placement = own.copy()
    for n, buffer in enumerate(trace.buffers):
        if buffer.parameter >= 0:
            placement[n, 0] = addresses[buffer.parameter]
    scopes = np.array([SCOPE_CODE[b.scope] for b in trace.buffers], np.uint8)
    operands = np.zeros(len(trace.operands), OPERAND)
    for name in ("role", "dtype", "rank", "extents", "strides"):
        operands[name] = trace.operands[name]
    operands["scope"] = scopes[trace.operands["buffer"]]
    operands["address"] = placement[trace.operands["buffer"], trace.operands["slot"]] + trace.operands["offset"]
    return operands


class _Groups:
    """Groups of a call's multicasts: what all its clusters read at one place of ddr is read once for all of them."""

    def __init__(self, call: KernelCall, target: Target, base: int) -> None:
        trace, copies = call.trace, len(call.places)
        self.base, self.opcode = base, trace.entries["opcode"].copy()
        self.group = trace.entries["group"].astype(np.int64)
        self.count = int(self.group.max(initial=-1)) + 1
        self.shared = np.zeros(len(self.group), bool)
        if copies > 1 and target.features.multicast:
            same = self._read_alike(call)
            self.shared = same & (self.group >= 0)
            for single, multiple in MULTICAST_OF.items():
                lone = np.flatnonzero(same & (self.group < 0) & (self.opcode == OPCODES[single].code))
                self.opcode[lone] = OPCODES[multiple].code
                self.group[lone] = self.count + np.arange(len(lone))
                self.shared[lone] = True
                self.count += len(lone)
        self.end = base + self.count * copies

    @staticmethod
    def _read_alike(call: KernelCall) -> np.ndarray:
        """Which entries read ddr at an address that is the same for all clusters."""
        trace = call.trace
        alike = np.array(
            [
                b.scope == "ddr" and b.parameter >= 0 and len({p.addresses[b.parameter] for p in call.clusters}) == 1
                for b in trace.buffers
            ]
        )
        source = trace.entries["operand"] + np.minimum(trace.entries["operands"].astype(np.int64) - 1, 1)
        result: np.ndarray = alike[trace.operands["buffer"][source]] & (trace.entries["operands"] > 1)
        return result

    def of_copy(self, copy: int) -> tuple[np.ndarray, np.ndarray]:
        """Opcodes and groups of one copy of the trace."""
        own = self.base + self.group + np.where(self.shared, 0, copy * self.count)
        return self.opcode, np.where(self.group >= 0, own, -1)
