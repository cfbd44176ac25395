"""ONNX products of 8-bit integers: exact sums in int32, zero points folded into constants.

For data x with zero point zx and weights w with zero point zw, sum((x - zx) * (w - zw)) is sum(x * v) - zx * sum(v)
with v = w - zw, a constant. v is stored as int8 or uint8 where it fits, else as int16 (the graph stores it as uint8
with a zero point again). Padding of a convolution has the value zx.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from tvm import relax

from dsa_compiler.frontend.converters.quantize import dequantized, quantized
from dsa_compiler.frontend.converters.windowed import conv_window, flat_again, two_dimensional
from dsa_compiler.frontend.node import Converter, Node, dtype_of, scalar, shape_of

op = relax.op
Array = npt.NDArray[Any]


def narrowest(values: Array) -> Array:
    """Return whole numbers as int8, uint8 or int16, the first that holds them."""
    low, high = int(values.min(initial=0)), int(values.max(initial=0))
    for dtype in ("int8", "uint8", "int16"):
        if np.iinfo(dtype).min <= low and high <= np.iinfo(dtype).max:
            return values.astype(dtype)
    return values.astype(np.int32)


def centered(node: Node, index: int, zero: int, axis: int) -> Array | None:
    """Return constant weights minus their zero point, a number or a vector along `axis`; None if computed."""
    weights = node.value(index)
    point = node.value(zero) if node.has(zero) else np.zeros((), np.int32)
    if weights is None or point is None:
        return None
    shape = [1] * weights.ndim
    if point.size > 1:
        shape[axis] = point.size
    return np.asarray(weights.astype(np.int32) - point.astype(np.int32).reshape(shape))


def zero_point(node: Node, index: int) -> Any:
    """Return a zero point as a number if it is constant (0 if absent), else as an int32 expression of shape ()."""
    if not node.has(index):
        return 0
    value = node.value(index)
    if value is not None:
        if value.size != 1:
            raise node.error("zero points of data along an axis")
        return int(value.reshape(-1)[0])
    return node.emit(op.astype(node.emit(op.reshape(node.inputs[index], [])), "int32"))


def integer_matmul(node: Node, x: Any, zero: Any, weights: Array) -> Any:
    """Emit sum((x - zero) * weights) in int32; weights are (..., k, n)."""
    y = node.emit(op.matmul(x, relax.const(narrowest(weights)), out_dtype="int32"))
    return _corrected(node, y, zero, weights.sum(axis=-2, keepdims=weights.ndim > 2))


def integer_conv(node: Node, x: Any, zero: Any, weights: Array) -> Any:
    """Emit the convolution of x - zero with constant weights [o, c/groups, kh, kw] in int32, without bias."""
    kernel = list(weights.shape[2:])
    strides, dilations, pads = conv_window(node, kernel)
    x, was_flat = two_dimensional(node, x)
    weights = weights if weights.ndim == 4 else weights[:, :, None, :]
    if isinstance(zero, int) and zero and any(pads):
        top, left, bottom, right = pads
        x = node.emit(op.nn.pad(x, [0, 0, 0, 0, top, bottom, left, right], pad_value=zero))
        pads = [0, 0, 0, 0]
    groups = int(node.attrs.get("group", 1))
    kept = relax.const(narrowest(weights))
    conv = op.nn.conv2d(x, kept, strides=strides, padding=pads, dilation=dilations, groups=groups, out_dtype="int32")
    y = node.emit(conv)
    sums = weights.sum(axis=(1, 2, 3)).reshape(-1, 1, 1)
    if any(pads) and not isinstance(zero, int):
        sums = _sums_inside(weights, shape_of(x)[2:], shape_of(y)[2:], (strides, dilations, pads))
    return flat_again(node, _corrected(node, y, zero, sums), was_flat)


def _sums_inside(
    weights: Array, extents: tuple[int, ...], outputs: tuple[int, ...], window: tuple[list[int], list[int], list[int]]
) -> Array:
    """Return [o, oh, ow]: the sum of the weights that fall on data, not on padding, for each output."""
    inside = []
    for axis in range(2):
        strides, dilations, pads = window
        places = np.arange(outputs[axis])[:, None] * strides[axis] - pads[axis]
        places = places + np.arange(weights.shape[2 + axis])[None, :] * dilations[axis]
        inside.append(((places >= 0) & (places < extents[axis])).astype(np.int64))
    return np.asarray(np.einsum("ockl,hk,wl->ohw", weights.astype(np.int64), *inside))


def _corrected(node: Node, y: Any, zero: Any, sums: Array) -> Any:
    """Emit y - zero * sums."""
    if isinstance(zero, int):
        return node.emit(op.add(y, relax.const((-zero * sums).astype(np.int32)))) if zero else y
    return node.emit(op.add(y, node.emit(op.multiply(zero, relax.const((-sums).astype(np.int32))))))


def _conv_integer(node: Node) -> Any:
    weights = centered(node, 1, 3, 0)
    if weights is None:
        raise node.error("weights that are computed")
    return integer_conv(node, node.inputs[0], zero_point(node, 2), weights)


def _matmul_integer(node: Node) -> Any:
    """Emit the product; computed right operands are widened to int32 first."""
    weights = centered(node, 1, 3, -1)
    if weights is not None and weights.ndim > 1 and (not node.has(2) or len(shape_of(node.inputs[2])) == 0
                                                     or shape_of(node.inputs[2]) == (1,)):  # fmt: skip
        return integer_matmul(node, node.inputs[0], zero_point(node, 2), weights)
    sides = []
    for index, zero, axis in ((0, 2, -2), (1, 3, -1)):
        wide = node.emit(op.astype(node.inputs[index], "int32"))
        if node.has(zero):
            point = node.emit(op.astype(node.inputs[zero], "int32"))
            if len(shape_of(point)) == 1 and shape_of(point)[0] > 1 and axis == -2:
                point = node.emit(op.reshape(point, [*shape_of(point), 1]))
            wide = node.emit(op.subtract(wide, point))
        sides.append(wide)
    return node.emit(op.matmul(*sides))


def _bias(node: Node, y: Any, index: int, shape: list[int]) -> Any:
    value = node.value(index)
    if value is None:
        return node.emit(op.add(y, node.emit(op.reshape(node.inputs[index], shape)))) if node.has(index) else y
    return node.emit(op.add(y, relax.const(value.astype(np.int32).reshape(shape))))


def requantized(node: Node, y: Any, factor: Array, zero: int, dtype: str) -> Any:
    """Emit int32 sums times `factor`, rounded half to even, plus `zero`, saturated to `dtype`."""
    real = node.emit(op.multiply(node.emit(op.astype(y, "float32")), relax.const(factor.astype(np.float32))))
    total = node.emit(op.round(real))
    total = node.emit(op.add(total, relax.const(np.float32(zero)))) if zero else total
    limits = np.iinfo(np.dtype(dtype))
    return node.emit(op.astype(node.emit(op.clip(total, float(limits.min), float(limits.max))), dtype))


def constants(node: Node, *indices: int) -> list[Array]:
    """Return inputs that must be constants, as float64."""
    values = [node.value(i) for i in indices]
    found = [v.astype(np.float64) for v in values if v is not None]
    if len(found) != len(indices):
        raise node.error("scales that are computed")
    return found


def _result_type(node: Node, index: int) -> tuple[int, str]:
    """Return zero point and dtype of a quantised result."""
    zero = zero_point(node, index)
    if not isinstance(zero, int):
        raise node.error("zero points that are computed")
    return zero, dtype_of(node.inputs[index]) if node.has(index) else "uint8"


def _qlinear_conv(node: Node) -> Any:
    weights = centered(node, 3, 5, 0)
    if weights is None:
        raise node.error("weights that are computed")
    y = integer_conv(node, node.inputs[0], zero_point(node, 2), weights)
    channel = [-1] + [1] * (weights.ndim - 2)
    y = _bias(node, y, 8, [weights.shape[0], *channel[1:]])
    x_scale, w_scale, y_scale = constants(node, 1, 4, 6)
    factor = x_scale * w_scale / y_scale
    return requantized(node, y, factor.reshape(channel) if factor.size > 1 else factor.reshape(()),
                       *_result_type(node, 7))  # fmt: skip


def _qlinear_matmul(node: Node) -> Any:
    weights = centered(node, 3, 5, -1)
    if weights is None:
        raise node.error("weights that are computed")
    y = integer_matmul(node, node.inputs[0], zero_point(node, 2), weights)
    a_scale, b_scale, y_scale = constants(node, 1, 4, 6)
    factor = a_scale * b_scale / y_scale
    return requantized(node, y, factor if factor.size > 1 else factor.reshape(()), *_result_type(node, 7))


def _qgemm(node: Node) -> Any:
    """Emit com.microsoft.QGemm: inputs A, its scale and zero point, B, its, C, scale and zero point of the result."""
    weights = centered(node, 3, 5, -2 if node.attrs.get("transB") else -1)
    if weights is None:
        raise node.error("weights that are computed")
    x = node.emit(op.permute_dims(node.inputs[0], [1, 0])) if node.attrs.get("transA") else node.inputs[0]
    y = integer_matmul(node, x, zero_point(node, 2), weights.T if node.attrs.get("transB") else weights)
    if node.has(6):
        y = node.emit(op.add(y, node.inputs[6]))
    a_scale, b_scale = constants(node, 1, 4)
    factor = a_scale * b_scale * node.attrs.get("alpha", 1.0)
    if node.has(7):
        (y_scale,) = constants(node, 7)
        return requantized(node, y, factor / y_scale, *_result_type(node, 8))
    real = node.emit(op.astype(y, "float32"))
    return node.emit(op.multiply(real, relax.const(factor.astype(np.float32))))


def _dynamic_quantize(node: Node) -> Any:
    return list(dynamically_quantized(node, node.inputs[0]))


def dynamically_quantized(node: Node, x: Any) -> tuple[Any, Any, Any]:
    """Emit `x` as uint8 with a scale and a zero point that its extremes give: (values, scale, zero point)."""
    kind = dtype_of(x)
    nothing, steps = (scalar(v, x) for v in (0, 255))
    axes = list(range(len(shape_of(x))))
    high = node.emit(op.maximum(node.emit(op.max(x, axis=axes)), nothing))
    low = node.emit(op.minimum(node.emit(op.min(x, axis=axes)), nothing))
    scale = node.emit(op.divide(node.emit(op.subtract(high, low)), steps))
    flat = node.emit(op.astype(node.emit(op.equal(scale, nothing)), kind))
    scale = node.emit(op.add(scale, flat))  # 1 for data that is zero throughout
    zero = node.emit(op.round(node.emit(op.divide(node.emit(op.negative(low)), scale))))
    zero = node.emit(op.clip(zero, 0.0, 255.0))
    y = node.emit(op.add(node.emit(op.round(node.emit(op.divide(x, scale)))), zero))
    y = node.emit(op.astype(node.emit(op.clip(y, 0.0, 255.0)), "uint8"))
    return y, scale, node.emit(op.astype(zero, "uint8"))


def dynamic_matmul(node: Node, x: Any, weights: Array, scale: Array) -> Any:
    """Emit x, quantised as its extremes say, times weights [k, n] of centred integers with a scale."""
    values, x_scale, zero = dynamically_quantized(node, x)
    y = integer_matmul(node, values, node.emit(op.astype(zero, "int32")), weights)
    factor = node.emit(op.multiply(x_scale, relax.const(scale.astype(np.float32))))
    return node.emit(op.multiply(node.emit(op.astype(y, "float32")), factor))


def _dynamic_matmul(node: Node) -> Any:
    """Emit com.microsoft.DynamicQuantizeMatMul: A, B, scale of B, its zero point, bias."""
    weights, (scale,) = centered(node, 1, 3, -1), constants(node, 2)
    if weights is None:
        raise node.error("weights that are computed")
    y = dynamic_matmul(node, node.inputs[0], weights, scale if scale.size > 1 else scale.reshape(()))
    return node.emit(op.add(y, node.inputs[4])) if node.has(4) else y


def _matmul_to_float(node: Node) -> Any:
    """Emit com.microsoft.MatMulIntegerToFloat: A, B, their scales, their zero points, bias."""
    weights = centered(node, 1, 5, -1)
    if weights is None:
        raise node.error("weights that are computed")
    y = integer_matmul(node, node.inputs[0], zero_point(node, 4), weights)
    factor = node.emit(op.multiply(node.inputs[2], node.inputs[3]))
    y = node.emit(op.multiply(node.emit(op.astype(y, "float32")), factor))
    return node.emit(op.add(y, node.inputs[6])) if node.has(6) else y


def _qlinear_elementwise(fn: Any, operands: int) -> Converter:
    """Emit an operator on dequantised operands (each: values, scale, zero point), quantised again."""

    def convert(node: Node) -> Any:
        real = [dequantized(node, *(node.inputs[i] for i in range(3 * k, 3 * k + 3))) for k in range(operands)]
        scale = 3 * operands
        zero = node.inputs[scale + 1] if node.has(scale + 1) else None
        return quantized(node, fn(node, *real), node.inputs[scale], zero, dtype_of(node.inputs[0]))

    return convert


def _qlinear_concat(node: Node) -> Any:
    """Emit com.microsoft.QLinearConcat: scale and zero point of the result, then values and theirs of each part."""
    parts = []
    for k in range(2, len(node.inputs), 3):
        real = dequantized(node, *node.inputs[k : k + 3])
        parts.append(quantized(node, real, node.inputs[0], node.inputs[1], dtype_of(node.inputs[k])))
    axis = int(node.attrs["axis"]) % len(shape_of(parts[0]))
    return node.emit(op.concat(parts, axis))


def _softmax(node: Node, x: Any) -> Any:
    rank = len(shape_of(x))
    axis = int(node.attrs.get("axis", -1)) % rank
    if int(node.attrs.get("opset", 13)) < 13 and any(n != 1 for n in shape_of(x)[axis + 1 :]):
        shape = shape_of(x)
        flat = node.emit(op.reshape(x, [int(np.prod(shape[:axis])), int(np.prod(shape[axis:]))]))
        return node.emit(op.reshape(node.emit(op.nn.softmax(flat, axis=1)), list(shape)))
    return node.emit(op.nn.softmax(x, axis=axis))


def _leaky(node: Node, x: Any) -> Any:
    return node.emit(op.nn.leakyrelu(x, float(node.attrs.get("alpha", 0.01))))


def _global_average(node: Node, x: Any) -> Any:
    rank = len(shape_of(x))
    axes = list(range(1, rank - 1)) if node.attrs.get("channels_last") else list(range(2, rank))
    return node.emit(op.mean(x, axis=axes, keepdims=True))


def integer_converters() -> dict[str, Converter]:
    """Return the converters of integer products in ONNX's default domain."""
    return {
        "ConvInteger": _conv_integer, "DynamicQuantizeLinear": _dynamic_quantize, "MatMulInteger": _matmul_integer,
        "QLinearConv": _qlinear_conv, "QLinearMatMul": _qlinear_matmul,
    }  # fmt: skip


def microsoft_converters() -> dict[str, Converter]:
    """Return the converters of quantised operators in com.microsoft."""
    return {
        "DynamicQuantizeMatMul": _dynamic_matmul, "MatMulIntegerToFloat": _matmul_to_float, "QGemm": _qgemm,
        "QLinearAdd": _qlinear_elementwise(lambda node, a, b: node.emit(op.add(a, b)), 2),
        "QLinearConcat": _qlinear_concat, "QLinearConv": _qlinear_conv,
        "QLinearGlobalAveragePool": _qlinear_elementwise(_global_average, 1),
        "QLinearLeakyRelu": _qlinear_elementwise(_leaky, 1),
        "QLinearMul": _qlinear_elementwise(lambda node, a, b: node.emit(op.multiply(a, b)), 2),
        "QLinearSigmoid": _qlinear_elementwise(lambda node, x: node.emit(op.sigmoid(x)), 1),
        "QLinearSoftmax": _qlinear_elementwise(_softmax, 1),
    }  # fmt: skip
