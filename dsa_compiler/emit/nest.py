"""A loop nest as plain data, extracted once from TIR.

Everything after this reads the `Nest` only: axes, affine accesses, the predicate, and the operation as a tree.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import tvm_ffi
from tvm import tirx
from tvm.ir import Call, TensorLoad
from tvm.tirx import BufferStore, For, Stmt, Var

from dsa_compiler.emit import tir
from dsa_compiler.emit.expression import Node, Reader, Unmatched
from dsa_compiler.emit.kernel_pass import Scope

SCOPES = {
    "global": "ddr", "global.llb": "llb", "global.l1": "l1",
    "global.l0a": "l0a", "global.l0b": "l0b", "global.l0c": "l0c",
}  # fmt: skip
"""Storage scopes of TIR and the part's."""


@dataclass(frozen=True)
class Axis:
    """A loop: its variable, its extent, and the greatest value of the extent."""

    var: Var
    extent: tir.Expr
    bound: int

    @property
    def exact(self) -> bool:
        """Whether the extent is a constant."""
        return isinstance(self.extent, tirx.IntImm)


@dataclass(frozen=True)
class Access:
    """An affine access. `slopes[dim][axis]` are index coefficients, `base[dim]` the index where all axes are 0.

    Where a dimension's index is itself read from memory, `index` is that access, `index_dim` the dimension, whose
    base and slopes are 0. `strides[axis]` is the distance in elements between neighbours along an axis: an int, or
    an expression where a coefficient depends on a tile variable.
    """

    buffer: Var
    scope: str
    dtype: str
    base: tuple[tir.Expr, ...]
    slopes: tuple[tuple[int | tir.Expr, ...], ...]
    strides: tuple[int | tir.Expr, ...]
    pitches: tuple[int, ...]
    index: Access | None = None
    index_dim: int = -1

    def offset(self) -> tir.Expr:
        """The place in the buffer, in elements, where all axes are 0."""
        total: tir.Expr = tirx.IntImm("int32", 0)
        for index, pitch in zip(self.base, self.pitches, strict=True):
            total = total + index * pitch
        return total

    def same_place(self, other: Access) -> bool:
        """Whether both touch the same element in every iteration."""
        if not self.buffer.same_as(other.buffer) or self.index is not None or other.index is not None:
            return False
        pairs = [*zip(self.base, other.base, strict=True)]
        for own, theirs in zip(self.slopes, other.slopes, strict=True):
            pairs += zip(own, theirs, strict=True)
        return all(_same_expr(a, b) for a, b in pairs)


def _same_expr(a: tir.Expr | int, b: tir.Expr | int) -> bool:
    if isinstance(a, int) or isinstance(b, int):
        return isinstance(a, int) and isinstance(b, int) and a == b
    return a is b or bool(tvm_ffi.structural_equal(a, b))


@dataclass(frozen=True)
class Condition:
    """A term of a predicate and the numbers of the axes that it is on."""

    expr: tir.Expr
    axes: tuple[int, ...]


@dataclass(frozen=True)
class Nest:
    """A perfect nest around one store.

    `value` is the tree over `loads`, whose expressions are `reads`. Where `predicate` is not empty, load number
    `padded` reads `otherwise` wherever one of its terms does not hold. Where one of `guards` does not hold,
    nothing is stored.
    """

    axes: tuple[Axis, ...]
    store: Access
    loads: tuple[Access, ...]
    reads: tuple[TensorLoad, ...]
    value: Node
    predicate: tuple[Condition, ...] = ()
    padded: int = -1
    otherwise: float | int | None = None
    guards: tuple[Condition, ...] = ()

    @property
    def elements(self) -> int:
        """Greatest number of stores."""
        count = 1
        for axis in self.axes:
            count *= axis.bound
        return count


def extract(stmt: Stmt, scope: Scope) -> Nest:
    """The nest of a statement; raises `Unmatched` where it is none."""
    loops, body = tir.peel(stmt)
    guards, store = tir.peel_guards(body)
    if not isinstance(store, BufferStore):
        raise Unmatched("the nest has no single store at its centre")
    loops, unit = _drop_unit_loops(loops)
    if unit:
        store = tir.substitute(store, unit)
        guards = [tir.substitute(g, unit) for g in guards]
    axes = tuple(_axis(loop, scope) for loop in loops)
    return _extract_store(store, guards, axes)


