"""PreProcess: operations that no instruction is become several that instructions are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from tvm import tirx
from tvm.tirx import AllocBuffer, BufferStore, SeqStmt, Stmt, Var

from dsa_compiler.emit import tir
from dsa_compiler.emit.accumulation import Accumulation, accumulation, reduced_axes
from dsa_compiler.emit.context import Context
from dsa_compiler.emit.expression import Apply, Const, Load, Node, Unmatched, spell
from dsa_compiler.emit.kernel_pass import KernelPass, Scope
from dsa_compiler.emit.nest import Access, Nest, extract
from dsa_compiler.emit.neutral import neutral
from dsa_compiler.emit.operands import FLOATS, operand_nodes, strip_rounding, strip_widening
from dsa_compiler.emit.patterns import fold
from dsa_compiler.emit.recognize_matrix import factors
from dsa_compiler.emit.recognize_vector import single
from dsa_compiler.emit.recognize_window import window_plan
from dsa_compiler.emit.reduction_steps import reduce_stepwise
from dsa_compiler.emit.restride import Restride
from dsa_compiler.emit.vector_engine import VectorEngine
from dsa_compiler.emit.windows import is_still
from dsa_compiler.isa.dtypes import item_bytes
from dsa_compiler.target import Target

VECTOR_SCOPES = ("l1", "l0c")
MEMORIES = ("ddr", "llb")
SIMPLE = frozenset(
    {
        "add", "sub", "mul", "max", "min", "neg", "abs", "relu", "clip", "leaky_relu", "prelu", "select", "axpy", "fma",
        "add_scalar", "sub_scalar", "rsub_scalar", "mul_scalar", "max_scalar", "min_scalar", "copy", "cast",
    }
)  # fmt: skip
"""Operations between which a 16-bit result may be rounded, as a model computed in 16 bits rounds it."""


class PreProcess(KernelPass):
    """Split a compound expression into stores of one operation each, through temporaries.

    Spellings that one opcode carries (gelu, silu, clip, ...) stay whole. The destination holds intermediate
    results where nothing reads it later; other temporaries are allocated in `global.l1`, rows padded. Operands
    that the vector engine cannot reach are staged in l1. With `round_each`, an intermediate result between
    simple operations has the 16-bit dtype of the destination; otherwise the dtype of the expression.
    Preconditions: one store a nest, no conditions on axes but those of padded copies and windows.
    Expressions with an operation that is none of the table's stay as they are.

        for i: y[i] = cast16(max(cast32(a[i]) + cast32(b[i]), 0) * 0.5)        before
        for i: y[i] = cast16(cast32(a[i]) + cast32(b[i]))                      after
        for i: y[i] = cast16(max(cast32(y[i]), 0))
        for i: y[i] = cast16(cast32(y[i]) * 0.5)
    """

    name = "PreProcess"

    def __init__(self, target: Target, round_each: bool = True, collapse: bool = True) -> None:
        self.target = target
        self.round_each = round_each
        self.collapse = collapse

    def rewrite(self, nest: Stmt, scope: Scope) -> Stmt:
        """The nest split, or itself where one instruction may do."""
        try:
            data = extract(nest, scope)
            data = replace(data, value=fold(data.value))
        except Unmatched:
            return nest
        if data.guards or data.store.index is not None:
            return nest
        if isinstance(data.value, Load):
            if data.loads[data.value.slot].index is not None:
                return nest
            split = Restride(nest, data, self.target, scope, data.value.slot).split()
            if split is not None:
                return split
        if data.predicate or _is_copy(data):
            return nest
        added = accumulation(data.value, data.store, data.loads)
        if added is not None and (reduced_axes(data.store) or _is_product(data)):
            return self._accumulating(nest, data, added, scope)
        found = single(data.value)
        aligned = self._aligned(scope)
        whole = found is not None and _reachable(data, found[1])
        if found is not None and whole and (found[0].op == "copy" or _all_aligned(data, found[1], aligned)):
            return nest
        return Splitter(nest, data, self.target, self.round_each, aligned).split(data.value)

    def _aligned(self, scope: Scope) -> Callable[[Access], bool]:
        """Whether an access starts where the part's alignment allows it."""
        engine = VectorEngine(self.target, scope)

        def aligned(access: Access) -> bool:
            try:
                engine.require_aligned_base(access)
            except Unmatched:
                return False
            return True

        return aligned

    def _accumulating(self, nest: Stmt, data: Nest, added: Accumulation, scope: Scope) -> Stmt:
        """The expression that is accumulated, in a temporary, unless an instruction takes it with it."""
        if self._one_instruction(data, added.op, scope):
            return nest
        rest = strip_widening(added.rest)
        if isinstance(rest, Load) or _fused(rest, added.op):
            steps = reduce_stepwise(nest, data, added, self.target, scope)
            return nest if steps is None else self._again(steps, scope)
        root = Apply(added.op, (added.acc, added.rest), added.acc.dtype)
        splitter = Splitter(nest, data, self.target, self.round_each, self._aligned(scope))
        return self._again(splitter.split(root), scope)

    def _again(self, stmt: Stmt, scope: Scope) -> Stmt:
        """What came of splitting an accumulation may need splitting itself."""
        return tir.sequence([self.walk(s, scope) for s in stmt.seq]) if isinstance(stmt, SeqStmt) else stmt

    def _one_instruction(self, data: Nest, op: str, scope: Scope) -> bool:
        """Whether a product or a window instruction carries the accumulation."""
        if _is_product(data):
            return True
        start = replace(data, value=Const(neutral(op, data.store.dtype), data.store.dtype))
        context = Context(self.target, scope, VectorEngine(self.target, scope, self.collapse))
        try:
            window_plan(start, data, context)
        except Unmatched:
            return False
        return True


