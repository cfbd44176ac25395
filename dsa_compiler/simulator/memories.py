"""The memories of a part while a program runs: bytes, and which of them anything has written.

Operands are seen through NumPy views. Equal operand rows on the same memory (a region) share one view, and a
region that was found written once is never looked at again, since nothing makes bytes unwritten.
"""

from __future__ import annotations

import numpy as np

from dsa_compiler.errors import InternalError
from dsa_compiler.isa.dtypes import DTYPES, numpy_dtype
from dsa_compiler.program.tables import SCOPE_CODE, Binding, Program, binding_bytes
from dsa_compiler.target import Target

_INT4 = DTYPES.index("int4")
_ITEM = np.array([numpy_dtype(name).itemsize for name in DTYPES], np.int64)
_VIEWED = tuple(np.dtype(np.uint8) if name == "int4" else numpy_dtype(name) for name in DTYPES)
_CORE_SCOPES = ("l1", "l0a", "l0b", "l0c")


def memory_numbers(target: Target, scope: np.ndarray, cluster: np.ndarray, core: np.ndarray) -> np.ndarray:
    """Number of the memory that each operand lies in: ddr 0, then an llb a cluster, then l1 .. l0c of each core."""
    first_core = 1 + target.clusters
    own = first_core + (cluster * target.cores_per_cluster + core) * len(_CORE_SCOPES) + scope - SCOPE_CODE["l1"]
    return np.asarray(np.where(scope == SCOPE_CODE["ddr"], 0, np.where(scope == SCOPE_CODE["llb"], 1 + cluster, own)))


def memory_name(target: Target, number: int) -> str:
    """The memory in words."""
    if number == 0:
        return "ddr"
    if number <= target.clusters:
        return f"llb of cluster {number - 1}"
    core, scope = divmod(number - 1 - target.clusters, len(_CORE_SCOPES))
    cluster, local = divmod(core, target.cores_per_cluster)
    return f"{_CORE_SCOPES[scope]} of cluster {cluster} core {local}"


def operand_owners(program: Program) -> tuple[np.ndarray, np.ndarray]:
    """For each operand in use, entry by entry: its entry and its row of the operand table."""
    counts = program.entries["operands"].astype(np.int64)
    owner = np.repeat(np.arange(len(counts)), counts)
    inside = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
    return owner, program.entries["operand"][owner] + inside


