"""Rules on attributes and on how the operands of an entry go together, once for each distinct combination."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from dsa_compiler.errors import UserError
from dsa_compiler.isa.cost_tables import Tables
from dsa_compiler.isa.definition import ROLES, AttrSpec, OpDef
from dsa_compiler.isa.dtypes import DTYPES
from dsa_compiler.isa.table import BY_CODE
from dsa_compiler.target import SCOPES, Target

_NOT_NUMBERS = ("inf", "-inf", "nan")


class OperandView(NamedTuple):
    """An operand as the table's checks see it; strides in bytes."""

    scope: str
    dtype: str
    extents: tuple[int, ...]
    strides: tuple[int, ...]


def check_attrs(program: Tables) -> None:
    """Every attribute that an opcode needs is there, of its kind, and no other."""
    pairs = program.entries["opcode"].astype(np.int64) << 32 | program.entries["attrs"].astype(np.int64)
    for entry in np.sort(np.unique(pairs, return_index=True)[1]).tolist():
        definition = BY_CODE[int(program.entries["opcode"][entry])]
        problem = attr_problem(definition, program.attrs[int(program.entries["attrs"][entry])])
        if problem:
            raise _wrong(entry, definition, problem, "correct the attributes")


def _wrong(entry: int, definition: OpDef, problem: str, action: str) -> UserError:
    return UserError(f"entry {entry} ({definition.name}): {problem}", where="validate", action=action)


def attr_problem(definition: OpDef, attrs: Mapping[str, Any]) -> str | None:
    """What is wrong with an instruction's attributes, or None."""
    specs = {a.name: a for a in definition.attrs}
    for name in attrs:
        if name not in specs:
            return f"attribute {name!r} is unknown, allowed are {', '.join(specs) or 'none'}"
    for name, spec in specs.items():
        if name not in attrs:
            if spec.required:
                return f"attribute {name!r} is missing"
        elif (wanted := _misfit(spec, attrs[name])) is not None:
            return f"attribute {name!r} is {attrs[name]!r}, {wanted} is needed"
    return None


def _is_int(value: Any, spec: AttrSpec) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and spec.least <= value <= spec.most


def _misfit(spec: AttrSpec, value: Any) -> str | None:
    """What an attribute should have been, or None if it is."""
    if spec.kind == "int":
        return None if _is_int(value, spec) else f"a whole number from {spec.least} to {spec.most}"
    if spec.kind == "float":
        good = isinstance(value, float) or _is_int(value, spec) or value in _NOT_NUMBERS
        return None if good else "a number (written with a point if it exceeds 32 bits)"
    if spec.kind == "bool":
        good = isinstance(value, bool) and (value or not spec.always)
        return None if good else "true" if spec.always else "true or false"
    if spec.kind == "str":
        return None if value in spec.choices else f"one of {', '.join(spec.choices)}"
    if not isinstance(value, (list, tuple)):
        return "a list"
    return _misfit_list(spec, value)


def _misfit_list(spec: AttrSpec, value: Any) -> str | None:
    if spec.kind == "strs":
        return None if all(isinstance(v, str) for v in value) else "a list of names"
    if spec.kind == "pads":
        good = all(isinstance(p, (list, tuple)) and len(p) == 2 for p in value)
        good = good and all(_is_int(v, spec) for p in value for v in p)
        return None if good else f"a list of pairs of whole numbers of at least {spec.least}"
    good = all(_is_int(v, spec) for v in value) and (not spec.length or len(value) == spec.length)
    return None if good else f"a list of {spec.length} whole numbers of at least {spec.least}"


def check_shapes(program: Tables) -> None:
    """The operands of each entry go together; matrix products are within the limits."""
    for entry in _distinct_entries(program):
        definition = BY_CODE[int(program.entries["opcode"][entry])]
        operands = views_of(program, entry)
        attrs = program.attrs[int(program.entries["attrs"][entry])]
        problem = shape_problem(program.target, definition, operands, attrs)
        if problem:
            raise _wrong(entry, definition, problem, "correct the operands")


def shape_problem(
    target: Target, definition: OpDef, operands: Mapping[str, OperandView], attrs: Mapping[str, Any]
) -> str | None:
    """What is wrong with how an instruction's operands go together, or None."""
    if definition.check is not None:
        problem = definition.check(operands, attrs)
        if problem:
            return problem
    return _matrix_problem(target, operands) if definition.cost == "matrix" else None


def _matrix_problem(target: Target, operands: Mapping[str, OperandView]) -> str | None:
    (m, k), n = operands["lhs"].extents, operands["rhs"].extents[1]
    limits = target.limits
    for name, value, most in (("m", m, limits.matrix_m), ("n", n, limits.matrix_n), ("k", k, limits.matrix_k)):
        if value > most:
            return f"{name} is {value}, at most {most} is allowed"
    dtype = operands["lhs"].dtype
    return None if dtype in target.engine.matrix.unit else f"the matrix engine of {target.name} has no unit for {dtype}"


def views_of(program: Tables, entry: int) -> dict[str, OperandView]:
    """The operands of an entry by role."""
    first, count = int(program.entries["operand"][entry]), int(program.entries["operands"][entry])
    views = {}
    for row in program.operands[first : first + count].tolist():
        role, scope, dtype, rank, _, extents, strides = row
        views[ROLES[role]] = OperandView(SCOPES[scope], DTYPES[dtype], tuple(extents[:rank]), tuple(strides[:rank]))
    return views


def _distinct_entries(program: Tables) -> np.ndarray:
    """The first entry of each distinct combination of opcode, attributes and operands without addresses."""
    entries, operands = program.entries, program.operands
    kind = _fingerprint([entries["opcode"], entries["attrs"], entries["operands"]])
    if len(operands):
        shape = _fingerprint(
            [*(operands[n] for n in ("role", "scope", "dtype", "rank")), *operands["extents"].T, *operands["strides"].T]
        )
        for place in range(int(entries["operands"].max(initial=0))):
            there = entries["operands"] > place
            rows = np.where(there, entries["operand"] + place, 0)
            kind = np.where(there, _fingerprint([kind, shape[rows]]), kind)
    return np.sort(np.unique(kind, return_index=True)[1])


def _fingerprint(columns: list[np.ndarray]) -> np.ndarray:
    """A 64-bit mixture of integer columns (the finaliser of splitmix64 after each)."""
    mixed = np.full(len(columns[0]), 0x9E3779B97F4A7C15, np.uint64)
    for column in columns:
        mixed = (mixed ^ column.astype(np.int64).view(np.uint64)) * np.uint64(0xBF58476D1CE4E5B9)
        mixed ^= mixed >> np.uint64(30)
        mixed *= np.uint64(0x94D049BB133111EB)
        mixed ^= mixed >> np.uint64(31)
    return mixed
