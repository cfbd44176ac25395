"""Windows of a channel-last tensor as rows of a matrix: the img2col move."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tvm import tirx

from dsa_compiler.emit import tir
from dsa_compiler.emit.context import Context
from dsa_compiler.emit.expression import Load, Unmatched
from dsa_compiler.emit.nest import Access, Condition, Nest
from dsa_compiler.emit.plan import Placed, Plan
from dsa_compiler.isa.dtypes import item_bytes


@dataclass(frozen=True)
class Window:
    """How one image axis is walked: output and kernel axes (-1: of one place), the steps of each, first index.

    `low` and `high` bound the indices that lie in the tensor; None: no bound is checked.
    """

    output: int
    kernel: int
    stride: int
    dilation: int
    dim: int
    low: tir.Expr | None = None
    high: tir.Expr | None = None


def windows_to_rows(nest: Nest, context: Context) -> Iterator[Plan]:
    """The img2col move of a nest from l1 to l0a."""
    if not isinstance(nest.value, Load) or nest.guards or nest.store.scope != "l0a" or context.definition("img2col") is None:
        return
    source = nest.loads[nest.value.slot]
    if source.scope != "l1" or source.dtype != nest.store.dtype:
        return
    if nest.otherwise not in (None, 0) and not float(nest.otherwise).is_integer():
        raise Unmatched(f"img2col pads with whole numbers, not {nest.otherwise}")
    rows, columns = _rows_and_columns(nest, context)
    channel = _channel(nest, source, columns)
    high, wide = _windows(nest, source, rows, [c for c in columns if c != channel])
    yield _plan(nest, source, high, wide, channel, context)


def _rows_and_columns(nest: Nest, context: Context) -> tuple[list[int], list[int]]:
    """The axes that make up the rows (output pixels) and the columns (kernel, channel) of the result.

    Raises `Unmatched` unless rows are numbered (high, wide) and columns (kernel high, kernel wide, channel), tight.
    """
    store = nest.store
    if len(store.slopes) != 2:
        raise Unmatched("the operand of a product is not a matrix")
    rows = [n for n in range(len(nest.axes)) if not _zero(store.slopes[0][n])]
    columns = [n for n in range(len(nest.axes)) if not _zero(store.slopes[1][n])]
    if set(rows) & set(columns) or len(rows) + len(columns) != len(nest.axes):
        raise Unmatched("an axis is on rows and columns of the operand at once")
    _require_dense(nest, store.slopes[0], rows, context)
    _require_dense(nest, store.slopes[1], columns, context)
    return rows, columns


def _zero(slope: int | tir.Expr) -> bool:
    return isinstance(slope, int) and slope == 0


def _require_dense(nest: Nest, slopes: tuple[int | tir.Expr, ...], axes: list[int], context: Context) -> None:
    """The axes number their dimension without gaps, in their order."""
    step: tir.Expr | int = 1
    for n in reversed(axes):
        slope = slopes[n]
        same = slope == step if isinstance(slope, int) and isinstance(step, int) else None
        if same is None:
            same = context.scope.proves_equal(_expr(slope), _expr(step))
        if not same:
            raise Unmatched("rows or columns of the operand are not tight")
        axis = nest.axes[n]
        step = step * axis.bound if axis.exact and isinstance(step, int) else _expr(step) * axis.extent


def _expr(value: int | tir.Expr) -> tir.Expr:
    return tirx.IntImm("int32", value) if isinstance(value, int) else value


def _channel(nest: Nest, source: Access, columns: list[int]) -> int:
    """The axis of channels: the last of the columns, contiguous in the source; -1 where there is one channel."""
    if not columns:
        return -1
    last = columns[-1]
    return last if source.strides[last] == 1 and not any(last in c.axes for c in nest.predicate) else -1


def _windows(nest: Nest, source: Access, rows: list[int], kernel: list[int]) -> tuple[Window, Window]:
    """How the two image axes are walked."""
    pairs: dict[int, list[int]] = {}
    for n in [*rows, *kernel]:
        dims = [d for d, s in enumerate(source.slopes) if not _zero(s[n])]
        if len(dims) != 1:
            raise Unmatched("an axis of the window walks several dimensions of the tensor")
        pairs.setdefault(dims[0], []).append(n)
    last = len(source.slopes) - 1
    image = sorted(d for d in pairs if d != last) or [last - 2, last - 1]
    if last in pairs or len(image) > 2:
        raise Unmatched("the window does not walk rows and columns of a channel-last tensor")
    dims = image if len(image) == 2 else _second_dimension(image[0], last)
    high, wide = (_window(nest, source, dim, pairs.get(dim, []), rows) for dim in dims)
    if not _in_order(rows, high, wide) or not _in_order(kernel, high, wide):
        raise Unmatched("rows or columns of the operand are not in the order of img2col")
    return high, wide


def _second_dimension(dim: int, last: int) -> list[int]:
    """The two image dimensions where only one is walked."""
    return [dim - 1, dim] if dim == last - 1 and dim > 0 else [dim, last - 1]


def _in_order(axes: list[int], high: Window, wide: Window) -> bool:
    """Axes of the image's rows come before those of its columns."""
    first = [n for n in axes if n in (high.output, high.kernel)]
    second = [n for n in axes if n in (wide.output, wide.kernel)]
    return not first or not second or max(first) < min(second)


