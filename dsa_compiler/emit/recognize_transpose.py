"""Copies that exchange two axes: transposing loads and moves, and the vector engine's transpose."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from dsa_compiler.emit import tir
from dsa_compiler.emit.context import Context
from dsa_compiler.emit.expression import Load, Unmatched
from dsa_compiler.emit.nest import Access, Nest
from dsa_compiler.emit.plan import Placed, Plan, placed
from dsa_compiler.emit.vector_engine import Group, Part

OPCODES = {
    ("ddr", "l1"): "load_transpose", ("llb", "l1"): "load_transpose",
    ("l1", "l0a"): "move_a_transpose", ("l1", "l0b"): "move_b_transpose",
    ("l1", "l1"): "transpose", ("l0c", "l1"): "transpose", ("l1", "l0c"): "transpose", ("l0c", "l0c"): "transpose",
}  # fmt: skip
"""(source, destination) and the instruction that transposes between them."""


def transposes(nest: Nest, context: Context) -> Iterator[Plan]:
    """Plans of a copy whose source and destination are contiguous along different axes."""
    if not isinstance(nest.value, Load) or nest.predicate or nest.guards:
        return
    source = nest.loads[nest.value.slot]
    opcode = OPCODES.get((source.scope, nest.store.scope), "")
    if source.dtype != nest.store.dtype:
        return
    dst, src = context.part(opcode, "dst", nest.store), context.part(opcode, "src", source)
    if dst is None or src is None:
        return
    groups = context.engine.merged(nest.axes, [dst, src])
    unit = context.engine.unit_elements
    one_row = Group((), 1, 1, (unit(nest.store), 1), True)
    one_column = Group((), 1, 1, (1, unit(source)), True)
    for row in [*groups, one_row]:
        for column in [*groups, one_column]:
            if row is not column and column.strides[0] == 1 and row.strides[1] == 1 and row.axes + column.axes:
                yield _plan(opcode, nest, (dst, src), (row, column), groups, context)


def every_other(nest: Nest, context: Context) -> Iterator[Plan]:
    """Plans of a copy on the vector engine that takes every other element of its source's rows."""
    if not isinstance(nest.value, Load) or nest.predicate or nest.guards:
        return
    source = nest.loads[nest.value.slot]
    pair = [n for n, s in enumerate(source.strides) if s == 2 and nest.store.strides[n] == 1]
    dst, src = context.part("deinterleave", "dst", nest.store), context.part("deinterleave", "src", source)
    if not pair or dst is None or src is None:
        return
    phase, base = _phase(source, context)
    walked = replace(
        source, base=base, strides=tuple(1 if n == pair[0] else s for n, s in enumerate(source.strides))
    )  # fmt: skip
    parts = [dst, replace(src, access=walked)]
    for fit in context.engine.fits(nest.axes, parts, unmergeable=frozenset(pair)):
        if fit.groups[-1].axes != (pair[0],):
            continue
        target, origin = placed(parts[0], fit, 0), placed(parts[1], fit, 1)
        wide = (*origin.extents[:-1], origin.extents[-1] * 2)
        origin = replace(origin, extents=wide, bounds=(*origin.bounds[:-1], origin.bounds[-1] * 2))
        yield Plan("deinterleave", (target, origin), {"phase": phase}, fit.outer)


def reversed_rows(nest: Nest, context: Context) -> Iterator[Plan]:
    """Plans of a copy on the vector engine that walks its source's rows from back to front."""
    if not isinstance(nest.value, Load) or nest.predicate or nest.guards:
        return
    source = nest.loads[nest.value.slot]
    back = [n for n, s in enumerate(source.strides) if s == -1 and nest.store.strides[n] == 1]
    dst, src = context.part("reverse", "dst", nest.store), context.part("reverse", "src", source)
    if not back or dst is None or src is None:
        return
    axis = nest.axes[back[0]]
    last = axis.extent - 1
    base = tuple(b + last * s[back[0]] for b, s in zip(source.base, source.slopes, strict=True))
    strides = tuple(1 if n == back[0] else s for n, s in enumerate(source.strides))
    parts = [dst, replace(src, access=replace(source, base=base, strides=strides))]
    for fit in context.engine.fits(nest.axes, parts, unmergeable=frozenset(back)):
        if fit.groups[-1].axes == (back[0],):
            yield Plan("reverse", (placed(parts[0], fit, 0), placed(parts[1], fit, 1)), outer=fit.outer)


def _phase(source: Access, context: Context) -> tuple[int, tuple[tir.Expr, ...]]:
    """Whether the first element is the second of a pair that starts aligned, and the pair's start."""
    last = context.scope.simplify(source.base[-1])
    modular = context.scope.analyzer.modular_set(last)
    odd = int(modular.coeff) % 2 == 0 and int(modular.base) % 2 == 1
    return (1, (*source.base[:-1], last - 1)) if odd else (0, source.base)


def _plan(
    opcode: str, nest: Nest, parts: tuple[Part, Part], pair: tuple[Group, Group], groups: list[Group], context: Context
) -> Plan:
    """dst [row, column] from src [column, row]; the other axes stay loops."""
    row, column = pair
    dst, src = parts
    for part in parts:
        context.engine.require_aligned_base(part.access)
    outer = [a for g in groups if g is not row and g is not column for a in g.axes]
    _require_aligned(dst.access, int(row.strides[0]), context)
    _require_aligned(src.access, int(column.strides[1]), context)
    for n in outer:
        for access in (dst.access, src.access):
            _require_aligned(access, access.strides[n], context)
    limit = context.target.limits.extent
    if row.bound > limit or column.bound > limit:
        raise Unmatched(f"a transposition of {row.bound} x {column.bound} is beyond the limit of {limit}")
    operands = (
        Placed("dst", dst.access, dst.access.base, (row.extent, column.extent), (row.bound, column.bound),
               (int(row.strides[0]), 1)),
        Placed("src", src.access, src.access.base, (column.extent, row.extent), (column.bound, row.bound),
               (int(column.strides[1]), 1)),
    )  # fmt: skip
    attrs = {} if opcode == "transpose" else {"transpose": True}
    return Plan(opcode, operands, attrs, tuple(sorted(outer)))


def _require_aligned(access: Access, stride: object, context: Context) -> None:
    if not isinstance(stride, int) or stride % context.engine.unit_elements(access):
        raise Unmatched(f"rows of {access.buffer.name} are {stride} elements apart, which is not aligned")
