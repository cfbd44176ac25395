"""Window walks over a channel-last tensor, as img2col, pooling and depthwise instructions take them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tvm import tirx

from dsa_compiler.emit import tir
from dsa_compiler.emit.expression import Unmatched, Unsuited
from dsa_compiler.emit.nest import Access, Condition, Nest
from dsa_compiler.emit.plan import Placed

Simplify = Callable[[tir.Expr], tir.Expr]


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


def walk(nest: Nest, source: Access, dim: int, axes: list[int], outputs: set[int]) -> Window:
    """The walk of one image dimension by `axes`, of which those in `outputs` number the results."""
    output = [n for n in axes if n in outputs]
    kernel = [n for n in axes if n not in outputs]
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
    if slopes == walked:  # index - base + rest >= 0
        return base - rest, None
    if slopes == [-w for w in walked]:  # base - index + rest >= 0
        return None, base + rest + 1
    raise Unmatched(f"the condition {condition} does not follow the window")


@dataclass(frozen=True)
class Count:
    """An extent and its greatest value."""

    extent: tir.Expr | int
    bound: int


def count_of(nest: Nest, axis: int) -> Count:
    """The extent of an axis; 1 for none."""
    if axis < 0:
        return Count(1, 1)
    found = nest.axes[axis]
    return Count(found.bound if found.exact else found.extent, found.bound)


def product(a: Count, b: Count) -> Count:
    """The extent of two axes walked as one."""
    if isinstance(a.extent, int) and isinstance(b.extent, int):
        return Count(a.extent * b.extent, a.bound * b.bound)
    return Count(as_expr(a.extent) * b.extent, a.bound * b.bound)


@dataclass(frozen=True)
class Span:
    """The part of an image dimension that lies in the tensor, and the padding on its two sides."""

    first: tir.Expr
    extent: tir.Expr | int
    bound: int
    before: tir.Expr | int
    after: tir.Expr | int


def span_of(nest: Nest, source: Access, window: Window, simplify: Simplify) -> Span:
    """What of a dimension the windows reach, and how much of that is padding."""
    base = source.base[window.dim]
    outputs, taps = count_of(nest, window.output), count_of(nest, window.kernel)
    reach = (as_expr(outputs.extent) - 1) * window.stride + (as_expr(taps.extent) - 1) * window.dilation + 1
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


def is_still(slope: int | tir.Expr) -> bool:
    """Whether a coefficient is zero."""
    return isinstance(slope, int) and slope == 0


def as_expr(value: int | tir.Expr) -> tir.Expr:
    """A number as an expression."""
    return tirx.IntImm("int32", value) if isinstance(value, int) else value


def image_windows(nest: Nest, source: Access, outputs: list[int], taps: list[int]) -> tuple[Window, Window]:
    """How rows and columns of the image are walked; raises `Unmatched` where it is no window walk.

    The last dimension is that of the channels, which the window does not move along.
    """
    pairs: dict[int, list[int]] = {}
    for n in [*outputs, *taps]:
        dims = [d for d, s in enumerate(source.slopes) if not is_still(s[n])]
        if len(dims) != 1:
            raise Unsuited("an axis of the window walks several dimensions of the tensor")
        pairs.setdefault(dims[0], []).append(n)
    last = len(source.slopes) - 1
    image = sorted(pairs) or [last - 1]
    if last in pairs or len(image) > 2 or last < 2:
        raise Unsuited("the window does not walk rows and columns of a channel-last tensor")
    dims = image if len(image) == 2 else _with_neighbour(image[0], last)
    high, wide = (walk(nest, source, dim, pairs.get(dim, []), set(outputs)) for dim in dims)
    return high, wide


def _with_neighbour(dim: int, last: int) -> list[int]:
    """The two image dimensions where only one is walked."""
    return [dim - 1, dim] if dim == last - 1 else [dim, last - 1]


def source_of(access: Access, windows: tuple[Window, Window], spans: tuple[Span, Span], channels: Count) -> Placed:
    """The source operand [rows, columns, channels]: what of the windows lies in the tensor."""
    base = list(access.base)
    for window, span in zip(windows, spans, strict=True):
        base[window.dim] = span.first
    strides = tuple(access.pitches[w.dim] for w in windows)
    return Placed(
        "src", access, tuple(base), (spans[0].extent, spans[1].extent, channels.extent),
        (spans[0].bound, spans[1].bound, channels.bound), (*strides, 1),
    )  # fmt: skip


def window_attrs(nest: Nest, windows: tuple[Window, Window], spans: tuple[Span, Span]) -> dict[str, object]:
    """Kernel, stride, dilation and pad as attributes."""
    high, wide = windows
    return {
        "kernel": [count_of(nest, high.kernel).extent, count_of(nest, wide.kernel).extent],
        "stride": [high.stride, wide.stride],
        "dilation": [high.dilation, wide.dilation],
        "pad": [spans[0].before, spans[1].before, spans[0].after, spans[1].after],
    }


def require_on_image(nest: Nest, conditions: tuple[Condition, ...], windows: tuple[Window, Window]) -> None:
    """Raises `Unmatched` if a condition is on anything but the image's axes."""
    image = {n for w in windows for n in (w.output, w.kernel) if n >= 0}
    for condition in conditions:
        if not condition.axes or not set(condition.axes) <= image:
            raise Unmatched(f"the condition {condition.expr} is not on the image")
