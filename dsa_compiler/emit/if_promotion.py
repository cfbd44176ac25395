"""IfPromotion: conditions leave the bodies of nests."""

from __future__ import annotations

from typing import Any

import tvm_ffi
from tvm import tirx
from tvm.ir import Call
from tvm.tirx import BufferStore, For, IfThenElse, Stmt, Var

from dsa_compiler.emit import tir
from dsa_compiler.emit.conditions import bound_on
from dsa_compiler.emit.kernel_pass import KernelPass, Scope


class IfPromotion(KernelPass):
    """Move or remove conditions that stand in the way of loop axes.

    A guard on one axis becomes that loop's bounds; a guard on no axis moves out of the nest; what the ranges
    of the loops prove is dropped. The same for `if_then_else`: a condition on no axis becomes a branch around
    two nests, a box stays as the predicate of a padded copy.
    Preconditions: one store a nest (LoopFission). Conditions on several axes at once, or that read memory,
    stay as they are.

        for i in range(8):                                   before
            if ti * 8 + i < 20: y[ti * 8 + i] = x[i]
        for i in range(min(8, 20 - ti * 8)):                 after
            y[ti * 8 + i] = x[i]
    """

    name = "IfPromotion"

    def rewrite(self, nest: Stmt, scope: Scope) -> Stmt:
        """Promote the guards of the nest, then the conditions in its value."""
        loops, body = tir.peel(nest)
        terms, store = tir.peel_guards(body)
        if not isinstance(store, BufferStore):
            return nest
        if not terms and not tir.selects_of(store.value):
            return nest
        inner = scope.inside(loops)
        loops, terms = _into_bounds(loops, _unproved(terms, inner), scope)
        if any(scope.upper(l.extent) <= 0 for l in loops):
            return tir.nothing()
        outside, terms = _split_by(loops, terms)
        if outside:
            with scope.assuming(tir.conjunction(outside)):
                kept = self._promote_selects(loops, terms, store, scope)
            return tir.guard(outside, kept)
        return self._promote_selects(loops, terms, store, scope)

    def _promote_selects(self, loops: list[For], terms: list[tir.Expr], store: BufferStore, scope: Scope) -> Stmt:
        store = _drop_proved(store, scope.inside(loops))
        invariant = _invariant_condition(store, {l.loop_var for l in loops})
        if invariant is None:
            return tir.enclose(loops, tir.guard(terms, store))
        yes = tir.enclose(loops, tir.guard(terms, assume(store, invariant, True)))
        no = tir.renew(tir.enclose(loops, tir.guard(terms, assume(store, invariant, False))))
        with scope.assuming(invariant):
            yes = self._again(yes, scope)
        with scope.assuming(tirx.Not(invariant)):
            no = self._again(no, scope)
        return IfThenElse(invariant, yes, no)

    def _again(self, nest: Stmt, scope: Scope) -> Stmt:
        loops, body = tir.peel(nest)
        terms, store = tir.peel_guards(body)
        return self._promote_selects(loops, terms, store, scope)


def _unproved(terms: list[tir.Expr], scope: Scope) -> list[tir.Expr]:
    return [t for t in terms if not scope.proves(t)]


def _into_bounds(loops: list[For], terms: list[tir.Expr], scope: Scope) -> tuple[list[For], list[tir.Expr]]:
    """Guards on exactly one axis as that loop's bounds; the guards that are left."""
    variables = {l.loop_var for l in loops}
    bounds: dict[Var, list[tuple[tir.Expr, tir.Expr]]] = {}
    ends = {l.loop_var: (l.min, l.min + l.extent) for l in loops}
    left = []
    for term in terms:
        used = [v for v in variables if v in tir.free_variables(term)]
        bound = bound_on(term, used[0]) if len(used) == 1 and not tir.loads_of(term) else None
        if bound is None:
            left.append(term)
            continue
        lower, upper = ends[used[0]]
        lower = lower if bound.lower is None else tirx.max(lower, bound.lower)
        upper = upper if bound.upper is None else tirx.min(upper, bound.upper)
        ends[used[0]] = (lower, upper)
        bounds[used[0]] = []
    return [_bounded(l, ends[l.loop_var], scope) if l.loop_var in bounds else l for l in loops], left


def _bounded(loop: For, ends: tuple[tir.Expr, tir.Expr], scope: Scope) -> For:
    lower = scope.simplify(ends[0])
    extent = scope.simplify(ends[1] - lower)
    var = loop.loop_var
    return For(var, _like(lower, var), _like(extent, var), loop.kind, loop.body, loop.thread_binding, loop.annotations)


def _like(expr: tir.Expr, var: Var) -> tir.Expr:
    dtype = tir.dtype_of(var)
    return expr if tir.dtype_of(expr) == dtype else tirx.Cast(dtype, expr)


def _split_by(loops: list[For], terms: list[tir.Expr]) -> tuple[list[tir.Expr], list[tir.Expr]]:
    """The guards that depend on no axis, and the others."""
    variables = {l.loop_var for l in loops}
    outside = [t for t in terms if not (variables & tir.free_variables(t)) and not tir.loads_of(t)]
    return outside, [t for t in terms if not any(t.same_as(o) for o in outside)]


def _drop_proved(store: BufferStore, scope: Scope) -> BufferStore:
    """Conditions that always or never hold are decided."""
    truth: list[tuple[tir.Expr, bool]] = []
    for call in tir.selects_of(store.value):
        for term in tir.conjuncts(call.args[0]):
            if tir.loads_of(term):
                continue
            if scope.proves(term):
                truth.append((term, True))
            elif scope.proves(tirx.Not(term)):
                truth.append((term, False))
    for term, value in truth:
        store = assume(store, term, value)
    return store


def _invariant_condition(store: BufferStore, variables: set[Var]) -> tir.Expr | None:
    """The conjunction of the terms of one `if_then_else` that depend on no axis, if there are any."""
    for call in tir.selects_of(store.value):
        terms = [
            t for t in tir.conjuncts(call.args[0])
            if not (variables & tir.free_variables(t)) and not tir.loads_of(t)
        ]  # fmt: skip
        if terms:
            return tir.conjunction(terms)
    return None


def assume(store: BufferStore, condition: tir.Expr, value: bool) -> BufferStore:
    """The store with the terms of `condition` true, or with their conjunction false."""
    terms = tir.conjuncts(condition)

    def decide(call: Call, mutator: Any) -> Any:
        if not tir.is_select(call):
            return mutator.default_mutate(call)
        own = tir.conjuncts(call.args[0])
        kept = [t for t in own if not any(tvm_ffi.structural_equal(t, o) for o in terms)]
        if len(kept) == len(own):
            return mutator.default_mutate(call)
        if value is False and len(own) - len(kept) == len(terms):
            return mutator.mutate(call.args[2])
        if value is False:
            return mutator.default_mutate(call)
        yes = mutator.mutate(call.args[1])
        return tir.select(tir.conjunction(kept), yes, mutator.mutate(call.args[2])) if kept else yes

    return BufferStore(store.buffer, tvm_ffi.structural_mutate(store.value, [(Call, decide)]), store.indices)
