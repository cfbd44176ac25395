"""Products of the matrix engine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod

from dsa_compiler.emit.context import Context
from dsa_compiler.emit.expression import Apply, Load, Node, Unmatched
from dsa_compiler.emit.nest import Access, Nest
from dsa_compiler.emit.plan import Placed, Plan
from dsa_compiler.emit.vector_engine import Group, Part


def factors(nest: Nest) -> tuple[Access, Access] | None:
    """The two operands of a nest of the form `acc += a * b`; None where it is no such nest."""
    value = nest.value
    if not isinstance(value, Apply) or value.op != "fma":
        return None
    left, right, total = (_uncast(a) for a in value.args)
    if not all(isinstance(x, Load) for x in (left, right, total)):
        return None
    if not nest.loads[total.slot].same_place(nest.store):
        return None
    return nest.loads[left.slot], nest.loads[right.slot]


def _uncast(node: Node) -> Node:
    return node.args[0] if isinstance(node, Apply) and node.op == "cast" else node


def products(nest: Nest, context: Context) -> Iterator[Plan]:
    """Plans of an accumulating product."""
    found = factors(nest)
    if found is None or nest.store.scope != "l0c" or nest.predicate or nest.guards:
        return
    lhs, rhs = found if found[0].scope == "l0a" else found[::-1]
    yield accumulate(nest, lhs, rhs, context)


def accumulate(nest: Nest, lhs: Access, rhs: Access, context: Context) -> Plan:
    """`matmul_acc` of the nest; raises `Unmatched` with what forbids it."""
    parts = []
    for role, access in (("acc", nest.store), ("lhs", lhs), ("rhs", rhs)):
        part = context.part("matmul_acc", role, access)
        if part is None:
            raise Unmatched(f"matmul_acc does not take {access.dtype} in {access.scope} as {role}")
        context.engine.require_aligned_base(access)
        parts.append(part)
    rows, columns, depth, outer = _sort_axes(nest, lhs, rhs)
    m = _dimension(rows, nest, (nest.store, lhs), context, "m")
    n = _dimension(columns, nest, (nest.store, rhs), context, "n")
    k = _dimension(depth, nest, (lhs, rhs), context, "k")
    limits = context.target.limits
    for name, group, limit in (("m", m, limits.matrix_m), ("n", n, limits.matrix_n), ("k", k, limits.matrix_k)):
        if group.bound > limit:
            raise Unmatched(f"{name} is up to {group.bound}, beyond the limit of {limit}")
    operands = (
        _operand(parts[0], (m, n), (0, 0), context),
        _operand(parts[1], (m, k), (1, 0), context),
        _operand(parts[2], (k, n), (1, 1), context),
    )
    return Plan("matmul_acc", operands, outer=tuple(outer))


def _sort_axes(nest: Nest, lhs: Access, rhs: Access) -> tuple[list[int], list[int], list[int], list[int]]:
    """Axes of m, n and k; those that all three walk stay loops (batches)."""
    rows, columns, depth, outer = [], [], [], []
    for n in range(len(nest.axes)):
        walks = tuple(not _still(a.strides[n]) for a in (nest.store, lhs, rhs))
        kind = {
            (True, True, False): rows, (True, False, True): columns, (False, True, True): depth,
        }.get(walks, outer)  # fmt: skip
        kind.append(n)
    return rows, columns, depth, outer


def _still(stride: object) -> bool:
    return isinstance(stride, int) and stride == 0


def _dimension(axes: list[int], nest: Nest, accesses: Sequence[Access], context: Context, name: str) -> Group:
    """The axes of one matrix dimension as one group, whose strides are those of `accesses`."""
    if not axes:
        pitch = tuple(_pitch(a, context) for a in accesses)
        return Group((), 1, 1, pitch if name == "m" else (1, pitch[1]) if name == "k" else (1, 1), True)
    parts = [Part("", a) for a in accesses]
    groups = context.engine.merged([nest.axes[a] for a in axes], [_restrict(p, axes) for p in parts])
    if len(groups) > 1:
        raise Unmatched(f"the axes of {name} are not one: {prod(nest.axes[a].bound for a in axes)} elements apart")
    group = groups[0]
    return Group(tuple(axes[i] for i in group.axes), group.extent, group.bound, group.strides, group.exact)


def _pitch(access: Access, context: Context) -> int:
    return context.engine.unit_elements(access)


def _restrict(part: Part, axes: list[int]) -> Part:
    access = part.access
    strides = tuple(access.strides[a] for a in axes)
    return Part(part.role, Access(
        access.buffer, access.scope, access.dtype, access.base,
        tuple(tuple(s[a] for a in axes) for s in access.slopes), strides, access.pitches,
    ))  # fmt: skip


def _operand(part: Part, groups: tuple[Group, Group], places: tuple[int, int], context: Context) -> Placed:
    """A 2D operand; `places` are the numbers of its strides in its two groups."""
    outer, inner = groups[0].strides[places[0]], groups[1].strides[places[1]]
    unit = context.engine.unit_elements(part.access)
    if inner != 1:
        raise Unmatched(f"rows of {part.access.buffer.name} are not contiguous: stride {inner}")
    if not isinstance(outer, int) or outer % unit:
        raise Unmatched(f"rows of {part.access.buffer.name} are {outer} elements apart, which is not aligned")
    return Placed(
        part.role, part.access, part.access.base, (groups[0].extent, groups[1].extent),
        (groups[0].bound, groups[1].bound), (outer, 1),
    )  # fmt: skip
