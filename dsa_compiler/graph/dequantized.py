"""Values that are integers times a scale: what the passes on quantised models look for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm import relax

from dsa_compiler.graph.calls import constant_of, dtype_of, op_name, plain, shape_of

Array = npt.NDArray[Any]
Producer = Callable[[Any], Any]
SMALL = frozenset({"int8", "uint8"})
op = relax.op


@dataclass(frozen=True)
class Dequantized:
    """(base - zero) * scale, with `base` of 8-bit integers; zero is a whole number, scale a float."""

    base: Any
    zero: int
    scale: float
    dtype: str

    def same_grid(self, other: Dequantized) -> bool:
        """Whether equal integers mean equal values."""
        return replace(self, base=None) == replace(other, base=None) and dtype_of(self.base) == dtype_of(other.base)

    def on(self, base: Any, emit: Callable[[Any], Any]) -> Any:
        """Emit the value of other integers on the same grid."""
        y = emit(op.astype(base, self.dtype))
        number = np.dtype(self.dtype).type
        if self.zero:
            y = emit(op.add(y, relax.const(number(-self.zero), self.dtype)))
        return emit(op.multiply(y, relax.const(number(self.scale), self.dtype)))


def _number(expr: Any) -> float | None:
    value = constant_of(expr)
    return float(value.reshape(-1)[0]) if value is not None and value.size == 1 else None


def dequantized(expr: Any, producer: Producer, unscaled: bool = False) -> Dequantized | None:
    """Return what `expr` is if it is a canonical dequantisation with one scale and zero point.

    `unscaled` accepts one whose scale another factor has cancelled.
    """
    if not isinstance(expr, relax.Var) or not isinstance(expr.ty, relax.TensorType):
        return None
    dtype, scale, zero = dtype_of(expr), 1.0, 0.0
    call, scaled = producer(expr), False
    while op_name(call) == "multiply" and (factor := _number(call.args[1])) is not None:
        scale, call, scaled = scale * factor, producer(call.args[0]), True
    if op_name(call) == "add" and (number := _number(call.args[1])) is not None:
        zero, call = -number, producer(call.args[0])
    base = call.args[0] if op_name(call) == "astype" else None
    if base is None or not (scaled or unscaled) or dtype_of(base) not in SMALL:
        return None
    if zero != round(zero) or constant_of(base) is not None:
        return None
    return Dequantized(base, int(zero), scale, dtype)


def dequantized_constant(expr: Any, producer: Producer) -> tuple[Array, Array] | None:
    """Return (integers, scale) of constant weights, zero point subtracted; the scale broadcasts to the integers."""
    call = producer(expr)
    name = op_name(call)
    if name in ("permute_dims", "reshape"):
        inner = dequantized_constant(call.args[0], producer)
        return None if inner is None else _moved(call, name, shape_of(expr), *inner)
    scale = np.ones((), np.float64)
    while op_name(call) == "multiply" and (factor := constant_of(call.args[1])) is not None:
        scale, call = scale * factor.astype(np.float64), producer(call.args[0])
    zero = np.zeros(())
    if op_name(call) == "add" and (value := constant_of(call.args[1])) is not None:
        zero, call = -value.astype(np.float64), producer(call.args[0])
    values = constant_of(call.args[0]) if op_name(call) == "astype" else None
    if values is None or str(values.dtype) not in SMALL or np.any(zero != np.rint(zero)):
        return None
    integers = np.asarray(values.astype(np.int32) - zero.astype(np.int32))
    return integers, scale.reshape((1,) * (integers.ndim - scale.ndim) + scale.shape)


def _moved(
    call: relax.Call, name: str, shape: tuple[int, ...], values: Array, scale: Array
) -> tuple[Array, Array] | None:
    """Return weights and scale after a permutation or reshape."""
    if name == "permute_dims":
        axes = plain(call.attrs.axes)
        return values.transpose(axes), scale.transpose(axes)
    if scale.size == 1:
        return values.reshape(shape), scale.reshape((1,) * len(shape))
    if scale.shape[0] != scale.size or not shape or shape[0] != scale.size:
        return None
    return values.reshape(shape), scale.reshape((-1,) + (1,) * (len(shape) - 1))
