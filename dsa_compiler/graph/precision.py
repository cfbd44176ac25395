"""Precision: every float tensor inside the model becomes float16 or float32; inputs and outputs keep their dtype.

Casts stand at the inputs and outputs only. Constants beyond the range of float16 (masks of -1e9) become its limits.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import tvm
from tvm import relax

from dsa_compiler.frontend.host import host_operands, is_host
from dsa_compiler.graph.calls import constant_of, dtype_of, is_constant, make_constant, op_name
from dsa_compiler.graph.rewriter import Rewriter, bindings_of

Precision = Literal["float32", "float16"]
_FLOATS = frozenset({"float64", "float32", "float16", "bfloat16"})
op = relax.op


def set_precision(mod: tvm.IRModule, precision: Precision) -> tvm.IRModule:
    """Return `mod` computing in `precision`."""
    return _SetPrecision(mod, precision).run()


class _SetPrecision(Rewriter):
    def __init__(self, mod: tvm.IRModule, precision: Precision) -> None:
        super().__init__(mod)
        self._dtype = precision
        self._inputs: dict[Any, Any] = {}
        self._host_dtypes = {
            b.var: [dtype_of(x) for x in host_operands(b.value)] for b in bindings_of(self.main) if is_host(b.value)
        }

    def rewrite(self, call: relax.Call, old: Any) -> Any:
        if is_host(call):
            pairs = zip(host_operands(call), self._host_dtypes[old], strict=True)
            operands = relax.Tuple([self._back(x, dtype) for x, dtype in pairs])
            return relax.Call(call.op, [call.args[0], operands], call.attrs, call.ty_args)
        if op_name(call) == "astype" and str(call.attrs.dtype) in _FLOATS:
            x = self._cast(call.args[0])
            return x if dtype_of(x) == self._dtype else op.astype(x, self._dtype)
        args = [self._operand(a) for a in call.args]
        return relax.Call(call.op, args, call.attrs, call.ty_args)

    def finish(self, body: Any) -> Any:
        """Cast the results back to the model's dtypes."""
        new = self.resolve(body)
        if isinstance(new, relax.Tuple):
            types = body.ty.fields
            return relax.Tuple([self._back(f, str(t.dtype)) for f, t in zip(new.fields, types, strict=True)])
        return self._back(new, dtype_of(body))

    def _back(self, expr: Any, dtype: str) -> Any:
        if dtype_of(expr) == dtype:
            return expr
        value = constant_of(expr)
        if value is not None:
            return make_constant(value.astype(np.dtype(dtype)))
        node = self.node_of(expr)
        return self.emit(op.astype(expr, dtype), node)

    def _operand(self, arg: Any) -> Any:
        if isinstance(arg, relax.Tuple):
            return relax.Tuple([self._operand(f) for f in arg.fields])
        return self._cast(arg) if isinstance(getattr(arg, "ty", None), relax.TensorType) else arg

    def _cast(self, expr: Any) -> Any:
        """Return a float operand in the precision; parameters are cast once."""
        if dtype_of(expr) not in _FLOATS or dtype_of(expr) == self._dtype:
            return expr
        if is_constant(expr):
            return make_constant(_clipped(constant_of(expr), np.dtype(self._dtype)))
        if expr not in self._inputs:
            self._inputs[expr] = self.emit(op.astype(expr, self._dtype), self.node_of(expr) or expr.name)
        return self._inputs[expr]


def _clipped(value: Any, dtype: np.dtype[Any]) -> Any:
    limits = np.finfo(dtype)
    bounded = np.where(np.isinf(value), value, np.clip(value, float(limits.min), float(limits.max)))
    return bounded.astype(dtype)
