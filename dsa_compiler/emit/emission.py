"""Emission: nests become instructions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from tvm import tirx
from tvm.ir import TensorLoad
from tvm.tirx import AllocBuffer, AttrStmt, BufferStore, FloatImm, For, IfThenElse, IntImm, PrimFunc, SeqStmt, Stmt, Var

from dsa_compiler.emit import tir
from dsa_compiler.emit.accumulation import accumulation, reduced_axes
from dsa_compiler.emit.context import Context
from dsa_compiler.emit.cost_model import CostModel
from dsa_compiler.emit.expression import Load, Unmatched, Unsuited
from dsa_compiler.emit.kernel_pass import KernelPass, Scope
from dsa_compiler.emit.marked import PRAGMA, named_instruction, plans_as_named
from dsa_compiler.emit.nest import Axis, Nest, extract
from dsa_compiler.emit.outline import Leftover
from dsa_compiler.emit.patterns import fold
from dsa_compiler.emit.plan import Plan
from dsa_compiler.emit.recognize_copy import copies, fills
from dsa_compiler.emit.recognize_gather import gathers
from dsa_compiler.emit.recognize_img2col import windows_to_rows
from dsa_compiler.emit.recognize_interleave import interleaves
from dsa_compiler.emit.recognize_matrix import products
from dsa_compiler.emit.recognize_pair import first_products, require_same_region
from dsa_compiler.emit.recognize_reduce import reductions
from dsa_compiler.emit.recognize_transpose import every_other, reversed_rows, transposes
from dsa_compiler.emit.recognize_vector import elementwise
from dsa_compiler.emit.recognize_window import added_windows, windows
from dsa_compiler.emit.reduction_steps import add_partial
from dsa_compiler.emit.vector_engine import VectorEngine
from dsa_compiler.emit.write_back import write
from dsa_compiler.errors import UserError
from dsa_compiler.target import Target

Recognizer = Callable[[Nest, Context], Iterator[Plan]]
RECOGNIZERS: tuple[Recognizer, ...] = (
    gathers, copies, fills, transposes, every_other, reversed_rows, windows_to_rows, products, elementwise,
    added_windows,
)  # fmt: skip
"""Every family of instructions; each is asked about every nest."""

PAIRS: tuple[Callable[[Nest, Nest, Context], Iterator[Plan]], ...] = (reductions, windows)
"""Families that take a neutral first value and the accumulation after it."""


@dataclass(frozen=True)
class Emitted:
    """Nests that became one instruction, and how often it runs at most."""

    nests: tuple[Nest, ...]
    plan: Plan
    trips: int


class Emission(KernelPass):
    """Replace each nest by the cheapest instruction that carries it.

    Preconditions: the passes before emission. A nest that nothing carries stays, and is in `leftovers`.
    """

    name = "Emission"

    def __init__(self, target: Target, collapse: bool = True) -> None:
        self.target = target
        self.collapse = collapse
        self.costs = CostModel(target)
        self.leftovers: list[Leftover] = []
        self.emitted: list[Emitted] = []
        self.partial: set[Var] = set()
        self.trips = 1

    def __call__(self, func: PrimFunc) -> PrimFunc:
        """Emit every nest of `func`."""
        self.leftovers, self.emitted, self.partial, self.trips = [], [], set(), 1
        return super().__call__(func)

    def walk(self, stmt: Stmt, scope: Scope) -> Stmt:
        """Count how often a nest runs on the way to it."""
        if not (isinstance(stmt, For) and tir.is_compile_time(stmt)):
            return super().walk(stmt, scope)
        trips = self.trips
        self.trips *= max(1, scope.upper(stmt.extent))
        result = super().walk(stmt, scope)
        self.trips = trips
        return result

    def rewrite(self, nest: Stmt, scope: Scope) -> Stmt:
        """The nest's instruction, or the nest."""
        try:
            data = self.read(nest, scope)
            context = self._context(scope)
            plan, reason = self._cheapest(data, context)
        except Unmatched as unmatched:
            return self._leave(nest, str(unmatched))
        whole = self._whole_version(data, plan, context)
        chosen = plan or whole
        if chosen is None:
            return self._in_steps(nest, data, scope) or self._leave(nest, reason)
        self.emitted.append(Emitted((data,), chosen, self.trips))
        partial = write(plan, data.axes, scope) if plan is not None else self._leave(nest, reason)
        if whole is None:
            return partial
        return IfThenElse(tir.conjunction(_is_whole(data)), write(whole, _exact(data).axes, scope), partial)

    def _in_steps(self, stmt: Stmt, nest: Nest, scope: Scope) -> Stmt | None:
        """A reduction that goes on from an earlier value: a partial one and one operation; None for other nests."""
        added = accumulation(nest.value, nest.store, nest.loads)
        if added is None or not reduced_axes(nest.store) or nest.store.buffer in self.partial:
            return None
        steps = add_partial(stmt, nest, added, self.target)
        if steps is None:
            return None
        self.partial.update(s.buffer for s in steps.seq if isinstance(s, AllocBuffer))
        return self.walk(steps, scope)

    def _leave(self, nest: Stmt, reason: str) -> Stmt:
        self.leftovers.append(Leftover(nest, reason, self.trips))
        return nest

    def _whole_version(self, nest: Nest, plan: Plan | None, context: Context) -> Plan | None:
        """A plan for the case that every extent has its greatest value, if that saves loops around instructions."""
        if all(a.exact for a in nest.axes) or (plan is not None and not plan.outer):
            return None
        exact = _exact(nest)
        whole, _ = self._cheapest(exact, context)
        if whole is None or plan is None:
            return whole
        return whole if self.costs.cycles(whole, exact.axes) < self.costs.cycles(plan, nest.axes) else None

    def read(self, stmt: Stmt, scope: Scope) -> Nest:
        """The nest with its value folded."""
        nest = extract(stmt, scope)
        return replace(nest, value=fold(nest.value))

    def _context(self, scope: Scope) -> Context:
        return Context(self.target, scope, VectorEngine(self.target, scope, self.collapse))

    def _cheapest(self, nest: Nest, context: Context) -> tuple[Plan | None, str]:
        """The cheapest plan of any family, or why there is none."""
        found: list[Plan] = []
        reasons: list[Unmatched] = []
        for recognizer in RECOGNIZERS:
            try:
                found.extend(recognizer(nest, context))
            except Unmatched as unmatched:
                reasons.append(unmatched)
        return self.costs.cheapest(found, nest.axes), _told(reasons)

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
            if condition is None and isinstance(init.value, Load) and isinstance(update.value, Load):
                return self._write_pair(init, update, interleaves(init, update, self._context(scope)), scope)
            require_same_region(init, update)
        except Unmatched:
            return None
        return self._merge_pair(init, update, condition, scope)

    def _merge_pair(self, init: Nest, update: Nest, condition: tir.Expr | None, scope: Scope) -> Stmt | None:
        context = self._context(scope)
        try:
            plans = first_products(init, update, context)
        except Unmatched:
            return None if condition is not None else self._start_pair(init, update, context)
        self.emitted.append(Emitted((init, update), plans[0], self.trips))
        partial = _first_and_next(plans, update, condition, scope)
        if not plans[0].outer or all(a.exact for a in update.axes):
            return partial
        exact = _exact(update)
        whole = first_products(_exact(init), exact, context)
        if len(whole[0].outer) >= len(plans[0].outer):
            return partial
        return IfThenElse(tir.conjunction(_is_whole(update)), _first_and_next(whole, exact, condition, scope), partial)

    def _start_pair(self, init: Nest, update: Nest, context: Context) -> Stmt | None:
        """Reductions and windows that write their result instead of adding to it."""
        plans: list[Plan] = []
        for recognizer in PAIRS:
            with suppress(Unmatched):
                plans.extend(recognizer(init, update, context))
        return self._write_pair(init, update, plans, context.scope)

    def _write_pair(self, init: Nest, update: Nest, plans: Iterable[Plan], scope: Scope) -> Stmt | None:
        plan = self.costs.cheapest(plans, update.axes)
        if plan is None:
            return None
        self.emitted.append(Emitted((init, update), plan, self.trips))
        return write(plan, update.axes, scope)

    def walk_marked(self, stmt: AttrStmt, scope: Scope) -> Stmt:
        """A marked nest becomes the instruction that its author named; raises `UserError` where it cannot."""
        if str(stmt.attr_key) != PRAGMA:
            return tirx.AttrStmt(stmt.node, stmt.attr_key, stmt.value, self.walk(stmt.body, scope))
        opcode, attrs = named_instruction(stmt)
        try:
            data = self.read(stmt.body, scope)
            context = self._context(scope)
            plan = self._named(opcode, attrs, data, context)
        except Unmatched as reason:
            raise UserError(
                f"the nest marked {opcode} cannot be that instruction: {reason}", where=PRAGMA,
                action="change the nest or the mark",
            ) from reason  # fmt: skip
        self.emitted.append(Emitted((data,), plan, self.trips))
        return write(plan, data.axes, scope)

    def _named(self, opcode: str, attrs: dict[str, Any], nest: Nest, context: Context) -> Plan:
        found: list[Plan] = []
        for recognizer in RECOGNIZERS:
            with suppress(Unmatched):
                found.extend(p for p in recognizer(nest, context) if p.opcode == opcode)
        plans = found or list(plans_as_named(opcode, attrs, nest, context))
        return min(plans, key=lambda p: self.costs.cycles(p, nest.axes))