def _drop_unit_loops(loops: list[For]) -> tuple[list[For], dict[Var, tir.Expr]]:
    unit = {l.loop_var: l.min for l in loops if tir.constant(l.extent) == 1}
    return [l for l in loops if l.loop_var not in unit], unit


def _axis(loop: For, scope: Scope) -> Axis:
    if tir.constant(loop.min) != 0:
        raise Unmatched(f"loop {loop.loop_var.name} starts at {loop.min}, not at 0")
    extent = scope.simplify(loop.extent)
    return Axis(loop.loop_var, extent, max(0, scope.upper(extent)))


def _extract_store(store: BufferStore, guards: list[tir.Expr], axes: tuple[Axis, ...]) -> Nest:
    variables = [a.var for a in axes]
    value, chosen = _without_padding(store.value)
    reader = Reader()
    tree = reader.read(value)
    target = access(store.buffer, list(store.indices), variables)
    loads = tuple(access(l.source, list(l.indices), variables) for l in reader.loads)
    nest = Nest(axes, target, loads, tuple(reader.loads), tree, guards=_conditions(guards, variables))
    if chosen is None:
        return nest
    terms = _conditions(tir.conjuncts(chosen.args[0]), variables)
    slot = reader.slot(chosen.args[1])
    return replace(nest, predicate=terms, padded=slot, otherwise=chosen.args[2].value)


def _without_padding(value: tir.Expr) -> tuple[tir.Expr, Call | None]:
    """The value with its one padded load read everywhere, and the `if_then_else` that pads it."""
    found = [c for c in tir.selects_of(value) if not tir.loads_of(c.args[0])]
    if not found:
        return value, None
    call = found[0]
    if len(found) > 1 or not isinstance(call.args[1], TensorLoad):
        raise Unmatched("a condition on loop variables chooses between two values")
    if not isinstance(call.args[2], (tirx.IntImm, tirx.FloatImm)):
        raise Unmatched("a condition on loop variables chooses between two values")
    if value.same_as(call):
        return call.args[1], call
    plain = tvm_ffi.structural_map(value, (Call, lambda c: c.args[1] if c.same_as(call) else c))
    return plain, call


def _conditions(terms: list[tir.Expr], variables: list[Var]) -> tuple[Condition, ...]:
    found = []
    for term in terms:
        used = tir.free_variables(term)
        found.append(Condition(term, tuple(n for n, v in enumerate(variables) if v in used)))
    return tuple(found)


def access(buffer: Var, indices: list[tir.Expr], variables: list[Var]) -> Access:
    """An access as affine functions of the axes; raises `Unmatched` where it is none."""
    scope = SCOPES.get(str(buffer.scope()))
    if scope is None:
        raise Unmatched(f"buffer {buffer.name} is in {buffer.scope()!r}, which is no memory of the part")
    pitches = tir.buffer_strides(buffer)
    place, index = _chosen_row(indices, variables)
    if index is not None:
        indices = [tirx.IntImm("int32", 0) if d == place else i for d, i in enumerate(indices)]
    forms = [_linear(i, variables, buffer) for i in indices]
    slopes = tuple(tuple(_number(c) for c in form[0]) for form in forms)
    strides = tuple(_stride([s[a] for s in slopes], pitches) for a in range(len(variables)))
    base = tuple(f[1] for f in forms)
    return Access(buffer, scope, str(buffer.dtype), base, slopes, strides, tuple(pitches), index, place)


def _chosen_row(indices: list[tir.Expr], variables: list[Var]) -> tuple[int, Access | None]:
    """The dimension whose index is read from memory, and that access; (-1, None) where there is none."""
    for dim, index in enumerate(indices):
        inner = index.value if isinstance(index, tirx.Cast) else index
        if isinstance(inner, TensorLoad):
            return dim, access(inner.source, list(inner.indices), variables)
    return -1, None


def _linear(index: tir.Expr, variables: list[Var], buffer: Var) -> tuple[list[tir.Expr], tir.Expr]:
    form = tir.linear(index, variables)
    if form is None:
        raise Unmatched(f"an index of {buffer.name} is not linear in the loop variables")
    return form


def _number(expr: tir.Expr) -> int | tir.Expr:
    return int(expr.value) if isinstance(expr, tirx.IntImm) else expr


def _stride(slopes: list[int | tir.Expr], pitches: list[int]) -> int | tir.Expr:
    total: int | tir.Expr = 0
    for slope, pitch in zip(slopes, pitches, strict=True):
        total = total if isinstance(slope, int) and slope == 0 else slope * pitch + total
    return total
