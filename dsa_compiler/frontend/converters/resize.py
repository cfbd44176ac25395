"""ONNX resizing: copies for whole factors, matrix products with interpolation weights for the rest."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm import relax

from dsa_compiler.frontend.node import Converter, Node, dtype_of, shape_of

op = relax.op
Weights = npt.NDArray[np.float64]


def source_places(extent: int, outputs: int, scale: float, mode: str, roi: tuple[float, float]) -> Weights:
    """Return the place in the input, as a real number, of each output along one axis."""
    x = np.arange(outputs, dtype=np.float64)
    if mode == "asymmetric":
        return np.asarray(x / scale)
    if mode == "align_corners":
        return np.asarray(x * (extent - 1) / (outputs - 1) if outputs > 1 else x * 0)
    if mode == "pytorch_half_pixel":
        return np.asarray((x + 0.5) / scale - 0.5 if outputs > 1 else x * 0)
    if mode == "tf_half_pixel_for_nn":
        return np.asarray((x + 0.5) / scale)
    if mode == "tf_crop_and_resize":
        start, end = roi
        if outputs == 1:
            return np.asarray([0.5 * (start + end) * (extent - 1)])
        return np.asarray(start * (extent - 1) + x * (end - start) * (extent - 1) / (outputs - 1))
    if mode == "half_pixel_symmetric":
        adjustment = outputs / (scale * extent)
        center = extent / 2
        return np.asarray(center * (1 - adjustment) + (x + 0.5) / scale - 0.5)
    return np.asarray((x + 0.5) / scale - 0.5)


def nearest_index(places: Weights, extent: int, rounding: str) -> npt.NDArray[np.int64]:
    """Return the input element of each output."""
    if rounding == "floor":
        index = np.floor(places)
    elif rounding == "ceil":
        index = np.ceil(places)
    elif rounding == "round_prefer_ceil":
        index = np.floor(places + 0.5)
    else:
        index = np.ceil(places - 0.5)
    return np.clip(index, 0, extent - 1).astype(np.int64)


def _kernel(mode: str, distance: Weights, a: float) -> Weights:
    d = np.abs(distance)
    if mode == "linear":
        return np.asarray(np.maximum(0, 1 - d))
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return np.asarray(np.where(d <= 1, near, np.where(d < 2, far, 0)))


def interpolation(
    places: Weights, extent: int, mode: str, scale: float, *, a: float = -0.75, antialias: bool = False,
    exclude_outside: bool = False,
) -> Weights:  # fmt: skip
    """Return the matrix [outputs, extent] of linear or cubic weights; edges repeat their last element."""
    stretch = max(1.0, 1 / scale) if antialias else 1.0
    reach = math.ceil((1 if mode == "linear" else 2) * stretch)
    base = np.floor(places).astype(np.int64)
    taps = base[:, None] + np.arange(-reach + 1, reach + 1)[None, :]
    weights = _kernel(mode, (places[:, None] - taps) / stretch, a)
    if exclude_outside:
        weights = np.where((taps < 0) | (taps >= extent), 0, weights)
    if exclude_outside or antialias:
        weights = weights / weights.sum(axis=1, keepdims=True)
    matrix = np.zeros((len(places), extent))
    np.add.at(matrix, (np.arange(len(places))[:, None], np.clip(taps, 0, extent - 1)), weights)
    return matrix


def _sizes(node: Node, shape: tuple[int, ...]) -> tuple[list[int], list[float]]:
    """Return the extents of the result and the scale of each axis."""
    rank = len(shape)
    if node.op == "Upsample" or node.opset < 11:
        scales = node.attrs.get("scales")
        value = node.value(1)
        factors = [float(s) for s in (scales if scales is not None else value if value is not None else [])]
        return [math.floor(n * s) for n, s in zip(shape, factors, strict=True)], factors
    axes = [int(a) % rank for a in node.attrs.get("axes", range(rank))]
    factors, extents = [1.0] * rank, list(shape)
    scales, sizes = node.value(2), node.value(3)
    if scales is not None and scales.size:
        for axis, s in zip(axes, scales, strict=True):
            factors[axis], extents[axis] = float(s), math.floor(shape[axis] * float(s))
        return extents, factors
    if sizes is None:
        raise node.error("sizes that are computed")
    ratios = [float(n) / shape[axis] for axis, n in zip(axes, sizes, strict=True)]
    policy = node.text("keep_aspect_ratio_policy", "stretch")
    for axis, n, ratio in zip(axes, sizes, ratios, strict=True):
        common = {"not_larger": min(ratios), "not_smaller": max(ratios)}.get(policy)
        factors[axis] = ratio if common is None else common
        extents[axis] = int(n) if common is None else int(shape[axis] * common + 0.5)
    return extents, factors


def _resize(node: Node) -> Any:
    x = node.inputs[0]
    shape = shape_of(x)
    extents, factors = _sizes(node, shape)
    mode = node.text("mode", "nearest")
    places_mode = node.text("coordinate_transformation_mode", "half_pixel" if node.opset >= 11 else "asymmetric")
    if node.op == "Upsample":
        places_mode = "asymmetric"
    rounding = node.text("nearest_mode", "round_prefer_floor" if node.opset >= 11 else "floor")
    roi = node.value(1) if places_mode == "tf_crop_and_resize" else None
    rank = len(shape)
    if mode == "nearest" and roi is None:
        x = _repeated(node, x, extents, factors, places_mode, rounding)
        shape = shape_of(x)
        factors = [1.0 if shape[i] == extents[i] else f for i, f in enumerate(factors)]
    for axis in range(rank):
        if extents[axis] == shape[axis] and factors[axis] == 1.0 and roi is None:
            continue
        window = (0.0, 1.0) if roi is None else (float(roi[axis]), float(roi[rank + axis]))
        places = source_places(shape[axis], extents[axis], factors[axis], places_mode, window)
        if mode == "nearest":
            x = _nearest(node, x, axis, nearest_index(places, shape[axis], rounding))
            continue
        matrix = interpolation(
            places, shape[axis], "cubic" if mode == "cubic" else "linear", factors[axis],
            a=float(node.attrs.get("cubic_coeff_a", -0.75)), antialias=bool(node.attrs.get("antialias")),
            exclude_outside=bool(node.attrs.get("exclude_outside")),
        )  # fmt: skip
        if places_mode == "tf_crop_and_resize":
            raise node.error("cropping with interpolation")
        x = _product(node, x, axis, matrix)
    return x


def _repeated(node: Node, x: Any, extents: list[int], factors: list[float], places_mode: str, rounding: str) -> Any:
    """Repeat, in one step, along every axis where each element appears equally often."""
    shape = shape_of(x)
    repeats = []
    for axis, extent in enumerate(shape):
        n = extents[axis] // extent
        places = source_places(extent, extents[axis], factors[axis], places_mode, (0.0, 1.0))
        index = nearest_index(places, extent, rounding)
        repeats.append(n if n and np.array_equal(index, np.repeat(np.arange(extent), n)) else 1)
    axes = [axis for axis, n in enumerate(repeats) if n > 1]
    if not axes:
        return x
    split = [n for axis, extent in enumerate(shape) for n in ([extent, 1] if axis in axes else [extent])]
    wide = [n for axis, extent in enumerate(shape) for n in ([extent, repeats[axis]] if axis in axes else [extent])]
    y = node.emit(op.broadcast_to(node.emit(op.reshape(x, split)), wide))
    return node.emit(op.reshape(y, [n * r for n, r in zip(shape, repeats, strict=True)]))


def _nearest(node: Node, x: Any, axis: int, index: npt.NDArray[np.int64]) -> Any:
    """Emit a slice if the elements are evenly spaced, else a take."""
    steps = np.diff(index)
    if len(index) > 1 and steps[0] > 0 and np.all(steps == steps[0]):
        return node.emit(op.strided_slice(x, [axis], [int(index[0])], [int(index[-1]) + 1], [int(steps[0])]))
    return node.emit(op.take(x, relax.const(index), axis=axis, mode="wrap"))


def _product(node: Node, x: Any, axis: int, matrix: Weights) -> Any:
    """Multiply along `axis` by `matrix` [outputs, extent]."""
    rank = len(shape_of(x))
    weights = relax.const(matrix.astype(dtype_of(x)))
    if axis == rank - 1:
        return node.emit(op.matmul(x, relax.const(np.ascontiguousarray(matrix.T).astype(dtype_of(x)))))
    if axis == rank - 2:
        return node.emit(op.matmul(weights, x))
    order = [a for a in range(rank) if a != axis] + [axis]
    moved = node.emit(op.permute_dims(x, order))
    product = node.emit(op.matmul(moved, relax.const(np.ascontiguousarray(matrix.T).astype(dtype_of(x)))))
    return node.emit(op.permute_dims(product, list(np.argsort(order))))


def resize_converters() -> dict[str, Converter]:
    """Return the converters of Resize and Upsample."""
    return {"Resize": _resize, "Upsample": _resize}