def _is_product(data: Nest) -> bool:
    """Whether the nest adds products to accumulators of the matrix engine, be it one product to each."""
    return data.store.scope == "l0c" and factors(data) is not None


def _all_aligned(data: Nest, leaves: tuple[Load, ...], aligned: Callable[[Access], bool]) -> bool:
    return all(aligned(data.loads[l.slot]) for l in leaves)


def _fused(rest: Node, op: str) -> bool:
    """Whether a reduction computes `rest` itself: sums of squares, greatest magnitudes."""
    if not isinstance(rest, Apply) or (rest.op, op) not in (("square", "add"), ("abs", "max")):
        return False
    return isinstance(strip_widening(rest.args[0]), Load)


def _is_copy(data: Nest) -> bool:
    """Whether DMA does it: a load or constant as it is, or accumulators rounded on the way out."""
    value = data.value
    if isinstance(value, Const):
        return True
    if isinstance(value, Load):
        pair = (data.loads[value.slot].scope, data.store.scope)
        return (pair[0] in MEMORIES and pair[1] in ("l1", *MEMORIES)) or pair in (
            ("l1", "ddr"), ("l1", "llb"), ("l0c", "ddr"), ("l0c", "llb"), ("l1", "l0a"), ("l1", "l0b"), ("l0b", "l0c"),
        )  # fmt: skip
    if isinstance(value, Apply) and value.op == "cast" and isinstance(value.args[0], Load):
        source = data.loads[value.args[0].slot]
        rounded = source.dtype == "float32" and value.dtype in ("float16", "bfloat16")
        return source.scope == "l0c" and data.store.scope in MEMORIES and rounded
    return False


def _reachable(data: Nest, leaves: tuple[Load, ...]) -> bool:
    accesses = [data.loads[l.slot] for l in leaves]
    return not any(a.scope in MEMORIES or a.index is not None for a in (data.store, *accesses))


def _core(node: Apply) -> Apply:
    """The operation of an instruction whose result is rounded as it is stored."""
    inner = strip_rounding(node)
    return inner if isinstance(inner, Apply) else node