def _window(nest: Nest, source: Access, dim: int, axes: list[int], rows: list[int]) -> Window:
    output = [n for n in axes if n in rows]
    kernel = [n for n in axes if n not in rows]
    if len(output) > 1 or len(kernel) > 1:
        raise Unmatched("an image dimension is walked by more than an output and a kernel axis")
    steps = [int(source.slopes[dim][a[0]]) if a else 1 for a in (output, kernel)]
    if min(steps) < 1:
        raise Unmatched("a window is walked backwards")
    window = Window(output[0] if output else -1, kernel[0] if kernel else -1, steps[0], steps[1], dim)
    low, high = _bounds(nest, source, window)
    return Window(window.output, window.kernel, steps[0], steps[1], dim, low, high)


def _bounds(nest: Nest, source: Access, window: Window) -> tuple[tir.Expr | None, tir.Expr | None]:
    """Bounds on the source index that the predicate's terms put, as expressions of tile variables."""
    low: tir.Expr | None = None
    high: tir.Expr | None = None
    own = {n for n in (window.output, window.kernel) if n >= 0}
    for term in nest.predicate:
        if not set(term.axes) & own:
            continue
        lower, upper = _index_bound(nest, source, window, term)
        low = lower if low is None else low if lower is None else tirx.max(low, lower)
        high = upper if high is None else high if upper is None else tirx.min(high, upper)
    return low, high


def _index_bound(
    nest: Nest, source: Access, window: Window, term: Condition
) -> tuple[tir.Expr | None, tir.Expr | None]:
    """A comparison of the walked index, shifted by a constant of the tile, as a bound on the source index."""
    condition = term.expr
    if isinstance(condition, (tirx.GE, tirx.GT)):
        difference, strict = condition.a - condition.b, isinstance(condition, tirx.GT)
    elif isinstance(condition, (tirx.LE, tirx.LT)):
        difference, strict = condition.b - condition.a, isinstance(condition, tirx.LT)
    else:
        raise Unmatched(f"the condition {condition} is no bound of a window")
    axes = [n for n in (window.output, window.kernel) if n >= 0]
    form = tir.linear(difference, [nest.axes[n].var for n in axes])
    if form is None:
        raise Unmatched(f"the condition {condition} is no bound of a window")
    slopes = [tir.constant(c) for c in form[0]]
    walked = [source.slopes[window.dim][n] for n in axes]
    base = source.base[window.dim]
    rest = form[1] - int(strict)
    if slopes == walked:                              # index - base + rest >= 0
        return base - rest, None
    if slopes == [-w for w in walked]:                # base - index + rest >= 0
        return None, base + rest + 1
    raise Unmatched(f"the condition {condition} does not follow the window")


