"""JoinQuantization: what leads to a quantisation becomes one factor, one addend, and the bounds of its clip.

Before: `astype(clip(round(relu(x * a + c) * b) + z, 0, 255))`. After: `astype(clip(round(x * (a * b) + b * c) + z,
z, 255))`. Factors are positive constants; bounds (relu, clip) follow through the rounding, since both keep the order.
Left unchanged: bounds that differ by channel, other uses of what is in between, values that are not quantised.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import tvm
from tvm import relax

from dsa_compiler.graph.calls import constant_of, describe, dtype_of, make_constant, op_name, shape_of
from dsa_compiler.graph.dequantized import SMALL
from dsa_compiler.graph.rewriter import Rewriter

Array = npt.NDArray[Any]
op = relax.op


def join_quantization(mod: tvm.IRModule) -> tvm.IRModule:
    """Return `mod`, in canonical form, with what stands in front of quantisations joined."""
    return _JoinQuantization(mod).run()


@dataclass(frozen=True)
class _Bounded:
    """clip(base * factor + offset, low, high)."""

    base: Any
    factor: Array
    offset: Array
    low: float
    high: float

    def times(self, factor: Array) -> _Bounded | None:
        """A positive multiple; None where its bounds differ by channel."""
        if factor.size > 1 and any(np.isfinite(b) and b != 0 for b in (self.low, self.high)):
            return None
        one = float(factor.reshape(-1)[0])
        low, high = (b * one if np.isfinite(b) else b for b in (self.low, self.high))
        return _Bounded(self.base, self.factor * factor, self.offset * factor, low, high)

    def plus(self, addend: Array) -> _Bounded | None:
        """The value with a constant added; None where that would part its bounds."""
        if np.isfinite(self.low) or np.isfinite(self.high):
            return None
        return _Bounded(self.base, self.factor, self.offset + addend, self.low, self.high)

    def within(self, low: float, high: float) -> _Bounded:
        """The value clipped further."""
        low, high = (float(np.clip(b, low, high)) for b in (self.low, self.high))
        return _Bounded(self.base, self.factor, self.offset, low, high)


class _JoinQuantization(Rewriter):
    def rewrite(self, call: relax.Call, old: Any) -> Any:
        if op_name(call) != "astype" or dtype_of(old) not in SMALL:
            return call
        clip = self.sole_producer(call.args[0])
        shifted: Any = self.sole_producer(clip.args[0]) if op_name(clip) == "clip" else None
        zero, rounded = 0.0, shifted
        if op_name(shifted) == "add":
            number = constant_of(shifted.args[1])
            if number is None or number.size != 1:
                return call
            zero, rounded = float(number.reshape(-1)[0]), self.sole_producer(shifted.args[0])
        if op_name(rounded) != "round" or not zero.is_integer():
            return call
        found = self._bounded(rounded.args[0])
        if np.isinf(found.low) and np.isinf(found.high) and not np.any(found.offset):
            return call
        return self._quantized(found, zero, describe(clip).attrs, call)

    def _quantized(self, found: _Bounded, zero: float, limits: Any, call: relax.Call) -> Any:
        """Emit the quantisation of a bounded value."""
        low, high = (float(np.clip(np.rint(b) + zero, limits["min"], limits["max"])) for b in (found.low, found.high))
        x = found.base
        if np.any(found.factor != 1):
            x = self._scaled(x, found.factor)
        if np.any(found.offset):
            x = self.emit(op.add(x, make_constant(found.offset.astype(np.dtype(dtype_of(x))))))
        x = self.emit(op.round(x))
        if zero:
            x = self.emit(op.add(x, make_constant(np.asarray(zero, np.dtype(dtype_of(x))))))
        return op.astype(self.emit(op.clip(x, low, high)), str(call.attrs.dtype))

    def _scaled(self, base: Any, factor: Array) -> Any:
        """Emit `base` times a factor; in a sum of scaled values each scale takes it in."""
        call = self.sole_producer(base)
        scaled = [self._scale(a) for a in call.args] if op_name(call) == "add" else []
        known = [s for s in scaled if s is not None]
        if not known or len(known) != len(scaled):
            return self.emit(op.multiply(base, make_constant(factor.astype(np.dtype(dtype_of(base))))))
        kind = np.dtype(dtype_of(base))
        parts = [self.emit(op.multiply(x, make_constant((s * factor).astype(kind)))) for x, s in known]
        return self.emit(op.add(*parts))

    def _scale(self, expr: Any) -> tuple[Any, Array] | None:
        """Return (value, factor) of a value scaled by constants, None for another."""
        call = self.sole_producer(expr)
        factor = constant_of(call.args[1]) if op_name(call) == "multiply" else None
        if factor is None or shape_of(call.args[0]) != shape_of(expr):
            return None
        return call.args[0], factor.astype(np.float64)

    def _bounded(self, expr: Any) -> _Bounded:
        """Return what `expr` is if the multiplications and bounds that lead to it are taken apart."""
        whole = _Bounded(expr, np.ones(()), np.zeros(()), -np.inf, np.inf)
        call = self.sole_producer(expr)
        name = op_name(call)
        if name == "nn.relu":
            return self._bounded(call.args[0]).within(0, np.inf)
        if name == "clip":
            attrs = describe(call).attrs
            return self._bounded(call.args[0]).within(attrs["min"], attrs["max"])
        value = constant_of(call.args[1]) if name in ("multiply", "add") else None
        if value is None or shape_of(call.args[0]) != shape_of(expr):
            return whole
        wide = value.astype(np.float64)
        if name == "add":
            return self._bounded(call.args[0]).plus(wide) or whole
        return (self._bounded(call.args[0]).times(wide) if np.all(wide > 0) else None) or whole
