"""Rules on single operands: roles, scopes, dtypes, ranks, limits, alignment, bounds."""

# mypy: disable-error-code="no-any-return"
from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from dsa_compiler.errors import UserError
from dsa_compiler.isa.cost_tables import Tables
from dsa_compiler.isa.definition import ROLES, WRITTEN_ROLES, OpDef, OperandSpec
from dsa_compiler.isa.dtypes import DTYPES, item_bits
from dsa_compiler.isa.table import BY_CODE, TABLE
from dsa_compiler.isa.validate_entries import reject, spread
from dsa_compiler.target import SCOPES

WRITTEN = tuple(r in WRITTEN_ROLES for r in ROLES)
"""Whether an operand is written, by role code."""


class _Specs(NamedTuple):
    """What each (opcode, role) may be, as arrays indexed by `code * len(ROLES) + role`."""

    present: np.ndarray
    scopes: np.ndarray  # [.., scope]
    dtypes: np.ndarray  # [.., dtype]
    ranks: np.ndarray  # [.., rank]
    broadcast: np.ndarray
    aligned_base: np.ndarray
    aligned_strides: np.ndarray


def _specs() -> _Specs:
    size = (max(d.code for d in TABLE) + 1) * len(ROLES)
    specs = _Specs(
        np.zeros(size, np.bool_), np.zeros((size, len(SCOPES)), np.bool_), np.zeros((size, len(DTYPES)), np.bool_),
        np.zeros((size, 4), np.bool_), np.zeros(size, np.bool_), np.zeros(size, np.bool_), np.zeros(size, np.bool_),
    )  # fmt: skip
    for definition in TABLE:
        for operand in definition.operands:
            _enter(specs, definition.code * len(ROLES) + ROLES.index(operand.role), operand)
    return specs


def _enter(specs: _Specs, place: int, operand: OperandSpec) -> None:
    specs.present[place] = True
    specs.scopes[place] = [s in operand.scopes for s in SCOPES]
    specs.dtypes[place] = [not operand.dtypes or d in operand.dtypes for d in DTYPES]
    specs.ranks[place] = [r in operand.ranks for r in range(4)]
    specs.broadcast[place], specs.aligned_base[place] = operand.broadcast, operand.aligned_base
    specs.aligned_strides[place] = operand.aligned_strides


class OperandRows:
    """The operand rows that entries use, with their entries; raises the errors."""

    def __init__(self, program: Tables, owner: np.ndarray, rows: np.ndarray) -> None:
        self.program, self.owner = program, owner
        self.table = program.operands[rows] if len(rows) else program.operands[:0]

    def refuse(self, bad: np.ndarray, problem: Callable[[int], str], action: str) -> None:
        """Raise `UserError` for the first operand where `bad` holds."""
        if not bad.any():
            return
        row = int(np.argmax(bad))
        entry = int(self.owner[row])
        op = BY_CODE[int(self.program.entries["opcode"][entry])].name
        role = ROLES[self.table["role"][row]] if self.table["role"][row] < len(ROLES) else "operand"
        raise UserError(f"entry {entry} ({op}) {role}: {problem(row)}", where="validate", action=action)


def check_operands(program: Tables) -> None:
    """Every rule on a single operand."""
    owner, rows = spread(program.entries["operand"], program.entries["operands"])
    operands = OperandRows(program, owner, rows)
    _check_codes(operands)
    specs = _specs()
    place = program.entries["opcode"][owner].astype(np.int64) * len(ROLES) + operands.table["role"]
    operands.refuse(~specs.present[place], lambda r: "is no operand of this instruction", "remove it")
    _check_roles(program)
    _check_kind(operands, specs, place)
    _check_extents(operands)
    _check_strides(operands, specs, place)
    _check_bounds(operands)


def _check_codes(operands: OperandRows) -> None:
    table = operands.table
    for name, names in (("role", ROLES), ("scope", SCOPES), ("dtype", DTYPES)):
        operands.refuse(table[name] >= len(names), lambda r, n=name: f"{n} {table[n][r]} does not exist",  # type: ignore[misc]
                        "correct the tables")  # fmt: skip
    rank = table["rank"]
    operands.refuse((rank < 1) | (rank > 3), lambda r: f"rank is {rank[r]}, 1 to 3 are allowed", "use other views")


