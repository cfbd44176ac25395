"""Elementwise ONNX operators."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any

import numpy as np
from onnx import helper
from tvm import relax

from dsa_compiler.frontend.node import Converter, Node, constant, dtype_of, scalar, shape_of

op = relax.op


def _unary(fn: Callable[[Any], Any]) -> Converter:
    return lambda node: node.emit(fn(node.inputs[0]))


def _binary(fn: Callable[[Any, Any], Any]) -> Converter:
    def convert(node: Node) -> Any:
        a, b = node.inputs
        if node.opset < 7 and node.attrs.get("broadcast"):
            raise node.error("broadcasting of operator sets before 7")
        return node.emit(fn(a, b))

    return convert


def _variadic(fn: Callable[[Any, Any], Any]) -> Converter:
    return lambda node: reduce(lambda a, b: node.emit(fn(a, b)), node.inputs)


def _divide(node: Node) -> Any:
    a, b = node.inputs
    return node.emit(op.divide(a, b))


_PLAIN = frozenset({"bfloat16", "bool", "float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8",
                    "uint16", "uint32", "uint64"})  # fmt: skip
"""Types between which a cast means what NumPy's does; others saturate or are packed."""


def _cast(node: Node) -> Any:
    """Emit a cast to the type named, or to that of the second input (CastLike)."""
    named = node.attrs.get("to")
    dtype = dtype_of(node.inputs[1]) if named is None else str(helper.tensor_dtype_to_np_dtype(named))
    for kind in (dtype, dtype_of(node.inputs[0])):
        if kind not in _PLAIN:
            raise node.error(f"casts with {kind}")
    return node.inputs[0] if dtype == dtype_of(node.inputs[0]) else node.emit(op.astype(node.inputs[0], dtype))


def _is_infinite(node: Node) -> Any:
    """Emit comparisons with the infinities that are asked for."""
    x = node.inputs[0]
    signs = [value for name, value in (("detect_positive", np.inf), ("detect_negative", -np.inf))
             if node.attrs.get(name, 1)]  # fmt: skip
    if len(signs) == 2:
        return node.emit(op.isinf(x))
    if not signs:
        return relax.const(np.zeros(shape_of(x), bool))
    return node.emit(op.equal(x, scalar(signs[0], x)))


def _clip(node: Node) -> Any:
    """Clip; bounds are attributes before opset 11, optional inputs after."""
    x = node.inputs[0]
    low, high = node.attrs.get("min"), node.attrs.get("max")
    if node.opset >= 11:
        low, high = (node.inputs[i] if node.has(i) else None for i in (1, 2))
    low, high = (_number(bound) for bound in (low, high))
    kind = np.dtype(dtype_of(x))
    if isinstance(low, relax.Expr) or isinstance(high, relax.Expr):
        x = x if low is None else node.emit(op.maximum(x, _as_expr(low, x)))
        return x if high is None else node.emit(op.minimum(x, _as_expr(high, x)))
    limit = np.finfo(kind) if kind.kind == "f" else np.iinfo(kind)
    low = max(float(limit.min), low) if low is not None else None
    high = min(float(limit.max), high) if high is not None else None
    if low is None and high is None:
        return x
    if high is None:
        return node.emit(op.nn.relu(x) if low == 0 else op.maximum(x, scalar(float(low or 0), x)))
    if low is None:
        return node.emit(op.minimum(x, scalar(high, x)))
    return node.emit(op.clip(x, low, high))


def _number(bound: Any) -> Any:
    value = constant(bound) if bound is not None and not isinstance(bound, int | float) else None
    return bound if value is None else float(value.reshape(-1)[0])


def _as_expr(bound: Any, like: Any) -> Any:
    return bound if isinstance(bound, relax.Expr) else scalar(bound, like)


def _gelu(node: Node) -> Any:
    tanh = node.text("approximate", "none") == "tanh"
    return node.emit((op.nn.gelu_tanh if tanh else op.nn.gelu)(node.inputs[0]))


