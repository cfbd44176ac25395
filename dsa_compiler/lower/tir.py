"""Short constructors for the TIR of kernels: loops, allocations, conditions.

Index arithmetic is int64. Loops of one iteration are not made, so that a nest has only the axes it needs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from typing import Any

from tvm import tirx
from tvm.tirx import AllocBuffer, BufferStore, Evaluate, For, ForKind, IfThenElse, IntImm, PrimFunc, SeqStmt, Var

Expr = Any
Stmt = Any
Buffer = Any

TILE: Mapping[str, int] = {"dsac.tile": 1}


def integer(value: int) -> IntImm:
    """An index constant."""
    return IntImm("int64", value)


def buffer(name: str, shape: Sequence[int], dtype: str, scope: str = "ddr") -> Buffer:
    """A buffer, dense and row-major, in one of the scopes of the machine."""
    tag = "global" if scope == "ddr" else f"global.{scope}"
    return tirx.decl_buffer([integer(int(s)) for s in shape], dtype, name, scope=tag, layout=None, data_alignment=4)


def sequence(*stmts: Stmt | None) -> Stmt:
    """The statements in order; None is left out, nested sequences are flattened."""
    flat: list[Stmt] = []
    for stmt in stmts:
        if isinstance(stmt, SeqStmt):
            flat.extend(stmt.seq)
        elif stmt is not None:
            flat.append(stmt)
    if not flat:
        return Evaluate(integer(0))
    return flat[0] if len(flat) == 1 else SeqStmt(flat)


def loop(
    name: str,
    extent: int,
    body: Callable[[Expr], Stmt],
    annotations: Mapping[str, int] | None = None,
    start: Expr | None = None,
) -> Stmt:
    """`for name in range(start, start + extent): body(name)`; without a loop if there is one iteration."""
    first = integer(0) if start is None else start
    if extent == 1:
        return body(first)
    var = Var(name, "int64")
    return For(var, first, integer(extent), ForKind.SERIAL, body(var), None, dict(annotations or {}))


def tile_loop(name: str, extent: int, body: Callable[[Expr], Stmt]) -> Stmt:
    """A loop that the assembler runs at compile time."""
    return loop(name, extent, body, TILE)


def core_loop(name: str, extent: int, weight: int, body: Callable[[Expr], Stmt]) -> Stmt:
    """A loop whose iterations are different cores; the core's number is the sum of index times weight."""
    return loop(name, extent, body, {"dsac.core": weight})


def nest(axes: Sequence[tuple[str, int]], body: Callable[..., Stmt], start: Mapping[str, Expr] | None = None) -> Stmt:
    """Loops over `axes` (name, extent), outermost first, around `body(*indices)`; `start`: bounds that are not 0."""
    indices: list[Expr] = []

    def build(depth: int) -> Stmt:
        if depth == len(axes):
            return body(*indices)
        name, extent = axes[depth]

        def inner(var: Expr) -> Stmt:
            indices.append(var)
            stmt = build(depth + 1)
            indices.pop()
            return stmt

        return loop(name, extent, inner, start=(start or {}).get(name))

    return build(0)


def allocate(buf: Buffer, ring: int = 1) -> Stmt:
    """Allocation of `buf` for the rest of the sequence, with `ring` slots used in turn."""
    return AllocBuffer(buf, annotations={"dsac.ring": ring})


def store(buf: Buffer, indices: Sequence[Expr], value: Expr) -> Stmt:
    """`buf[indices] = value`."""
    return BufferStore(buf, value, list(indices))


def when(conditions: Sequence[Expr], then: Stmt, otherwise: Stmt | None = None) -> Stmt:
    """`then` if all conditions hold; conditions that are Python booleans are decided here."""
    open_ = [c for c in conditions if c is not True]
    if any(c is False for c in open_):
        return otherwise if otherwise is not None else Evaluate(integer(0))
    if not open_:
        return then
    return IfThenElse(reduce(tirx.And, open_), then, otherwise)


def below(value: Expr, limit: int, most: int) -> Expr:
    """`value < limit`, or True if `most` (the greatest value that occurs) shows that it always holds."""
    return True if most < limit else value < integer(limit)


def is_zero(value: Expr) -> Expr:
    """`value == 0`, decided where `value` is a constant."""
    if isinstance(value, IntImm):
        return int(value.value) == 0
    return tirx.EQ(value, integer(0))


def cast(value: Expr, dtype: str) -> Expr:
    """`value` in `dtype`."""
    return value if str(value.ty.dtype) == dtype else tirx.Cast(dtype, value)


def constant(value: float, dtype: str) -> Expr:
    """A constant of `dtype`."""
    return tirx.const(value, dtype)


def function(name: str, parameters: Sequence[Buffer], body: Stmt) -> PrimFunc:
    """The kernel as a PrimFunc that TVM can compile for the CPU as it stands."""
    return PrimFunc(list(parameters), body).with_attrs({"global_symbol": name, "s_tir": True})
