"""SinkDequantize: data movements and maxima work on the integers of quantised values.

Before: `max_pool2d(scale * (x - zero))`. After: `scale * (max_pool2d(x) - zero)`; and quantising a value to the grid
that it is on already becomes the integers themselves.
Left unchanged: concatenations of values on different grids.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import tvm
from tvm import relax

from dsa_compiler.graph.calls import constant_of, describe, dtype_of, op_name, plain, shape_of
from dsa_compiler.graph.dequantized import SMALL, dequantized
from dsa_compiler.graph.rewriter import Rewriter

op = relax.op
MOVES = frozenset({"broadcast_to", "flip", "nn.max_pool2d", "permute_dims", "reshape", "strided_slice", "take"})
EXACT = 1e-5  # how far from 1 the ratio of two equal scales may be


def sink_dequantize(mod: tvm.IRModule) -> tvm.IRModule:
    """Return `mod`, in canonical form, with dequantisations behind data movements."""
    return _Sink(mod).run()


class _Sink(Rewriter):
    def rewrite(self, call: relax.Call, old: Any) -> Any:
        name = op_name(call)
        if name == "astype":
            integers = self._requantized(call)
            return call if integers is None else integers
        if name == "concat":
            return self._concat(call)
        if name == "nn.pad":
            return self._pad(call)
        value = dequantized(call.args[0], self.producer) if name in MOVES else None
        if value is None:
            return call
        moved = self.emit(relax.Call(call.op, [value.base, *call.args[1:]], call.attrs, call.ty_args))
        return value.on(moved, self.emit)

    def _concat(self, call: relax.Call) -> Any:
        values = [dequantized(f, self.producer) for f in call.args[0].fields]
        known = [v for v in values if v is not None]
        if len(known) != len(values) or not all(v.same_grid(known[0]) for v in known):
            return call
        joined = self.emit(op.concat([v.base for v in known], plain(call.attrs.axis)))
        return known[0].on(joined, self.emit)

    def _pad(self, call: relax.Call) -> Any:
        value, a = dequantized(call.args[0], self.producer), describe(call).attrs
        if value is None or a["pad_mode"] != "constant" or a["pad_value"] != 0:
            return call
        widths = list(a["pad_width"])
        return value.on(self.emit(op.nn.pad(value.base, widths, pad_value=value.zero)), self.emit)

    def _quantisation(self, call: relax.Call) -> tuple[list[Any], Any, float] | None:
        """Return (calls, operand, zero) if `call` ends clip(round(operand) + zero) as an 8-bit integer."""
        dtype = str(call.attrs.dtype)
        clipped = self.producer(call.args[0])
        if dtype not in SMALL or op_name(clipped) != "clip":
            return None
        limits = np.iinfo(dtype)
        if [float(v) for v in describe(clipped).attrs.values()][:2] != [float(limits.min), float(limits.max)]:
            return None
        calls, inner, zero = [call, clipped], self.producer(clipped.args[0]), 0.0
        if op_name(inner) == "add":
            addend = constant_of(inner.args[1])
            if addend is None or addend.size != 1:
                return None
            calls.append(inner)
            zero, inner = float(addend.reshape(-1)[0]), self.producer(inner.args[0])
        if op_name(inner) != "round":
            return None
        return [*calls, inner], inner.args[0], zero

    def _requantized(self, call: relax.Call) -> Any:
        """Return the integers that quantising gives back on a value's own grid, or quantise parts before joining."""
        found = self._quantisation(call)
        if found is None:
            return None
        calls, operand, zero = found
        same = self._on_grid(operand, zero, str(call.attrs.dtype))
        return same if same is not None else self._before_concat(calls, operand, zero)

    def _on_grid(self, operand: Any, zero: float, dtype: str) -> Any:
        value = dequantized(operand, self.producer, unscaled=True)
        if value is None or abs(value.scale - 1) >= EXACT or value.zero != zero or dtype_of(value.base) != dtype:
            return None
        return value.base if shape_of(value.base) == shape_of(operand) else None

    def _before_concat(self, calls: list[Any], operand: Any, zero: float) -> Any:
        """Quantise the parts of a concatenation that nothing else uses; None if it is no such thing."""
        scaled = self.sole_producer(operand)
        factor = constant_of(scaled.args[1]) if op_name(scaled) == "multiply" else None
        if factor is not None and factor.size == 1:
            calls, operand = [*calls, scaled], scaled.args[0]
        joined = self.sole_producer(operand)
        if op_name(joined) != "concat":
            return None
        parts = [self._quantised_part(f, calls, zero) for f in joined.args[0].fields]
        return op.concat(parts, plain(joined.attrs.axis))

    def _quantised_part(self, part: Any, calls: list[Any], zero: float) -> Any:
        x = part
        for call in reversed(calls):
            if op_name(call) == "multiply" and (inner := self._merged_scale(x, call)) is not None:
                x = inner
                continue
            if op_name(call) == "round":
                same = self._on_grid(x, zero, str(calls[0].attrs.dtype))
                if same is not None:
                    return same
            x = self.emit(relax.Call(call.op, [x, *call.args[1:]], call.attrs, call.ty_args))
        return x

    def _merged_scale(self, x: Any, call: relax.Call) -> Any:
        """Emit a dequantised value times a number as one product."""
        value = dequantized(x, self.producer)
        factor = constant_of(call.args[1])
        if value is None or factor is None:
            return None
        return replace(value, scale=value.scale * float(factor.reshape(-1)[0])).on(value.base, self.emit)