class Splitter:
    """Splits one nest. Values are numbered nodes of the tree; equal nodes are computed once."""

    def __init__(
        self, nest: Stmt, data: Nest, target: Target, round_each: bool, aligned: Callable[[Access], bool]
    ) -> None:
        self.data = data
        self.aligned = aligned
        self.target = target
        self.loops, body = tir.peel(nest)
        self.store: BufferStore = body
        self.variables = {a.var: n for n, a in enumerate(data.axes)}
        self.round_each = round_each
        self.stmts: list[Stmt] = []
        self.allocations: list[Stmt] = []
        self.leaves: dict[Node, tir.Expr] = {}
        self.places: dict[Node, Var] = {}
        self.uses: dict[Node, int] = {}
        self.destination_taken = False
        self.free: list[tuple[Var, tuple[tir.Expr, ...], frozenset[int]]] = []

    def split(self, root: Node) -> Stmt:
        """The statements, their temporaries allocated before them."""
        for slot, load in enumerate(self.data.reads):
            self.leaves[Load(slot, tir.dtype_of(load))] = load
        core = _core(root) if isinstance(root, Apply) else Apply("copy", (root,), root.dtype)
        self._count(core)
        self._prepare(core)
        self._finish(core)
        return tir.sequence([*self.allocations, *self.stmts])

    def _count(self, node: Node) -> None:
        """How many operations read each value."""
        if not isinstance(node, Apply):
            return
        for arg in dict.fromkeys(self._operands(node)):
            self.uses[arg] = self.uses.get(arg, 0) + 1
            if self.uses[arg] == 1:
                self._count(strip_rounding(arg))

    def _operands(self, node: Apply) -> list[Node]:
        """What an operation reads: casts that an operand's own dtype carries are looked through."""
        return operand_nodes(node)

    def _prepare(self, node: Apply) -> None:
        """Compute every operand that is not in the vector engine's reach yet."""
        for arg in dict.fromkeys(self._operands(node)):
            if arg in self.places:
                continue
            if isinstance(arg, Apply):
                self._prepare(_core(arg))
                self._materialize(arg, arg, node)
            elif isinstance(arg, Const):
                self._constant(arg)
            elif self._must_be_staged(self.data.loads[arg.slot]):
                self._materialize(arg, Apply("copy", (arg,), arg.dtype), node)

    def _must_be_staged(self, access: Access) -> bool:
        """Whether the vector engine cannot read an operand where it is."""
        return access.scope in MEMORIES or access.index is not None or not self.aligned(access)

    def _materialize(self, node: Node, operation: Apply, consumer: Apply) -> None:
        """Store the value of a node in a place of its own."""
        axes = self._axes(node)
        dtype = self._dtype(node, consumer)
        reads = self._operands(_core(operation)) if isinstance(node, Apply) else []
        self._release(reads)
        buffer, indices = self._place(dtype, axes)
        value = self.leaves[node] if isinstance(node, Load) else spell(node, self.leaves)
        self._store(buffer, indices, value, axes)
        self.places[node] = buffer
        loaded = buffer[tuple(indices)]
        self.leaves[node] = loaded if dtype == node.dtype else tirx.Cast(node.dtype, loaded)

    def _constant(self, node: Const) -> None:
        """A constant operand: one element, read with stride 0."""
        buffer = self._allocate(node.dtype, (self._row(node.dtype),))
        zero = tirx.IntImm("int32", 0)
        self.stmts.append(BufferStore(buffer, tirx.const(node.value, node.dtype), [zero]))
        self.places[node] = buffer
        self.leaves[node] = buffer[zero]

    def _finish(self, core: Apply) -> None:
        value = self.leaves[core.args[0]] if core.op == "copy" else spell(core, self.leaves)
        if tir.dtype_of(value) != self.data.store.dtype:
            value = tirx.Cast(self.data.store.dtype, value)
        if self.data.store.scope in VECTOR_SCOPES:
            final = BufferStore(self.store.buffer, value, self.store.indices)
            self.stmts.append(tir.renew(tir.enclose(self.loops, final)))
            return
        axes = frozenset(range(len(self.data.axes)))
        buffer, indices = self._place(self.data.store.dtype, axes)
        self._store(buffer, indices, value, axes)
        copy = BufferStore(self.store.buffer, buffer[tuple(indices)], self.store.indices)
        self.stmts.append(tir.renew(tir.enclose(self.loops, copy)))

    def _store(self, buffer: Var, indices: tuple[tir.Expr, ...], value: tir.Expr, axes: frozenset[int]) -> None:
        if tir.dtype_of(value) != str(buffer.dtype):
            value = tirx.Cast(str(buffer.dtype), value)
        loops = [l for l in self.loops if self.variables.get(l.loop_var, -1) in axes]
        self.stmts.append(tir.renew(tir.enclose(loops, BufferStore(buffer, value, list(indices)))))

    def _axes(self, node: Node) -> frozenset[int]:
        """The axes on which a value depends."""
        if isinstance(node, Load):
            load = self.data.loads[node.slot]
            walked = [load.strides, *([load.index.strides] if load.index is not None else [])]
            return frozenset(n for strides in walked for n, s in enumerate(strides) if not is_still(s))
        if isinstance(node, Apply):
            return frozenset().union(*(self._axes(a) for a in node.args))
        return frozenset()

    def _dtype(self, node: Node, consumer: Apply) -> str:
        """The dtype of a temporary: that of the value, or the destination's where rounding is accepted."""
        wanted = self.data.store.dtype
        halved = wanted in FLOATS and node.dtype == "float32" and item_bytes(wanted) == 2
        simple = isinstance(node, Apply) and node.op in SIMPLE and node.op != "cast" and consumer.op in SIMPLE
        shared = self.uses.get(node, 1) > 1
        return wanted if self.round_each and halved and simple and not shared else node.dtype

    def _release(self, reads: list[Node]) -> None:
        """Places whose values nothing reads after this operation may be written by it."""
        for node in dict.fromkeys(reads):
            self.uses[node] -= 1
            if self.uses[node] == 0 and node in self.places and isinstance(node, Apply):
                buffer = self.places[node]
                self.free.append((buffer, self._indices_of(node), self._axes(node)))

    def _indices_of(self, node: Node) -> tuple[tir.Expr, ...]:
        expr = self.leaves[node]
        load = expr.value if isinstance(expr, tirx.Cast) else expr
        return tuple(load.indices)

    def _place(self, dtype: str, axes: frozenset[int]) -> tuple[Var, tuple[tir.Expr, ...]]:
        """Where a value of that dtype over those axes goes: a place that is free, the destination, or a new one."""
        for entry in self.free:
            if str(entry[0].dtype) == dtype and entry[2] == axes:
                self.free.remove(entry)
                return entry[0], entry[1]
        if self._destination_is_free(dtype, axes):
            self.destination_taken = True
            return self.store.buffer, tuple(self.store.indices)
        return self._new(dtype, axes)

    def _destination_is_free(self, dtype: str, axes: frozenset[int]) -> bool:
        """The destination serves once, where its old value is not read by what is still to come."""
        store = self.data.store
        if self.destination_taken or store.scope not in VECTOR_SCOPES or store.dtype != dtype:
            return False
        moved = frozenset(n for n, s in enumerate(store.strides) if not (isinstance(s, int) and s == 0))
        if moved != axes or len(axes) != len(self.data.axes):
            return False
        for node, count in self.uses.items():
            if isinstance(node, Load) and count and self.data.loads[node.slot].buffer.same_as(store.buffer):
                return False
        return all(a.same_place(store) for a in self.data.loads if a.buffer.same_as(store.buffer))

    def _new(self, dtype: str, axes: frozenset[int]) -> tuple[Var, tuple[tir.Expr, ...]]:
        order = self._order(axes)
        inner = self._contiguous(order)
        rows = [n for n in order if n != inner]
        axis = self.data.axes
        extent = 1 if inner is None else axis[inner].bound
        shape = (*(axis[n].bound for n in rows), self._pitch(extent, dtype))
        buffer = self._allocate(dtype, shape)
        last = tirx.IntImm("int32", 0) if inner is None else axis[inner].var
        return buffer, (*(axis[n].var for n in rows), last)

    def _order(self, axes: frozenset[int]) -> list[int]:
        """Axes as the destination has them in memory, outermost first."""
        strides = self.data.store.strides
        known = [s if isinstance(s, int) else 0 for s in strides]
        return sorted(axes, key=lambda n: (-known[n], n))

    def _contiguous(self, axes: list[int]) -> int | None:
        """The axis along which operands are contiguous; None where they have one element a row."""
        accesses = [self.data.store, *self.data.loads]
        for n in reversed(axes):
            if any(a.strides[n] == 1 for a in accesses):
                return n
        return None

    def _pitch(self, extent: int, dtype: str) -> int:
        return self.target.pitch(extent, item_bytes(dtype))

    def _row(self, dtype: str) -> int:
        return self.target.row_elements(item_bytes(dtype))

    def _allocate(self, dtype: str, shape: tuple[int, ...]) -> Var:
        name = f"t{len(self.allocations)}"
        buffer = tirx.decl_buffer(shape, dtype, name, scope="global.l1", layout=None)
        self.allocations.append(AllocBuffer(buffer))
        return buffer
