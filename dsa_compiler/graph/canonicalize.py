"""Canonicalize: one form for what can be written in several ways.

* squeeze, expand_dims and flatten become reshape; chains of reshapes or permutations become one
* a constant is the right operand of add and multiply; subtracting or dividing by a float constant becomes adding
  or multiplying; x + 0 and x * 1 become x; two constant addends or factors become one
* split becomes slices, stack becomes concat; maximum(x, 0) becomes relu; a constant lower and upper bound become clip
* x * x becomes square(x)
* zeros padded before a convolution or an average pool become its padding
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np
import tvm
from tvm import relax

from dsa_compiler.graph.calls import (
    accumulator_of,
    constant_of,
    describe,
    is_constant,
    make_constant,
    op_name,
    plain,
    shape_of,
)  # fmt: skip
from dsa_compiler.graph.rewriter import Rewriter

op = relax.op


def canonicalize(mod: tvm.IRModule) -> tvm.IRModule:
    """Return `mod` in canonical form."""
    return _Canonicalize(mod).run()


class _Canonicalize(Rewriter):
    def rewrite(self, call: relax.Call, old: Any) -> Any:
        rule = self.RULES.get(op_name(call))
        return call if rule is None else rule(self, call, old)

    def _to_reshape(self, call: relax.Call, old: Any) -> Any:
        x, shape = call.args[0], shape_of(old)
        while op_name(self.producer(x)) == "reshape":
            x = self.producer(x).args[0]
        if shape_of(x) == shape:
            return x
        unchanged = op_name(call) == "reshape" and x.same_as(call.args[0])
        return call if unchanged else op.reshape(x, list(shape))

    def _permute(self, call: relax.Call, old: Any) -> Any:
        x = call.args[0]
        axes = list(plain(call.attrs.axes) or reversed(range(len(shape_of(x)))))
        inner = self.producer(x)
        if op_name(inner) != "permute_dims":
            return x if axes == sorted(axes) else call
        first = plain(inner.attrs.axes)
        x, axes = inner.args[0], [first[a] for a in axes]
        return x if axes == sorted(axes) else op.permute_dims(x, axes)

    def _broadcast(self, call: relax.Call, old: Any) -> Any:
        return call.args[0] if shape_of(call.args[0]) == shape_of(old) else call

    def _commutative(self, call: relax.Call, old: Any) -> Any:
        a, b = call.args
        if is_constant(a) and not is_constant(b):
            a, b = b, a
        value = constant_of(b)
        name = op_name(call)
        if value is None:
            return self._square(call)
        neutral = 0 if name == "add" else 1
        if shape_of(a) == shape_of(old) and np.all(value == neutral):
            return a
        inner = self.sole_producer(a)
        if op_name(inner) == name and value.dtype.kind == "f":
            other = constant_of(inner.args[1])
            if other is not None and shape_of(inner.args[0]) == shape_of(old):
                joined = value + other if name == "add" else value * other
                return getattr(op, name)(inner.args[0], make_constant(joined.astype(value.dtype)))
        return call if a is call.args[0] or a.same_as(call.args[0]) else getattr(op, name)(a, b)

    def _square(self, call: relax.Call) -> Any:
        """Turn x * x into square(x)."""
        a, b = call.args
        return op.square(a) if op_name(call) == "multiply" and a.same_as(b) else call

    def _inverse(self, call: relax.Call, old: Any) -> Any:
        value = constant_of(call.args[1])
        if value is None or value.dtype.kind != "f":
            return call
        if op_name(call) == "subtract":
            return self._commutative(op.add(call.args[0], make_constant(-value)), old)
        if np.any(value == 0) or not np.all(np.isfinite(value)):
            return call
        with np.errstate(over="ignore"):
            inverse = (1 / value.astype(np.float64)).astype(value.dtype)
        if not np.all(np.isfinite(inverse)):
            return call
        return self._commutative(op.multiply(call.args[0], make_constant(inverse)), old)

    def _maximum(self, call: relax.Call, old: Any) -> Any:
        a, b = call.args
        a, b = (b, a) if is_constant(a) else (a, b)
        value = constant_of(b)
        if value is not None and value.dtype.kind == "f" and np.all(value == 0) and shape_of(a) == shape_of(old):
            return op.nn.relu(a)
        return call

    def _minimum(self, call: relax.Call, old: Any) -> Any:
        """Join with a lower bound to a clip."""
        a, b = call.args
        a, b = (b, a) if is_constant(a) else (a, b)
        value, inner = constant_of(b), self.sole_producer(a)
        if value is None or value.size != 1 or inner is None or value.dtype.kind != "f":
            return call
        high = float(value.reshape(-1)[0])
        if op_name(inner) == "nn.relu" and high >= 0:
            return op.clip(inner.args[0], 0, high)
        low = constant_of(inner.args[1]) if op_name(inner) == "maximum" else None
        if low is None or low.size != 1 or float(low.reshape(-1)[0]) > high:
            return call
        return op.clip(inner.args[0], float(low.reshape(-1)[0]), high)

    def _split(self, call: relax.Call, old: Any) -> Any:
        axis = plain(call.attrs.axis)
        shapes = [tuple(int(d) for d in t.shape.values) for t in old.ty.fields]
        parts, begin = [], 0
        for shape in shapes:
            end = begin + shape[axis]
            parts.append(self.emit(op.strided_slice(call.args[0], [axis], [begin], [end], [1])))
            begin = end
        return relax.Tuple(parts)

    def _stack(self, call: relax.Call, old: Any) -> Any:
        description = describe(call)
        axis = (description.attrs["axis"] or 0) % len(shape_of(old))
        shape = [1 if i == axis else n for i, n in enumerate(shape_of(old))]
        return op.concat([self.emit(op.reshape(x, shape)) for x in description.inputs], axis)

    def _slice(self, call: relax.Call, old: Any) -> Any:
        return call.args[0] if shape_of(call.args[0]) == shape_of(old) else call

    def _conv(self, call: relax.Call, old: Any) -> Any:
        a = describe(call).attrs
        pads = self._absorbed(call.args[0], a["padding"]) if a["data_layout"] == "NCHW" else None
        if pads is None:
            return call
        x, widths = pads
        return op.nn.conv2d(x, call.args[1], strides=a["strides"], padding=widths, dilation=a["dilation"],
                            groups=a["groups"], out_dtype=accumulator_of(call))  # fmt: skip

    def _average_pool(self, call: relax.Call, old: Any) -> Any:
        a = describe(call).attrs
        counted = a["count_include_pad"] and a["layout"] == "NCHW"
        pads = self._absorbed(call.args[0], a["padding"]) if counted else None
        if pads is None:
            return call
        x, widths = pads
        return op.nn.avg_pool2d(x, pool_size=a["pool_size"], strides=a["strides"], dilation=a["dilation"],
                                padding=widths, count_include_pad=True)  # fmt: skip

    def _absorbed(self, x: Any, padding: tuple[int, ...]) -> tuple[Any, list[int]] | None:
        """Return the unpadded source of `x` [n,c,h,w] and the joint padding if zeros were padded around h and w."""
        inner = self.sole_producer(x)
        if op_name(inner) != "nn.pad":
            return None
        a = describe(inner).attrs
        widths = a["pad_width"]
        if any(widths[:4]) or a["pad_mode"] != "constant" or a["pad_value"] != 0:
            return None
        joint = [p + widths[4 + i] for p, i in zip(padding, (0, 2, 1, 3), strict=True)]
        return inner.args[0], joint

    RULES: ClassVar[Mapping[str, Callable[[Any, Any, Any], Any]]] = {
        "add": _commutative, "broadcast_to": _broadcast, "divide": _inverse, "expand_dims": _to_reshape,
        "flatten": _to_reshape, "nn.batch_flatten": _to_reshape, "maximum": _maximum, "minimum": _minimum,
        "multiply": _commutative, "nn.avg_pool2d": _average_pool, "nn.conv2d": _conv, "permute_dims": _permute,
        "reshape": _to_reshape, "split": _split, "squeeze": _to_reshape, "stack": _stack, "strided_slice": _slice,
        "subtract": _inverse,
    }  # fmt: skip
