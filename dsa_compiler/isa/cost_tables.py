"""What the cost kernels read: the machine, the opcodes and the attributes as arrays of numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from dsa_compiler.errors import UserError
from dsa_compiler.isa.definition import OpDef
from dsa_compiler.isa.dtypes import DTYPES, item_bits
from dsa_compiler.isa.table import TABLE
from dsa_compiler.target import ENGINES, SCOPES, Target

KINDS = (
    "control", "copy", "pad", "fill", "transpose", "by_index", "round", "img2col", "matrix",
    "vector", "scan", "windowed", "merge", "scalar",
)  # fmt: skip
"""The ways of counting; the place is the code in the kernels."""

ATTR_COLUMNS = (
    "taps", "ops", "control", "row", "kernel_h", "kernel_w", "stride_h", "stride_w", "dilation_h", "dilation_w",
    "top", "left", "right",
)  # fmt: skip


class Tables(Protocol):
    """The part of a `Program` that costs and rules look at."""

    @property
    def target(self) -> Target: ...  # noqa: D102
    @property
    def entries(self) -> np.ndarray: ...  # noqa: D102
    @property
    def operands(self) -> np.ndarray: ...  # noqa: D102
    @property
    def flags(self) -> np.ndarray: ...  # noqa: D102
    @property
    def attrs(self) -> Sequence[Mapping[str, Any]]: ...  # noqa: D102


class Machine(NamedTuple):
    """A part and its opcodes, indexed by scope, engine, dtype, flag kind and opcode."""

    burst: np.ndarray  # bytes, by scope
    alignment: np.ndarray  # bytes, by scope
    latency: np.ndarray  # cycles, by scope
    private_rate: np.ndarray  # bytes a cycle of a scratchpad that has a limit, else inf, by scope
    startup: np.ndarray  # cycles, by engine
    port: np.ndarray  # bytes a cycle, by engine; 1.0 for engines that count cycles
    bits: np.ndarray  # by dtype
    unit: np.ndarray  # m, n, k by dtype; 0 where the part has none
    flag_cost: np.ndarray  # cycles, by flag kind
    kind: np.ndarray  # place in KINDS, by opcode
    factor: np.ndarray  # cycles a vector, by opcode
    numbers: np.ndarray  # width, row overhead, simple, issue, scalar_op, transpose rate, bank bytes, banks


def machine_of(target: Target) -> Machine:
    """The arrays of a part; raises `UserError` for more L1 banks than a mask holds."""
    l1 = target.memory["l1"]
    if l1.banks > 64:
        raise UserError(f"memory.l1.banks is {l1.banks}, at most 64 are accounted", where="target", action="use fewer")
    memory = [target.memory.get(scope) for scope in SCOPES]
    vector, scalar = target.engine.vector, target.engine.scalar
    return Machine(
        burst=np.array([m.burst or m.alignment if m else 1 for m in memory], np.int64),
        alignment=np.array([m.alignment if m else 1 for m in memory], np.int64),
        latency=np.array([m.latency if m else 0 for m in memory], np.float64),
        private_rate=np.array([_private_rate(target, scope) for scope in SCOPES]),
        startup=np.array([_startup(target, engine) for engine in ENGINES], np.float64),
        port=np.array([_port(target, engine) for engine in ENGINES], np.float64),
        bits=np.array([item_bits(d) for d in DTYPES], np.int64),
        unit=np.array([target.engine.matrix.unit.get(d, (0, 0, 0)) for d in DTYPES], np.int64),
        flag_cost=np.array(
            [target.sync.flag_cost, target.sync.cluster_flag_cost, target.sync.chip_flag_cost], np.float64
        ),
        kind=_by_code([KINDS.index(_kind(d)) for d in TABLE], np.uint8),
        factor=_by_code([_factor(target, d) for d in TABLE], np.float64),
        numbers=np.array(
            [vector.width, vector.row_overhead, vector.cost["simple"], scalar.issue, scalar.scalar_op,
             target.engine.load.transpose_rate, l1.bank_bytes, l1.banks], np.float64,
        ),
    )  # fmt: skip


def _private_rate(target: Target, scope: str) -> float:
    memory = target.memory.get(scope)
    limited = memory is not None and memory.bandwidth and scope not in ("ddr", "llb")
    return memory.bandwidth if memory is not None and limited else np.inf


def _startup(target: Target, engine: str) -> float:
    return float(getattr(getattr(target.engine, engine), "startup", 0))


def _port(target: Target, engine: str) -> float:
    return float(getattr(getattr(target.engine, engine), "port_bandwidth", 1.0))


def _by_code(values: Sequence[float], dtype: type) -> np.ndarray:
    result: np.ndarray = np.zeros(max(d.code for d in TABLE) + 1, dtype)
    for definition, value in zip(TABLE, values, strict=True):
        result[definition.code] = value
    return result


def _kind(definition: OpDef) -> str:
    """How an opcode's time is counted."""
    if definition.cost != "dma":
        return definition.cost if definition.cost in KINDS else "vector"
    names = {a.name for a in definition.attrs}
    if "fill" in definition.tags:
        return "fill"
    if "round" in definition.tags:
        return "round"
    if definition.spec("index") is not None:
        return "by_index"
    return "pad" if "pad" in names else "transpose" if "transpose" in names else "copy"


def _factor(target: Target, definition: OpDef) -> float:
    """Cycles for each vector of the widest operand."""
    cost = target.engine.vector.cost
    return {"slide": cost["gather"] / 4, "stage": 2.0, "merge": 2.0}.get(definition.cost, cost.get(definition.cost, 0))


def attr_table(attrs: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """The numbers that cost depends on, one row for each attribute dictionary."""
    result = np.zeros((len(attrs), len(ATTR_COLUMNS)), np.int64)
    for row, values in zip(result, attrs, strict=True):
        if values:
            _fill_row(row, values)
    return result


def _fill_row(row: np.ndarray, attrs: Mapping[str, Any]) -> None:
    row[0], row[1], row[2] = attrs.get("taps", 0), attrs.get("ops", 0), attrs.get("control", 0)
    row[3] = attrs.get("reduce") == "row"
    if "kernel" in attrs:
        row[4:6], row[6:8], row[8:10] = attrs["kernel"], attrs["stride"], attrs["dilation"]
        row[10], row[11], _, row[12] = attrs["pad"]
