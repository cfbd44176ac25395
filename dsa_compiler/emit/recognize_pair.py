"""An initialisation and the accumulation that follows it, as one instruction."""

from __future__ import annotations

from dataclasses import replace

import tvm_ffi

from dsa_compiler.emit.accumulation import reduced_axes
from dsa_compiler.emit.context import Context
from dsa_compiler.emit.expression import Const, Load, Unmatched
from dsa_compiler.emit.nest import Access, Nest
from dsa_compiler.emit.plan import Placed, Plan
from dsa_compiler.emit.recognize_matrix import products
from dsa_compiler.emit.windows import is_still


def first_products(init: Nest, update: Nest, context: Context) -> tuple[Plan, Plan]:
    """(the product that starts an accumulator, the product that adds to it).

    Raises `Unmatched` where the two nests are not of that form.
    """
    if init.store.scope != "l0c":
        raise Unmatched("the accumulator is not in l0c")
    plan = next(products(update, context), None)
    if plan is None:
        raise Unmatched("the second nest is no product")
    still = set(reduced_axes(update.store))
    if still & set(plan.outer):
        raise Unmatched("the sum does not fit in one instruction")
    acc, lhs, rhs = plan.operands
    dst = replace(acc, role="dst")
    if isinstance(init.value, Const) and init.value.value == 0:
        return replace(plan, opcode=plan.opcode.replace("_acc", ""), operands=(dst, lhs, rhs)), plan
    bias = _bias(init, update, plan, context)
    return replace(plan, opcode=plan.opcode.replace("_acc", "_bias"), operands=(dst, lhs, rhs, bias)), plan


def require_same_region(init: Nest, update: Nest) -> None:
    """Raises `Unmatched` unless both nests write the same elements."""
    if init.predicate or init.guards or not init.store.buffer.same_as(update.store.buffer):
        raise Unmatched("the two nests write different buffers")
    same_base = all(tvm_ffi.structural_equal(a, b) for a, b in zip(init.store.base, update.store.base, strict=True))
    if not same_base or not _equal_walks(_walk(init), _walk(update)):
        raise Unmatched("the two nests write different elements")


def _walk(nest: Nest) -> list[tuple[object, object]]:
    """(stride, extent) of every axis along which the store moves."""
    strides = nest.store.strides
    return [(s, a.extent) for s, a in zip(strides, nest.axes, strict=True) if not (isinstance(s, int) and s == 0)]


def _equal_walks(a: list[tuple[object, object]], b: list[tuple[object, object]]) -> bool:
    if len(a) != len(b):
        return False
    return all(_same(x, y) for p, q in zip(a, b, strict=True) for x, y in zip(p, q, strict=True))


def _same(a: object, b: object) -> bool:
    return a == b if isinstance(a, int) and isinstance(b, int) else bool(tvm_ffi.structural_equal(a, b))


def _bias(init: Nest, update: Nest, plan: Plan, context: Context) -> Placed:
    """The bias row of an initialisation `acc[i, j] = bias[j]`, as the axes of the update see it."""
    if not isinstance(init.value, Load):
        raise Unmatched("the accumulator starts with an expression")
    access = init.loads[init.value.slot]
    part = context.part("matmul_bias", "bias", access)
    if part is None:
        raise Unmatched(f"no bias is {access.dtype} in {access.scope}")
    context.engine.require_aligned_base(access)
    access = _renumbered(access, init, update)
    rhs = plan.operands[2]
    _require_row(update, access, plan, context)
    return Placed(
        "bias", access, access.base, (1, rhs.extents[1]), (1, rhs.bounds[1]),
        (context.engine.unit_elements(access), 1),
    )  # fmt: skip


def _renumbered(access: Access, init: Nest, update: Nest) -> Access:
    """An access of the initialisation with the axes of the update: both walk the accumulator alike."""
    own = [n for n, s in enumerate(init.store.strides) if not is_still(s)]
    theirs = [n for n, s in enumerate(update.store.strides) if not is_still(s)]
    place = dict(zip(theirs, own, strict=True))
    axes = range(len(update.axes))
    slopes = tuple(tuple(s[place[n]] if n in place else 0 for n in axes) for s in access.slopes)
    strides = tuple(access.strides[place[n]] if n in place else 0 for n in axes)
    return replace(access, slopes=slopes, strides=strides)


def _require_row(update: Nest, access: Access, plan: Plan, context: Context) -> None:
    """Within an instruction the bias moves along the columns of the accumulator and stands along its rows."""
    inside = [n for n in range(len(update.axes)) if n not in plan.outer]
    for n in inside:
        own = access.strides[n]
        if not is_still(own) and (own != 1 or update.store.strides[n] != 1):
            raise Unmatched("the bias is no row of the accumulator")
    if plan.operands[2].bounds[1] > 1 and not any(access.strides[n] == 1 for n in inside):
        raise Unmatched("the bias is no row of the accumulator")
    unit = context.engine.unit_elements(access)
    if any(not isinstance(s, int) or s % unit for s in (access.strides[n] for n in plan.outer)):
        raise Unmatched("the bias does not move by whole rows")
