"""Whether a program's tables are sound: every index, code and count in range, before anything follows them.

What an instruction may do is `isa.validate`'s; this is what keeps a hostile or damaged table from leading
any reader astray.
"""

from __future__ import annotations

import numpy as np

from dsa_compiler.errors import UserError
from dsa_compiler.isa.definition import ROLES
from dsa_compiler.isa.dtypes import DTYPES
from dsa_compiler.isa.table import BY_CODE
from dsa_compiler.program.tables import ENGINE_CODE, ENTRY, FLAG, FLAG_KINDS, OPERAND, Binding, Program, binding_bytes
from dsa_compiler.target import ENGINES, SCOPES

ACTION = "use a program that this version of dsac wrote"


def check_tables(program: Program, where: str = "program") -> None:
    """Raise `UserError` naming the first table, row and field that is out of range."""
    _check_shapes(program, where)
    _check_entries(program, where)
    _check_spans(program, where)
    _check_operands(program.operands, where)
    _check_flags(program.flags, where)
    _check_regions(program, where)


def _fail(where: str, problem: str) -> UserError:
    return UserError(problem, where=where, action=ACTION)


def _check_shapes(program: Program, where: str) -> None:
    for name, table, dtype in (
        ("entries", program.entries, ENTRY),
        ("operands", program.operands, OPERAND),
        ("flags", program.flags, FLAG),
    ):
        if table.dtype != dtype or table.ndim != 1:
            raise _fail(where, f"table {name} has dtype {table.dtype} and shape {table.shape}, not rows of a program")


def _check_range(where: str, table: str, field: str, values: np.ndarray, low: int, high: int) -> None:
    """`low <= values < high`."""
    bad = np.flatnonzero((values < low) | (values >= high))
    if len(bad):
        row = int(bad[0])
        raise _fail(where, f"{table} {row}: {field} is {int(values[row])}, outside {low} to {high - 1}")


def _check_entries(program: Program, where: str) -> None:
    entries, target = program.entries, program.target
    known = np.zeros(np.iinfo(np.uint16).max + 1, bool)
    known[list(BY_CODE)] = True
    bad = np.flatnonzero(~known[entries["opcode"]])
    if len(bad):
        raise _fail(where, f"entry {bad[0]}: opcode {entries['opcode'][bad[0]]} is not known")
    _check_range(where, "entry", "engine", entries["engine"], 0, len(ENGINES))
    _check_range(where, "entry", "cluster", entries["cluster"], 0, target.clusters)
    prefetch = entries["engine"] == ENGINE_CODE["prefetch"]
    core = np.where(prefetch, entries["core"] + 1, entries["core"])
    _check_range(where, "entry", "core", np.where(prefetch & (core > 0), -2, core), 0, target.cores_per_cluster)
    for field in ("group", "node", "kernel"):
        _check_range(where, "entry", field, entries[field], -1, np.iinfo(np.int32).max)
    _check_range(where, "entry", "segment", entries["segment"], 0, np.iinfo(np.int32).max)
    _check_range(where, "entry", "attrs", entries["attrs"], 0, len(program.attrs))
    _check_range(where, "entry", "node", entries["node"], -1, len(program.nodes))
    _check_range(where, "entry", "kernel", entries["kernel"], -1, len(program.kernels))


def _check_spans(program: Program, where: str) -> None:
    entries = program.entries
    for first, count, table in (
        ("operand", "operands", program.operands),
        ("wait", "waits", program.flags),
        ("set", "sets", program.flags),
    ):
        _check_range(where, "entry", first, entries[first], 0, len(table) + 1)
        _check_range(where, "entry", count, entries[first] + entries[count], 0, len(table) + 1)


def _check_operands(operands: np.ndarray, where: str) -> None:
    _check_range(where, "operand", "role", operands["role"], 0, len(ROLES))
    _check_range(where, "operand", "scope", operands["scope"], 0, len(SCOPES))
    _check_range(where, "operand", "dtype", operands["dtype"], 0, len(DTYPES))
    _check_range(where, "operand", "rank", operands["rank"], 1, 4)
    _check_range(where, "operand", "address", operands["address"], 0, 1 << 48)
    for axis in range(3):
        _check_range(where, "operand", f"extent {axis}", operands["extents"][:, axis], 1, 1 << 32)
        _check_range(where, "operand", f"stride {axis}", operands["strides"][:, axis], 0, 1 << 32)


def _check_flags(flags: np.ndarray, where: str) -> None:
    _check_range(where, "flag", "kind", flags["kind"], 0, len(FLAG_KINDS))
    _check_range(where, "flag", "source", flags["source"], 0, len(ENGINES))
    _check_range(where, "flag", "target", flags["target"], 0, len(ENGINES))
    _check_range(where, "flag", "number", flags["number"], 0, np.iinfo(np.int16).max)


def _check_regions(program: Program, where: str) -> None:
    size = program.target.memory["ddr"].size
    if not 0 <= program.ddr_bytes <= size:
        raise _fail(where, f"the program uses {program.ddr_bytes} bytes of ddr, and the part has {size}")
    for constant in program.constants:
        if constant.address < 0 or constant.address + len(constant.data) > size:
            raise _fail(where, f"a constant lies at ddr[{constant.address}], outside the {size} bytes of ddr")
    for binding in program.inputs + program.outputs:
        _check_binding(binding, size, where)
    for step in program.host_steps:
        if step.segment < 0 or step.operations < 0:
            raise _fail(where, f"host step {step.op} has segment {step.segment} and {step.operations} operations")
        for binding in step.inputs + step.outputs:
            _check_binding(binding, size, where)


def _check_binding(binding: Binding, size: int, where: str) -> None:
    if any(extent < 0 for extent in binding.shape):
        raise _fail(where, f"tensor {binding.name!r} has shape {list(binding.shape)}")
    if binding.address < 0 or binding.address + binding_bytes(binding) > size:
        raise _fail(where, f"tensor {binding.name!r} lies at ddr[{binding.address}], outside the {size} bytes of ddr")
