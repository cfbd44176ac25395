"""Convolution, pooling and matrix product: operators whose result sums over a window or a shared axis."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from dsa_compiler.operators.operator import Array, Attrs, Operator, accumulator, sum_dtype

Window = tuple[int, int, int, int, int, int, int, int]


def output_extent(extent: int, kernel: int, stride: int, dilation: int, pad: int) -> int:
    """Return the number of windows along one axis; `pad` is the total of both sides."""
    return (extent + pad - (kernel - 1) * dilation - 1) // stride + 1


def _taps(x: Array, kernel: tuple[int, int], attrs: Attrs, fill: float) -> Iterator[tuple[int, int, Array]]:
    """Yield (kh, kw, tap [n,oh,ow,c]) of `x` [n,h,w,c] padded with `fill`."""
    top, left, bottom, right = attrs["padding"]
    (sh, sw), (dh, dw) = attrs["strides"], attrs["dilation"]
    kh, kw = kernel
    oh = output_extent(x.shape[1], kh, sh, dh, top + bottom)
    ow = output_extent(x.shape[2], kw, sw, dw, left + right)
    widths = ((0, 0), (top, bottom), (left, right), (0, 0))
    padded = np.pad(x, widths, constant_values=fill) if any(attrs["padding"]) else x
    for i in range(kh):
        for j in range(kw):
            h0, w0 = i * dh, j * dw
            yield i, j, padded[:, h0 : h0 + (oh - 1) * sh + 1 : sh, w0 : w0 + (ow - 1) * sw + 1 : sw, :]


def _channel_last(fn: Callable[[Sequence[Array], Attrs], Array], layout: str) -> Callable[..., Array]:
    """Wrap an operator on [n,h,w,c] so that it takes the attribute `layout` NCHW too."""

    def evaluate(args: Sequence[Array], attrs: Attrs) -> Array:
        if attrs.get(layout, "NHWC") == "NHWC":
            return fn(args, attrs)
        weights = [w.transpose(2, 3, 1, 0) for w in args[1:]]
        return fn([args[0].transpose(0, 2, 3, 1), *weights], attrs).transpose(0, 3, 1, 2)

    return evaluate


def conv2d(args: Sequence[Array], attrs: Attrs) -> Array:
    """Convolve data [n,h,w,c] with weights [kh,kw,c/groups,o]: [n,oh,ow,o], int32 for 8-bit integers.

    Padding has the value `pad_value` (0 if absent); `zero_b` is subtracted from the weights.
    """
    x, w = accumulator(args[0]), accumulator(args[1]) - attrs.get("zero_b", 0)
    groups = attrs.get("groups", 1)
    kh, kw, depth, outputs = w.shape
    result: Array | None = None
    for i, j, tap in _taps(x, (kh, kw), attrs, attrs.get("pad_value", 0)):
        part = _group_product(tap, w[i, j], groups, depth, outputs)
        result = part if result is None else result + part
    assert result is not None  # a kernel has at least one tap
    return result.astype(sum_dtype(args[0]))


def _group_product(tap: Array, w: Array, groups: int, depth: int, outputs: int) -> Array:
    if groups == 1:
        return np.asarray(tap @ w)
    if depth == 1:
        return np.asarray(np.repeat(tap, outputs // groups, axis=-1) * w[0])
    lead = tap.shape[:-1]
    split = tap.reshape(*lead, groups, 1, depth)
    weights = w.reshape(depth, groups, outputs // groups).transpose(1, 0, 2)
    return np.asarray(split @ weights).reshape(*lead, outputs)


def max_pool2d(args: Sequence[Array], attrs: Attrs) -> Array:
    """Return the greatest element of each window of [n,h,w,c]."""
    lowest = -np.inf if args[0].dtype.kind == "f" else np.iinfo(args[0].dtype).min
    result: Array | None = None
    for _, _, tap in _taps(args[0], tuple(attrs["pool_size"]), attrs, lowest):
        result = tap if result is None else np.maximum(result, tap)
    assert result is not None  # a window has at least one tap
    return result


def avg_pool2d(args: Sequence[Array], attrs: Attrs) -> Array:
    """Return the mean of each window of [n,h,w,c]; the divisor counts padding if `count_include_pad`."""
    kernel = tuple(attrs["pool_size"])
    x = accumulator(args[0])
    total = sum(tap for _, _, tap in _taps(x, kernel, attrs, 0))
    if attrs.get("count_include_pad", False):
        count: Array | int = kernel[0] * kernel[1]
    else:
        ones = np.ones((1, x.shape[1], x.shape[2], 1), x.dtype)
        count = np.asarray(sum(tap for _, _, tap in _taps(ones, kernel, attrs, 0)))
    return np.asarray(total / count).astype(args[0].dtype)


def matmul(args: Sequence[Array], attrs: Attrs) -> Array:
    """Return the matrix product with NumPy's broadcasting; `zero_b` is subtracted from the right operand."""
    right = accumulator(args[1]) - attrs.get("zero_b", 0)
    return np.asarray(accumulator(args[0]) @ right).astype(sum_dtype(args[0]))


def windowed_operators() -> list[Operator]:
    """Return convolution, pooling and matrix product."""
    return [
        Operator("nn.conv2d", "convolution", _channel_last(conv2d, "data_layout")),
        Operator("nn.max_pool2d", "pooling", _channel_last(max_pool2d, "layout")),
        Operator("nn.avg_pool2d", "pooling", _channel_last(avg_pool2d, "layout")),
        Operator("matmul", "matmul", matmul),
    ]
