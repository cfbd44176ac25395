"""Precision: every float tensor inside the model becomes float16 or float32; inputs and outputs keep their dtype.

Casts stand at the inputs and outputs only. Constants beyond the range of float16 (masks of -1e9) become its limits.
What leads from int32 sums to their scaled value, and what leads to quantised values alone, stays in float32 up to the
next product: float16 holds neither the sums nor the fractions that rounding decides on. So do integers on their way to
a float32 result.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import tvm
from tvm import relax

from dsa_compiler.frontend.host import host_operands, is_host
from dsa_compiler.graph.calls import constant_of, dtype_of, is_constant, make_constant, op_name
from dsa_compiler.graph.rewriter import Rewriter, bindings_of, operands
from dsa_compiler.operators.table import is_elementwise

Precision = Literal["float32", "float16"]
_FLOATS = frozenset({"float64", "float32", "float16", "bfloat16"})
_CARRYING = frozenset(
    {
        "nn.max_pool2d", "nn.avg_pool2d", "nn.softmax", "mean", "sum", "max", "min", "reshape", "permute_dims",
        "concat", "nn.layer_norm", "nn.rms_norm", "nn.group_norm", "nn.instance_norm", "strided_slice", "squeeze",
        "expand_dims", "broadcast_to", "flip", "take",
    }
)  # fmt: skip
"""Operators that are not elementwise and stay in float32 where all that reads them does."""

op = relax.op


def set_precision(mod: tvm.IRModule, precision: Precision) -> tvm.IRModule:
    """Return `mod` computing in `precision`."""
    return _SetPrecision(mod, precision).run()


class _SetPrecision(Rewriter):
    def __init__(self, mod: tvm.IRModule, precision: Precision) -> None:
        super().__init__(mod)
        self._dtype = precision
        self._inputs: dict[Any, Any] = {}
        self._exact = exact_values(self.main) if precision == "float16" else set()
        self._host_dtypes = {
            b.var: [dtype_of(x) for x in host_operands(b.value)] for b in bindings_of(self.main) if is_host(b.value)
        }

    def rewrite(self, call: relax.Call, old: Any) -> Any:
        if is_host(call):
            pairs = zip(host_operands(call), self._host_dtypes[old], strict=True)
            operands = relax.Tuple([self._back(x, dtype) for x, dtype in pairs])
            return relax.Call(call.op, [call.args[0], operands], call.attrs, call.ty_args)
        if old in self._exact:
            return self._in_float32(call)
        if op_name(call) == "astype" and str(call.attrs.dtype) not in _FLOATS:
            return call
        if op_name(call) == "astype":
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

    def _in_float32(self, call: relax.Call) -> Any:
        """Return a call on operands in float32."""
        if op_name(call) == "astype":
            return op.astype(call.args[0], "float32")
        return relax.Call(call.op, [self._wide(a) for a in call.args], call.attrs, call.ty_args)

    def _wide(self, arg: Any) -> Any:
        if isinstance(arg, relax.Tuple):
            return relax.Tuple([self._wide(f) for f in arg.fields])
        return self._back(arg, "float32") if _is_float(arg) else arg

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


def exact_values(main: relax.Function) -> set[Any]:
    """Return the float variables that lead from int32 sums to a product, and those that lead to 8-bit integers alone,
    with the comparisons that read them.

    Of what is returned, that which depends on integers with no product in between.
    """
    bindings = [b for b in bindings_of(main) if isinstance(b.value, relax.Call)]
    exact = _unscaled(bindings)
    users: dict[Any, list[Any]] = {}
    for b in bindings_of(main):
        for operand in _variables(b.value):
            users.setdefault(operand, []).append(b)
    returned = _returned(main)
    whole, passing = _of_integers(bindings), returned - {b.var for b in bindings}
    used = users.keys() | returned
    for b in reversed(bindings):
        if not _carries(b) or (b.var in returned and b.var not in whole) or b.var not in used:
            continue
        readers = [u for u in users.get(b.var, ()) if not _compares(u) and u.var not in passing]
        if all(u.var in exact or _quantises(u.value) for u in readers) and (readers or b.var in returned):
            exact.add(b.var)
    return exact | {b.var for b in bindings if _compares(b) and any(a in exact for a in _variables(b.value))}


def _variables(expr: Any) -> list[Any]:
    return [v for v in operands(expr) if isinstance(v, relax.Var)]


def _returned(main: relax.Function) -> set[Any]:
    """Return the variables that are results, and those that only stand for results or tuples of them."""
    found = set(_variables(main.body.body))
    for b in reversed(list(bindings_of(main))):
        if b.var in found and not isinstance(b.value, relax.Call):
            found |= set(_variables(b.value))
    return found


def _compares(binding: Any) -> bool:
    """Whether a binding is a truth value, which does not tell how precise its operands have to be."""
    return isinstance(binding.var.ty, relax.TensorType) and dtype_of(binding.var) == "bool"


def _carries(binding: Any) -> bool:
    """Whether a binding is a float that is worth computing in float32 for the sake of what reads it."""
    if not isinstance(binding.var.ty, relax.TensorType) or dtype_of(binding.var) not in _FLOATS:
        return False
    name = op_name(binding.value)
    return is_elementwise(name) or name in _CARRYING


def _of_integers(bindings: list[Any]) -> set[Any]:
    """Return the floats that depend on 8- or 32-bit integers with no product in between."""
    found: set[Any] = set()
    for b in bindings:
        if not _carries(b):
            continue
        sources = [a for a in _variables(b.value) if isinstance(a.ty, relax.TensorType)]
        if any(a in found or dtype_of(a) in ("int8", "uint8", "int32") for a in sources):
            found.add(b.var)
    return found


def _unscaled(bindings: list[Any]) -> set[Any]:
    """Return what becomes of int32 sums as floats, up to the first product included."""
    raw: set[Any] = set()
    scaled: set[Any] = set()
    for b in bindings:
        call = b.value
        if not is_elementwise(op_name(call)) or dtype_of(b.var) not in _FLOATS:
            continue
        if op_name(call) == "astype" and dtype_of(call.args[0]) == "int32":
            raw.add(b.var)
        elif any(isinstance(a, relax.Var) and a in raw for a in call.args):
            (scaled if op_name(call) in ("multiply", "divide") else raw).add(b.var)
    return raw | scaled


def _is_float(expr: Any) -> bool:
    return isinstance(getattr(expr, "ty", None), relax.TensorType) and dtype_of(expr) in _FLOATS


def _quantises(call: relax.Call) -> bool:
    """Whether a binding's value is a cast to 8-bit integers."""
    return isinstance(call, relax.Call) and op_name(call) == "astype" and str(call.attrs.dtype) in ("int8", "uint8")


def _clipped(value: Any, dtype: np.dtype[Any]) -> Any:
    limits = np.finfo(dtype)
    with np.errstate(over="ignore", invalid="ignore"):
        bounded = np.where(np.isinf(value), value, np.clip(value, float(limits.min), float(limits.max)))
        return bounded.astype(dtype)
