"""LoopPartition: an axis is split where a condition on it changes value."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from tvm import tirx
from tvm.ir import Call, TensorLoad
from tvm.tirx import BufferStore, For, Stmt, Var

from dsa_compiler.emit import tir
from dsa_compiler.emit.conditions import bound_on
from dsa_compiler.emit.if_promotion import assume
from dsa_compiler.emit.kernel_pass import KernelPass, Scope
from dsa_compiler.emit.nest import SCOPES

PADDED_COPIES = frozenset(
    {
        ("ddr", "l1"), ("llb", "l1"), ("l1", "ddr"), ("l1", "llb"), ("l0c", "ddr"), ("l0c", "llb"), ("l1", "l0a"),
        ("ddr", "llb"), ("llb", "ddr"),
    }
)  # fmt: skip
"""(source, destination) of copies whose predicate an instruction takes as padding."""


class LoopPartition(KernelPass):
    """Cut loops at the thresholds of the conditions in their bodies, so that each piece has none.

    Concatenations (`if_then_else(c < 16, a[c], b[c - 16])`), reflected and replicated borders, guards on several
    axes of a split, padding in a computation. Paddings that a copy or a window takes as its own are left, as
    are guards that bound one axis (IfPromotion).
    Thresholds may depend on tiles. Preconditions: one store a nest. Conditions that are not linear, or that would
    need more than `max_pieces` pieces, stay.

        for c in range(48): y[c] = if_then_else(c < 16, a[c], b[c - 16])        before
        for c in range(16): y[c] = a[c]                                         after
        for c in range(16, 48): y[c] = b[c - 16]
    """

    name = "LoopPartition"

    def __init__(self, max_pieces: int = 32) -> None:
        self.max_pieces = max_pieces

    def rewrite(self, nest: Stmt, scope: Scope) -> Stmt:
        """The nest as pieces without conditions, or itself."""
        loops, body = tir.peel(nest)
        terms, store = tir.peel_guards(body)
        if not isinstance(store, BufferStore) or not (terms or tir.selects_of(store.value)):
            return nest
        done: list[Stmt] = []
        work = [Piece(tuple(loops), tuple(terms), store)]
        while work:
            piece = work.pop(0)
            parts = self._cut(piece, scope)
            if parts is None:
                done.append(piece.stmt())
            else:
                work = parts + work
            if len(work) + len(done) > self.max_pieces:
                return nest
        if not done:
            return tir.nothing()
        return nest if len(done) == 1 and done[0].same_as(nest) else tir.sequence([tir.renew(d) for d in done])

    def _cut(self, piece: Piece, scope: Scope) -> list[Piece] | None:
        """The piece cut in two at the first condition that allows it; None where there is none."""
        loops = list(piece.loops)
        variables = [l.loop_var for l in loops]
        for term in piece.conditions():
            used = [v for v in variables if v in tir.free_variables(term)]
            if len(used) == 1:
                return _cut_at(piece, term, used[0], scope)
            if len(used) > 1:
                parts = _cut_between(piece, term, used, scope)
                if parts is not None:
                    return parts
        return None


@dataclass(frozen=True)
class Piece:
    """A nest taken apart."""

    loops: tuple[For, ...]
    guards: tuple[tir.Expr, ...]
    store: BufferStore

    def stmt(self) -> Stmt:
        """The nest put together."""
        return tir.enclose(self.loops, tir.guard(self.guards, self.store))

    def conditions(self) -> list[tir.Expr]:
        """Terms on loop variables alone that stand in the way of an instruction."""
        found = [g for g in self.guards if not self._is_bound(g) and not _accumulates(self.store, self.loops, g)]
        for call in tir.selects_of(self.store.value):
            if not tir.loads_of(call.args[0]) and not is_padding(call, self.store, self.loops):
                found.extend(tir.conjuncts(call.args[0]))
        return [t for t in found if not tir.loads_of(t)]

    def _is_bound(self, guard: tir.Expr) -> bool:
        """Whether a guard is a loop's bound, as IfPromotion makes it."""
        used = [l.loop_var for l in self.loops if l.loop_var in tir.free_variables(guard)]
        return len(used) == 1 and bound_on(guard, used[0]) is not None

    def narrowed(self, var: Var, lower: tir.Expr, extent: tir.Expr) -> Piece:
        """The piece with another range of one loop."""
        loops = tuple(_ranged(l, lower, extent) if l.loop_var.same_as(var) else l for l in self.loops)
        return Piece(loops, self.guards, self.store)

    def decided(self, term: tir.Expr, value: bool) -> Piece | None:
        """The piece where a term is known; None where nothing is stored then."""
        guards = tuple(g for g in self.guards if not g.same_as(term))
        if len(guards) < len(self.guards) and not value:
            return None
        return Piece(self.loops, guards, assume(self.store, term, value))


def _ranged(loop: For, lower: tir.Expr, extent: tir.Expr) -> For:
    return For(loop.loop_var, lower, extent, loop.kind, loop.body, loop.thread_binding, loop.annotations)