def row_bytes(operands: np.ndarray) -> np.ndarray:
    """Bytes from the first to the last of an innermost row: one element where it is repeated."""
    extent = operands["extents"].copy()
    rank = operands["rank"].astype(np.int64)
    at = np.arange(len(operands)), np.maximum(rank - 1, 0)
    inner = np.where(operands["strides"][at] == 0, 1, extent[at])
    whole = inner * _ITEM[operands["dtype"]]
    return np.asarray(np.where(operands["dtype"] == _INT4, (inner + 1) // 2, whole))


def span_bytes(operands: np.ndarray) -> np.ndarray:
    """Bytes from the base to the end of the operand's last row."""
    rank = operands["rank"].astype(np.int64)
    outer = np.arange(3)[None, :] < (rank - 1)[:, None]
    return np.asarray(np.where(outer, (operands["extents"] - 1) * operands["strides"], 0).sum(1) + row_bytes(operands))


class Regions:
    """The distinct (memory, operand row) pairs of a program.

    number[i]: region of the i-th operand in use, in the order of `operand_owners`; memory, ends: arrays of each
    region's memory and the address after its last byte; the other attributes are lists by region: uses (how
    often it occurs), place (its memory), address, extents, strides, row_bytes, packed (int4), and the dtype of
    its view.
    """

    def __init__(self, program: Program) -> None:
        owner, rows = operand_owners(program)
        operands = program.operands[rows]
        entries = program.entries
        core = np.maximum(entries["core"][owner].astype(np.int64), 0)
        cluster = entries["cluster"][owner].astype(np.int64)
        memory = memory_numbers(program.target, operands["scope"].astype(np.int64), cluster, core)
        columns = np.column_stack(
            [memory, operands["dtype"], operands["rank"], operands["address"], operands["extents"], operands["strides"]]
        ).astype(np.int64)
        _, first, number, uses = np.unique(
            _fingerprint(columns), return_index=True, return_inverse=True, return_counts=True
        )
        if not np.array_equal(columns[first[number]], columns):
            raise InternalError("two operands have one fingerprint", where="simulator")
        row = operands[first]
        rank = row["rank"].tolist()
        self.number, self.memory, self.ends = number, memory[first], row["address"] + span_bytes(row)
        self.uses, self.place, self.address = uses.tolist(), self.memory.tolist(), row["address"].tolist()
        self.extents = [e[:r] for e, r in zip(row["extents"].tolist(), rank, strict=True)]
        self.strides = [s[:r] for s, r in zip(row["strides"].tolist(), rank, strict=True)]
        self.row_bytes, self.packed = row_bytes(row).tolist(), (row["dtype"] == _INT4).tolist()
        self.dtype = [_VIEWED[code] for code in row["dtype"].tolist()]


def _fingerprint(columns: np.ndarray) -> np.ndarray:
    """A 64-bit number for each row; different rows meet with a chance of about 2**-64."""
    odd = np.asarray(np.random.default_rng(0x5EED).integers(1, 2**63, columns.shape[1], dtype=np.uint64)) | np.uint64(1)
    mixed = columns.astype(np.uint64) * odd
    mixed ^= mixed >> np.uint64(29)
    return np.asarray((mixed * odd[::-1]).sum(1, dtype=np.uint64))


class Memories:
    """Bytes and written maps, as large as the program uses them."""

    def __init__(self, program: Program, regions: Regions) -> None:
        sizes = np.zeros(1 + program.target.clusters + program.target.cores * len(_CORE_SCOPES), np.int64)
        np.maximum.at(sizes, regions.memory, regions.ends)
        sizes[0] = max(sizes[0], program.ddr_bytes, _bound_end(program))
        self._data = [np.zeros(size, np.uint8) for size in sizes]
        self._written = [np.zeros(size, np.bool_) for size in sizes]
        self._regions = regions
        self._views: list[np.ndarray | None] = [None] * len(regions.memory)
        self.known = bytearray(len(regions.memory))
        for constant in program.constants:
            self.put(constant.address, constant.data)

    def put(self, address: int, data: np.ndarray) -> None:
        """Write bytes to ddr."""
        self._data[0][address : address + len(data)] = data
        self._written[0][address : address + len(data)] = True

    def get(self, address: int, length: int) -> tuple[np.ndarray, bool]:
        """Bytes of ddr, and whether all of them were written."""
        return self._data[0][address : address + length], bool(self._written[0][address : address + length].all())

    def view(self, region: int) -> np.ndarray:
        """The region as an array of its dtype; int4 as packed bytes."""
        view = self._views[region]
        if view is None:
            view = self._make_view(region)
            if self._regions.uses[region] > 1:
                self._views[region] = view
        return view

    def _make_view(self, region: int) -> np.ndarray:
        r = self._regions
        extents, strides = r.extents[region], r.strides[region]
        if r.packed[region]:
            extents = [*extents[:-1], -(-extents[-1] // 2) if strides[-1] else 1]
        return np.ndarray(extents, r.dtype[region], self._data[r.place[region]], r.address[region], strides)

    def written(self, region: int) -> np.ndarray:
        """The region's written map: its outer extents, then the bytes of a row."""
        r = self._regions
        return np.ndarray(
            [*r.extents[region][:-1], r.row_bytes[region]],
            np.bool_,
            self._written[r.place[region]],
            r.address[region],
            [*r.strides[region][:-1], 1],
        )

    def first_unwritten(self, region: int) -> int:
        """Address of the first byte of the region that nothing wrote."""
        where = np.argwhere(~self.written(region))[0]
        strides = [*self._regions.strides[region][:-1], 1]
        return int(self._regions.address[region] + np.dot(where, strides))


def _bound_end(program: Program) -> int:
    """End of what inputs, outputs, constants and host steps use of ddr."""
    bindings: list[Binding] = [*program.inputs, *program.outputs]
    for step in program.host_steps:
        bindings += [*step.inputs, *step.outputs]
    ends = [b.address + binding_bytes(b) for b in bindings] + [c.address + len(c.data) for c in program.constants]
    return max(ends, default=0)


def unpack_int4(packed: np.ndarray, extent: int) -> np.ndarray:
    """The elements of int4 rows, low half first, as int8; a packed row of one byte repeats for a broadcast."""
    low = (packed & 15).astype(np.int8)
    high = (packed >> 4).astype(np.int8)
    both = np.stack([low, high], -1).reshape(*packed.shape[:-1], -1)
    both = (both ^ 8) - 8
    if both.shape[-1] < extent:
        return np.broadcast_to(both[..., :1], (*both.shape[:-1], extent))
    return both[..., :extent]


def pack_int4(values: np.ndarray) -> np.ndarray:
    """int8 elements as packed bytes, low half first; rows of odd length end with a zero half."""
    if values.shape[-1] % 2:
        values = np.concatenate([values, np.zeros_like(values[..., :1])], -1)
    half = values.astype(np.uint8) & 15
    return half[..., 0::2] | (half[..., 1::2] << 4)
