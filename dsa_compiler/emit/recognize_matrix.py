"""Products of the matrix engine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from dsa_compiler.emit.context import Context
from dsa_compiler.emit.expression import Apply, Load, Node, Unmatched, Unsuited
from dsa_compiler.emit.nest import Access, Nest
from dsa_compiler.emit.plan import Placed, Plan
from dsa_compiler.emit.vector_engine import Group, Part


@dataclass(frozen=True)
class Factor:
    """One operand of a product: an integer less its zero point, or a float (zero point 0)."""

    access: Access
    zero: int = 0


def factors(nest: Nest) -> tuple[Factor, Factor] | None:
    """The two operands of a nest of the form `acc += a * b`; None where it is no such nest."""
    value = nest.value
    if not isinstance(value, Apply) or value.op != "fma":
        return None
    left, right, total = _factor(value.args[0], nest), _factor(value.args[1], nest), _uncast(value.args[2])
    if left is None or right is None or not isinstance(total, Load):
        return None
    return (left, right) if nest.loads[total.slot].same_place(nest.store) else None


def _factor(node: Node, nest: Nest) -> Factor | None:
    zero = 0
    if isinstance(node, Apply) and node.op in ("sub_scalar", "add_scalar") and node.dtype == "int32":
        zero = int(dict(node.params)["value"]) * (1 if node.op == "sub_scalar" else -1)
        node = node.args[0]
    load = _uncast(node)
    return Factor(nest.loads[load.slot], zero) if isinstance(load, Load) else None


def _uncast(node: Node) -> Node:
    return node.args[0] if isinstance(node, Apply) and node.op == "cast" else node


def products(nest: Nest, context: Context) -> Iterator[Plan]:
    """Plans of an accumulating product."""
    found = factors(nest)
    if found is None or nest.store.scope != "l0c" or nest.predicate or nest.guards:
        return
    left, right = found if found[0].access.scope == "l0a" else found[::-1]
    plan = accumulate(nest, left.access, right.access, context)
    if left.zero or right.zero:
        plan = replace(plan, opcode="matmul_acc_zp", attrs={"zero_a": left.zero, "zero_b": right.zero})
    yield plan


def accumulate(nest: Nest, lhs: Access, rhs: Access, context: Context) -> Plan:
    """`matmul_acc` of the nest; raises `Unmatched` with what forbids it.

    Axes of m, n and k that do not merge into one stay loops, as do axes that all three operands walk.
    """
    parts = []
    for role, access in (("acc", nest.store), ("lhs", lhs), ("rhs", rhs)):
        part = context.part("matmul_acc", role, access)
        if part is None:
            raise Unsuited(f"matmul_acc does not take {access.dtype} in {access.scope} as {role}")
        context.engine.require_aligned_base(access)
        parts.append(part)
    rows, columns, depth, batch = _sort_axes(nest, lhs, rhs)
    limits = context.target.limits
    m, m_outer = _dimension(rows, nest, (nest.store, lhs), context, ("m", limits.matrix_m))
    n, n_outer = _dimension(columns, nest, (nest.store, rhs), context, ("n", limits.matrix_n))
    k, k_outer = _dimension(depth, nest, (lhs, rhs), context, ("k", limits.matrix_k))
    operands = (
        _operand(parts[0], (m, n), 0, context),
        _operand(parts[1], (m, k), 1, context),
        _operand(parts[2], (k, n), 1, context),
    )
    outer = tuple(sorted([*batch, *m_outer, *n_outer, *k_outer]))
    _require_aligned_loops(outer, (nest.store, lhs, rhs), context)
    return Plan("matmul_acc", operands, outer=outer)


def _require_aligned_loops(outer: tuple[int, ...], accesses: tuple[Access, ...], context: Context) -> None:
    for access in accesses:
        unit = context.engine.unit_elements(access)
        for n in outer:
            stride = access.strides[n]
            if not isinstance(stride, int) or stride % unit:
                raise Unmatched(f"steps of {stride} elements in {access.buffer.name} are not aligned")


def _sort_axes(nest: Nest, lhs: Access, rhs: Access) -> tuple[list[int], list[int], list[int], list[int]]:
    """Axes of m, n and k; those that all three walk stay loops (batches)."""
    kinds: dict[tuple[bool, ...], list[int]]
    kinds = {(True, True, False): [], (True, False, True): [], (False, True, True): []}
    outer: list[int] = []
    for n in range(len(nest.axes)):
        walks = tuple(not _still(a.strides[n]) for a in (nest.store, lhs, rhs))
        kinds.get(walks, outer).append(n)
    rows, columns, depth = kinds.values()
    return rows, columns, depth, outer


def _still(stride: object) -> bool:
    return isinstance(stride, int) and stride == 0


def _dimension(
    axes: list[int], nest: Nest, accesses: Sequence[Access], context: Context, limit: tuple[str, int]
) -> tuple[Group, list[int]]:
    """The axes of one matrix dimension as a group, whose strides are those of `accesses`, and those left over."""
    name, most = limit
    if not axes:
        pitch = tuple(_pitch(a, context) for a in accesses)
        strides: dict[str, tuple[int, ...]] = {"m": pitch, "k": (1, pitch[1])}
        return Group((), 1, 1, strides.get(name, (1, 1)), True), []
    parts = [_restrict(a, axes) for a in accesses]
    groups = context.engine.merged([nest.axes[a] for a in axes], parts)
    inner = _innermost(groups, name)
    if inner.bound > most:
        raise Unmatched(f"{name} is up to {inner.bound}, beyond the limit of {most}")
    taken = [axes[i] for i in inner.axes]
    group = Group(tuple(taken), inner.extent, inner.bound, inner.strides, inner.exact)
    return group, [a for a in axes if a not in taken]


def _innermost(groups: list[Group], name: str) -> Group:
    """The group that an instruction takes: the contiguous one of n, of k for lhs; else the longest."""
    place = {"n": (0, 1), "k": (0,)}.get(name, ())
    able = [g for g in groups if all(g.strides[p] == 1 for p in place)]
    if not able:
        raise Unmatched(f"no axis of {name} is contiguous")
    return max(able, key=lambda g: g.bound)


def _pitch(access: Access, context: Context) -> int:
    return context.engine.unit_elements(access)


def _restrict(access: Access, axes: list[int]) -> Part:
    """An operand as those axes alone see it."""
    strides = tuple(access.strides[a] for a in axes)
    slopes = tuple(tuple(s[a] for a in axes) for s in access.slopes)
    return Part("", Access(access.buffer, access.scope, access.dtype, access.base, slopes, strides, access.pitches))


def _operand(part: Part, groups: tuple[Group, Group], place: int, context: Context) -> Placed:
    """A 2D operand; `place` is the number of its stride in the group of its rows."""
    outer = groups[0].strides[place]
    unit = context.engine.unit_elements(part.access)
    if not isinstance(outer, int) or outer % unit:
        raise Unmatched(f"rows of {part.access.buffer.name} are {outer} elements apart, which is not aligned")
    return Placed(
        part.role, part.access, part.access.base, (groups[0].extent, groups[1].extent),
        (groups[0].bound, groups[1].bound), (outer, 1),
    )  # fmt: skip
