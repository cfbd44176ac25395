"""What the passes before emission have in common: they walk a kernel to its nests and rewrite those."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tvm import ir, sym, tirx
from tvm.tirx import AttrStmt, BufferStore, For, IfThenElse, PrimFunc, SeqStmt, Stmt, Var

from dsa_compiler.emit import tir


class Scope:
    """What is known where a nest stands: the ranges of the loops around it and the conditions it is under."""

    def __init__(self, analyzer: sym.Analyzer | None = None) -> None:
        self.analyzer = analyzer or sym.Analyzer()

    def bind(self, loop: For) -> None:
        """Make the range of a loop's variable known."""
        self.analyzer.bind(loop.loop_var, ir.Range.from_min_extent(loop.min, loop.extent))

    def inside(self, loops: list[For]) -> Scope:
        """The scope of a nest's body; this one does not change."""
        inner = Scope(self.analyzer.clone())
        for loop in loops:
            inner.bind(loop)
        return inner

    @contextmanager
    def assuming(self, condition: tir.Expr) -> Iterator[None]:
        """Hold a condition to be true for a while."""
        with self.analyzer.constraint_scope(condition):
            yield

    def simplify(self, expr: tir.Expr) -> tir.Expr:
        """A simpler expression of the same value."""
        return expr if isinstance(expr, (tirx.IntImm, Var)) else self.analyzer.simplify(expr)

    def proves(self, condition: tir.Expr) -> bool:
        """Whether a condition always holds."""
        return bool(self.analyzer.can_prove(condition))

    def proves_equal(self, a: tir.Expr, b: tir.Expr) -> bool:
        """Whether two expressions are always equal."""
        return bool(self.analyzer.can_prove_equal(a, b))

    def upper(self, expr: tir.Expr | int) -> int:
        """The greatest value that an expression can take."""
        if isinstance(expr, int):
            return expr
        if isinstance(expr, tirx.IntImm):
            return int(expr.value)
        return int(self.analyzer.const_int_bound(expr).max_value)

    def lower(self, expr: tir.Expr | int) -> int:
        """The least value that an expression can take."""
        if isinstance(expr, int):
            return expr
        if isinstance(expr, tirx.IntImm):
            return int(expr.value)
        return int(self.analyzer.const_int_bound(expr).min_value)


class KernelPass:
    """A pass over one kernel. Called with a `PrimFunc`, it returns one of the same meaning.

    A subclass rewrites one nest at a time; what encloses nests (loops over cores and tiles, conditions on
    their variables, allocations) stays. `name` is the pass's name in options, dumps and reports.
    """

    name = ""

    def __call__(self, func: PrimFunc) -> PrimFunc:
        """Rewrite every nest of `func`."""
        return tir.new_function(func, self.walk(func.body, Scope()))

    def rewrite(self, nest: Stmt, scope: Scope) -> Stmt:
        """The nest in a better form, or itself where the pass does not apply."""
        raise NotImplementedError

    def walk(self, stmt: Stmt, scope: Scope) -> Stmt:
        """Rewrite the nests below a statement that stands outside nests."""
        if isinstance(stmt, For) and tir.is_compile_time(stmt):
            scope.bind(stmt)
            return tir.with_body(stmt, self.walk(stmt.body, scope))
        if isinstance(stmt, SeqStmt):
            return self._walk_sequence(stmt, scope)
        if isinstance(stmt, IfThenElse):
            return self._walk_branch(stmt, scope)
        if isinstance(stmt, (For, BufferStore)):
            return self.rewrite(stmt, scope)
        if isinstance(stmt, AttrStmt):
            return self.walk_marked(stmt, scope)
        return stmt

    def walk_marked(self, stmt: AttrStmt, scope: Scope) -> Stmt:
        """A region that its author marked stays as it was written."""
        return stmt

    def _walk_sequence(self, stmt: SeqStmt, scope: Scope) -> Stmt:
        old = list(stmt.seq)
        new = [self.walk(s, scope) for s in old]
        if all(a.same_as(b) for a, b in zip(new, old, strict=True)):
            return stmt
        return tir.sequence([s for s in new if not tir.is_nothing(s)] or [tir.nothing()])

    def _walk_branch(self, stmt: IfThenElse, scope: Scope) -> Stmt:
        with scope.assuming(stmt.condition):
            then = self.walk(stmt.then_case, scope)
        other = stmt.else_case
        if other is not None:
            with scope.assuming(tirx.Not(stmt.condition)):
                other = self.walk(other, scope)
        same = then.same_as(stmt.then_case) and (other is None or other.same_as(stmt.else_case))
        return stmt if same else IfThenElse(stmt.condition, then, other)
