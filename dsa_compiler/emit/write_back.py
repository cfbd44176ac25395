"""Write back: a chosen plan as TIR, once."""

from __future__ import annotations

from collections.abc import Sequence

from tvm import tirx
from tvm.tirx import For, ForKind, Stmt, Var

from dsa_compiler.emit import tir
from dsa_compiler.emit.intrinsics import InstructionOperand, encode
from dsa_compiler.emit.kernel_pass import Scope
from dsa_compiler.emit.nest import Access, Axis
from dsa_compiler.emit.plan import Placed, Plan


def write(plan: Plan, axes: Sequence[Axis], scope: Scope) -> Stmt:
    """The plan's instruction in its loops, under the conditions that it needs."""
    variables = {n: Var(axes[n].var.name, axes[n].var.ty) for n in plan.outer}
    call = encode(plan.opcode, [_operand(o, variables, scope) for o in plan.operands], plan.attrs)
    needs = [tirx.GT(e, tir.integer(0, e)) for e in _doubtful(plan, scope)]
    if plan.otherwise is not None and needs:
        body: Stmt = tirx.IfThenElse(tir.conjunction(needs), call, write(plan.otherwise, axes, scope))
    else:
        body = tir.guard(needs, call)
    for number in reversed(plan.outer):
        var = variables[number]
        body = For(var, tir.integer(0, var), axes[number].extent, ForKind.SERIAL, body)
    return body


def _doubtful(plan: Plan, scope: Scope) -> list[tir.Expr]:
    """Extents that may be zero or less, each once."""
    found: list[tir.Expr] = []
    candidates = [*plan.needs, *(e for o in plan.operands for e in o.extents)]
    for extent in candidates:
        if isinstance(extent, (int, tirx.IntImm)) or any(extent.same_as(f) for f in found):
            continue
        if scope.lower(extent) <= 0:
            found.append(extent)
    return found


def _operand(operand: Placed, variables: dict[int, Var], scope: Scope) -> InstructionOperand:
    base = tuple(
        scope.simplify(_index(operand.access, dim, index, variables)) for dim, index in enumerate(operand.base)
    )
    extents = tuple(e if isinstance(e, int) else scope.simplify(e) for e in operand.extents)
    return InstructionOperand(operand.role, operand.access.buffer, base, extents, operand.strides)


def _index(access: Access, dim: int, index: tir.Expr, variables: dict[int, Var]) -> tir.Expr:
    """An index with the contributions of the loops that stay."""
    for number, var in variables.items():
        slope = access.slopes[dim][number]
        if not isinstance(slope, int) or slope:
            index = index + var * slope
    return index
