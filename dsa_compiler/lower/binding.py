"""How a kernel reaches the tensors of its layer: ddr buffers and affine indices from views."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from tvm.tirx import PrimFunc

from dsa_compiler.graph.layers import LayerGraph, Tensor
from dsa_compiler.graph.views import View
from dsa_compiler.isa.dtypes import item_bytes, numpy_dtype
from dsa_compiler.lower.tir import Buffer, Expr, buffer, integer
from dsa_compiler.target import Target


@dataclass(frozen=True)
class Parameter:
    """A ddr buffer of a kernel: a tensor of the graph, or `value`, a constant laid out for this kernel."""

    buffer: Buffer
    tensor: str = ""
    value: np.ndarray | None = field(default=None, compare=False)
    written: bool = False


@dataclass(frozen=True)
class LoweredKernel:
    """A layer as a level-3 kernel; `parameters` in the order of the function's."""

    name: str
    func: PrimFunc
    parameters: tuple[Parameter, ...]
    tiling: str


@dataclass(frozen=True)
class Reach:
    """A view in ddr: `index(coordinates)` into `buffer` for coordinates of the view."""

    buffer: Buffer
    index: Callable[[Sequence[Expr]], list[Expr]]


def row_pitch(tensor: Tensor, target: Target) -> int:
    """Elements from one row of a tensor to the next, as it is stored in ddr."""
    dense = tensor.dense or tensor.role != "activation"
    return tensor.columns if dense else target.pitch(tensor.columns, item_bytes(tensor.dtype))


def stored_bytes(tensor: Tensor, target: Target) -> int:
    """Bytes that a tensor takes in ddr."""
    rows = tensor.size // max(tensor.columns, 1)
    return max(rows * row_pitch(tensor, target), 1) * item_bytes(tensor.dtype)


def reach(name: str, view: View, graph: LayerGraph, target: Target) -> Reach:
    """The buffer and index of `view`: by its own dimensions where rows count plainly, else by (row, column)."""
    tensor = graph.tensors[view.tensor]
    pitch = row_pitch(tensor, target)
    rows = max(tensor.size // max(tensor.columns, 1), 1)
    if _plain(view, rows):
        shape = (*view.shape[:-1], pitch)
        return Reach(buffer(name, shape, tensor.dtype, tensor.scope), lambda at: [*at[:-1], _column(view, at)])
    flat = pitch == tensor.columns
    strides = view.flat_strides(tensor.columns) if flat else ()
    offset = view.flat_offset(tensor.columns)
    if flat:
        size = rows * pitch
        return Reach(buffer(name, (size,), tensor.dtype, tensor.scope), lambda at: [_sum(offset, strides, at)])
    row = [s[0] for s in view.strides]
    column = [s[1] for s in view.strides]
    return Reach(
        buffer(name, (rows, pitch), tensor.dtype, tensor.scope),
        lambda at: [_sum(view.offset[0], row, at), _sum(view.offset[1], column, at)],
    )


def _plain(view: View, rows: int) -> bool:
    """Whether the dimensions but the last number all rows in order, and the last walks columns."""
    if not view.shape or view.offset[0] or math.prod(view.shape[:-1]) != rows:
        return False
    step = 1
    for extent, stride in zip(reversed(view.shape[:-1]), reversed(view.strides[:-1]), strict=True):
        if extent != 1 and stride != (step, 0):
            return False
        step *= extent
    return view.shape[-1] == 1 or view.strides[-1][0] == 0


def _column(view: View, at: Sequence[Expr]) -> Expr:
    stride = view.strides[-1][1] if view.shape[-1] > 1 else 0
    return _sum(view.offset[1], [stride], at[-1:])


def _sum(offset: int, strides: Sequence[int], at: Sequence[Expr]) -> Expr:
    terms = [a if s == 1 else a * s for a, s in zip(at, strides, strict=True) if s]
    if offset or not terms:
        terms.append(integer(offset))
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total


def varying(view: View) -> frozenset[int]:
    """The dimensions along which the elements of a view differ."""
    return frozenset(d for d, (n, s) in enumerate(zip(view.shape, view.strides, strict=True)) if n > 1 and s != (0, 0))


def materialize(view: View, tensor: Tensor) -> np.ndarray:
    """The values of a view of a constant, with the view's shape."""
    flat = np.ascontiguousarray(tensor.value).reshape(-1)
    strides = tuple(s * flat.itemsize for s in view.flat_strides(tensor.columns))
    start = flat[view.flat_offset(tensor.columns) :]
    values = np.lib.stride_tricks.as_strided(start, view.shape, strides)
    return np.ascontiguousarray(values).astype(numpy_dtype(tensor.dtype), copy=False)


def constant_parameter(name: str, value: np.ndarray, dtype: str) -> Parameter:
    """A parameter that holds `value` as it is."""
    shape = value.shape or (1,)
    return Parameter(buffer(name, shape, dtype), value=np.ascontiguousarray(value.reshape(shape)))
