"""Binding of symbolic dimensions to numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from onnx import ModelProto, ValueInfoProto

from dsa_compiler.errors import UserError

GREATEST_EXTENT = 2**31 - 1


def bind_shapes(model: ModelProto, shapes: Mapping[str, Sequence[int]], batch: int | None) -> None:
    """Give every input of `model` a static shape, in place.

    A symbol that stands in several places takes one value. Shapes of intermediate values are dropped
    (inference finds them again), those of the outputs lose what is not static.
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
    for value in inputs.values():
        _bind_defaults(value, batch, symbols)
    del model.graph.value_info[:]
    for output in model.graph.output:
        if output.type.HasField("tensor_type"):
            output.type.tensor_type.ClearField("shape")


def static_shape(value: ValueInfoProto) -> tuple[int, ...] | None:
    """Return the shape of `value`, or None if it is not wholly known."""
    tensor = value.type.tensor_type
    if not tensor.HasField("shape") or any(not d.HasField("dim_value") for d in tensor.shape.dim):
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


def _bind_defaults(value: ValueInfoProto, batch: int | None, symbols: dict[str, int]) -> None:
    """Give what is still symbolic the value of its symbol; leading dimensions the batch."""
    tensor = value.type.tensor_type
    where = f"input {value.name}"
    if not tensor.HasField("shape"):
        raise UserError("its rank is unknown", where=where, action=f"give --shape {value.name}=...")
    for axis, dim in enumerate(tensor.shape.dim):
        if dim.HasField("dim_value") and dim.dim_value > 0:
            if axis == 0 and batch is not None and dim.dim_value == 1 and batch != 1:
                dim.dim_value = batch
            continue
        symbol = dim.dim_param
        if symbol in symbols:
            dim.dim_value = symbols[symbol]
        elif axis == 0:
            dim.dim_value = batch or 1
            if symbol:
                symbols[symbol] = dim.dim_value
        else:
            raise UserError(f"dimension {axis} ({symbol or 'unnamed'}) has no value", where=where,
                            action=f"give --shape {value.name}=... with every extent")  # fmt: skip
