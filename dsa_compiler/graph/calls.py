"""A Relax call in plain Python: operator, tensor operands, attributes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm import ir, relax, tirx

_SKIPPED = frozenset({"get_int", "get_int_tuple", "get_str", "id_", "is_", "same_as", "out_dtype", "out_layout"})
_POSITIONAL: Mapping[str, tuple[str, ...]] = {
    "reshape": ("shape",),
    "broadcast_to": ("shape",),
    "strided_slice": ("axes", "begin", "end", "strides"),
    "clip": ("min", "max"),
}


@dataclass(frozen=True)
class Description:
    """`op` is the name without prefix, `inputs` the tensor operands, `attrs` everything else."""

    op: str
    inputs: tuple[Any, ...]
    attrs: Mapping[str, Any]


def op_name(expr: Any) -> str:
    """Return the operator of a call without its prefix, "" for anything else."""
    if isinstance(expr, relax.Call) and isinstance(expr.op, ir.Op):
        return str(expr.op.name).removeprefix("relax.")
    return ""


def describe(call: relax.Call) -> Description:
    """Return `call` in plain Python."""
    name = op_name(call)
    inputs, extras = [], []
    for arg in call.args:
        if isinstance(arg, relax.Tuple) and (not len(arg) or isinstance(arg[0].ty, relax.TensorType)):
            inputs.extend(arg)
        elif isinstance(getattr(arg, "ty", None), relax.TensorType):
            inputs.append(arg)
        else:
            extras.append(plain(arg))
    attrs = dict(zip(_POSITIONAL.get(name, ()), extras, strict=False))
    if call.attrs is not None:
        attrs |= {k: plain(getattr(call.attrs, k)) for k in dir(call.attrs) if k[0] != "_" and k not in _SKIPPED}
    return Description(name, tuple(inputs), attrs)


def plain(value: Any) -> Any:
    """Return a TVM attribute value as int, float, str, tuple or None."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, tirx.IntImm):
        return int(value.value)
    if isinstance(value, tirx.FloatImm):
        return float(value.value)
    if isinstance(value, relax.ShapeExpr):
        return tuple(int(v) for v in value.values)
    if isinstance(value, str):
        return str(value)
    if hasattr(value, "__len__") and hasattr(value, "__getitem__"):
        return tuple(plain(v) for v in value)
    return str(value)


def accumulator_of(call: relax.Call) -> str | None:
    """Return the dtype that a product asks for, None if it is its operands'."""
    asked = call.attrs.out_dtype
    return None if asked is None or str(asked) in ("", "void") else str(asked)


def shape_of(expr: Any) -> tuple[int, ...]:
    """Return the static shape of a tensor expression."""
    return tuple(int(d) for d in expr.ty.shape.values)


def dtype_of(expr: Any) -> str:
    """Return the dtype of a tensor expression."""
    return str(expr.ty.dtype)


def constant_of(expr: Any) -> npt.NDArray[Any] | None:
    """Return the value of a constant expression, else None."""
    return expr.value.numpy() if isinstance(expr, ir.GenericConst) else None


def is_constant(expr: Any) -> bool:
    """Whether `expr` is a constant tensor."""
    return isinstance(expr, ir.GenericConst)


def make_constant(value: npt.NDArray[Any]) -> Any:
    """Return a constant expression."""
    return relax.const(np.ascontiguousarray(value).reshape(value.shape), str(value.dtype))
