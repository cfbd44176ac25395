"""Reductions of the vector engine."""

from __future__ import annotations

from collections.abc import Iterator

from dsa_compiler.emit.accumulation import REDUCING, accumulation, reduced_axes
from dsa_compiler.emit.context import Context
from dsa_compiler.emit.expression import Apply, Const, Load, Node, Unmatched, Unsuited
from dsa_compiler.emit.nest import Access, Nest
from dsa_compiler.emit.neutral import is_neutral
from dsa_compiler.emit.operands import strip_widening
from dsa_compiler.emit.plan import Placed, Plan
from dsa_compiler.emit.vector_engine import Group, Part

FUSED = {("square", "add"): "reduce_sumsq", ("abs", "max"): "reduce_absmax"}


def reductions(init: Nest, update: Nest, context: Context) -> Iterator[Plan]:
    """Plans of an accumulator's neutral first value and the accumulation after it.

    Raises `Unmatched` where the nests are of another form.
    """
    added = accumulation(update.value, update.store, update.loads)
    if added is None or update.predicate or update.guards:
        raise Unmatched("the nest is no reduction")
    if not isinstance(init.value, Const) or not is_neutral(added.op, float(init.value.value), init.store.dtype):
        raise Unmatched("the accumulator of the reduction does not start with the neutral element")
    opcode, load = _operation(added.op, added.rest)
    source = update.loads[load.slot]
    dst, src = context.part(opcode, "dst", update.store), context.part(opcode, "src", source)
    if dst is None or src is None:
        raise Unsuited(f"{opcode} does not take {source.dtype} in {source.scope} to {update.store.scope}")
    for part in (dst, src):
        context.engine.require_aligned_base(part.access)
    groups = context.engine.merged(update.axes, [dst, src])
    gone = set(reduced_axes(update.store))
    sums = [g for g in groups if set(g.axes) <= gone]
    kept = [g for g in groups if not set(g.axes) & gone]
    if len(sums) != 1 or len(sums) + len(kept) != len(groups):
        raise Unmatched("the reduction is over axes that are not one in memory")
    yield _plan(opcode, sums[0], kept, (dst, src), context)


def _operation(op: str, rest: Node) -> tuple[str, Load]:
    rest = strip_widening(rest)
    if isinstance(rest, Load):
        return REDUCING[op], rest
    if isinstance(rest, Apply) and (rest.op, op) in FUSED:
        inner = strip_widening(rest.args[0])
        if isinstance(inner, Load):
            return FUSED[rest.op, op], inner
    raise Unmatched("the reduction is of an expression")


def _plan(opcode: str, summed: Group, kept: list[Group], parts: tuple[Part, Part], context: Context) -> Plan:
    if summed.strides[1] == 1:
        return _row(opcode, summed, kept, parts, context)
    return _column(opcode, summed, kept, parts, context)


def _row(opcode: str, summed: Group, kept: list[Group], parts: tuple[Part, Part], context: Context) -> Plan:
    """Along the rows: dst [.., 1] from src [.., n]."""
    inside, outer = _inside(kept, 2, parts, context)
    one = Group((), 1, 1, (1, 1), True)
    dst = _placed(parts[0], [*inside, one], 0)
    src = _placed(parts[1], [*inside, summed], 1)
    _require_extent([*inside, summed], context)
    return Plan(opcode, (dst, src), {"reduce": "row"}, outer)


def _column(opcode: str, summed: Group, kept: list[Group], parts: tuple[Part, Part], context: Context) -> Plan:
    """Across rows or planes: dst [1, c] from src [n, c], or the same by planes, or for each plane."""
    inner = [g for g in kept if g.strides == (1, 1)]
    last = inner[0] if inner else Group((), 1, 1, (1, 1), True)
    others = [g for g in kept if g is not last]
    unit = [context.engine.unit_elements(p.access) for p in parts]
    if int(summed.strides[1]) % unit[1]:
        raise Unmatched(f"rows of {parts[1].access.buffer.name} are not aligned")
    inside, outer = _inside(others, 1, parts, context)
    one = Group((), 1, 1, (unit[0], unit[1]), True)
    dst = _placed(parts[0], [*inside, one, last], 0)
    src = _placed(parts[1], [*inside, summed, last], 1)
    _require_extent([*inside, summed, last], context)
    return Plan(opcode, (dst, src), {"reduce": "column"}, outer)


def _inside(
    groups: list[Group], most: int, parts: tuple[Part, Part], context: Context
) -> tuple[list[Group], tuple[int, ...]]:
    """The longest groups that the instruction takes, in order, and the axes left as loops."""
    for group in groups:
        for stride, part in zip(group.strides, parts, strict=True):
            if int(stride) % context.engine.unit_elements(part.access):
                raise Unmatched(f"rows of {part.access.buffer.name} are {stride} elements apart, which is not aligned")
    chosen = sorted(groups, key=lambda g: -g.bound)[:most]
    inside = [g for g in groups if any(g is c for c in chosen)]
    outer = tuple(sorted(a for g in groups if not any(g is c for c in chosen) for a in g.axes))
    return inside, outer


def _require_extent(groups: list[Group], context: Context) -> None:
    longest = max(g.bound for g in groups)
    if longest > context.target.limits.extent:
        raise Unmatched(f"an extent of {longest} is beyond the limit of {context.target.limits.extent}")


def _placed(part: Part, groups: list[Group], number: int) -> Placed:
    access: Access = part.access
    return Placed(
        part.role, access, access.base, tuple(g.extent for g in groups), tuple(g.bound for g in groups),
        tuple(int(g.strides[number]) for g in groups),
    )  # fmt: skip
