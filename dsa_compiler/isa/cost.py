"""The time of every entry, defined once: for the simulator and for the compiler's cost models.

`entry_costs` counts a whole program, `CostRules` single instructions, the functions with NumPy arguments tile searches.
All follow "Time" and "Accounting, in detail" of the manual.

Choices where the manual is silent (none in favour of a better figure):

* A transposing move counts its source's runs, as a transposing load does, at its port's rate.
* A padded store or prefetch moves the greater of the source's whole bursts and the destination's whole bursts.
* Rows merge dimension by dimension: a row that happens to follow the last row of the plane before it starts a new run,
  and so does every repeated row.
* A fill moves its destination's bytes ("the destination's" refers to the bytes named before it), not whole bursts.
* If a gather's larger burst is the dense side's, each row is a run there at its actual address.
* An img2col whose larger burst is that of l0a counts its runs at their addresses in l0a.
* The index operand of a gather adds no bytes; that of a vector gather counts as an operand.
* Rows of a top-k merge are those of its widest operand.
* A scratchpad with a `bandwidth` of its own limits each transfer to it; it is not shared.
* log2(lanes) is a real number where the width is no power of two.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from dsa_compiler.errors import UserError
from dsa_compiler.isa import cost_kernels
from dsa_compiler.isa.bursts import GRID, many_row_bytes
from dsa_compiler.isa.cost_tables import Machine, Tables, attr_table, machine_of
from dsa_compiler.isa.definition import ROLE_CODE
from dsa_compiler.isa.dtypes import DTYPE_CODE
from dsa_compiler.isa.table import BY_CODE, OPCODES
from dsa_compiler.target import ENGINES, SCOPES, Target

COST = np.dtype(
    [
        ("startup", np.float64),  # cycles: startup, costs of waits and sets, issue; a barrier's cost is not in it
        ("work", np.float64),  # bytes of a DMA (move included), else cycles
        ("rate", np.float64),  # bytes a cycle that the ports allow; 1.0 for cycles
        ("flow", np.uint8),  # 1: takes a share of memory bandwidth
        ("ddr", np.uint8),  # 1: takes it from ddr
        ("llb", np.uint8),  # 1: takes it from its cluster's llb
        ("latency", np.float64),  # cycles from leaving the engine to completion
        ("banks", np.uint64),  # L1 banks of the operands, as bits
    ]
)


class Cost(NamedTuple):
    """The cost of one instruction; fields as in `COST`."""

    startup: float
    work: float
    rate: float
    flow: int
    ddr: int
    llb: int
    latency: float
    banks: int

    @property
    def cycles(self) -> float:
        """Cycles that the engine is occupied when no memory limits it."""
        return self.startup + self.work / self.rate

    def alone(self, target: Target) -> float:
        """Cycles that the engine is occupied with the memories to itself."""
        rate = self.rate
        for scope, used in (("ddr", self.ddr), ("llb", self.llb)):
            bandwidth = target.memory[scope].bandwidth if used else 0.0
            rate = min(rate, bandwidth) if bandwidth else rate
        return self.startup + self.work / rate


class CostOperand(Protocol):
    """What an operand must tell: see `program.builder.Operand`."""

    @property
    def role(self) -> str: ...  # noqa: D102
    @property
    def scope(self) -> str: ...  # noqa: D102
    @property
    def address(self) -> int: ...  # noqa: D102
    @property
    def dtype(self) -> str: ...  # noqa: D102
    @property
    def extents(self) -> tuple[int, ...]: ...  # noqa: D102
    def byte_strides(self) -> tuple[int, ...]: ...  # noqa: D102


def entry_costs(program: Tables) -> np.ndarray:
    """The costs of all entries of a valid program: a `COST` array, one row an entry.

    Raises `UserError` for a matrix product in a dtype for which the part has no unit.
    """
    entries, operands, flags = program.entries, program.operands, program.flags
    costs = np.zeros(len(entries), COST)
    columns = tuple(np.ascontiguousarray(entries[name]) for name in cost_kernels.ENTRY_COLUMNS)
    places = tuple(np.ascontiguousarray(operands[name]) for name in cost_kernels.OPERAND_COLUMNS)
    machine = machine_of(program.target)
    kinds = np.ascontiguousarray(flags["kind"]) if len(flags) else np.zeros(0, np.uint8)
    cost_kernels.account(machine, columns, places, kinds, attr_table(program.attrs), _grids(), costs)
    _check_units(program, costs)
    return costs


def _grids() -> np.ndarray:
    """Room for the grids of one instruction, kept by the caller: see `isa.compiled.borrow`."""
    return np.empty((2, GRID), np.int64)


def _check_units(program: Tables, costs: np.ndarray) -> None:
    bad = np.flatnonzero(costs["work"] < 0)
    if len(bad):
        name = BY_CODE[int(program.entries["opcode"][bad[0]])].name
        raise UserError(
            f"entry {bad[0]} ({name}): the matrix engine of {program.target.name} has no unit for lhs's dtype",
            where="isa.cost", action=f"use one of {', '.join(program.target.engine.matrix.unit)}",
        )  # fmt: skip


class _One(NamedTuple):
    """The tables of a single instruction."""

    target: Target
    entries: np.ndarray
    operands: np.ndarray
    flags: np.ndarray
    attrs: Sequence[Mapping[str, Any]]


_OPERAND = np.dtype(
    [("role", np.uint8), ("scope", np.uint8), ("dtype", np.uint8), ("rank", np.uint8), ("address", np.int64),
     ("extents", np.int64, (3,)), ("strides", np.int64, (3,))]
)  # fmt: skip
_ENTRY = np.dtype(
    [("opcode", np.uint16), ("engine", np.uint8), ("attrs", np.int32), ("operand", np.int64), ("operands", np.uint8),
     ("wait", np.int64), ("waits", np.uint8), ("set", np.int64), ("sets", np.uint8)]
)  # fmt: skip
_NO_KINDS = np.zeros(0, np.uint8)


class CostRules:
    """The costs of single instructions on one part."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self._machine: Machine = machine_of(target)

    def instruction(self, op: str, operands: Sequence[CostOperand], attrs: Mapping[str, Any] | None = None) -> Cost:
        """The cost of one instruction without flags; about 20 microseconds."""
        definition = OPCODES[op]
        engine = ENGINES.index(definition.engine) if definition.engine in ENGINES else 0
        entries = np.array([(definition.code, engine, 0, 0, len(operands), 0, 0, 0, 0)], _ENTRY)
        rows = np.array([_row(o) for o in operands], _OPERAND)
        costs = np.zeros(1, COST)
        columns = tuple(np.ascontiguousarray(entries[name]) for name in cost_kernels.ENTRY_COLUMNS)
        places = tuple(np.ascontiguousarray(rows[name]) for name in cost_kernels.OPERAND_COLUMNS)
        cost_kernels.account(self._machine, columns, places, _NO_KINDS, attr_table((attrs or {},)), _grids(), costs)
        _check_units(_One(self.target, entries, rows, _NO_KINDS, ()), costs)
        return Cost(*costs[0].item())


