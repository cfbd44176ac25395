"""ONNX convolutions, pools and matrix products."""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import relax

from dsa_compiler.frontend.node import Converter, Node, dtype_of, scalar, shape_of

op = relax.op


def window(node: Node, kernel: list[int]) -> tuple[list[int], list[int], list[int]]:
    """Return (strides, dilations, pads) of the spatial axes; pads are all begins, then all ends."""
    n = len(kernel)
    strides = [int(v) for v in node.attrs.get("strides", [1] * n)]
    dilations = [int(v) for v in node.attrs.get("dilations", [1] * n)]
    pads = [int(v) for v in node.attrs.get("pads", [0] * 2 * n)]
    mode = node.text("auto_pad", "NOTSET")
    if mode in ("SAME_UPPER", "SAME_LOWER"):
        extents = shape_of(node.inputs[0])[2:]
        pads = _same_pads(extents, kernel, strides, dilations, upper=mode == "SAME_UPPER")
    elif mode == "VALID":
        pads = [0] * 2 * n
    return strides, dilations, pads


def _same_pads(extents: Any, kernel: list[int], strides: list[int], dilations: list[int], upper: bool) -> list[int]:
    begins, ends = [], []
    for extent, k, s, d in zip(extents, kernel, strides, dilations, strict=True):
        total = max(0, (-(-extent // s) - 1) * s + (k - 1) * d + 1 - extent)
        small, large = total // 2, total - total // 2
        begins.append(small if upper else large)
        ends.append(large if upper else small)
    return begins + ends


def two_dimensional(node: Node, x: Any) -> tuple[Any, bool]:
    """Return `x` with a unit axis inserted if it has one spatial axis, and whether it had."""
    shape = shape_of(x)
    if len(shape) == 3:
        return node.emit(op.reshape(x, [shape[0], shape[1], 1, shape[2]])), True
    if len(shape) != 4:
        raise node.error(f"{len(shape) - 2} spatial dimensions")
    return x, False


def flat_again(node: Node, y: Any, was_flat: bool) -> Any:
    """Return `y` without the unit axis that `two_dimensional` inserted."""
    shape = shape_of(y)
    return node.emit(op.reshape(y, [shape[0], shape[1], shape[3]])) if was_flat else y


def _widen(strides: list[int], dilations: list[int], pads: list[int]) -> tuple[list[int], list[int], list[int]]:
    """Return the window of one spatial axis as that of two, the first of extent 1."""
    if len(strides) == 1:
        return [1, *strides], [1, *dilations], [0, pads[0], 0, pads[1]]
    return strides, dilations, pads


def conv_window(node: Node, kernel: list[int]) -> tuple[list[int], list[int], list[int]]:
    """Return (strides, dilations, pads) of a convolution, one spatial axis widened to two."""
    return _widen(*window(node, kernel))


def _with_bias(node: Node, y: Any, index: int) -> Any:
    """Add the bias of input `index`, if there, along axis 1."""
    if not node.has(index):
        return y
    value = node.value(index)
    shape = [shape_of(y)[1], 1, 1]
    if value is not None:
        return node.emit(op.add(y, relax.const(value.reshape(shape))))
    return node.emit(op.add(y, node.emit(op.reshape(node.inputs[index], shape))))


def _conv(node: Node) -> Any:
    weights = node.inputs[1]
    kernel = list(shape_of(weights)[2:])
    strides, dilations, pads = conv_window(node, kernel)
    x, was_flat = two_dimensional(node, node.inputs[0])
    groups = int(node.attrs.get("group", 1))
    if was_flat:
        weights = _flat_weights(node, weights)
    y = op.nn.conv2d(x, weights, strides=strides, padding=pads, dilation=dilations, groups=groups)
    return flat_again(node, _with_bias(node, node.emit(y), 2), was_flat)


def _flat_weights(node: Node, weights: Any) -> Any:
    o, c, k = shape_of(weights)
    value = node.value(1)
    if value is not None:
        return relax.const(value.reshape(o, c, 1, k))
    return node.emit(op.reshape(weights, [o, c, 1, k]))


def _conv_transpose(node: Node) -> Any:
    weights = node.inputs[1]
    if node.value(1) is None:  # they are taken apart into phases before anything runs
        raise node.error("weights that are computed")
    kernel = list(shape_of(weights)[2:])
    n = len(kernel)
    strides = [int(v) for v in node.attrs.get("strides", [1] * n)]
    dilations = [int(v) for v in node.attrs.get("dilations", [1] * n)]
    extra = [int(v) for v in node.attrs.get("output_padding", [0] * n)]
    pads = _transpose_pads(node, kernel, strides, dilations, extra)
    x, was_flat = two_dimensional(node, node.inputs[0])
    if was_flat:
        weights, extra = _flat_weights(node, weights), [0, *extra]
    strides, dilations, pads = _widen(strides, dilations, pads)
    y = op.nn.conv2d_transpose(x, weights, strides=strides, padding=pads, output_padding=extra, dilation=dilations,
                               groups=int(node.attrs.get("group", 1)))  # fmt: skip
    return flat_again(node, _with_bias(node, node.emit(y), 2), was_flat)


def _transpose_pads(
    node: Node, kernel: list[int], strides: list[int], dilations: list[int], extra: list[int]
) -> list[int]:
    """Return the pads of a transposed convolution, from `pads`, `auto_pad` or `output_shape`."""
    n = len(kernel)
    mode = node.text("auto_pad", "NOTSET")
    extents = shape_of(node.inputs[0])[2:]
    wanted = [int(v) for v in node.attrs.get("output_shape", [])][-n:]
    if not wanted and mode in ("SAME_UPPER", "SAME_LOWER"):
        wanted = [e * s for e, s in zip(extents, strides, strict=True)]
    if not wanted:
        return [int(v) for v in node.attrs.get("pads", [0] * 2 * n)]
    begins, ends = [], []
    for i in range(n):
        total = strides[i] * (extents[i] - 1) + extra[i] + (kernel[i] - 1) * dilations[i] + 1 - wanted[i]
        small, large = total // 2, total - total // 2
        begins.append(small if mode == "SAME_UPPER" else large)
        ends.append(large if mode == "SAME_UPPER" else small)
    return begins + ends


def _pool_window(node: Node) -> tuple[list[int], list[int], list[int], list[int], list[int]]:
    """Return (kernel, strides, dilations, pads, pads of the ceil mode) with one spatial axis widened to two.

    The last differs from `pads` where the last window reaches beyond the padded input.
    """
    kernel = [int(v) for v in node.attrs["kernel_shape"]]
    strides, dilations, pads = window(node, kernel)
    extents, n = shape_of(node.inputs[0])[2:], len(kernel)
    grown = list(pads)
    if node.attrs.get("ceil_mode") and node.text("auto_pad", "NOTSET") == "NOTSET":
        for i in range(n):
            span = (kernel[i] - 1) * dilations[i] + 1
            padded = extents[i] + pads[i] + pads[n + i]
            steps = -(-(padded - span) // strides[i])
            steps -= steps * strides[i] >= extents[i] + pads[i]
            grown[n + i] += max(0, steps * strides[i] + span - padded)
    wide = _widen(strides, dilations, grown)
    return [1] * (2 - n) + kernel, *wide[:2], _widen(strides, dilations, pads)[2], wide[2]


def _max_pool(node: Node) -> Any:
    if node.outputs > 1:
        raise node.error("the indices as a result")
    kernel, strides, dilations, _, pads = _pool_window(node)
    x, was_flat = two_dimensional(node, node.inputs[0])
    y = op.nn.max_pool2d(x, pool_size=kernel, strides=strides, dilation=dilations, padding=pads)
    return flat_again(node, node.emit(y), was_flat)


def _average_pool(node: Node) -> Any:
    """Emit a pool that divides by the kernel's area, corrected where a window counts fewer elements."""
    kernel, strides, dilations, pads, grown = _pool_window(node)
    x, was_flat = two_dimensional(node, node.inputs[0])
    y = op.nn.avg_pool2d(x, pool_size=kernel, strides=strides, dilation=dilations, padding=grown,
                         count_include_pad=True)  # fmt: skip
    y = node.emit(y)
    counted = pads if node.attrs.get("count_include_pad") else [0, 0, 0, 0]
    extents = shape_of(x)[2:]
    counts = []
    for i in range(2):
        places = shape_of(y)[2 + i], kernel[i], strides[i], dilations[i], grown[i]
        counts.append(_counts(extents[i], *places, (counted[i], counted[2 + i])))
    share = kernel[0] * kernel[1] / np.outer(*counts)
    if not np.all(share == 1):
        y = node.emit(op.multiply(y, relax.const(share.astype(dtype_of(y))[None, None])))
    return flat_again(node, y, was_flat)


def _counts(
    extent: int, outputs: int, kernel: int, stride: int, dilation: int, begin: int, counted: tuple[int, int]
) -> Any:
    """Return how many taps of each window lie in the input or its counted padding, along one axis."""
    places = np.arange(outputs)[:, None] * stride - begin + np.arange(kernel)[None, :] * dilation
    return ((places >= -counted[0]) & (places < extent + counted[1])).sum(axis=1)


def _global(node: Node) -> Any:
    x = node.inputs[0]
    fn = op.max if node.op == "GlobalMaxPool" else op.mean
    return node.emit(fn(x, axis=list(range(2, len(shape_of(x)))), keepdims=True))


def _gemm(node: Node) -> Any:
    a, b = (_maybe_transposed(node, i, node.attrs.get(k)) for i, k in enumerate(("transA", "transB")))
    y = node.emit(op.matmul(a, b))
    alpha, beta = node.attrs.get("alpha", 1.0), node.attrs.get("beta", 1.0)
    if alpha != 1.0:
        y = node.emit(op.multiply(y, scalar(alpha, y)))
    if not node.has(2) or beta == 0.0:
        return y
    c, value = node.inputs[2], node.value(2)
    if value is not None:
        c = relax.const((value * np.asarray(beta, value.dtype)).astype(value.dtype))
    elif beta != 1.0:
        c = node.emit(op.multiply(c, scalar(beta, c)))
    return node.emit(op.add(y, c))


def _maybe_transposed(node: Node, index: int, transposed: Any) -> Any:
    value = node.value(index)
    if not transposed:
        return node.inputs[index]
    if value is not None:
        return relax.const(np.ascontiguousarray(value.T))
    return node.emit(op.permute_dims(node.inputs[index], [1, 0]))


def _matmul(node: Node) -> Any:
    """Emit a product of matrices; vectors become matrices of one row or column."""
    a, b = node.inputs
    left, right = shape_of(a), shape_of(b)
    x = node.emit(op.reshape(a, [1, *left])) if len(left) == 1 else a
    y = node.emit(op.reshape(b, [*right, 1])) if len(right) == 1 else b
    result = node.emit(op.matmul(x, y))
    if x is a and y is b:
        return result
    shape = list(shape_of(result))
    if len(right) == 1:
        shape.pop()
    if len(left) == 1:
        shape.pop(-1 if len(right) == 1 else -2)
    return node.emit(op.reshape(result, shape))


def windowed_converters() -> dict[str, Converter]:
    """Return the converters of convolutions, pools and matrix products."""
    return {
        "AveragePool": _average_pool,
        "Conv": _conv,
        "ConvTranspose": _conv_transpose,
        "Gemm": _gemm,
        "GlobalAveragePool": _global,
        "GlobalMaxPool": _global,
        "MatMul": _matmul,
        "MaxPool": _max_pool,
    }
