"""Elementwise operations of the vector engine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

from dsa_compiler.emit.context import Context
from dsa_compiler.emit.expression import Apply, Load, Node, Unmatched, Unsuited
from dsa_compiler.emit.nest import Access, Nest
from dsa_compiler.emit.operands import operand_nodes, strip_rounding
from dsa_compiler.emit.plan import Plan, placed

SOURCE_ROLES = ("src", "src2", "src3")


def single(value: Node) -> tuple[Apply, tuple[Load, ...]] | None:
    """The one operation that a value is, and what it reads; None where it is none or several.

    Casts at sources and at the root that the instruction makes by itself are part of it.
    """
    if isinstance(value, Load):
        return Apply("copy", (value,), value.dtype), (value,)
    inner = strip_rounding(value)
    if not isinstance(inner, Apply):
        return None
    leaves = tuple(leaf for leaf in operand_nodes(inner) if isinstance(leaf, Load))
    if len(leaves) == len(inner.args):
        return inner, leaves
    if inner is not value and isinstance(value, Apply) and isinstance(value.args[0], Load):
        return value, (value.args[0],)
    return None


def elementwise(nest: Nest, context: Context) -> Iterator[Plan]:
    """Plans of a nest whose value is one operation on elements read."""
    if nest.predicate or nest.guards:
        return
    found = single(nest.value)
    if found is None:
        return
    operation, leaves = found
    if operation.op == "copy":
        yield from _slides(nest, nest.loads[leaves[0].slot], context)
    if context.definition(operation.op) is None:
        raise Unmatched(f"the part has no instruction for {operation.op}")
    yield from plans_of(operation.op, nest, [nest.loads[l.slot] for l in leaves], dict(operation.params), context)


def _slides(nest: Nest, source: Access, context: Context) -> Iterator[Plan]:
    """Copies within L1 from a place that is not aligned."""
    dst, src = context.part("slide", "dst", nest.store), context.part("slide", "src", source)
    if dst is None or src is None or source.dtype != nest.store.dtype:
        return
    with suppress(Unmatched):
        for fit in context.engine.fits(nest.axes, [dst, src], ranks=(1, 2)):
            yield Plan("slide", (placed(dst, fit, 0), placed(src, fit, 1)), outer=fit.outer)


def plans_of(
    opcode: str, nest: Nest, sources: list[Access], attrs: dict[str, float | int], context: Context
) -> Iterator[Plan]:
    """Every placement of an elementwise opcode on a nest."""
    accesses = [("dst", nest.store), *zip(SOURCE_ROLES, sources, strict=False)]
    parts = []
    for role, access in accesses:
        part = context.part(opcode, role, access)
        if part is None:
            raise Unsuited(f"{opcode} does not take {access.dtype} in {access.scope} as {role}")
        parts.append(part)
    for fit in context.engine.fits(nest.axes, parts):
        yield Plan(opcode, tuple(placed(p, fit, n) for n, p in enumerate(parts)), attrs, fit.outer)
