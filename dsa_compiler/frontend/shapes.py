"""Binding of symbolic dimensions to numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, ValueInfoProto, helper, numpy_helper

from dsa_compiler.errors import UserError
from dsa_compiler.frontend.check import check_count, elements

GREATEST_EXTENT = 2**31 - 1
IMAGE = 224
SEQUENCE = 128
"""Defaults of symbolic dimensions that are not the batch: the sides of images, the lengths of sequences."""

ASSUMED = "dsac.assumed"
"""Key of the model's metadata: a line for each assumption."""


def bind_shapes(model: ModelProto, shapes: Mapping[str, Sequence[int]], batch: int | None) -> None:
    """Give every input of `model` a static shape, in place.

    A symbol that stands in several places takes one value. Shapes of intermediate values are dropped
    (inference finds them again), those of the outputs lose what is not static. Raises `UserError` for shapes that do
    not fit or for a dimension that has no value and no default.
    """
    inputs = {i.name: i for i in model.graph.input}
    unknown = sorted(set(shapes) - set(inputs))
    if unknown:
        raise UserError(f"no such input: {unknown}", where="shapes", action=f"the inputs are {sorted(inputs)}")
    if batch is not None and batch < 1:
        raise UserError(f"batch {batch} is not positive", where="batch", action="give a number from 1")
    symbols: dict[str, int] = {}
    for name, value in inputs.items():
        if name in shapes:
            _bind_given(value, list(shapes[name]), symbols)
    assumed: list[str] = []
    for value in inputs.values():
        assumed += _bind_defaults(value, batch, symbols)
        _check_extents(value)
    for line in assumed:
        note_assumption(model, line)
    del model.graph.value_info[:]
    for output in model.graph.output:
        if output.type.HasField("tensor_type"):
            output.type.tensor_type.ClearField("shape")


def bind_values(model: ModelProto, values: Mapping[str, npt.ArrayLike]) -> None:
    """Turn inputs into constants, in place. Raises `UserError` for a value that is not what its input takes."""
    inputs = {i.name: i for i in model.graph.input}
    for name, given in values.items():
        where = f"value of {name}"
        if name not in inputs:
            raise UserError("there is no such input", where=where, action=f"the inputs are {sorted(inputs)}")
        tensor = inputs[name].type.tensor_type
        dtype = helper.tensor_dtype_to_np_dtype(tensor.elem_type)
        value = np.asarray(given)
        fits = value.dtype.kind in "biufV"
        converted = value.astype(dtype) if fits else value
        if not fits or not np.array_equal(converted, value, equal_nan=value.dtype.kind == "f"):
            raise UserError(f"{value} is no {dtype}", where=where, action="give what the input takes")
        dims = [d.dim_value if d.HasField("dim_value") else -1 for d in tensor.shape.dim]
        if tensor.HasField("shape") and (
            len(dims) != value.ndim or any(d not in (-1, n) for d, n in zip(dims, value.shape, strict=True))
        ):
            problem = f"it has shape {list(value.shape)}, the input {dims}"
            raise UserError(problem, where=where, action="give that shape")
        dense = np.ascontiguousarray(converted).reshape(value.shape)
        model.graph.initializer.append(numpy_helper.from_array(dense, name))
        model.graph.input.remove(inputs[name])


def note_assumption(model: ModelProto, line: str) -> None:
    """Add a line to what `assumptions` returns, in place."""
    known = {p.key: p.value for p in model.metadata_props}
    helper.set_model_props(model, {**known, ASSUMED: "\n".join([*assumptions(model), line])})


def assumptions(model: ModelProto) -> list[str]:
    """Return what was assumed where neither the model nor the user says: lines to show."""
    return [line for p in model.metadata_props if p.key == ASSUMED for line in p.value.splitlines()]


def _check_extents(value: ValueInfoProto) -> None:
    dims = [d.dim_value for d in value.type.tensor_type.shape.dim]
    if any(n > GREATEST_EXTENT for n in dims):
        raise UserError(f"shape {dims} has an extent above {GREATEST_EXTENT}", where=f"input {value.name}",
                        action="give smaller extents")  # fmt: skip
    check_count(elements(dims), dims, f"input {value.name}")


def static_shape(value: ValueInfoProto) -> tuple[int, ...] | None:
    """Return the shape of `value`, or None if it is not wholly known."""
    tensor = value.type.tensor_type
    if not tensor.HasField("shape") or any(not d.HasField("dim_value") or d.dim_value < 0 for d in tensor.shape.dim):
        return None
    return tuple(d.dim_value for d in tensor.shape.dim)


def _bind_given(value: ValueInfoProto, shape: list[int], symbols: dict[str, int]) -> None:
    dims = value.type.tensor_type.shape.dim
    where = f"input {value.name}"
    if any(n < 0 or n > GREATEST_EXTENT for n in shape):
        raise UserError(f"shape {shape} has an extent out of range", where=where, action="give positive extents")
    if not value.type.tensor_type.HasField("shape"):
        value.type.tensor_type.shape.SetInParent()
        for n in shape:
            dims.add().dim_value = n
        return
    if len(dims) != len(shape):
        raise UserError(f"shape {shape} has rank {len(shape)}, the model {len(dims)}", where=where,
                        action="give one extent for each dimension")  # fmt: skip
    for dim, n in zip(dims, shape, strict=True):
        if dim.HasField("dim_value") and dim.dim_value > 0 and dim.dim_value != n:
            raise UserError(f"shape {shape} contradicts the model's {[d.dim_param or d.dim_value for d in dims]}",
                            where=where, action="change only symbolic dimensions")  # fmt: skip
        if dim.dim_param:
            symbols.setdefault(dim.dim_param, n)
        dim.dim_value = n


def _bind_defaults(value: ValueInfoProto, batch: int | None, symbols: dict[str, int]) -> list[str]:
    """Give what is still symbolic the value of its symbol; leading dimensions the batch, others a default.

    Returns a line for each default that is more than the batch.
    """
    tensor = value.type.tensor_type
    where = f"input {value.name}"
    if not tensor.HasField("shape"):
        raise UserError("its rank is unknown", where=where, action=f"give --shape {value.name}=...")
    assumed = []
    dims = tensor.shape.dim
    for axis, dim in enumerate(dims):
        if dim.HasField("dim_value") and dim.dim_value >= 0:
            if axis == 0 and batch is not None and dim.dim_value == 1 and batch != 1:
                dim.dim_value = batch
            continue
        symbol = dim.dim_param
        if symbol in symbols:
            dim.dim_value = symbols[symbol]
            continue
        dim.dim_value = (batch or 1) if axis == 0 else _default(axis, len(dims), where, value.name)
        if symbol:
            symbols[symbol] = dim.dim_value
        if axis:
            assumed.append(f"{axis}{f' ({symbol})' if symbol else ''}")
    if not assumed:
        return []
    shape = ",".join(str(d.dim_value) for d in dims)
    noun = "dimensions" if len(assumed) > 1 else "dimension"
    return [f"{where}: {noun} {', '.join(assumed)} by default: --shape {value.name}={shape}"]


def _default(axis: int, rank: int, where: str, name: str) -> int:
    """Return the extent of a dimension that nobody gives: an image's side or a sequence's length."""
    if rank >= 4 and axis == 1:
        raise UserError(f"dimension {axis}, the channels, has no value", where=where,
                        action=f"give --shape {name}=... with every extent")  # fmt: skip
    return IMAGE if rank >= 4 else SEQUENCE
