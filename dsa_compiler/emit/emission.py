"""Emission: nests become instructions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace

from tvm.ir import TensorLoad
from tvm.tirx import AttrStmt, BufferStore, FloatImm, For, IfThenElse, IntImm, PrimFunc, SeqStmt, Stmt

from dsa_compiler.emit import tir
from dsa_compiler.emit.context import Context
from dsa_compiler.emit.cost_model import CostModel
from dsa_compiler.emit.expression import Unmatched
from dsa_compiler.emit.kernel_pass import KernelPass, Scope
from dsa_compiler.emit.nest import Nest, extract
from dsa_compiler.emit.patterns import fold
from dsa_compiler.emit.plan import Plan
from dsa_compiler.emit.recognize_copy import copies, fills
from dsa_compiler.emit.recognize_img2col import windows_to_rows
from dsa_compiler.emit.recognize_matrix import products
from dsa_compiler.emit.recognize_pair import first_products, require_same_region
from dsa_compiler.emit.recognize_reduce import reductions
from dsa_compiler.emit.recognize_transpose import every_other, transposes
from dsa_compiler.emit.recognize_vector import elementwise
from dsa_compiler.emit.recognize_window import added_windows, windows
from dsa_compiler.emit.vector_engine import VectorEngine
from dsa_compiler.emit.write_back import write
from dsa_compiler.target import Target

Recognizer = Callable[[Nest, Context], Iterator[Plan]]
RECOGNIZERS: tuple[Recognizer, ...] = (
    copies, fills, transposes, every_other, windows_to_rows, products, elementwise, added_windows,
)  # fmt: skip
"""Every family of instructions; each is asked about every nest."""

PAIRS: tuple[Callable[[Nest, Nest, Context], Iterator[Plan]], ...] = (reductions, windows)
"""Families that take a neutral first value and the accumulation after it."""


@dataclass(frozen=True)
class Leftover:
    """A nest that no instruction carries, and why."""

    stmt: Stmt
    reason: str


class Emission(KernelPass):
    """Replace each nest by the cheapest instruction that carries it.

    Preconditions: the passes before emission. A nest that nothing carries stays, and is in `leftovers`.
    """

    name = "Emission"

    def __init__(self, target: Target) -> None:
        self.target = target
        self.costs = CostModel(target)
        self.leftovers: list[Leftover] = []
        self.emitted: list[tuple[Nest, Plan]] = []

    def __call__(self, func: PrimFunc) -> PrimFunc:
        """Emit every nest of `func`."""
        self.leftovers, self.emitted = [], []
        return super().__call__(func)

    def rewrite(self, nest: Stmt, scope: Scope) -> Stmt:
        """The nest's instruction, or the nest."""
        try:
            data = self.read(nest, scope)
            context = self._context(scope)
            plan = self.costs.cheapest(self._plans(data, context), data.axes)
            if plan is None:
                raise Unmatched("no instruction has this form")
        except Unmatched as reason:
            self.leftovers.append(Leftover(nest, str(reason)))
            return nest
        self.emitted.append((data, plan))
        return write(plan, data.axes, scope)

    def read(self, stmt: Stmt, scope: Scope) -> Nest:
        """The nest with its value folded."""
        nest = extract(stmt, scope)
        return replace(nest, value=fold(nest.value))

    def _context(self, scope: Scope) -> Context:
        return Context(self.target, scope, VectorEngine(self.target, scope))

    def _plans(self, nest: Nest, context: Context) -> list[Plan]:
        """Plans of every family; raises `Unmatched` with a family's reason where there is none."""
        found: list[Plan] = []
        reasons: list[str] = []
        for recognizer in RECOGNIZERS:
            try:
                found.extend(recognizer(nest, context))
            except Unmatched as reason:
                reasons.append(str(reason))
        if not found and reasons:
            raise Unmatched(reasons[0])
        return found

    def _walk_sequence(self, stmt: SeqStmt, scope: Scope) -> Stmt:
        done: list[Stmt] = []
        todo: list[tuple[Stmt, bool]] = [(s, False) for s in stmt.seq]
        while todo:
            first, emitted = todo.pop(0)
            if emitted:
                done.append(first)
                continue
            at = _partner(first, todo)
            pair = None if at is None else self._pair(first, todo[at][0], scope)
            if pair is None or at is None:
                done.append(self.walk(first, scope))
            else:
                todo[at] = (pair, True)
        return tir.sequence([s for s in done if not tir.is_nothing(s)] or [tir.nothing()])

    def _pair(self, first: Stmt, second: Stmt, scope: Scope) -> Stmt | None:
        """An initialisation and the accumulation after it as one instruction, or None."""
        condition = None
        if isinstance(first, IfThenElse) and first.else_case is None:
            condition, first = first.condition, first.then_case
        if not isinstance(first, (For, BufferStore)) or not isinstance(second, (For, BufferStore)):
            return None
        if tir.is_compile_time(first) or tir.is_compile_time(second):
            return None
        try:
            init, update = self.read(first, scope), self.read(second, scope)
            require_same_region(init, update)
        except Unmatched:
            return None
        return self._merge_pair(init, update, condition, scope)

    def _merge_pair(self, init: Nest, update: Nest, condition: tir.Expr | None, scope: Scope) -> Stmt | None:
        context = self._context(scope)
        try:
            plan, again = first_products(init, update, context)
        except Unmatched:
            return None if condition is not None else self._start_pair(init, update, context)
        self.emitted += [(init, plan), (update, plan)]
        start = write(plan, update.axes, scope)
        return start if condition is None else IfThenElse(condition, start, write(again, update.axes, scope))

    def _start_pair(self, init: Nest, update: Nest, context: Context) -> Stmt | None:
        """Reductions and windows that write their result instead of adding to it."""
        plans: list[Plan] = []
        for recognizer in PAIRS:
            with suppress(Unmatched):
                plans.extend(recognizer(init, update, context))
        plan = self.costs.cheapest(plans, update.axes)
        if plan is None:
            return None
        self.emitted += [(init, plan), (update, plan)]
        return write(plan, update.axes, context.scope)

    def walk_marked(self, stmt: AttrStmt, scope: Scope) -> Stmt:
        """Marked regions: not yet."""
        return stmt


def _partner(first: Stmt, rest: list[tuple[Stmt, bool]]) -> int | None:
    """The place of the next statement that touches what an initialisation writes, past others that do not."""
    store = _initialisation(first)
    if store is None:
        return None
    source = store.value.source if isinstance(store.value, TensorLoad) else None
    for at, (stmt, emitted) in enumerate(rest):
        stores = [s.buffer for s in tir.stores_of(stmt)]
        if any(b.same_as(store.buffer) for b in stores):
            return None if emitted else at
        if any(l.source.same_as(store.buffer) for l in tir.loads_of(stmt)):
            return None
        if source is not None and any(b.same_as(source) for b in stores):
            return None
    return None


def _initialisation(stmt: Stmt) -> BufferStore | None:
    """The store of a nest that stores a constant or an element as it is, guarded or not."""
    if isinstance(stmt, IfThenElse) and stmt.else_case is None:
        stmt = stmt.then_case
    while isinstance(stmt, For) and not tir.is_compile_time(stmt):
        stmt = stmt.body
    if not isinstance(stmt, BufferStore):
        return None
    return stmt if isinstance(stmt.value, (IntImm, FloatImm, TensorLoad)) else None
