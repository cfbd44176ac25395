"""Rows chosen by an index: load_gather, store_scatter and the vector engine's gather."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from dsa_compiler.emit.context import Context
from dsa_compiler.emit.expression import Load, Unmatched
from dsa_compiler.emit.nest import Access, Nest
from dsa_compiler.emit.plan import Placed, Plan
from dsa_compiler.emit.vector_engine import Group, Part

MEMORIES = ("ddr", "llb")


def gathers(nest: Nest, context: Context) -> Iterator[Plan]:
    """Plans of a copy of rows whose number is read from an index in L1."""
    if not isinstance(nest.value, Load) or nest.predicate or nest.guards:
        return
    source, target = nest.loads[nest.value.slot], nest.store
    chosen = source if source.index is not None else target
    if chosen.index is None or (source.index is not None and target.index is not None):
        return
    opcode = _opcode(source, target)
    table, rows = ("src", "dst") if chosen is source else ("dst", "src")
    other = target if chosen is source else source
    parts = [
        _part(opcode, rows, other, context),
        _part(opcode, table, replace(chosen, index=None), context),
        _part(opcode, "index", chosen.index, context),
    ]
    yield _plan(opcode, nest, parts, chosen, context)


def _opcode(source: Access, target: Access) -> str:
    if source.index is None:
        return "store_scatter"
    return "load_gather" if source.scope in MEMORIES else "gather"


def _part(opcode: str, role: str, access: Access, context: Context) -> Part:
    part = context.part(opcode, role, access)
    if part is None:
        raise Unmatched(f"{opcode} does not take {access.dtype} in {access.scope} as {role}")
    context.engine.require_aligned_base(access)
    return part


def _plan(opcode: str, nest: Nest, parts: list[Part], chosen: Access, context: Context) -> Plan:
    """rows [n, w] from or to rows of a table [v, w] by an index [n]."""
    groups = context.engine.merged(nest.axes, parts)
    numbered = [g for g in groups if g.strides[2] == 1 and g.strides[1] == 0]
    inner = [g for g in groups if g.strides == (1, 1, 0)]
    unit = context.engine.unit_elements(parts[0].access)
    row = max(numbered, key=lambda g: g.bound) if numbered else Group((), 1, 1, (unit, 0, 1), True)
    column = max(inner, key=lambda g: g.bound) if inner else Group((), 1, 1, (1, 1, 0), True)
    outer = tuple(sorted(a for g in groups if g is not row and g is not column for a in g.axes))
    _require_aligned(parts, row, outer, nest, context)
    step, count = chosen.pitches[chosen.index_dim], int(chosen.buffer.shape[chosen.index_dim])
    operands = {
        parts[0].role: _placed(parts[0], (row, column), (int(row.strides[0]), 1)),
        parts[1].role: _table(parts[1], column, (step, count)),
        "index": Placed("index", parts[2].access, parts[2].access.base, (row.extent,), (row.bound,), (1,)),
    }
    return Plan(opcode, (operands["dst"], operands["src"], operands["index"]), outer=outer)


def _table(part: Part, column: Group, rows: tuple[int, int]) -> Placed:
    """The table: `rows` is (their distance, their number)."""
    step, count = rows
    access = part.access
    return Placed(part.role, access, access.base, (count, column.extent), (count, column.bound), (step, 1))


def _placed(part: Part, groups: tuple[Group, Group], strides: tuple[int, int]) -> Placed:
    access = part.access
    extents, bounds = tuple(g.extent for g in groups), tuple(g.bound for g in groups)
    return Placed(part.role, access, access.base, extents, bounds, strides)


def _require_aligned(parts: list[Part], row: Group, outer: tuple[int, ...], nest: Nest, context: Context) -> None:
    if int(row.strides[0]) % context.engine.unit_elements(parts[0].access):
        raise Unmatched(f"rows of {parts[0].access.buffer.name} are not aligned")
    for part in parts:
        unit = context.engine.unit_elements(part.access)
        if any(not isinstance(s, int) or s % unit for s in (part.access.strides[n] for n in outer)):
            raise Unmatched(f"steps in {part.access.buffer.name} are not aligned")
    limit = context.target.limits.extent
    if max(row.bound, *(int(e) for e in parts[1].access.buffer.shape[:1])) > limit:
        raise Unmatched(f"the table or the index has more than {limit} rows")