def _hard_sigmoid_of(node: Node, alpha: float, beta: float) -> Any:
    x = node.inputs[0]
    scaled = node.emit(op.add(node.emit(op.multiply(x, scalar(alpha, x))), scalar(beta, x)))
    return node.emit(op.clip(scaled, 0, 1))


def _hard_sigmoid(node: Node) -> Any:
    return _hard_sigmoid_of(node, node.attrs.get("alpha", 0.2), node.attrs.get("beta", 0.5))


def _hard_swish(node: Node) -> Any:
    return node.emit(op.multiply(node.inputs[0], _hard_sigmoid_of(node, 1 / 6, 0.5)))


def _swish(node: Node) -> Any:
    x, alpha = node.inputs[0], node.attrs.get("alpha", 1.0)
    if alpha == 1.0:
        return node.emit(op.nn.silu(x))
    return node.emit(op.multiply(x, node.emit(op.sigmoid(node.emit(op.multiply(x, scalar(alpha, x)))))))


def _leaky_relu(node: Node) -> Any:
    return node.emit(op.nn.leakyrelu(node.inputs[0], float(node.attrs.get("alpha", 0.01))))


def _elu(node: Node) -> Any:
    """Emit max(x, 0) + alpha * (exp(min(x, 0)) - 1)."""
    x, alpha = node.inputs[0], node.attrs.get("alpha", 1.0)
    tail = node.emit(op.exp(node.emit(op.minimum(x, scalar(0, x)))))
    tail = node.emit(op.multiply(node.emit(op.subtract(tail, scalar(1, x))), scalar(alpha, x)))
    return node.emit(op.add(node.emit(op.nn.relu(x)), tail))


def _celu(node: Node) -> Any:
    """Emit max(x, 0) + alpha * (exp(min(x, 0) / alpha) - 1)."""
    x, alpha = node.inputs[0], node.attrs.get("alpha", 1.0)
    tail = node.emit(op.multiply(node.emit(op.minimum(x, scalar(0, x))), scalar(1 / alpha, x)))
    tail = node.emit(op.subtract(node.emit(op.exp(tail)), scalar(1, x)))
    return node.emit(op.add(node.emit(op.nn.relu(x)), node.emit(op.multiply(tail, scalar(alpha, x)))))


def _selu(node: Node) -> Any:
    """Emit gamma * (max(x, 0) + alpha * (exp(min(x, 0)) - 1))."""
    x = node.inputs[0]
    alpha = node.attrs.get("alpha", 1.6732632423543772)
    gamma = node.attrs.get("gamma", 1.0507009873554805)
    tail = node.emit(op.exp(node.emit(op.minimum(x, scalar(0, x)))))
    tail = node.emit(op.multiply(node.emit(op.subtract(tail, scalar(1, x))), scalar(alpha * gamma, x)))
    return node.emit(op.add(node.emit(op.multiply(node.emit(op.nn.relu(x)), scalar(gamma, x))), tail))


def _prelu(node: Node) -> Any:
    """Emit max(x, 0) + slope * min(x, 0)."""
    x, slope = node.inputs
    negative = node.emit(op.multiply(node.emit(op.minimum(x, scalar(0, x))), slope))
    return node.emit(op.add(node.emit(op.nn.relu(x)), negative))


def _thresholded_relu(node: Node) -> Any:
    x = node.inputs[0]
    keep = node.emit(op.greater(x, scalar(node.attrs.get("alpha", 1.0), x)))
    return node.emit(op.where(keep, x, scalar(0, x)))


def _softplus(node: Node) -> Any:
    """Emit max(x, 0) + log(1 + exp(-|x|))."""
    x = node.inputs[0]
    tail = node.emit(op.exp(node.emit(op.negative(node.emit(op.abs(x))))))
    tail = node.emit(op.log(node.emit(op.add(tail, scalar(1, x)))))
    return node.emit(op.add(node.emit(op.nn.relu(x)), tail))


def _softsign(node: Node) -> Any:
    x = node.inputs[0]
    return node.emit(op.divide(x, node.emit(op.add(node.emit(op.abs(x)), scalar(1, x)))))


