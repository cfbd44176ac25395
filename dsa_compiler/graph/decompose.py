"""Decompose: operators in terms of others that have layers.

* argmax, argmin: the first (or last) place that holds the extreme, as the least (greatest) of the places
* take by constant places that make few runs: slices joined; by computed or many places: indices become int32
* a cast of a 64-bit integer moves before the data movements that lead to it, so that a model's input is cast once
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np
import tvm
from tvm import relax

from dsa_compiler.graph.calls import constant_of, describe, dtype_of, is_constant, make_constant, op_name, shape_of
from dsa_compiler.graph.rewriter import Rewriter

op = relax.op
MOST_RUNS = 32
"""Runs of places up to which a take becomes slices."""
WIDE = frozenset({"int64", "uint64"})
_MOVED = frozenset({"reshape", "permute_dims", "strided_slice", "broadcast_to", "squeeze", "expand_dims", "flatten"})


def decompose(mod: tvm.IRModule) -> tvm.IRModule:
    """Return `mod` with operators that have layers."""
    return _Decompose(mod).run()


class _Decompose(Rewriter):
    def __init__(self, mod: tvm.IRModule) -> None:
        super().__init__(mod)
        self._casts: dict[tuple[Any, str], Any] = {}

    def rewrite(self, call: relax.Call, old: Any) -> Any:
        rule = self.RULES.get(op_name(call))
        return call if rule is None else rule(self, call, old)

    def _argmax(self, call: relax.Call, old: Any) -> Any:
        return self._place(call, old, op.max)

    def _argmin(self, call: relax.Call, old: Any) -> Any:
        return self._place(call, old, op.min)

    def _place(self, call: relax.Call, old: Any, extreme: Callable[..., Any]) -> Any:
        """The least place at which `x` is its extreme along the axis."""
        x, attrs = call.args[0], describe(call).attrs
        shape, axis = shape_of(x), attrs["axis"]
        if axis is None or not shape or dtype_of(x) in WIDE:
            return call
        axis %= len(shape)
        count = shape[axis]
        places = np.arange(count, dtype=np.int32).reshape([count if a == axis else 1 for a in range(len(shape))])
        best = self.emit(extreme(x, axis=axis, keepdims=True))
        found = self.emit(op.equal(x, best))
        chosen = self.emit(op.where(found, make_constant(places), relax.const(np.int32(count - 1), "int32")))
        first = self.emit(op.min(chosen, axis=axis, keepdims=bool(attrs["keepdims"])))
        return first if dtype_of(old) == "int32" else op.astype(first, dtype_of(old))

    def _take(self, call: relax.Call, old: Any) -> Any:
        x, index = call.args
        axis, shape = describe(call).attrs["axis"], shape_of(x)
        if axis is None or (is_constant(x) and is_constant(index)):
            return call
        axis %= len(shape)
        value = constant_of(index)
        if value is None:
            narrow = self._cast(index, "int32") if dtype_of(index) != "int32" else index
            return self._rows(x, narrow, axis)
        places = value.astype(np.int64)
        places = np.where(places < 0, places + shape[axis], places)
        runs = _runs(places.reshape(-1))
        if len(runs) > MOST_RUNS or not runs or is_constant(x):
            return self._rows(x, make_constant(places.astype(np.int32)), axis)
        parts = [self.emit(op.strided_slice(x, [axis], [b], [e], [1])) for b, e in runs]
        joined = parts[0] if len(parts) == 1 else self.emit(op.concat(parts, axis))
        return joined if shape_of(joined) == shape_of(old) else op.reshape(joined, list(shape_of(old)))

    def _rows(self, x: Any, index: Any, axis: int) -> Any:
        """A take of whole rows: elements of the last axis become rows of the others."""
        shape = shape_of(x)
        if axis != len(shape) - 1 or len(shape) == 1 or math.prod(shape[:-1]) == 1:
            return op.take(x, index, axis=axis, mode="wrap")
        turned = self.emit(op.permute_dims(x, [axis, *range(axis)]))
        rows = self.emit(op.take(turned, index, axis=0, mode="wrap"))
        count = len(shape_of(index))
        return op.permute_dims(rows, [*range(count, count + axis), *range(count)])

    def _astype(self, call: relax.Call, old: Any) -> Any:
        return self._cast(call.args[0], dtype_of(old)) if dtype_of(call.args[0]) in WIDE else call

    def _cast(self, x: Any, dtype: str) -> Any:
        """`x` in `dtype`; of a 64-bit integer the cast stands before the movements that lead to it."""
        known = self._casts.get((x, dtype)) if isinstance(x, relax.Var) else None
        if known is not None:
            return known
        value, source = constant_of(x), self.producer(x)
        if value is not None:
            return make_constant(value.astype(dtype))
        if dtype_of(x) in WIDE and op_name(source) == "astype" and dtype_of(source.args[0]) == dtype:
            result = source.args[0]
        elif dtype_of(x) in WIDE and op_name(source) in _MOVED:
            inner = self._cast(source.args[0], dtype)
            result = self.emit(relax.Call(source.op, [inner, *source.args[1:]], source.attrs, source.ty_args))
        else:
            result = self.emit(op.astype(x, dtype))
        if isinstance(x, relax.Var):
            self._casts[x, dtype] = result
        return result

    RULES: ClassVar[Mapping[str, Callable[[Any, Any, Any], Any]]] = {
        "argmax": _argmax, "argmin": _argmin, "astype": _astype, "take": _take,
    }  # fmt: skip


def _runs(places: Any) -> list[tuple[int, int]]:
    """The runs of ascending places, as (first, one past the last)."""
    runs: list[tuple[int, int]] = []
    for place in places.tolist():
        if runs and runs[-1][1] == place:
            runs[-1] = (runs[-1][0], place + 1)
        else:
            runs.append((place, place + 1))
    return runs
