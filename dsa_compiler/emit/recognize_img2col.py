"""Windows of a channel-last tensor as rows of a matrix: the img2col move."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from dsa_compiler.emit import tir
from dsa_compiler.emit.context import Context
from dsa_compiler.emit.expression import Load, Unmatched
from dsa_compiler.emit.nest import Access, Nest
from dsa_compiler.emit.plan import Placed, Plan
from dsa_compiler.emit.windows import (
    Window,
    as_expr,
    count_of,
    image_windows,
    is_still,
    product,
    require_on_image,
    source_of,
    span_of,
    window_attrs,
)
from dsa_compiler.isa.dtypes import item_bytes


def windows_to_rows(nest: Nest, context: Context) -> Iterator[Plan]:
    """The img2col move of a nest from l1 to l0a."""
    if not isinstance(nest.value, Load) or nest.guards or nest.store.scope != "l0a":
        return
    source = nest.loads[nest.value.slot]
    if source.scope != "l1" or source.index is not None or source.dtype != nest.store.dtype:
        return
    if context.definition("img2col") is None:
        return
    if nest.otherwise is not None and not float(nest.otherwise).is_integer():
        raise Unmatched(f"img2col pads with whole numbers, not {nest.otherwise}")
    rows, columns, outer = _rows_and_columns(nest, context)
    channel = _channel(nest, source, columns)
    taps = [c for c in columns if c != channel]
    windows = image_windows(nest, source, rows, taps)
    if not _in_order(rows, windows) or not _in_order(taps, windows):
        raise Unmatched("rows or columns of the operand are not in the order of img2col")
    yield _plan(nest, source, windows, channel, outer, context)


def _rows_and_columns(nest: Nest, context: Context) -> tuple[list[int], list[int], list[int]]:
    """The axes of the operand's rows (output pixels), of its columns (kernel, channel), and those that stay loops.

    Raises `Unmatched` unless rows are numbered (high, wide) and columns (kernel high, kernel wide, channel) without
    gaps. Rows with gaps between them stay a loop where nothing is padded.
    """
    store = nest.store
    if len(store.slopes) != 2:
        raise Unmatched("the operand of a product is not a matrix")
    rows = [n for n in range(len(nest.axes)) if not is_still(store.slopes[0][n])]
    columns = [n for n in range(len(nest.axes)) if not is_still(store.slopes[1][n])]
    if set(rows) & set(columns) or len(rows) + len(columns) != len(nest.axes):
        raise Unmatched("an axis is on rows and columns of the operand at once")
    if not _dense(nest, store.slopes[1], columns, context):
        raise Unmatched("columns of the operand are not tight")
    outer: list[int] = []
    while not _dense(nest, store.slopes[0], rows, context):
        if nest.predicate or not rows:
            raise Unmatched("rows of the operand are not tight")
        outer.append(rows.pop(0))
    return rows, columns, outer


def _dense(nest: Nest, slopes: tuple[int | tir.Expr, ...], axes: list[int], context: Context) -> bool:
    """Whether axes number their dimension without gaps, in their order."""
    step: tir.Expr | int = 1
    for n in reversed(axes):
        slope, axis = slopes[n], nest.axes[n]
        if isinstance(slope, int) and isinstance(step, int):
            if slope != step:
                return False
        elif not context.scope.proves_equal(as_expr(slope), as_expr(step)):
            return False
        step = step * axis.bound if axis.exact and isinstance(step, int) else as_expr(step) * axis.extent
    return True


def _channel(nest: Nest, source: Access, columns: list[int]) -> int:
    """The axis of channels: the last of the columns, contiguous in the source; -1 where there is one channel."""
    if not columns:
        return -1
    last = columns[-1]
    return last if source.strides[last] == 1 and not any(last in c.axes for c in nest.predicate) else -1


def _in_order(axes: list[int], windows: tuple[Window, Window]) -> bool:
    """Axes of the image's rows come before those of its columns."""
    first, second = ([n for n in axes if n in (w.output, w.kernel)] for w in windows)
    return not first or not second or max(first) < min(second)


def _plan(
    nest: Nest, source: Access, windows: tuple[Window, Window], channel: int, outer: list[int], context: Context
) -> Plan:
    require_on_image(nest, nest.predicate, windows)
    simplify = context.scope.simplify
    spans = (span_of(nest, source, windows[0], simplify), span_of(nest, source, windows[1], simplify))
    src = source_of(source, windows, spans, count_of(nest, channel))
    _require_pixel(src, outer, context)
    attrs = {**window_attrs(nest, windows, spans), "zero_point": int(nest.otherwise or 0)}
    needs = tuple(as_expr(s.extent) for s in spans)
    dst = _matrix(nest, windows, channel, context)
    return Plan("img2col", (dst, src), attrs, tuple(outer), needs)


def _matrix(nest: Nest, windows: tuple[Window, Window], channel: int, context: Context) -> Placed:
    store = nest.store
    context.engine.require_aligned_base(store)
    high, wide = windows
    rows = product(count_of(nest, high.output), count_of(nest, wide.output))
    columns = product(product(count_of(nest, high.kernel), count_of(nest, wide.kernel)), count_of(nest, channel))
    pitch = store.pitches[0]
    if pitch % context.engine.unit_elements(store):
        raise Unmatched(f"rows of {store.buffer.name} are {pitch} elements apart, which is not aligned")
    return Placed("dst", store, store.base, (rows.extent, columns.extent), (rows.bound, columns.bound), (pitch, 1))


def _require_pixel(src: Placed, outer: list[int], context: Context) -> None:
    """The source's strides and pixel are multiples of 8 bytes, its base aligned."""
    access, size = src.access, item_bytes(src.access.dtype)
    if not _multiple_of_8(src.extents[2], size, context):
        raise Unmatched(f"a pixel of {src.extents[2]} elements is no multiple of 8 bytes")
    if any(s * size % 8 for s in src.strides[:2]):
        raise Unmatched("a row or pixel of the image does not start at a multiple of 8 bytes")
    context.engine.require_aligned_base(replace(access, base=src.base))
    unit = context.engine.unit_elements(access)
    if any(not isinstance(access.strides[n], int) or access.strides[n] % unit for n in outer):
        raise Unmatched(f"rows of {access.buffer.name} are not aligned")


def _multiple_of_8(extent: tir.Expr | int, size: int, context: Context) -> bool:
    if isinstance(extent, int):
        return extent * size % 8 == 0
    modular = context.scope.analyzer.modular_set(extent * size)
    return int(modular.coeff) % 8 == 0 and int(modular.base) % 8 == 0
