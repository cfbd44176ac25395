"""Elementwise operations of the vector engine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

from dsa_compiler.emit.context import Context
from dsa_compiler.emit.expression import Apply, Load, Node, Unmatched, Unsuited
from dsa_compiler.emit.nest import Access, Nest
from dsa_compiler.emit.plan import Plan, placed

SOURCE_ROLES = ("src", "src2", "src3")
FLOATS = frozenset({"float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2"})


def single(value: Node) -> tuple[Apply, tuple[Load, ...]] | None:
    """The one operation that a value is, and what it reads; None where it is none or several.

    A cast of a float to float32 at a source, and one to a smaller float at the root, are part of the
    instruction: each operand has a dtype of its own, and the computation is in float32.
    """
    if isinstance(value, Load):
        return Apply("copy", (value,), value.dtype), (value,)
    inner = strip_rounding(value)
    if not isinstance(inner, Apply):
        return None
    leaves = tuple(leaf for a in inner.args if isinstance(leaf := strip_widening(a), Load))
    if len(leaves) == len(inner.args):
        return inner, leaves
    if inner is not value and isinstance(value, Apply) and isinstance(value.args[0], Load):
        return value, (value.args[0],)
    return None


def strip_rounding(value: Node) -> Node:
    """The operation under a cast from float32 to a smaller float."""
    if isinstance(value, Apply) and value.op == "cast" and isinstance(value.args[0], Apply):
        inner = value.args[0]
        if value.dtype in FLOATS and inner.dtype == "float32" and inner.op != "cast":
            return inner
    return value


def strip_widening(value: Node) -> Node:
    """The load under a cast from a smaller float to float32."""
    if isinstance(value, Apply) and value.op == "cast" and isinstance(value.args[0], Load):
        inner = value.args[0]
        if value.dtype == "float32" and inner.dtype in FLOATS:
            return inner
    return value


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
