"""ONNX quantisation, as arithmetic on floats and casts: exact, one element at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import helper
from tvm import relax

from dsa_compiler.frontend.node import Converter, Node, constant, dtype_of, scalar, shape_of

op = relax.op


def along(node: Node, x: Any, param: Any, dtype: str) -> Any:
    """Return a scale or zero point, a number or a vector along `axis` of `x`, so that it broadcasts to `x`."""
    rank, extents = len(shape_of(x)), shape_of(param)
    size = int(np.prod(extents))
    if size > 1 and len(extents) > 1:
        raise node.error("blocked quantisation")
    shape = [1] * rank
    if size > 1 and rank:
        shape[int(node.attrs.get("axis", 1)) % rank] = size
    value = constant(param)
    if value is not None:
        return relax.const(value.astype(np.dtype(dtype)).reshape(shape if size > 1 else ()))
    typed = param if dtype_of(param) == dtype else node.emit(op.astype(param, dtype))
    return node.emit(op.reshape(typed, shape))


def _quantize(node: Node) -> Any:
    """Emit cast(clip(round(x / scale) + zero point)), rounding half to even."""
    x = node.inputs[0]
    code = node.attrs.get("output_dtype", 0)
    default = str(helper.tensor_dtype_to_np_dtype(code)) if code else "uint8"
    kind = dtype_of(node.inputs[2]) if node.has(2) else default
    if np.dtype(kind).kind not in "iu":
        raise node.error(f"quantisation to {kind}")
    return quantized(node, x, node.inputs[1], node.inputs[2] if node.has(2) else None, kind)


def quantized(node: Node, x: Any, scale: Any, zero: Any, kind: str) -> Any:
    """Emit `x` divided by `scale`, rounded half to even, plus the zero point (None: 0), saturated to `kind`."""
    y = node.emit(op.round(node.emit(op.divide(x, along(node, x, scale, dtype_of(x))))))
    if zero is not None:
        y = node.emit(op.add(y, along(node, x, zero, dtype_of(x))))
    limits = np.iinfo(np.dtype(kind))
    return node.emit(op.astype(node.emit(op.clip(y, float(limits.min), float(limits.max))), kind))


def dequantized(node: Node, x: Any, scale: Any, zero: Any = None) -> Any:
    """Emit (x - zero point) * scale."""
    kind = dtype_of(scale)
    y = node.emit(op.astype(x, kind))
    if zero is not None:
        y = node.emit(op.subtract(y, along(node, x, zero, kind)))
    return node.emit(op.multiply(y, along(node, x, scale, kind)))


def _dequantize(node: Node) -> Any:
    """Emit (cast(x) - zero point) * scale."""
    return dequantized(node, node.inputs[0], node.inputs[1], node.inputs[2] if node.has(2) else None)


def _image_scaler(node: Node) -> Any:
    """Emit x * scale + bias per channel (an operator of old exporters)."""
    x = node.inputs[0]
    bias = np.asarray(node.attrs["bias"], dtype_of(x)).reshape(-1, 1, 1)
    scaled = node.emit(op.multiply(x, scalar(node.attrs.get("scale", 1.0), x)))
    return node.emit(op.add(scaled, relax.const(bias)))


def _affine(node: Node) -> Any:
    """Emit alpha * x + beta (an operator of old exporters)."""
    x = node.inputs[0]
    scaled = node.emit(op.multiply(x, scalar(node.attrs.get("alpha", 1.0), x)))
    return node.emit(op.add(scaled, scalar(node.attrs.get("beta", 0.0), x)))


def _crop(node: Node) -> Any:
    """Emit the slice without a border of (left, top, right, bottom) (an operator of old exporters)."""
    x = node.inputs[0]
    left, top, right, bottom = (int(v) for v in node.attrs["border"])
    height, width = shape_of(x)[2:]
    ends = [height - bottom, width - right]
    if "scale" in node.attrs:
        ends = [top + int(node.attrs["scale"][0]), left + int(node.attrs["scale"][1])]
    return node.emit(op.strided_slice(x, [2, 3], [top, left], ends, [1, 1]))


def quantize_converters() -> dict[str, Converter]:
    """Return the converters of quantisation and of experimental operators of old exporters."""
    return {
        "Affine": _affine, "Crop": _crop, "DequantizeLinear": _dequantize, "ImageScaler": _image_scaler,
        "QuantizeLinear": _quantize,
    }  # fmt: skip
