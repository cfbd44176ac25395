"""LoopCollapse: axes that every access walks as one become one."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import tvm_ffi
from tvm.ir import Call, TensorLoad
from tvm.tirx import BufferStore, For, IntImm, Stmt, Var

from dsa_compiler.emit import tir
from dsa_compiler.emit.kernel_pass import KernelPass, Scope


class LoopCollapse(KernelPass):
    """Merge the parts of split axes: `io`, `ii` of extents A, B that occur only as `io * B + ii`.

    Guards take part, so that `if io * 8 + ii < n` becomes a guard on one axis, which IfPromotion can turn into
    a bound. Preconditions: one store a nest (loops may then be exchanged), constant extents of the inner axis.
    Axes that some access or condition uses in another way stay apart. Axes that are contiguous in memory though
    in several dimensions of a buffer are merged by the vector engine, which sees strides.

        for io in range(7): for ii in range(8): y[io * 8 + ii] = x[io * 8 + ii]       before
        for i in range(56): y[i] = x[i]                                              after
    """

    name = "LoopCollapse"

    def rewrite(self, nest: Stmt, scope: Scope) -> Stmt:
        """Merge pairs of loops until none can be."""
        loops, body = tir.peel(nest)
        if len(loops) < 2 or not isinstance(tir.peel_guards(body)[1], BufferStore):
            return nest
        merged = False
        while (joined := _join_some(loops, body)) is not None:
            loops, body = joined
            merged = True
        return tir.enclose(loops, body) if merged else nest


def _join_some(loops: list[For], body: Stmt) -> tuple[list[For], Stmt] | None:
    """The first pair of loops that can be one, as one; None where there is none."""
    uses = [(e, tir.free_variables(e)) for e in _uses(body)]
    bounds = {v for l in loops for e in (l.min, l.extent) for v in tir.free_variables(e)}
    for outer, inner in combinations(loops, 2):
        pair = (outer.loop_var, inner.loop_var)
        width = tir.constant(inner.extent)
        if width is None or tir.constant(outer.min) != 0 or tir.constant(inner.min) != 0 or bounds & set(pair):
            continue
        if all(_walks_as_one(e, pair, width, used) for e, used in uses):
            return _join(outer, inner, width, loops, body)
    return None


def _join(outer: For, inner: For, width: int, loops: list[For], body: Stmt) -> tuple[list[For], Stmt]:
    var = Var(inner.loop_var.name, inner.loop_var.ty)
    body = tir.substitute(body, {outer.loop_var: tir.integer(0, outer.loop_var), inner.loop_var: var})
    extent = _product(outer.extent, width, var)
    whole = For(var, tir.integer(0, var), extent, inner.kind, body)
    return [whole if l.same_as(inner) else l for l in loops if not l.same_as(outer)], body


def _product(extent: tir.Expr, width: int, var: Var) -> tir.Expr:
    return tir.integer(int(extent.value) * width, var) if isinstance(extent, IntImm) else extent * width


def _uses(body: Stmt) -> list[tir.Expr]:
    """Every index, and every condition's two sides as their difference; other values as they are."""
    guards, store = tir.peel_guards(body)
    found = list(store.indices)
    for load in tir.loads_of([store.value, *guards]):
        found.extend(load.indices)
    conditions = [*guards, *(t for c in tir.selects_of(store.value) for t in tir.conjuncts(c.args[0]))]
    for condition in conditions:
        if hasattr(condition, "a") and hasattr(condition, "b") and not tir.loads_of(condition):
            found.append(condition.a - condition.b)
    found.extend(_loose(store.value))
    return found


def _loose(value: tir.Expr) -> list[Var]:
    """Variables that occur as data, outside indices and conditions."""
    found: list[Var] = []

    def skip(node: Any, visitor: Any) -> None:
        return None

    def select(call: Any, visitor: Any) -> None:
        if not tir.is_select(call):
            visitor.default_visit(call)
            return
        if tir.loads_of(call.args[0]):
            visitor.visit(call.args[0])
        visitor.visit(call.args[1])
        visitor.visit(call.args[2])

    tvm_ffi.structural_visit(value, [(TensorLoad, skip), (Call, select), (Var, lambda v, visitor: found.append(v))])
    return found


def _walks_as_one(expr: tir.Expr, pair: tuple[Var, Var], width: int, used: set[Var]) -> bool:
    if (pair[0] in used) != (pair[1] in used):
        return False
    if pair[0] not in used:
        return True
    form = tir.linear(expr, pair)
    if form is None:
        return False
    outer, inner = (tir.constant(c) for c in form[0])
    return outer is not None and inner is not None and outer == inner * width