def _mish(node: Node) -> Any:
    return node.emit(op.multiply(node.inputs[0], node.emit(op.tanh(_softplus(node)))))


def _reciprocal(node: Node) -> Any:
    return node.emit(op.divide(scalar(1, node.inputs[0]), node.inputs[0]))


def _power(node: Node) -> Any:
    x, exponent = node.inputs
    value = node.value(1)
    if value is not None and value.size == 1:
        known = {2.0: op.square, 0.5: op.sqrt, 1.0: None}
        number = float(value.reshape(-1)[0])
        if number in known and len(value.shape) <= len(shape_of(x)):
            fn = known[number]
            return x if fn is None else node.emit(fn(x))
    if dtype_of(exponent) != dtype_of(x):
        exponent = node.emit(op.astype(exponent, dtype_of(x)))
    return node.emit(op.power(x, exponent))


def _mean(node: Node) -> Any:
    total = reduce(lambda a, b: node.emit(op.add(a, b)), node.inputs)
    return node.emit(op.multiply(total, scalar(1 / len(node.inputs), total)))


def _mod(node: Node) -> Any:
    fn = op.mod if node.attrs.get("fmod", 0) else op.floor_mod
    return node.emit(fn(*node.inputs))


def _shrink(node: Node) -> Any:
    x = node.inputs[0]
    bias, lambd = node.attrs.get("bias", 0.0), node.attrs.get("lambd", 0.5)
    high = node.emit(op.where(node.emit(op.greater(x, scalar(lambd, x))), node.emit(op.subtract(x, scalar(bias, x))),
                              scalar(0, x)))  # fmt: skip
    low = node.emit(op.add(x, scalar(bias, x)))
    return node.emit(op.where(node.emit(op.less(x, scalar(-lambd, x))), low, high))


def elementwise_converters() -> dict[str, Converter]:
    """Return the converters of elementwise operators."""
    unary = {
        "Abs": op.abs, "Acos": op.acos, "Acosh": op.acosh, "Asin": op.asin, "Asinh": op.asinh, "Atan": op.atan,
        "Atanh": op.atanh, "Ceil": op.ceil, "Cos": op.cos, "Cosh": op.cosh, "Erf": op.erf, "Exp": op.exp,
        "Floor": op.floor, "IsNaN": op.isnan, "Log": op.log, "Neg": op.negative, "Not": op.logical_not,
        "Relu": op.nn.relu, "Round": op.round, "Sigmoid": op.sigmoid, "Sign": op.sign, "Sin": op.sin,
        "Sinh": op.sinh, "Sqrt": op.sqrt, "Tan": op.tan, "Tanh": op.tanh,
    }  # fmt: skip
    binary = {
        "Add": op.add, "And": op.logical_and, "Equal": op.equal, "Greater": op.greater,
        "GreaterOrEqual": op.greater_equal, "Less": op.less, "LessOrEqual": op.less_equal, "Mul": op.multiply,
        "Or": op.logical_or, "Sub": op.subtract, "Xor": op.logical_xor,
    }  # fmt: skip
    special: dict[str, Converter] = {
        "Cast": _cast, "CastLike": _cast, "Celu": _celu, "Clip": _clip, "Div": _divide, "Elu": _elu, "Gelu": _gelu,
        "IsInf": _is_infinite, "HardSigmoid": _hard_sigmoid, "HardSwish": _hard_swish, "LeakyRelu": _leaky_relu,
        "Max": _variadic(op.maximum), "Mean": _mean,
        "Min": _variadic(op.minimum), "Mish": _mish, "Mod": _mod, "PRelu": _prelu, "Pow": _power,
        "Reciprocal": _reciprocal, "Selu": _selu, "Shrink": _shrink, "Softplus": _softplus, "Softsign": _softsign,
        "Sum": _variadic(op.add), "Swish": _swish, "ThresholdedRelu": _thresholded_relu,
        "Where": lambda node: node.emit(op.where(*node.inputs)),
    }  # fmt: skip
    return {n: _unary(f) for n, f in unary.items()} | {n: _binary(f) for n, f in binary.items()} | special
