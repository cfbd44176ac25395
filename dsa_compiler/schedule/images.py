"""Which layers work on every image of a batch alone, and what they are for some of the images.

An image is one item of the batch: the outermost part of every tensor. A tensor is divisible if its images follow one
another; a layer is if each of its views walks the images along one dimension, the same for all operands in every
call, and if no call mixes them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from dsa_compiler.errors import InternalError
from dsa_compiler.graph.layers import Layer, LayerGraph, OpCall, Tensor
from dsa_compiler.graph.views import View
from dsa_compiler.operators.table import OPERATORS

AxisMap = Callable[[OpCall, int, int, int], "int | bool | None"]
"""(call, axis of the result, operand, rank of the operand) -> axis of the operand that walks along, None if the
operand is used whole by every image, False if the call mixes images."""


@dataclass(frozen=True)
class Division:
    """How a layer is divided: the axis of each call's result and of each input's view (None: used whole)."""

    calls: tuple[int, ...]
    inputs: tuple[int | None, ...]
    output: int


def batch_of(graph: LayerGraph) -> int:
    """The number of images: the leading extent that all inputs share, 1 if they do not."""
    leading = {graph.tensors[n].shape[0] if graph.tensors[n].shape else 1 for n in graph.inputs}
    return leading.pop() if len(leading) == 1 else 1


def divide(layer: Layer, graph: LayerGraph, images: int) -> Division | None:
    """How `layer` is divided into `images` images, None if it is not divisible."""
    if layer.kind == "host" or layer.more:
        return None
    tensor = graph.tensors[layer.output.tensor]
    output = image_axis(layer.output, tensor, images)
    if output is None:
        return None
    axes: dict[int, int] = {len(layer.calls) - 1: output}
    inputs: dict[int, int | None] = {}
    for number in reversed(range(len(layer.calls))):
        if number not in axes:
            return None
        if not _spread(layer, number, axes, inputs):
            return None
    if not all(_input_agrees(v, inputs.get(i), graph, images) for i, v in enumerate(layer.inputs)):
        return None
    order = tuple(axes[i] for i in range(len(layer.calls)))
    if any(call.shape[axis] % images for call, axis in zip(layer.calls, order, strict=True)):
        return None
    return Division(order, tuple(_walked(v, inputs.get(i), images) for i, v in enumerate(layer.inputs)), output)


def _walked(view: View, axis: int | None, images: int) -> int | None:
    """`axis`, None if the view has one element along it, which is broadcast to all images."""
    return None if axis is None or view.shape[axis] % images else axis


def _spread(layer: Layer, number: int, axes: dict[int, int], inputs: dict[int, int | None]) -> bool:
    """Carry the axis of a call to its operands; False if they do not agree."""
    call = layer.calls[number]
    for place, (kind, value) in enumerate(call.args):
        if kind == "const":
            continue
        rank = len(layer.calls[int(value)].shape if kind == "call" else layer.inputs[int(value)].shape)
        axis = operand_axis(call, axes[number], place, rank)
        if axis is False:
            return False
        if kind == "call":
            if axis is None or axes.setdefault(int(value), axis) != axis:
                return False
        elif inputs.setdefault(int(value), axis) != axis:
            return False
    return True


def _input_agrees(view: View, axis: int | None, graph: LayerGraph, images: int) -> bool:
    """Whether the view walks the images along `axis`, or is the same for all of them."""
    tensor = graph.tensors[view.tensor]
    constant = tensor.value is not None
    if axis is None:
        return constant
    if constant:
        return view.repeats(axis) or _repeats(view, tensor, axis, images)
    return image_axis(view, tensor, images) == axis


def _repeats(view: View, tensor: Tensor, axis: int, images: int) -> bool:
    """Whether a constant holds the same values for every image along `axis`."""
    if tensor.value is None or view.shape[axis] % images:
        return False
    flat = np.ascontiguousarray(tensor.value).reshape(-1)
    strides = tuple(s * flat.itemsize for s in view.flat_strides(tensor.columns))
    values = np.lib.stride_tricks.as_strided(flat[view.flat_offset(tensor.columns) :], view.shape, strides)
    parts = np.split(values, images, axis=axis)
    return all(np.array_equal(parts[0], part) for part in parts[1:])


def image_axis(view: View, tensor: Tensor, images: int) -> int | None:
    """The dimension of `view` whose outer part numbers the images of the tensor; None if there is none."""
    if tensor.size % images or tensor.size == 0:
        return None
    step = tensor.size // images
    strides, offset = view.flat_strides(tensor.columns), view.flat_offset(tensor.columns)
    inside = offset + sum((n - 1) * s for n, s in zip(view.shape, strides, strict=True))
    for axis, (extent, stride) in enumerate(zip(view.shape, strides, strict=True)):
        if extent % images or stride * (extent // images) != step or min(strides) < 0:
            continue
        rest = inside - (extent - 1) * stride + (extent // images - 1) * stride
        if rest < step and (tensor.columns == 1 or step % tensor.columns == 0):
            return axis
    return None


# ---- calls ---------------------------------------------------------------------------------------------------
def operand_axis(call: OpCall, axis: int, operand: int, rank: int) -> int | bool | None:
    """See `AxisMap`; operations that are not known here are taken to mix images."""
    if call.op == "copy":
        return axis
    operator = OPERATORS.get(call.op)
    rule = _RULES.get(operator.category) if operator is not None else None
    return False if rule is None else rule(call, axis, operand, rank)


def _elementwise(call: OpCall, axis: int, operand: int, rank: int) -> int | bool | None:
    """Operands have the shape of their call."""
    return axis if rank == len(call.shape) else False


def _window(call: OpCall, axis: int, operand: int, rank: int) -> int | bool | None:
    """Convolutions and pools: images are the first axis of the data, weights serve all."""
    if axis != 0:
        return False
    return 0 if operand == 0 else None


def _product(call: OpCall, axis: int, operand: int, rank: int) -> int | bool | None:
    """Products: along a batch dimension both operands walk, along the rows the left does."""
    ours = axis - (len(call.shape) - rank)
    if axis == len(call.shape) - 1:
        return False
    if axis == len(call.shape) - 2:
        return ours if operand == 0 else None
    return ours if ours >= 0 else None


def _along_axes(call: OpCall, axis: int, operand: int, rank: int) -> int | bool | None:
    """Softmax and norms: images must not lie along the axes of the statistics."""
    axes = call.attrs.get("axes", call.attrs.get("axis", -1))
    axes = axes if isinstance(axes, (tuple, list)) else (axes,)
    if axis in {int(a) % len(call.shape) for a in axes} or axis == call.attrs.get("channel_axis"):
        return False
    if operand == 0:
        return axis
    return None


def _reduction(call: OpCall, axis: int, operand: int, rank: int) -> int | bool | None:
    """Reductions: the axis is none of the reduced ones."""
    axes = call.attrs.get("axis", call.attrs.get("axes"))
    axes = tuple(range(rank)) if axes is None else axes if isinstance(axes, (tuple, list)) else (axes,)
    reduced = {int(a) % rank for a in axes}
    if len(call.shape) == rank:
        return False if axis in reduced else axis
    kept = [a for a in range(rank) if a not in reduced]
    return kept[axis] if axis < len(kept) else False


_RULES: Mapping[str, AxisMap] = {
    "elementwise": _elementwise,
    "convolution": _window,
    "pooling": _window,
    "matmul": _product,
    "softmax": _along_axes,
    "normalization": _along_axes,
    "reduction": _reduction,
}
"""By category; movements (but copies), gathers and scans are taken to mix images."""


# ---- slices --------------------------------------------------------------------------------------------------
def slice_layer(layer: Layer, division: Division, images: int, part: int) -> Layer:
    """`layer`, which works on `images` images, for the first `part` of them."""
    calls = tuple(
        replace(c, shape=_scaled(c.shape, a, images, part)) for c, a in zip(layer.calls, division.calls, strict=True)
    )
    inputs = tuple(
        v if a is None else replace(v, shape=_scaled(v.shape, a, images, part))
        for v, a in zip(layer.inputs, division.inputs, strict=True)
    )
    output = replace(layer.output, shape=_scaled(layer.output.shape, division.output, images, part))
    return replace(layer, calls=calls, inputs=inputs, output=output)


def slice_tensor(tensor: Tensor, images: int, part: int, scope: str) -> Tensor:
    """An activation, input or output for `part` of its `images` images, in `scope`.

    Raises `InternalError` if no leading dimension numbers the images.
    """
    for axis, extent in enumerate(tensor.shape):
        if extent % images == 0:
            return replace(tensor, shape=_scaled(tensor.shape, axis, images, part), scope=scope)
        if extent > 1:
            break
    raise InternalError(f"{tensor.name} {tensor.shape} has no {images} images", where="schedule.images")


def _scaled(shape: tuple[int, ...], axis: int, images: int, part: int) -> tuple[int, ...]:
    if shape[axis] % images:
        raise InternalError(f"{shape} has no {images} images along axis {axis}", where="schedule.images")
    return tuple(n // images * part if a == axis else n for a, n in enumerate(shape))