def _check_roles(program: Tables) -> None:
    """Each role that the opcode needs is there once."""
    entries, operands = program.entries, program.operands
    bits = np.zeros(len(entries), np.int64)
    owner, rows = spread(entries["operand"], entries["operands"])
    if len(rows):
        np.bitwise_or.at(bits, owner, 1 << operands["role"][rows].astype(np.int64))
    needed, most = np.zeros(65536, np.int64), np.zeros(65536, np.int64)
    for definition in TABLE:
        needed[definition.code] = sum(1 << ROLES.index(o.role) for o in definition.operands if not o.optional)
        most[definition.code] = len(definition.operands)
    code = entries["opcode"]
    lacking = needed[code] & ~bits
    reject(program, lacking != 0, lambda e: f"lacks operand {_role_names(int(lacking[e]))}", "add it")
    reject(program, entries["operands"] > most[code],
           lambda e: f"has {entries['operands'][e]} operands, at most {most[code[e]]} are allowed",
           "name each role once")  # fmt: skip


def _role_names(bits: int) -> str:
    return ", ".join(r for i, r in enumerate(ROLES) if bits >> i & 1)


def _check_kind(operands: OperandRows, specs: _Specs, place: np.ndarray) -> None:
    """Scope, dtype and rank."""
    table, target = operands.table, operands.program.target
    scope, dtype, rank = table["scope"], table["dtype"], table["rank"]

    def definition(row: int) -> OpDef:
        return BY_CODE[int(operands.program.entries["opcode"][operands.owner[row]])]

    def spec(row: int) -> OperandSpec:
        found = definition(row).spec(ROLES[table["role"][row]])
        return found if found is not None else definition(row).operands[0]

    operands.refuse(~specs.scopes[place, scope],
                    lambda r: f"scope is {SCOPES[scope[r]]}, {definition(r).name} reaches {', '.join(spec(r).scopes)}",
                    "use a scope that the engine can reach")  # fmt: skip
    here = np.array([s in target.memory for s in SCOPES])
    operands.refuse(~here[scope], lambda r: f"{target.name} has no {SCOPES[scope[r]]}", "use another scope")
    operands.refuse(~specs.dtypes[place, dtype],
                    lambda r: f"dtype is {DTYPES[dtype[r]]}, allowed are {', '.join(spec(r).dtypes)}",
                    "use another dtype")  # fmt: skip
    mine = np.array([d in target.dtypes for d in DTYPES])
    operands.refuse(~mine[dtype], lambda r: f"dtype {DTYPES[dtype[r]]} is none of {target.name}'s", "use another dtype")
    operands.refuse(~specs.ranks[place, rank],
                    lambda r: f"rank is {rank[r]}, allowed are {', '.join(map(str, spec(r).ranks))}",
                    "view the operand in another rank")  # fmt: skip


