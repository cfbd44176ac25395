"""LoopFission: one store a loop."""

from __future__ import annotations

from itertools import pairwise

import tvm_ffi
from tvm import tirx
from tvm.tirx import For, IfThenElse, SeqStmt, Stmt, Var

from dsa_compiler.emit import tir
from dsa_compiler.emit.kernel_pass import KernelPass, Scope


class LoopFission(KernelPass):
    """Give each store a nest of its own, since an instruction writes one operand.

    A loop over several statements becomes one loop for each where no iteration of an earlier statement reads
    or writes what another iteration of a later one touches: buffers that both touch, one of them writing, are
    accessed at one and the same place in each iteration. A branch with an else becomes two guards.
    Loops whose statements depend on each other across iterations stay as they are.

        for i: a[i] = x[i]; b[i] = a[i] + 1              before
        for i: a[i] = x[i]
        for i: b[i] = a[i] + 1                           after
    """

    name = "LoopFission"

    def rewrite(self, nest: Stmt, scope: Scope) -> Stmt:
        """Split the nest as far as its dependences allow."""
        parts = _split(nest)
        if len(parts) == 1 and parts[0].same_as(nest):
            return nest
        return tir.sequence([parts[0], *(tir.renew(p) for p in parts[1:])])


def _split(stmt: Stmt) -> list[Stmt]:
    """The statement as a list of statements to be executed one after another."""
    if isinstance(stmt, SeqStmt):
        return [part for s in stmt.seq for part in _split(s)]
    if isinstance(stmt, IfThenElse):
        return _split_branch(stmt)
    if isinstance(stmt, For) and tir.is_serial(stmt):
        return [tir.with_body(stmt, body) for body in _independent_groups(stmt)]
    return [stmt]


def _independent_groups(loop: For) -> list[Stmt]:
    """The body of a loop cut wherever no dependence between iterations crosses the cut."""
    parts = _split(loop.body)
    if len(parts) == 1:
        return parts
    touched = [_touched(p) for p in parts]
    cuts = [n for n in range(1, len(parts)) if _independent(loop.loop_var, parts, touched, n)]
    if not cuts:
        same = isinstance(loop.body, SeqStmt) and all(a.same_as(b) for a, b in zip(parts, loop.body.seq, strict=False))
        return [loop.body if same else tir.sequence(parts)]
    return [tir.sequence(parts[a:b]) for a, b in pairwise([0, *cuts, len(parts)])]


def _split_branch(stmt: IfThenElse) -> list[Stmt]:
    if tir.loads_of(stmt.condition):
        return [stmt]
    parts = [_guard(stmt.condition, p, stmt) for p in _split(stmt.then_case)]
    if stmt.else_case is not None:
        negated = tirx.Not(stmt.condition)
        parts += [IfThenElse(_negation(stmt.condition, negated), p, None) for p in _split(stmt.else_case)]
    return parts


def _guard(condition: tir.Expr, part: Stmt, old: IfThenElse) -> Stmt:
    same = old.else_case is None and part.same_as(old.then_case)
    return old if same else IfThenElse(condition, part, None)


def _negation(condition: tir.Expr, otherwise: tir.Expr) -> tir.Expr:
    """The opposite of a comparison as a comparison, so that it stays affine."""
    opposite = {
        tirx.LT: tirx.GE, tirx.GE: tirx.LT, tirx.GT: tirx.LE, tirx.LE: tirx.GT, tirx.EQ: tirx.NE, tirx.NE: tirx.EQ,
    }.get(type(condition))  # fmt: skip
    return opposite(condition.a, condition.b) if opposite else otherwise


Touched = tuple[set[Var], dict[Var, list[list[tir.Expr]]]]


def _touched(stmt: Stmt) -> Touched:
    """The buffers written, and the indices of every access by buffer."""
    written: set[Var] = set()
    accesses: dict[Var, list[list[tir.Expr]]] = {}
    for store in tir.stores_of(stmt):
        written.add(store.buffer)
        accesses.setdefault(store.buffer, []).append(list(store.indices))
    for load in tir.loads_of(stmt):
        accesses.setdefault(load.source, []).append(list(load.indices))
    return written, accesses


def _independent(var: Var, parts: list[Stmt], touched: list[Touched], cut: int) -> bool:
    """Whether the parts before a cut may run for all iterations before those after it."""
    inner: dict[Var, int | None] = {}
    for part in parts:
        tvm_ffi.structural_walk(part, [(For, lambda l: inner.__setitem__(l.loop_var, tir.constant(l.extent)))])
    for early_writes, early in touched[:cut]:
        for late_writes, late in touched[cut:]:
            for buffer in early:
                if buffer not in late or (buffer not in early_writes and buffer not in late_writes):
                    continue
                if not _one_place(var, inner, early[buffer] + late[buffer]):
                    return False
    return True


def _one_place(var: Var, inner: dict[Var, int | None], accesses: list[list[tir.Expr]]) -> bool:
    """Whether in some dimension all accesses of an iteration of `var` stay in a block of that iteration's own."""
    for dim in range(len(accesses[0])):
        blocks = [_block(indices[dim], var, inner) for indices in accesses]
        first = blocks[0]
        if first is None:
            continue
        if all(b is not None and b[0] == first[0] and tvm_ffi.structural_equal(b[1], first[1]) for b in blocks[1:]):
            return True
    return False


def _block(index: tir.Expr, var: Var, inner: dict[Var, int | None]) -> tuple[int, tir.Expr] | None:
    """(size, start at iteration 0) of the block that iteration `var` owns, or None if iterations overlap."""
    variables = [var, *(v for v in tir.free_variables(index) if v in inner)]
    form = tir.linear(index, variables)
    if form is None:
        return None
    slopes = [tir.constant(c) or 0 for c in form[0]]
    extents = [inner[v] or 0 for v in variables[1:]]
    if min(slopes) <= 0 or 0 in extents:
        return None
    span = sum(s * (e - 1) for s, e in zip(slopes[1:], extents, strict=True))
    return (slopes[0], form[1]) if span < slopes[0] else None