def is_padding(call: Call, store: BufferStore, loops: tuple[For, ...]) -> bool:
    """Whether an `if_then_else` is the padding of a copy between memories or of a window."""
    load, other = call.args[1], call.args[2]
    if not isinstance(load, TensorLoad) or not isinstance(other, (tirx.IntImm, tirx.FloatImm)):
        return False
    if store.value.same_as(call):
        pair = (SCOPES.get(str(load.source.scope())), SCOPES.get(str(store.buffer.scope())))
        return pair in PADDED_COPIES
    return _accumulates(store, loops, call.args[0])


def _accumulates(store: BufferStore, loops: tuple[For, ...], condition: tir.Expr) -> bool:
    """Whether the store adds up over an axis that the condition is on, as well as on one that it keeps."""
    kept = tir.free_variables(list(store.indices))
    gone = {l.loop_var for l in loops} - kept
    used = tir.free_variables(condition)
    return bool(gone & used) and any(l.source.same_as(store.buffer) for l in tir.loads_of(store.value))


def _cut_at(piece: Piece, term: tir.Expr, var: Var, scope: Scope) -> list[Piece] | None:
    """Pieces below, inside and above the range where a term on one axis holds."""
    bound = bound_on(term, var)
    negated = isinstance(term, tirx.NE)
    if negated:
        bound = bound_on(tirx.EQ(term.a, term.b), var)
    if bound is None:
        return None
    loop = next(l for l in piece.loops if l.loop_var.same_as(var))
    start, end = loop.min, loop.min + loop.extent
    lower = start if bound.lower is None else _clamp(bound.lower, start, end, scope)
    upper = end if bound.upper is None else _clamp(bound.upper, start, end, scope)
    pieces = []
    for first, last, value in ((start, lower, False), (lower, upper, True), (upper, end, False)):
        extent = scope.simplify(last - first)
        if scope.upper(extent) <= 0:
            continue
        narrowed = piece.narrowed(var, _like(scope.simplify(first), var), _like(extent, var))
        part = narrowed.decided(term, value != negated)
        if part is not None:
            pieces.append(part)
    return pieces


def _clamp(place: tir.Expr, start: tir.Expr, end: tir.Expr, scope: Scope) -> tir.Expr:
    return scope.simplify(tirx.max(start, tirx.min(end, place)))


def _like(expr: tir.Expr, var: Var) -> tir.Expr:
    dtype = tir.dtype_of(var)
    return expr if tir.dtype_of(expr) == dtype else tirx.Cast(dtype, expr)


def _cut_between(piece: Piece, term: tir.Expr, used: list[Var], scope: Scope) -> list[Piece] | None:
    """Cut the outermost axis of a condition on several: where it holds for all of the others, and where it may not.

    An axis of one iteration left in between is replaced by its value.
    """
    inner = scope.inside(list(piece.loops))
    for var in used:
        loop = next(l for l in piece.loops if l.loop_var.same_as(var))
        cuts = _thresholds(term, var, used, inner, loop)
        if not cuts:
            continue
        ends = [loop.min, *cuts, loop.min + loop.extent]
        parts = []
        for first, last in pairwise(ends):
            extent = scope.simplify(last - first)
            if scope.upper(extent) <= 0:
                continue
            part = _settle(piece.narrowed(var, _like(scope.simplify(first), var), _like(extent, var)), term, var, scope)
            if part is not None:
                parts.append(part)
        return parts
    return None


def _thresholds(term: tir.Expr, var: Var, used: list[Var], inner: Scope, loop: For) -> list[tir.Expr]:
    """Constant places inside the loop where the term begins or ends to hold for all values of the other axes."""
    difference = _difference(term)
    start, extent = tir.constant(loop.min), tir.constant(loop.extent)
    if difference is None or start is None or extent is None:
        return []
    form = tir.linear(difference, used)
    if form is None:
        return []
    slopes = [tir.constant(c) or 0 for c in form[0]]
    if 0 in slopes:
        return []
    place = next(n for n, v in enumerate(used) if v.same_as(var))
    rest = form[1]
    for v, slope in zip(used, slopes, strict=True):
        rest = rest if v.same_as(var) else rest + v * slope
    k, low, high = slopes[place], inner.lower(rest), inner.upper(rest)
    points = {-(t // k) if k > 0 else t // -k + 1 for t in (low, high)}
    return [tir.integer(p, var) for p in sorted(points) if start < p < start + extent]


def _difference(term: tir.Expr) -> tir.Expr | None:
    """An expression that is at least 0 where the comparison holds."""
    if isinstance(term, (tirx.LT, tirx.LE)):
        return term.b - term.a - int(isinstance(term, tirx.LT))
    if isinstance(term, (tirx.GT, tirx.GE)):
        return term.a - term.b - int(isinstance(term, tirx.GT))
    return None


def _settle(piece: Piece, term: tir.Expr, var: Var, scope: Scope) -> Piece | None:
    """The piece with the term decided where its range decides it, and an axis of one iteration replaced."""
    inner = scope.inside(list(piece.loops))
    if inner.proves(term):
        return piece.decided(term, True)
    if inner.proves(tirx.Not(term)):
        return piece.decided(term, False)
    loop = next(l for l in piece.loops if l.loop_var.same_as(var))
    if tir.constant(loop.extent) != 1:
        return piece
    values = {var: loop.min}
    guards = tuple(tir.substitute(g, values) for g in piece.guards)
    loops = tuple(l for l in piece.loops if not l.same_as(loop))
    return Piece(loops, guards, tir.substitute(piece.store, values))
