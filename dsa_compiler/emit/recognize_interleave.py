"""Two copies that fill every other element of the same rows, as one interleave."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import tvm_ffi
from tvm import tirx

from dsa_compiler.emit.context import Context
from dsa_compiler.emit.expression import Load, Unsuited
from dsa_compiler.emit.nest import Access, Nest
from dsa_compiler.emit.plan import Plan, placed


def interleaves(first: Nest, second: Nest, context: Context) -> Iterator[Plan]:
    """Plans of `dst[2 * i] = a[i]` followed by `dst[2 * i + 1] = b[i]`.

    Raises `Unmatched` where the nests are of another form.
    """
    along = _doubled_axis(first, second, context)
    one, two = _copied(first), _copied(second)
    strides = tuple(1 if n == along else s for n, s in enumerate(first.store.strides))
    target = replace(first.store, strides=strides)
    parts = []
    for role, access in (("dst", target), ("src", one), ("src2", two)):
        part = context.part("interleave", role, access)
        if part is None:
            raise Unsuited(f"interleave does not take {access.dtype} in {access.scope} as {role}")
        parts.append(part)
    for fit in context.engine.fits(first.axes, parts, unmergeable=frozenset({along})):
        if fit.groups[-1].axes != (along,):
            continue
        dst, src, src2 = (placed(p, fit, n) for n, p in enumerate(parts))
        wide = replace(
            dst, extents=(*dst.extents[:-1], dst.extents[-1] * 2), bounds=(*dst.bounds[:-1], dst.bounds[-1] * 2)
        )
        yield Plan("interleave", (wide, src, src2), outer=fit.outer)


def _copied(nest: Nest) -> Access:
    if not isinstance(nest.value, Load) or nest.predicate or nest.guards:
        raise Unsuited("an interleaved value is no plain copy")
    return nest.loads[nest.value.slot]


def _doubled_axis(first: Nest, second: Nest, context: Context) -> int:
    """The axis along which both fill every other element, the first the even ones."""
    a, b = first.store, second.store
    same_axes = len(first.axes) == len(second.axes) and all(
        tvm_ffi.structural_equal(x.extent, y.extent) for x, y in zip(first.axes, second.axes, strict=True)
    )
    if not a.buffer.same_as(b.buffer) or not same_axes or a.strides != b.strides:
        raise Unsuited("the two copies do not fill the same rows")
    along = [n for n, s in enumerate(a.strides) if s == 2 and _contiguous(first, n) and _contiguous(second, n)]
    if not along or not _next(a, b, context):
        raise Unsuited("the two copies do not fill every other element")
    return along[0]


def _contiguous(nest: Nest, axis: int) -> bool:
    return _copied(nest).strides[axis] == 1


def _next(a: Access, b: Access, context: Context) -> bool:
    """Whether `b` starts one element after `a`."""
    return context.scope.proves_equal(a.offset() + tirx.IntImm("int32", 1), b.offset())
