"""Recognize: operators that exporters write as several become one again.

* x * sigmoid(x) becomes silu(x)
* 0.5 * x * (1 + erf(x / sqrt(2))), in any order of the factors, becomes gelu(x)
* relu(x) - relu(x - c) becomes clip(x, 0, c)
* (x - mean(x)) / sqrt(mean(square(x - mean(x))) + e) becomes a normalisation over the axes of the means, and a scale
  and shift of it along one axis become its gamma and beta
* x / sqrt(mean(square(x)) + e) over the last axis becomes a root-mean-square normalisation, likewise
Left unchanged: means over different axes, an epsilon that is no number, parts that something else uses too where they
would be computed twice.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np
import tvm
from tvm import relax

from dsa_compiler.graph.calls import constant_of, describe, dtype_of, make_constant, op_name, plain, shape_of
from dsa_compiler.graph.fold_scale import channel_vector
from dsa_compiler.graph.rewriter import Rewriter

op = relax.op
NORMS = frozenset({"nn.instance_norm", "nn.layer_norm", "nn.rms_norm"})


def recognize(mod: tvm.IRModule) -> tvm.IRModule:
    """Return `mod`, in canonical form, with composed operators recognised."""
    return _Recognize(mod).run()


class _Recognize(Rewriter):
    def rewrite(self, call: relax.Call, old: Any) -> Any:
        rule = self.RULES.get(op_name(call))
        return call if rule is None else rule(self, call, old)

    def _multiply(self, call: relax.Call, old: Any) -> Any:
        for rule in (self._silu, self._gelu, self._normalized_by_reciprocal):
            found = rule(call)
            if found is not None:
                return found
        return self._affine(call, old)

    def _silu(self, call: relax.Call) -> Any:
        for x, gate in _both_ways(call):
            inner = self.producer(gate)
            if op_name(inner) == "sigmoid" and inner.args[0].same_as(x):
                return op.nn.silu(x)
        return None

    def _gelu(self, call: relax.Call) -> Any:
        """Match the product of x, 0.5 and 1 + erf(x * sqrt(0.5))."""
        factors, half = self._factors(call), 1.0
        tensors = []
        for factor in factors:
            number = _number(factor)
            if number is None:
                tensors.append(factor)
            else:
                half *= number
        if len(tensors) != 2 or not math.isclose(half, 0.5, rel_tol=1e-3):
            return None
        for x, gate in (tensors, tensors[::-1]):
            if self._is_one_plus_erf(gate, x):
                return op.nn.gelu(x)
        return None

    def _factors(self, call: relax.Call) -> list[Any]:
        """Return the factors of a product, products of one use taken apart."""
        result = []
        for arg in call.args:
            inner = self.sole_producer(arg)
            result.extend(self._factors(inner) if op_name(inner) == "multiply" else [arg])
        return result

    def _is_one_plus_erf(self, gate: Any, x: Any) -> bool:
        total = self.producer(gate)
        if op_name(total) != "add" or _number(total.args[1]) != 1.0:
            return False
        erf = self.producer(total.args[0])
        scaled = self.producer(erf.args[0]) if op_name(erf) == "erf" else None
        if scaled is None or op_name(scaled) != "multiply" or not scaled.args[0].same_as(x):
            return False
        factor = _number(scaled.args[1])
        return factor is not None and math.isclose(factor, math.sqrt(0.5), rel_tol=1e-3)

    def _divide(self, call: relax.Call, old: Any) -> Any:
        """Match (x - mean) / sqrt(variance + e)."""
        root = self.producer(call.args[1])
        if op_name(root) == "sqrt":
            found = self._norm(call.args[0], root.args[0])
            return call if found is None else found
        return call

    def _normalized_by_reciprocal(self, call: relax.Call) -> Any:
        """Match (x - mean) * (1 / sqrt(variance + e)), written with rsqrt, a power or a division."""
        for centered, gate in _both_ways(call):
            inner = self.producer(gate)
            variance = None
            if op_name(inner) == "rsqrt" or (op_name(inner) == "power" and _number(inner.args[1]) == -0.5):
                variance = inner.args[0]
            elif op_name(inner) == "divide" and _number(inner.args[0]) == 1.0:
                root = self.producer(inner.args[1])
                variance = root.args[0] if op_name(root) == "sqrt" else None
            found = None if variance is None else self._norm(centered, variance)
            if found is not None:
                return found
        return None

    def _norm(self, centered: Any, variance: Any) -> Any:
        """Return the normalisation if `variance` is mean(square(centered)) + e and `centered` x - mean(x), or any x."""
        total = self.producer(variance)
        epsilon = _number(total.args[1]) if op_name(total) == "add" else None
        difference = self.producer(centered)
        if epsilon is None:
            return None
        if difference is None or not self._is_centred(difference):
            return self._rms_norm(centered, total.args[0], epsilon)
        x = difference.args[0]
        axes = self._mean_axes(difference.args[1], x)
        mean = self.producer(total.args[0])
        square = self.producer(mean.args[0]) if op_name(mean) == "mean" else None
        if (
            axes is None
            or square is None
            or op_name(square) != "square"
            or self._mean_axes(total.args[0], mean.args[0]) != axes
        ):
            return None
        if not self._same_difference(square.args[0], difference, centered):
            return None
        return _whole_norm(x, axes, epsilon)

    def _is_centred(self, call: Any) -> bool:
        """Whether `call` is x - mean(x)."""
        return op_name(call) == "subtract" and self._mean_axes(call.args[1], call.args[0]) is not None

    def _rms_norm(self, x: Any, mean: Any, epsilon: float) -> Any:
        """Return the root-mean-square normalisation of x if `mean` is mean(square(x)) over the last axis."""
        call = self.producer(mean)
        square = self.producer(call.args[0]) if op_name(call) == "mean" else None
        if square is None or op_name(square) != "square" or not square.args[0].same_as(x):
            return None
        last = len(shape_of(x)) - 1
        if self._mean_axes(mean, call.args[0]) != (last,):
            return None
        ones = make_constant(np.ones(shape_of(x)[-1], dtype_of(x)))
        return op.nn.rms_norm(x, ones, axes=[last], epsilon=epsilon)

    def _same_difference(self, other: Any, difference: Any, centered: Any) -> bool:
        """Whether `other` is `centered` or the same difference computed again."""
        if other.same_as(centered):
            return True
        again = self.producer(other)
        if op_name(again) != "subtract" or not again.args[0].same_as(difference.args[0]):
            return False
        axes = self._mean_axes(again.args[1], again.args[0])
        return axes is not None and axes == self._mean_axes(difference.args[1], difference.args[0])

    def _mean_axes(self, mean: Any, x: Any) -> tuple[int, ...] | None:
        """Return the axes if `mean` is the mean of `x` with its axes kept."""
        call = self.producer(mean)
        if op_name(call) != "mean" or not call.args[0].same_as(x) or not call.attrs.keepdims:
            return None
        shape, axes = shape_of(x), plain(call.attrs.axis)
        every = range(len(shape)) if axes is None else sorted(a % len(shape) for a in axes)
        return tuple(a for a in every if shape[a] != 1)

    def _affine(self, call: relax.Call, old: Any) -> Any:
        """Take a constant factor or addend along one axis into the normalisation before it."""
        norm = self.sole_producer(call.args[0])
        value = constant_of(call.args[1]) if len(call.args) == 2 else None
        if op_name(norm) not in NORMS or value is None or shape_of(call.args[0]) != shape_of(old):
            return call
        known = [constant_of(a) for a in norm.args[1:]]
        factors = [f for f in known if f is not None]
        attrs = describe(norm).attrs
        by_axes = op_name(norm) != "nn.instance_norm"
        if len(factors) != len(known) or (len(attrs["axes"]) != 1 and by_axes):
            return call
        if op_name(call) == "add" and len(factors) == 1:
            return call  # a root-mean-square normalisation has no shift
        axis = attrs["axes"][0] if by_axes else attrs["channel_axis"]
        vector = channel_vector(value, shape_of(old), axis % len(shape_of(old)))
        if vector is None:
            return call
        if op_name(call) == "multiply":
            factors = [f * vector for f in factors]
        else:
            factors[1] = factors[1] + vector
        params = [make_constant(p.astype(np.dtype(dtype_of(norm.args[0])))) for p in factors]
        return relax.Call(norm.op, [norm.args[0], *params], norm.attrs, norm.ty_args)

    def _subtract(self, call: relax.Call, old: Any) -> Any:
        """Match relu(y) - relu(y - c), which cancels when it is rounded step by step."""
        over = self.producer(call.args[1])
        if op_name(self.producer(call.args[0])) != "nn.relu" or op_name(over) != "nn.relu":
            return call
        y = self.producer(call.args[0]).args[0]
        less = self.producer(over.args[0])
        sign = {"subtract": 1.0, "add": -1.0}.get(op_name(less))
        limit = _number(less.args[1]) if sign is not None and less.args[0].same_as(y) else None
        if limit is None or sign is None or sign * limit <= 0:
            return call
        return op.clip(y, 0.0, sign * limit)

    RULES: ClassVar[Mapping[str, Callable[[Any, Any, Any], Any]]] = {
        "add": _affine, "divide": _divide, "multiply": _multiply, "subtract": _subtract,
    }  # fmt: skip


def _whole_norm(x: Any, axes: tuple[int, ...], epsilon: float) -> Any:
    """Return the normalisation of `x` over `axes`, without scale and shift; None if it cannot be one operator.

    Over the last axis that is a layer normalisation, else an instance normalisation with a channel axis that is
    not normalised.
    """
    shape = shape_of(x)
    free = [a for a in range(len(shape)) if a not in axes]
    if not axes or not free:
        return None
    if axes == (len(shape) - 1,):
        ones = np.ones(shape[-1], dtype_of(x))
        return op.nn.layer_norm(x, make_constant(ones), make_constant(ones * 0), axes=[len(shape) - 1], epsilon=epsilon)
    channel = 1 if 1 in free else free[-1]
    ones = np.ones(shape[channel], dtype_of(x))
    return op.nn.instance_norm(x, make_constant(ones), make_constant(ones * 0), channel_axis=channel,
                               axes=list(axes), epsilon=epsilon)  # fmt: skip


def _both_ways(call: relax.Call) -> tuple[tuple[Any, Any], tuple[Any, Any]]:
    a, b = call.args
    return (a, b), (b, a)


def _number(expr: Any) -> float | None:
    """Return the value of a constant of one element."""
    value = constant_of(expr)
    return float(value.reshape(-1)[0]) if value is not None and value.size == 1 else None
