"""An initialisation and the accumulation that follows it, as one instruction."""

from __future__ import annotations

from dataclasses import replace

import tvm_ffi

from dsa_compiler.emit.accumulation import reduced_axes
from dsa_compiler.emit.context import Context
from dsa_compiler.emit.expression import Const, Load, Node, Unmatched
from dsa_compiler.emit.nest import Access, Nest
from dsa_compiler.emit.plan import Placed, Plan
from dsa_compiler.emit.recognize_matrix import products


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
        return replace(plan, opcode="matmul", operands=(dst, lhs, rhs)), plan
    bias = _bias(init, init.value, rhs, context)
    return replace(plan, opcode="matmul_bias", operands=(dst, lhs, rhs, bias)), plan


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


def _bias(init: Nest, value: Node, rhs: Placed, context: Context) -> Placed:
    """The bias row of an initialisation `acc[i, j] = bias[j]`."""
    if not isinstance(value, Load):
        raise Unmatched("the accumulator starts with an expression")
    access = init.loads[value.slot]
    part = context.part("matmul_bias", "bias", access)
    if part is None:
        raise Unmatched(f"no bias is {access.dtype} in {access.scope}")
    context.engine.require_aligned_base(access)
    _require_row(init, access)
    return Placed(
        "bias", access, access.base, (1, rhs.extents[1]), (1, rhs.bounds[1]),
        (context.engine.unit_elements(access), 1),
    )  # fmt: skip


def _require_row(init: Nest, access: Access) -> None:
    """The bias moves by one where the accumulator does, and stands where the accumulator changes row."""
    for own, target in zip(access.strides, init.store.strides, strict=True):
        if not isinstance(own, int) or (own != 0 and own != target):
            raise Unmatched("the bias is no row of the accumulator")
    if not any(own == 1 for own in access.strides) and len(init.axes) > 1:
        raise Unmatched("the bias is no row of the accumulator")