def _plan(nest: Nest, source: Access, high: Window, wide: Window, channel: int, context: Context) -> Plan:
    simplify = context.scope.simplify
    used = {n for w in (high, wide) for n in (w.output, w.kernel)} | {channel}
    for condition in nest.predicate:
        if not set(condition.axes) <= used - {channel} or not condition.axes:
            raise Unmatched(f"the condition {condition.expr} is not on the image")
    spans = [_span(nest, source, w, simplify) for w in (high, wide)]
    base = list(source.base)
    for window, span in zip((high, wide), spans, strict=True):
        base[window.dim] = span.first
    channels = _one(nest, channel)
    pitches = source.pitches
    src = Placed(
        "src", source, tuple(base), (spans[0].extent, spans[1].extent, channels.extent),
        (spans[0].bound, spans[1].bound, channels.bound), (pitches[high.dim], pitches[wide.dim], 1),
    )  # fmt: skip
    _require_pixel(src, context)
    attrs = {
        "kernel": [_one(nest, high.kernel).extent, _one(nest, wide.kernel).extent],
        "stride": [high.stride, wide.stride],
        "dilation": [high.dilation, wide.dilation],
        "pad": [spans[0].before, spans[1].before, spans[0].after, spans[1].after],
        "zero_point": int(nest.otherwise or 0),
    }
    return Plan("img2col", (_matrix(nest, high, wide, channel, context), src), attrs,
                needs=(*(_positive(s.extent) for s in spans),))  # fmt: skip


@dataclass(frozen=True)
class Count:
    """An extent and its greatest value."""

    extent: tir.Expr | int
    bound: int


def _one(nest: Nest, axis: int) -> Count:
    if axis < 0:
        return Count(1, 1)
    found = nest.axes[axis]
    return Count(found.bound if found.exact else found.extent, found.bound)


def _times(a: Count, b: Count) -> Count:
    if isinstance(a.extent, int) and isinstance(b.extent, int):
        return Count(a.extent * b.extent, a.bound * b.bound)
    return Count(_expr(a.extent) * b.extent, a.bound * b.bound)


@dataclass(frozen=True)
class Span:
    """The part of an image dimension that lies in the tensor, and the padding on its two sides."""

    first: tir.Expr
    extent: tir.Expr | int
    bound: int
    before: tir.Expr | int
    after: tir.Expr | int


def _span(nest: Nest, source: Access, window: Window, simplify: object) -> Span:
    base = source.base[window.dim]
    outputs, taps = _one(nest, window.output), _one(nest, window.kernel)
    reach = (_expr(outputs.extent) - 1) * window.stride + (_expr(taps.extent) - 1) * window.dilation + 1
    bound = (outputs.bound - 1) * window.stride + (taps.bound - 1) * window.dilation + 1
    first = base if window.low is None else simplify(tirx.max(base, window.low))
    end = base + reach
    last = end if window.high is None else simplify(tirx.min(end, window.high))
    before = 0 if window.low is None else _literal(simplify(first - base))
    after = 0 if window.high is None else _literal(simplify(end - last))
    return Span(first, _literal(simplify(last - first)), bound, before, after)


def _literal(expr: tir.Expr) -> tir.Expr | int:
    known = tir.constant(expr)
    return expr if known is None else known


def _positive(extent: tir.Expr | int) -> tir.Expr:
    return _expr(extent)


def _matrix(nest: Nest, high: Window, wide: Window, channel: int, context: Context) -> Placed:
    store = nest.store
    context.engine.require_aligned_base(store)
    rows = _times(_one(nest, high.output), _one(nest, wide.output))
    columns = _times(_times(_one(nest, high.kernel), _one(nest, wide.kernel)), _one(nest, channel))
    pitch = store.pitches[0]
    if pitch % context.engine.unit_elements(store):
        raise Unmatched(f"rows of {store.buffer.name} are {pitch} elements apart, which is not aligned")
    return Placed(
        "dst", store, store.base, (rows.extent, columns.extent), (rows.bound, columns.bound), (pitch, 1)
    )


def _require_pixel(src: Placed, context: Context) -> None:
    """The source's strides and pixel are multiples of 8 bytes, its base aligned."""
    size = item_bytes(src.access.dtype)
    if not isinstance(src.extents[2], int) or src.extents[2] * size % 8:
        raise Unmatched(f"a pixel of {src.extents[2]} elements is no multiple of 8 bytes")
    if any(s * size % 8 for s in src.strides[:2]):
        raise Unmatched("a row or pixel of the image does not start at a multiple of 8 bytes")
    moved = Access(
        src.access.buffer, src.access.scope, src.access.dtype, src.base, src.access.slopes, src.access.strides,
        src.access.pitches,
    )  # fmt: skip
    context.engine.require_aligned_base(moved)


