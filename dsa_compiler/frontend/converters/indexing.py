"""ONNX operators that look elements up by computed places: as takes of rows by one number each."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from tvm import relax

from dsa_compiler.frontend.node import Converter, Node, dtype_of, shape_of

op = relax.op


def _int32(node: Node, index: int) -> Any:
    """Return operand `index` as int32; a constant stays one."""
    value = node.value(index)
    if value is not None:
        return relax.const(value.astype(np.int32))
    x = node.inputs[index]
    return x if dtype_of(x) == "int32" else node.emit(op.astype(x, "int32"))


def _from_start(node: Node, places: Any, extents: Any) -> Any:
    """Emit places that count from the start; `extents` (constant, broadcasting) are added to negative ones."""
    wrapped = node.emit(op.add(places, relax.const(np.asarray(extents, np.int32))))
    return node.emit(op.where(node.emit(op.less(places, relax.const(np.int32(0)))), wrapped, places))


def _gather_nd(node: Node) -> Any:
    """Emit a take of rows by row-major numbers: the sum of the places times the strides."""
    x, batch = node.inputs[0], int(node.attrs.get("batch_dims", 0))
    shape, index_shape = shape_of(x), shape_of(node.inputs[1])
    depth = index_shape[-1]
    extents = shape[batch : batch + depth]
    places = _from_start(node, _int32(node, 1), extents)
    strides = np.array([math.prod(extents[i + 1 :]) for i in range(depth)], np.int32)
    numbers = node.emit(op.sum(node.emit(op.multiply(places, relax.const(strides))), axis=[-1]))
    lead = math.prod(shape[:batch])
    if lead > 1:
        first = (np.arange(lead, dtype=np.int32) * math.prod(extents)).reshape(*index_shape[:batch])
        wide = first.reshape(*first.shape, *[1] * (len(index_shape) - 1 - batch))
        numbers = node.emit(op.add(numbers, relax.const(np.ascontiguousarray(wide))))
    rest = list(shape[batch + depth :])
    table = node.emit(op.reshape(x, [lead * math.prod(extents), *rest]))
    return node.emit(op.take(table, numbers, axis=0, mode="wrap"))


def _gather_elements(node: Node) -> Any:
    """Emit a take of single elements by row-major numbers."""
    x = node.inputs[0]
    shape, index_shape = shape_of(x), shape_of(node.inputs[1])
    axis = int(node.attrs.get("axis", 0)) % len(shape)
    strides = [math.prod(shape[d + 1 :]) for d in range(len(shape))]
    others = np.zeros(index_shape, np.int32)
    for d, places in enumerate(np.indices(index_shape, np.int32, sparse=True)):
        others += 0 if d == axis else places * np.int32(strides[d])
    places = _from_start(node, _int32(node, 1), shape[axis])
    scaled = node.emit(op.multiply(places, relax.const(np.int32(strides[axis])))) if strides[axis] != 1 else places
    numbers = node.emit(op.add(scaled, relax.const(others)))
    flat = node.emit(op.reshape(x, [math.prod(shape)]))
    return node.emit(op.take(flat, numbers, axis=0, mode="wrap"))


def _one_hot(node: Node) -> Any:
    """Emit a comparison with all places, and a choice of the two values."""
    depth, values = node.value(1), node.value(2)
    if depth is None or values is None:
        raise node.error("a depth or values that are computed")
    count = int(depth.reshape(-1)[0])
    shape = shape_of(node.inputs[0])
    axis = int(node.attrs.get("axis", -1)) % (len(shape) + 1)
    places = _from_start(node, _int32(node, 0), count)
    spread = node.emit(op.reshape(places, [*shape[:axis], 1, *shape[axis:]]))
    row = np.arange(count, dtype=np.int32).reshape(count, *[1] * (len(shape) - axis))
    hit = node.emit(op.equal(spread, relax.const(row)))
    off, on = (relax.const(values[i]) for i in (0, 1))
    return node.emit(op.where(hit, on, off))


def indexing_converters() -> dict[str, Converter]:
    """Return the converters of gathers by several places and of one-hot."""
    return {"GatherElements": _gather_elements, "GatherND": _gather_nd, "OneHot": _one_hot}
