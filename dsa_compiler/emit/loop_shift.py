"""LoopShift: loops of nests start at zero and run more than once."""

from __future__ import annotations

from tvm.tirx import For, IfThenElse, SeqStmt, Stmt, Var

from dsa_compiler.emit import tir
from dsa_compiler.emit.kernel_pass import KernelPass, Scope


class LoopShift(KernelPass):
    """Normalise loop bounds: an instruction counts its extents from zero.

    A loop of one iteration disappears. Preconditions: none. Loops over cores and tiles, annotated and parallel loops
    stay as they are.

        for i in range(3, 3 + n): y[i] = x[i - 3]      before
        for i in range(n): y[i + 3] = x[i]             after
    """

    name = "LoopShift"

    def rewrite(self, nest: Stmt, scope: Scope) -> Stmt:
        """Shift every loop of the nest whose lower bound is not zero."""
        if isinstance(nest, For):
            body = self.rewrite(nest.body, scope)
            return _shift(nest, body) if tir.is_serial(nest) else tir.with_body(nest, body)
        if isinstance(nest, SeqStmt):
            new = [self.rewrite(s, scope) for s in nest.seq]
            return nest if all(a.same_as(b) for a, b in zip(new, nest.seq, strict=True)) else tir.sequence(new)
        if isinstance(nest, IfThenElse):
            then = self.rewrite(nest.then_case, scope)
            other = None if nest.else_case is None else self.rewrite(nest.else_case, scope)
            same = then.same_as(nest.then_case) and (other is None or other.same_as(nest.else_case))
            return nest if same else IfThenElse(nest.condition, then, other)
        return nest


def _shift(loop: For, body: Stmt) -> Stmt:
    if tir.constant(loop.extent) == 1:
        return tir.substitute(body, {loop.loop_var: loop.min})
    if tir.constant(loop.min) == 0:
        return tir.with_body(loop, body)
    var = Var(loop.loop_var.name, loop.loop_var.ty)
    body = tir.substitute(body, {loop.loop_var: var + loop.min})
    return For(var, tir.integer(0, var), loop.extent, loop.kind, body, loop.thread_binding, loop.annotations, loop.step)
