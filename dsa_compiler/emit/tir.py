"""Small readings and rebuildings of TIR that every pass of this folder shares.

A *nest* is a statement made of serial loops without annotations, guards and stores. Loops annotated
`dsac.core` or `dsac.tile` are evaluated when the program is assembled and are never part of a nest.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import reduce
from typing import Any, TypeAlias

import tvm_ffi
from tvm import sym, tirx
from tvm.ir import Call, Op, TensorLoad
from tvm.tirx import BufferStore, For, ForKind, IfThenElse, IntImm, PrimFunc, SeqStmt, Stmt, Var

CORE, TILE, RING = "dsac.core", "dsac.tile", "dsac.ring"
SELECT = "prim.if_then_else"

Expr: TypeAlias = Any
"""Any TIR expression: TVM's classes carry no types that a checker sees."""


def dtype_of(expr: Expr) -> str:
    """The dtype of an expression's value."""
    return str(expr.ty.dtype)


def constant(expr: Expr) -> int | None:
    """The value of an integer constant, or None."""
    return int(expr.value) if isinstance(expr, IntImm) else None


def integer(value: int, like: Expr) -> IntImm:
    """`value` in the dtype of `like`."""
    return IntImm(dtype_of(like), value)


def is_compile_time(stmt: Stmt) -> bool:
    """Whether a statement is a loop that the assembler evaluates."""
    return isinstance(stmt, For) and (CORE in stmt.annotations or TILE in stmt.annotations)


def is_serial(loop: For) -> bool:
    """Whether a loop is a plain one: serial, no annotations, unit step."""
    return int(loop.kind) == ForKind.SERIAL and len(loop.annotations) == 0 and loop.step is None


def is_select(expr: Expr) -> bool:
    """Whether an expression is `if_then_else(condition, a, b)`."""
    return isinstance(expr, Call) and isinstance(expr.op, Op) and expr.op.name == SELECT


def select(condition: Expr, yes: Expr, no: Expr) -> Expr:
    """`if_then_else(condition, yes, no)`."""
    return tirx.if_then_else(condition, yes, no)


def conjuncts(condition: Expr) -> list[Expr]:
    """The terms of a conjunction, in order."""
    if isinstance(condition, tirx.And):
        return conjuncts(condition.a) + conjuncts(condition.b)
    if isinstance(condition, Call) and isinstance(condition.op, Op) and condition.op.name == "prim.likely":
        return conjuncts(condition.args[0])
    return [condition]


def conjunction(terms: Sequence[Expr]) -> Expr:
    """The conjunction of at least one term."""
    return reduce(tirx.And, terms)


def substitute(node: Any, values: Mapping[Var, Expr]) -> Any:
    """`node` with variables replaced; not across the loops that define them."""
    if not values:
        return node
    return tvm_ffi.structural_map(node, (Var, lambda v: values.get(v, v)))


def free_variables(node: object) -> set[Var]:
    """Every variable that occurs, buffers excluded."""
    if isinstance(node, IntImm):
        return set()
    found: set[Var] = set()
    tvm_ffi.structural_walk(node, [(Var, lambda v: None if tirx.is_buffer_var(v) else found.add(v))])
    return found


def loads_of(node: object) -> list[TensorLoad]:
    """Every load, in order of occurrence."""
    found: list[TensorLoad] = []
    tvm_ffi.structural_walk(node, [(TensorLoad, found.append)])
    return found


def selects_of(node: object) -> list[Call]:
    """Every `if_then_else`, outermost first."""
    found: list[Call] = []
    tvm_ffi.structural_walk(node, [(Call, lambda c: found.append(c) if is_select(c) else None)])
    return found


def stores_of(node: object) -> list[BufferStore]:
    """Every store, in order of occurrence."""
    found: list[BufferStore] = []
    tvm_ffi.structural_walk(node, [(BufferStore, found.append)])
    return found