def _columns(operands: OperandRows) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Extents, strides, whether a place is used, whether it is the innermost one; [rows, 3]."""
    table = operands.table
    rank = table["rank"].astype(np.int64)[:, None]
    place = np.arange(3)[None, :]
    return table["extents"], table["strides"], place < rank, place == rank - 1


def _check_extents(operands: OperandRows) -> None:
    extents, _, used, inner = _columns(operands)
    limit = operands.program.target.limits.extent
    bad = np.any(used & ((extents < 1) | (extents > limit)), axis=1)
    operands.refuse(bad, lambda r: f"extents are {_text(operands, r)}, 1 to {limit} are allowed", "split the entry")
    int4 = operands.table["dtype"] == DTYPES.index("int4")
    odd = np.any(inner & (extents % 2 != 0), axis=1)
    operands.refuse(int4 & odd, lambda r: f"extents are {_text(operands, r)}: rows of int4 are even", "pad the rows")


def _text(operands: OperandRows, row: int) -> str:
    return "x".join(map(str, operands.table["extents"][row][: operands.table["rank"][row]]))


def _check_strides(operands: OperandRows, specs: _Specs, place: np.ndarray) -> None:
    """Limits and alignment of base and strides."""
    table, target = operands.table, operands.program.target
    _, strides, used, inner = _columns(operands)
    limit, outer = target.limits.stride, used & ~inner
    item = np.array([max(1, item_bits(d) // 8) for d in DTYPES])[table["dtype"]]

    def of(row: int, where: np.ndarray) -> int:
        return int(strides[row][np.argmax(where[row])])

    bad = used & ((strides < 0) | (strides > limit))
    operands.refuse(np.any(bad, axis=1), lambda r: f"stride is {of(r, bad)}, 0 to {limit} are allowed",
                    "use shorter strides")  # fmt: skip
    inner_stride = np.take_along_axis(strides, table["rank"].astype(np.int64)[:, None] - 1, 1)[:, 0]
    wrong = (inner_stride != item) & ~((inner_stride == 0) & specs.broadcast[place])
    operands.refuse(wrong, lambda r: f"innermost stride is {inner_stride[r]}, an element has {item[r]} bytes",
                    "make rows contiguous")  # fmt: skip
    written = np.array(WRITTEN)[table["role"]]
    still = outer & (strides == 0) & (table["extents"] > 1) & written[:, None]
    operands.refuse(np.any(still, axis=1), lambda r: "stride is 0: a result cannot repeat itself", "write it once")
    align = _alignments(operands)
    base = np.where(specs.aligned_base[place], align, item)
    operands.refuse(table["address"] % base != 0,
                    lambda r: f"address is {table['address'][r]}, a multiple of {base[r]} is needed", "align it")
    step = np.where(specs.aligned_strides[place], np.maximum(align, item), 8)
    skew = outer & (strides % step[:, None] != 0)
    operands.refuse(np.any(skew, axis=1), lambda r: f"stride is {of(r, skew)}, a multiple of {step[r]} is needed",
                    "pad the rows")  # fmt: skip


def _alignments(operands: OperandRows) -> np.ndarray:
    """Bytes to which a base must be aligned: the scope's in the core, the element's in ddr and llb."""
    table, memory = operands.table, operands.program.target.memory
    item = np.array([max(1, item_bits(d) // 8) for d in DTYPES])[table["dtype"]]
    align = np.array([memory[s].alignment if s in memory and s not in ("ddr", "llb") else 1 for s in SCOPES])
    return np.maximum(align[table["scope"]], item)


def row_lengths(table: np.ndarray) -> np.ndarray:
    """Bytes of an innermost row of each operand; one element where the innermost stride is 0."""
    bits = np.array([item_bits(d) for d in DTYPES], np.int64)[table["dtype"]]
    last = table["rank"].astype(np.int64)[:, None] - 1
    extent = np.take_along_axis(table["extents"], last, 1)[:, 0]
    stride = np.take_along_axis(table["strides"], last, 1)[:, 0]
    return (np.where(stride == 0, 1, extent) * bits + 7) // 8


def spans(table: np.ndarray) -> np.ndarray:
    """Bytes from an operand's base to just after its last element."""
    place = np.arange(3)[None, :]
    outer = place < table["rank"].astype(np.int64)[:, None] - 1
    return np.where(outer, (table["extents"] - 1) * table["strides"], 0).sum(axis=1) + row_lengths(table)


def _check_bounds(operands: OperandRows) -> None:
    table, memory = operands.table, operands.program.target.memory
    size = np.array([memory[s].size if s in memory else 0 for s in SCOPES], np.int64)[table["scope"]]
    stop = table["address"] + spans(table)
    operands.refuse(
        (table["address"] < 0) | (stop > size),
        lambda r: f"bytes {table['address'][r]} to {stop[r] - 1} leave {SCOPES[table['scope'][r]]} of {size[r]}",
        "use an address within the scope",
    )
    written = np.array(WRITTEN)[table["role"]]
    operands.refuse(written & _overlaps_itself(table), lambda r: f"rows of {_text(operands, r)} overlap each other",
                    "use longer strides")  # fmt: skip


def _overlaps_itself(table: np.ndarray) -> np.ndarray:
    """Whether two rows share bytes, for written operands: each stride passes what lies inside it."""
    outer = np.arange(3)[None, :] < table["rank"].astype(np.int64)[:, None] - 1
    live = outer & (table["extents"] > 1)
    far = np.iinfo(np.int64).max
    stride = np.where(live, table["strides"], far)[:, :2]
    reach = np.where(live, (table["extents"] - 1) * table["strides"], 0)[:, :2]
    order = np.argsort(stride, axis=1)
    stride, reach = np.take_along_axis(stride, order, 1), np.take_along_axis(reach, order, 1)
    length = row_lengths(table)
    return (stride[:, 0] < length) | (stride[:, 1] < length + reach[:, 0])
