"""IntegerProducts: convolutions and matrix products of dequantised operands sum integers instead.

Before: `conv2d(sx * (x - zx), sw * (w - zw)) + b`. After: `astype(conv2d(x, w - zw) + c) * (sx * sw)` with int32 sums
and c = b / (sx * sw) - zx * sum(w - zw), a constant; padding has the value zx.
Left unchanged: scales of weights along other axes than the outputs', products of two activations with zero points.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import tvm
from tvm import relax

from dsa_compiler.frontend.converters.integer import narrowest
from dsa_compiler.graph.calls import constant_of, describe, dtype_of, is_constant, make_constant, op_name, shape_of
from dsa_compiler.graph.dequantized import Dequantized, dequantized, dequantized_constant
from dsa_compiler.graph.fold_scale import channel_vector
from dsa_compiler.graph.rewriter import Rewriter
from dsa_compiler.operators.table import OPERATORS

Array = npt.NDArray[Any]
op = relax.op
WHOLE = 1e-2  # how far a bias in units of the sums may be from a whole number


def integer_products(mod: tvm.IRModule) -> tvm.IRModule:
    """Return `mod`, in canonical form, with products of quantised operands in integers."""
    return _IntegerProducts(mod).run()


@dataclass(frozen=True)
class _Sums:
    """(sums + offset) * factor: int32 sums of a product, constants that broadcast to them."""

    sums: Any
    offset: Array
    factor: Array


class _IntegerProducts(Rewriter):
    def __init__(self, mod: tvm.IRModule) -> None:
        super().__init__(mod)
        self._products: dict[Any, _Sums] = {}

    def rewrite(self, call: relax.Call, old: Any) -> Any:
        name = op_name(call)
        if name == "add":
            return self._with_bias(call)
        found = self._conv(call) if name == "nn.conv2d" else self._matmul(call) if name == "matmul" else None
        return call if found is None else self._emitted(found, dtype_of(old))

    def _emitted(self, product: _Sums, dtype: str) -> Any:
        """Emit the float value of a product."""
        y = product.sums
        if np.any(product.offset):
            y = self.emit(op.add(y, make_constant(product.offset.astype(np.int32))))
        y = self.emit(op.astype(y, dtype))
        y = self.emit(op.multiply(y, make_constant(product.factor.astype(np.dtype(dtype)))))
        self._products[y] = product
        return y

    def _conv(self, call: relax.Call) -> _Sums | None:
        x = dequantized(call.args[0], self.producer)
        weights = dequantized_constant(call.args[1], self.producer)
        if x is None or weights is None:
            return None
        values, scale = weights
        channel = channel_vector(scale, values.shape, 0)
        if channel is None:
            return None
        a = describe(call).attrs
        data, pads = x.base, list(a["padding"])
        if x.zero and any(pads):
            top, left, bottom, right = pads
            data = self.emit(op.nn.pad(data, [0, 0, 0, 0, top, bottom, left, right], pad_value=x.zero))
            pads = [0, 0, 0, 0]
        sums = op.nn.conv2d(data, make_constant(narrowest(values)), strides=a["strides"], padding=pads,
                            dilation=a["dilation"], groups=a["groups"], out_dtype="int32")  # fmt: skip
        offset = (-x.zero * values.sum(axis=(1, 2, 3))).reshape(-1, 1, 1)
        return _Sums(self.emit(sums), offset, _compact(channel * x.scale, (-1, 1, 1)))

    def _matmul(self, call: relax.Call) -> _Sums | None:
        x = dequantized(call.args[0], self.producer)
        weights = dequantized_constant(call.args[1], self.producer)
        if x is None:
            return None
        if weights is None:
            y = dequantized(call.args[1], self.producer)
            return None if y is None else self._of_activations(x, y)
        values, scale = weights
        channel = channel_vector(scale, values.shape, values.ndim - 1)
        if channel is None or values.ndim < 2:
            return None
        sums = op.matmul(x.base, make_constant(narrowest(values)), out_dtype="int32")
        offset = -x.zero * values.sum(axis=-2, keepdims=values.ndim > 2)
        return _Sums(self.emit(sums), offset, _compact(channel * x.scale, (-1,)))

    def _of_activations(self, x: Dequantized, y: Dequantized) -> _Sums | None:
        if x.zero or y.zero:
            return None
        sums = self.emit(op.matmul(x.base, y.base, out_dtype="int32"))
        return _Sums(sums, np.zeros((), np.int64), np.asarray(x.scale * y.scale))

    def _with_bias(self, call: relax.Call) -> Any:
        """Take a constant addend that is whole in units of the sums into the offset."""
        product = self._products.get(call.args[0]) if isinstance(call.args[0], relax.Var) else None
        bias = self._value(call.args[1]) if product is not None else None
        if product is None or bias is None or bias.ndim > max(product.offset.ndim, 1):
            return call
        units = bias.astype(np.float64) / product.factor
        whole = np.rint(units)
        small = np.abs(whole + product.offset) < 2**31 - 1
        if not np.all(np.isfinite(units)) or not np.all(small) or np.any(np.abs(units - whole) > WHOLE):
            return call
        offset = product.offset + whole.astype(np.int64)
        return self._emitted(_Sums(product.sums, offset, product.factor), dtype_of(call.args[0]))

    def _value(self, expr: Any) -> Array | None:
        """Return the value of an expression of constants alone."""
        if is_constant(expr):
            return constant_of(expr)
        call = self.producer(expr)
        description = describe(call) if call is not None else None
        if description is None or description.op not in OPERATORS or not description.inputs:
            return None
        values = [self._value(x) for x in description.inputs]
        known = [v for v in values if v is not None]
        if len(known) != len(values):
            return None
        attrs = {**description.attrs, "shape": shape_of(expr)} if description.op == "reshape" else description.attrs
        return np.asarray(OPERATORS[description.op].evaluate(known, attrs))


def _compact(values: Array, shape: tuple[int, ...]) -> Array:
    """Return one number if all are equal, else the values in `shape`."""
    return np.asarray(values.flat[0]) if np.all(values == values.flat[0]) else values.reshape(shape)