def instruction_cost(
    target: Target, op: str, operands: Sequence[CostOperand], attrs: Mapping[str, Any] | None = None
) -> Cost:
    """The cost of one instruction without flags; keep a `CostRules` where there are many."""
    return CostRules(target).instruction(op, operands, attrs)


def _row(operand: CostOperand) -> tuple[Any, ...]:
    rank = len(operand.extents)
    extents, strides = (*operand.extents, *(1,) * (3 - rank)), (*operand.byte_strides(), *(0,) * (3 - rank))
    return (
        ROLE_CODE[operand.role], SCOPES.index(operand.scope), DTYPE_CODE[operand.dtype], rank, operand.address, extents,
        strides,
    )  # fmt: skip


def _up(value: Any, step: Any) -> Any:
    """`value / step` rounded up, in integers."""
    return -(-np.asarray(value) // step)


def matrix_cycles(target: Target, dtype: str, m: Any, n: Any, k: Any, sparse: bool = False) -> Any:
    """Cycles of products [m, k] x [k, n], startup included; m, n and k may be arrays."""
    um, un, uk = target.engine.matrix.unit[dtype]
    return target.engine.matrix.startup + _up(m, um) * _up(n, un) * _up(k, uk * (2 if sparse else 1))


def vector_cycles(target: Target, rows: Any, row_bytes: Any, cost: str = "simple", reduced_itemsize: int = 0) -> Any:
    """Cycles of an elementwise instruction on `rows` rows of `row_bytes` (widest operand), startup included.

    `reduced_itemsize`: bytes of a source element where the instruction reduces along the row, else 0.
    """
    vector = target.engine.vector
    classes: Mapping[str, float] = {"slide": vector.cost["gather"] / 4, "stage": 2, **vector.cost}
    tree = np.log2(vector.width / reduced_itemsize) if reduced_itemsize else 0.0
    each = vector.row_overhead + _up(row_bytes, vector.width) * classes[cost] + tree
    return vector.startup + np.asarray(rows) * each


def window_cycles(target: Target, taps: Any, runs: Any, run_bytes: Any) -> Any:
    """Cycles of a pooling or depthwise instruction with `runs` contiguous runs of the result, startup included."""
    vector = target.engine.vector
    each = vector.row_overhead + _up(run_bytes, vector.width) * vector.cost["simple"]
    return vector.startup + np.asarray(taps) * np.asarray(runs) * each


def row_bursts(address: Any, row_bytes: Any, rows: Any, stride: Any, burst: int) -> Any:
    """Bytes of whole bursts of `rows` runs of `row_bytes`, `stride` bytes apart; arguments may be arrays."""
    arrays = np.broadcast_arrays(*(np.asarray(a, np.int64) for a in (address, row_bytes, rows, stride)))
    flat = tuple(np.ascontiguousarray(a).reshape(-1) for a in arrays)
    return many_row_bytes(*flat, burst).reshape(arrays[0].shape)


def dma_bytes(
    target: Target, src_scope: str, dst_scope: str, row_bytes: Any, rows: Any, src_stride: Any, dst_stride: Any,
    src_address: Any = 0, dst_address: Any = 0,
) -> Any:  # fmt: skip
    """Bytes that copies of `rows` rows move: whole bursts on the side that counts; arguments may be arrays.

    Rows contiguous on both sides are one run.
    """
    src, dst = target.memory[src_scope].burst, target.memory[dst_scope].burst
    on_src = src > dst or (src == dst and SCOPES.index(src_scope) < SCOPES.index(dst_scope))
    row_bytes, rows = np.asarray(row_bytes, np.int64), np.asarray(rows, np.int64)
    merged = (np.asarray(src_stride) == row_bytes) & (np.asarray(dst_stride) == row_bytes)
    runs, run_bytes = np.where(merged, 1, rows), np.where(merged, row_bytes * rows, row_bytes)
    address, stride = (src_address, src_stride) if on_src else (dst_address, dst_stride)
    return row_bursts(address, run_bytes, runs, stride, max(src, dst))


def move_cycles(target: Target, moved: Any) -> Any:
    """Cycles of a move of that many bytes, startup included."""
    return target.engine.move.startup + np.asarray(moved) / target.engine.move.port_bandwidth


