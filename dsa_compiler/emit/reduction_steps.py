"""Reductions over several axes that are not one in memory, an axis at a time: part of PreProcess."""

from __future__ import annotations

from collections.abc import Sequence

from tvm import tirx
from tvm.tirx import BufferStore, Stmt

from dsa_compiler.emit import tir
from dsa_compiler.emit.accumulation import Accumulation, reduced_axes
from dsa_compiler.emit.expression import BINARY_NODE, Load, Unmatched
from dsa_compiler.emit.kernel_pass import Scope
from dsa_compiler.emit.nest import Access, Nest
from dsa_compiler.emit.neutral import neutral
from dsa_compiler.emit.operands import strip_widening
from dsa_compiler.emit.temporaries import temporary
from dsa_compiler.emit.vector_engine import Group, Part, VectorEngine
from dsa_compiler.target import Target


def reduce_stepwise(stmt: Stmt, nest: Nest, added: Accumulation, target: Target, scope: Scope) -> Stmt | None:
    """The reduction as a partial one into a temporary and one over what is left; None where one step does.

    for i, j: acc[0] += x[i, j]                         before (rows of x padded)
    for i: t[i, 0] = 0; for j: t[i, 0] += x[i, j]       after
    for i: acc[0] += t[i, 0]
    """
    rest = strip_widening(added.rest)
    if not isinstance(rest, Load):
        return None
    source = nest.loads[rest.slot]
    groups = _groups(nest, source, target, scope)
    if len(groups) < 2:
        return None
    first = _first(groups, source)
    return _steps(stmt, nest, added, source, set(first.axes), target)


def add_partial(stmt: Stmt, nest: Nest, added: Accumulation, target: Target) -> Stmt | None:
    """A reduction that adds to what is there: a partial one from the neutral value on, then one operation.

    for j: acc[0] += x[j]                               before
    t[0] = 0; for j: t[0] += x[j]                       after
    acc[0] += t[0]
    """
    rest = strip_widening(added.rest)
    if not isinstance(rest, Load) or nest.predicate or nest.guards:
        return None
    return _steps(stmt, nest, added, nest.loads[rest.slot], set(reduced_axes(nest.store)), target)


def _groups(nest: Nest, source: Access, target: Target, scope: Scope) -> list[Group]:
    """The reduced axes, merged as far as the source allows."""
    engine = VectorEngine(target, scope)
    try:
        groups = engine.merged(nest.axes, [Part("dst", nest.store), Part("src", source)])
    except Unmatched:
        return []
    gone = set(reduced_axes(nest.store))
    return [g for g in groups if set(g.axes) <= gone]


def _first(groups: Sequence[Group], source: Access) -> Group:
    """The group along the source's rows, if there is one, else the longest."""
    rows = [g for g in groups if source.strides[g.axes[-1]] == 1]
    return rows[0] if rows else max(groups, key=lambda g: g.bound)


def _steps(stmt: Stmt, nest: Nest, added: Accumulation, source: Access, gone: set[int], target: Target) -> Stmt:
    kept = [n for n in range(len(nest.axes)) if n not in gone]
    inner = next((n for n in kept if source.strides[n] == 1), None)
    rows = sorted((n for n in kept if n != inner), key=lambda n: -_number(source.strides[n]))
    dtype = added.acc.dtype
    part = temporary("partial", dtype, nest.axes, rows, inner, target)
    loops, body = tir.peel(stmt)
    by_var = {a.var: n for n, a in enumerate(nest.axes)}
    outer = [l for l in loops if by_var[l.loop_var] in kept]
    summed = [l for l in loops if by_var[l.loop_var] in gone]
    combine = BINARY_NODE[added.op]
    value = _rest_expression(body, nest, added)
    update = BufferStore(part.buffer, combine(part.read(), value), list(part.indices))
    last = BufferStore(body.buffer, combine(body.buffer[tuple(body.indices)], part.read()), list(body.indices))
    return tir.sequence([
        part.allocation,
        part.write(outer, tirx.const(neutral(added.op, dtype), dtype)),
        tir.renew(tir.enclose([*outer, *summed], update)),
        tir.renew(tir.enclose(outer, last)),
    ])  # fmt: skip


def _number(stride: object) -> int:
    return stride if isinstance(stride, int) else 0


def _rest_expression(body: BufferStore, nest: Nest, added: Accumulation) -> tir.Expr:
    """What is accumulated, as TIR in the accumulator's dtype."""
    rest = strip_widening(added.rest)
    assert isinstance(rest, Load)
    value = nest.reads[rest.slot]
    return value if rest.dtype == added.acc.dtype else tirx.Cast(added.acc.dtype, value)