def peel(stmt: Stmt) -> tuple[list[For], Stmt]:
    """The loops of a perfect nest, outermost first, and what they enclose."""
    loops = []
    while isinstance(stmt, For) and is_serial(stmt):
        loops.append(stmt)
        stmt = stmt.body
    return loops, stmt


def peel_guards(stmt: Stmt) -> tuple[list[Expr], Stmt]:
    """The conditions of nested guards without else, and what they enclose."""
    terms = []
    while isinstance(stmt, IfThenElse) and stmt.else_case is None:
        terms.extend(conjuncts(stmt.condition))
        stmt = stmt.then_case
    return terms, stmt


def with_body(loop: For, body: Stmt) -> For:
    """The same loop around another body."""
    if body.same_as(loop.body):
        return loop
    return For(loop.loop_var, loop.min, loop.extent, loop.kind, body, loop.thread_binding, loop.annotations, loop.step)


def enclose(loops: Iterable[For], body: Stmt) -> Stmt:
    """`body` inside loops, outermost first."""
    for loop in reversed(list(loops)):
        body = with_body(loop, body)
    return body


def guard(terms: Sequence[Expr], body: Stmt) -> Stmt:
    """`body` under a conjunction; as it is under none."""
    return IfThenElse(conjunction(terms), body, None) if terms else body


def fresh(loop: For, body: Stmt, lower: Expr | None = None, extent: Expr | None = None) -> For:
    """A loop with a new variable, so that copies of a nest share none."""
    var = Var(loop.loop_var.name, loop.loop_var.ty)
    body = substitute(body, {loop.loop_var: var})
    return For(
        var, loop.min if lower is None else lower, loop.extent if extent is None else extent,
        loop.kind, body, loop.thread_binding, loop.annotations, loop.step,
    )  # fmt: skip


def renew(stmt: Stmt) -> Stmt:
    """A copy of a nest whose loops have variables of their own."""
    if isinstance(stmt, For):
        return fresh(stmt, renew(stmt.body))
    if isinstance(stmt, SeqStmt):
        return sequence([renew(s) for s in stmt.seq])
    if isinstance(stmt, IfThenElse):
        other = None if stmt.else_case is None else renew(stmt.else_case)
        return IfThenElse(stmt.condition, renew(stmt.then_case), other)
    return stmt


def sequence(stmts: Sequence[Stmt]) -> Stmt:
    """The statements one after another, nested sequences flattened."""
    flat: list[Stmt] = []
    for stmt in stmts:
        flat.extend(stmt.seq if isinstance(stmt, SeqStmt) else [stmt])
    return flat[0] if len(flat) == 1 else SeqStmt(flat)


def nothing() -> Stmt:
    """A statement without effect."""
    return tirx.Evaluate(IntImm("int32", 0))


def is_nothing(stmt: Stmt) -> bool:
    """Whether a statement is `nothing()`."""
    return isinstance(stmt, tirx.Evaluate) and isinstance(stmt.value, IntImm)


def linear(expr: Expr, variables: Sequence[Var]) -> tuple[list[Expr], Expr] | None:
    """Coefficients of the variables and the rest, or None where `expr` is not linear in them."""
    if isinstance(expr, (IntImm, int)):
        return [IntImm("int32", 0)] * len(variables), expr
    if not variables:
        return [], expr
    found = sym.detect_linear_equation(expr, list(variables))
    if len(found) == 0:
        return None
    return list(found[:-1]), found[-1]


def buffer_strides(buffer: Var) -> list[int]:
    """Row-major strides in elements of a buffer of constant shape."""
    strides = [1]
    for extent in reversed(list(buffer.shape)[1:]):
        strides.insert(0, strides[0] * int(extent))
    return strides


def new_function(func: PrimFunc, body: Stmt) -> PrimFunc:
    """`func` with another body; the same object where nothing changed."""
    return func if body.same_as(func.body) else func.with_body(body)