def _told(reasons: list[Unmatched]) -> str:
    """The reasons of the families that the nest is near to; else of any."""
    near = [r for r in reasons if not isinstance(r, Unsuited)] or reasons
    return "; ".join(dict.fromkeys(str(r) for r in near)) or "no instruction has this form"


def _first_and_next(plans: tuple[Plan, Plan], nest: Nest, condition: tir.Expr | None, scope: Scope) -> Stmt:
    """The product that starts an accumulator, under the condition of its start the one that adds to it."""
    start = write(plans[0], nest.axes, scope)
    return start if condition is None else IfThenElse(condition, start, write(plans[1], nest.axes, scope))


def _exact(nest: Nest) -> Nest:
    """The nest with every extent at its greatest value."""
    axes = tuple(a if a.exact else Axis(a.var, tir.integer(a.bound, a.var), a.bound) for a in nest.axes)
    return replace(nest, axes=axes)


def _is_whole(nest: Nest) -> list[tir.Expr]:
    """The conditions under which `_exact` describes the nest."""
    return [tirx.EQ(a.extent, tir.integer(a.bound, a.extent)) for a in nest.axes if not a.exact]


def _partner(first: Stmt, rest: list[tuple[Stmt, bool]]) -> int | None:
    """The place of the next statement that touches what an initialisation writes, past others that do not."""
    store = _initialisation(first)
    if store is None:
        return None
    source = store.value.source if isinstance(store.value, TensorLoad) else None
    for at, (stmt, emitted) in enumerate(rest):
        stores = _written(stmt)
        if any(b.same_as(store.buffer) for b in stores):
            return None if emitted else at
        if emitted or any(l.source.same_as(store.buffer) for l in tir.loads_of(stmt)):
            return None
        if source is not None and any(b.same_as(source) for b in stores):
            return None
    return None


def _written(stmt: Stmt) -> list[Var]:
    return [] if isinstance(stmt, AllocBuffer) else [s.buffer for s in tir.stores_of(stmt)]


def _initialisation(stmt: Stmt) -> BufferStore | None:
    """The store of a nest that stores a constant or an element as it is, guarded or not."""
    if isinstance(stmt, IfThenElse) and stmt.else_case is None:
        stmt = stmt.then_case
    while isinstance(stmt, For) and not tir.is_compile_time(stmt):
        stmt = stmt.body
    if not isinstance(stmt, BufferStore):
        return None
    return stmt if isinstance(stmt.value, (IntImm, FloatImm, TensorLoad)) else None
