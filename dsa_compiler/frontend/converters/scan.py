"""ONNX running sums."""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import relax

from dsa_compiler.frontend.node import Converter, Node, dtype_of, shape_of

op = relax.op


def _cumsum(node: Node) -> Any:
    """Emit a product of the rows along the axis with a triangle of ones."""
    x, axis = node.inputs[0], node.value(1)
    shape, dtype = shape_of(x), dtype_of(x)
    if axis is None or not dtype.startswith("float"):
        raise node.error("running sums of integers, or along a computed axis")
    along = int(axis.reshape(-1)[0]) % len(shape)
    count = shape[along]
    ones = np.ones((count, count), np.dtype(dtype))
    first = int(node.attrs.get("exclusive", 0))
    triangle = np.tril(ones, -first) if node.attrs.get("reverse", 0) else np.triu(ones, first)
    order = [a for a in range(len(shape)) if a != along] + [along]
    turned = order != sorted(order)
    rows = node.emit(op.reshape(node.emit(op.permute_dims(x, order)) if turned else x, [-1, count]))
    sums = node.emit(op.matmul(rows, relax.const(np.ascontiguousarray(triangle), dtype)))
    back = node.emit(op.reshape(sums, [shape[a] for a in order]))
    return node.emit(op.permute_dims(back, [order.index(a) for a in range(len(order))])) if turned else back


def scan_converters() -> dict[str, Converter]:
    """Return the converters of scans."""
    return {"CumSum": _cumsum}
