"""Copies, padded copies and fills: what load, store, prefetch and move do."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from tvm import tirx

from dsa_compiler.emit import tir
from dsa_compiler.emit.conditions import bound_on
from dsa_compiler.emit.context import Context
from dsa_compiler.emit.expression import Apply, Const, Load, Node, Unmatched, Unsuited
from dsa_compiler.emit.nest import Access, Nest
from dsa_compiler.emit.plan import Placed, Plan, placed
from dsa_compiler.emit.vector_engine import Fit

MEMORIES = ("ddr", "llb")


def _opcodes(dst: str, src: str) -> tuple[str, str | None]:
    """The copy and the padded copy between two scopes; ("", None) where no engine copies."""
    if dst == "l1" and src in MEMORIES:
        return "load", "load_pad"
    if dst in MEMORIES and src in ("l1", "l0c"):
        return "store", "store_pad"
    if dst in MEMORIES and src in MEMORIES and dst != src:
        return "prefetch", "prefetch_pad"
    if src == "l1" and dst in ("l0a", "l0b"):
        return ("move_a" if dst == "l0a" else "move_b"), None
    return "", None


def copies(nest: Nest, context: Context) -> Iterator[Plan]:
    """Plans of a nest whose value is one element read."""
    load, rounds = _copied(nest)
    if load is None or nest.guards:
        return
    source = nest.loads[load.slot]
    plain, padded = _opcodes(nest.store.scope, source.scope)
    if not plain:
        return
    if rounds or source.dtype != nest.store.dtype:
        yield from _rounding_store(nest, source, context)
    elif nest.predicate:
        if padded is None:
            raise Unmatched(f"no instruction pads from {source.scope} to {nest.store.scope}")
        yield from _padded(nest, source, padded, context)
    else:
        yield from _plain(nest, source, plain, context)


def _copied(nest: Nest) -> tuple[Load | None, bool]:
    """The load that the nest stores as it is or rounded."""
    value: Node = nest.value
    if isinstance(value, Apply) and value.op == "cast" and isinstance(value.args[0], Load):
        return value.args[0], True
    return (value, False) if isinstance(value, Load) else (None, False)


def _plain(nest: Nest, source: Access, opcode: str, context: Context) -> Iterator[Plan]:
    dst, src = context.part(opcode, "dst", nest.store), context.part(opcode, "src", source)
    if dst is None or src is None:
        raise Unsuited(f"{opcode} does not take {source.dtype} from {source.scope} to {nest.store.scope}")
    for fit in context.engine.fits(nest.axes, [dst, src]):
        yield Plan(opcode, (placed(dst, fit, 0), placed(src, fit, 1)), outer=fit.outer)


def _rounding_store(nest: Nest, source: Access, context: Context) -> Iterator[Plan]:
    dst, src = context.part("store_round", "dst", nest.store), context.part("store_round", "src", source)
    if dst is None or src is None:
        return
    if nest.predicate:
        raise Unmatched("no instruction rounds and pads at once")
    for fit in context.engine.fits(nest.axes, [dst, src]):
        yield Plan("store_round", (placed(dst, fit, 0), placed(src, fit, 1)), outer=fit.outer)


@dataclass(frozen=True)
class Box:
    """The part of an axis where the predicate holds: from `lower` on, `extent` long."""

    lower: tir.Expr
    extent: tir.Expr
    after: tir.Expr


def box_of(nest: Nest, context: Context) -> dict[int, Box]:
    """The predicate as an interval on each axis that it bounds; raises `Unmatched` where it is no box."""
    ends: dict[int, tuple[tir.Expr, tir.Expr]] = {}
    for condition in nest.predicate:
        if len(condition.axes) != 1:
            raise Unmatched(f"the condition {condition.expr} is on {len(condition.axes)} axes")
        axis = nest.axes[condition.axes[0]]
        bound = bound_on(condition.expr, axis.var)
        if bound is None:
            raise Unmatched(f"the condition {condition.expr} is no bound on {axis.var.name}")
        lower, upper = ends.get(condition.axes[0], (tir.integer(0, axis.var), axis.extent))
        lower = lower if bound.lower is None else tirx.max(lower, bound.lower)
        upper = upper if bound.upper is None else tirx.min(upper, bound.upper)
        ends[condition.axes[0]] = (lower, upper)
    simplify = context.scope.simplify
    return {n: Box(simplify(lo), simplify(hi - lo), simplify(nest.axes[n].extent - hi)) for n, (lo, hi) in ends.items()}


def _padded(nest: Nest, source: Access, opcode: str, context: Context) -> Iterator[Plan]:
    boxes = box_of(nest, context)
    single = frozenset(n for n, box in boxes.items() if context.scope.upper(box.extent) == 1)
    dst, src = context.part(opcode, "dst", nest.store), context.part(opcode, "src", _with_free_strides(source, single))
    if dst is None or src is None:
        raise Unsuited(f"{opcode} does not take {source.dtype} from {source.scope} to {nest.store.scope}")
    for fit in context.engine.fits(nest.axes, [dst, src], unmergeable=frozenset(boxes)):
        if set(fit.outer) & set(boxes):
            continue
        target, origin = placed(dst, fit, 0), _shifted(placed(src, fit, 1), fit, boxes)
        pads = [[boxes[a].lower, boxes[a].after] if (a := _only(g.axes)) in boxes else [0, 0] for g in fit.groups]
        attrs = {"pad": pads, "value": nest.otherwise}
        empty = _fill(nest, fit, context)
        yield Plan(opcode, (target, origin), attrs, fit.outer, tuple(b.extent for b in boxes.values()), empty)


def _with_free_strides(source: Access, single: frozenset[int]) -> Access:
    """The source with a stride of 1 along axes of which only one element is read: any stride is right there."""
    strides = tuple(1 if n in single and s == 0 else s for n, s in enumerate(source.strides))
    return replace(source, strides=strides)


def _only(axes: tuple[int, ...]) -> int:
    return axes[0] if len(axes) == 1 else -1


def _shifted(operand: Placed, fit: Fit, boxes: dict[int, Box]) -> Placed:
    """The source of a padded copy: only the box of it."""
    base, extents, bounds = list(operand.base), list(operand.extents), list(operand.bounds)
    for place, group in enumerate(fit.groups):
        box = boxes.get(_only(group.axes))
        if box is None:
            continue
        extents[place] = box.extent
        for dim, slopes in enumerate(operand.access.slopes):
            slope = slopes[group.axes[0]]
            if not isinstance(slope, int) or slope:
                base[dim] = base[dim] + box.lower * slope
    return replace(operand, base=tuple(base), extents=tuple(extents), bounds=tuple(bounds))


def _fill(nest: Nest, fit: Fit, context: Context) -> Plan | None:
    """The fill that takes the place of a padded copy all of whose elements are padding."""
    opcode = {"l1": "load_fill", "ddr": "store_fill", "llb": "store_fill"}.get(nest.store.scope, "")
    dst = context.part(opcode, "dst", nest.store)
    if dst is None:
        return None
    return Plan(opcode, (placed(dst, fit, 0),), {"value": nest.otherwise})


def fills(nest: Nest, context: Context) -> Iterator[Plan]:
    """Plans of a nest that stores a constant."""
    if not isinstance(nest.value, Const) or nest.predicate or nest.guards:
        return
    for opcode in ("load_fill", "store_fill", "fill"):
        dst = context.part(opcode, "dst", nest.store)
        if dst is None:
            continue
        for fit in context.engine.fits(nest.axes, [dst]):
            value = int(nest.value.value) if isinstance(nest.value.value, bool) else nest.value.value
            yield Plan(opcode, (placed(dst, fit, 0),), {"value": value}, fit.outer)
