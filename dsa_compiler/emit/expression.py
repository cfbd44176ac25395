"""The value of a store as a small tree of table operations, and back again.

The tree's operations carry the names of opcodes. `read` builds it from TIR; `spell` writes it as TIR that any
backend runs, in a form that `read` and `patterns.fold` turn into the same tree.
"""

from __future__ import annotations

from dataclasses import dataclass

import tvm_ffi
from tvm import tirx
from tvm.ir import Call, Op, TensorLoad

from dsa_compiler.emit import tir
from dsa_compiler.emit.neutral import limits
from dsa_compiler.errors import InternalError


class Unmatched(Exception):
    """No instruction carries this; the text says why, for the report."""


class Unsuited(Unmatched):
    """The nest is not of a family's form at all: a reason of interest only where there is no better one."""


@dataclass(frozen=True)
class Load:
    """The element that access number `slot` reads."""

    slot: int
    dtype: str


@dataclass(frozen=True)
class Const:
    """A constant."""

    value: float | int | bool
    dtype: str


@dataclass(frozen=True)
class Apply:
    """One operation. `params` are its scalar attributes, by name."""

    op: str
    args: tuple[Node, ...]
    dtype: str
    params: tuple[tuple[str, float | int], ...] = ()


Node = Load | Const | Apply

BINARY = {
    tirx.Add: "add", tirx.Sub: "sub", tirx.Mul: "mul", tirx.Div: "div", tirx.Max: "max", tirx.Min: "min",
    tirx.FloorDiv: "floor_div", tirx.FloorMod: "mod", tirx.Mod: "fmod",
    tirx.EQ: "eq", tirx.NE: "ne", tirx.LT: "lt", tirx.LE: "le", tirx.GT: "gt", tirx.GE: "ge",
    tirx.And: "logical_and", tirx.Or: "logical_or",
    tirx.BitwiseAnd: "bitwise_and", tirx.BitwiseOr: "bitwise_or", tirx.BitwiseXor: "bitwise_xor",
    tirx.LShift: "shift_left", tirx.RShift: "shift_right",
}  # fmt: skip
BINARY_NODE = {name: node for node, name in BINARY.items()}

CALLS = {
    "exp": "exp", "exp2": "exp2", "log": "log", "log2": "log2", "log1p": "log1p", "sqrt": "sqrt", "rsqrt": "rsqrt",
    "sin": "sin", "cos": "cos", "tan": "tan", "sinh": "sinh", "cosh": "cosh", "tanh": "tanh", "asin": "asin",
    "acos": "acos", "atan": "atan", "asinh": "asinh", "acosh": "acosh", "atanh": "atanh", "sigmoid": "sigmoid",
    "erf": "erf", "fabs": "abs", "floor": "floor", "ceil": "ceil", "nearbyint": "round", "round": "round",
    "trunc": "trunc", "pow": "pow", "atan2": "atan2", "fmod": "fmod", "isnan": "is_nan", "isinf": "is_inf",
    "isfinite": "is_finite",
}  # fmt: skip
"""Calls to math functions, without their namespace, and the operations that they are."""

UNARY_SPELLING = {
    "exp": tirx.exp, "exp2": tirx.exp2, "log": tirx.log, "log2": tirx.log2, "log1p": tirx.log1p, "sqrt": tirx.sqrt,
    "rsqrt": tirx.rsqrt, "sin": tirx.sin, "cos": tirx.cos, "tan": tirx.tan, "sinh": tirx.sinh, "cosh": tirx.cosh,
    "tanh": tirx.tanh, "asin": tirx.asin, "acos": tirx.acos, "atan": tirx.atan, "asinh": tirx.asinh,
    "acosh": tirx.acosh, "atanh": tirx.atanh, "sigmoid": tirx.sigmoid, "erf": tirx.erf, "abs": tirx.abs,
    "floor": tirx.floor, "ceil": tirx.ceil, "round": tirx.nearbyint, "trunc": tirx.trunc,
    "is_nan": tirx.isnan, "is_inf": tirx.isinf, "is_finite": tirx.isfinite,
}  # fmt: skip


class Reader:
    """Builds trees and collects the distinct loads that they read."""

    def __init__(self) -> None:
        self.loads: list[TensorLoad] = []

    def read(self, expr: tir.Expr) -> Node:
        """The tree of an expression; raises `Unmatched` where it holds what no operation is."""
        if isinstance(expr, TensorLoad):
            return Load(self.slot(expr), tir.dtype_of(expr))
        if isinstance(expr, (tirx.IntImm, tirx.FloatImm)):
            dtype = tir.dtype_of(expr)
            return Const(bool(expr.value) if dtype == "bool" else expr.value, dtype)
        if isinstance(expr, tirx.Cast):
            return _cast(self.read(expr.value), tir.dtype_of(expr))
        name = BINARY.get(type(expr))
        if name is not None:
            return Apply(name, (self.read(expr.a), self.read(expr.b)), tir.dtype_of(expr))
        if isinstance(expr, tirx.Select):
            return self._select(expr.condition, expr.true_value, expr.false_value)
        if isinstance(expr, tirx.Not):
            return Apply("logical_not", (self.read(expr.a),), "bool")
        if isinstance(expr, tirx.BitwiseNot):
            return Apply("bitwise_not", (self.read(expr.a),), tir.dtype_of(expr))
        if isinstance(expr, Call) and isinstance(expr.op, Op):
            return self._call(expr)
        if isinstance(expr, tirx.Var):
            raise Unmatched(f"the value of loop variable {expr.name} is used as data")
        raise Unmatched(f"no operation is a {type(expr).__name__}")

    def _call(self, expr: Call) -> Node:
        if tir.is_select(expr):
            return self._select(*expr.args)
        name = expr.op.name.split(".")[-1]
        if name == "likely":
            return self.read(expr.args[0])
        if name not in CALLS:
            raise Unmatched(f"no operation is a call of {expr.op.name}")
        return Apply(CALLS[name], tuple(self.read(a) for a in expr.args), tir.dtype_of(expr))

    def _select(self, condition: tir.Expr, yes: tir.Expr, no: tir.Expr) -> Node:
        if not tir.loads_of(condition):
            raise Unmatched("a condition on loop variables is left in the value")
        return Apply("select", (self.read(yes), self.read(no), self.read(condition)), tir.dtype_of(yes))

    def slot(self, load: TensorLoad) -> int:
        """The number of a load; equal loads have one."""
        for slot, other in enumerate(self.loads):
            if load.source.same_as(other.source) and tvm_ffi.structural_equal(load, other):
                return slot
        self.loads.append(load)
        return len(self.loads) - 1


def _cast(value: Node, dtype: str) -> Node:
    if value.dtype == dtype:
        return value
    if isinstance(value, Const) and dtype.startswith("float"):
        return Const(float(value.value), dtype)
    return Apply("cast", (value,), dtype)


def spell(node: Node, leaves: dict[Node, tir.Expr]) -> tir.Expr:
    """TIR of a tree; `leaves` are the expressions of nodes that are materialised, loads among them."""
    if node in leaves:
        return leaves[node]
    if isinstance(node, Const):
        return tirx.const(node.value, node.dtype)
    if isinstance(node, Load):
        raise InternalError(f"load {node.slot} has no expression", where="emit.expression")
    args = [spell(a, leaves) for a in node.args]
    if node.op in BINARY_NODE:
        return BINARY_NODE[node.op](*args)
    if node.op in UNARY_SPELLING:
        return UNARY_SPELLING[node.op](args[0])
    return _spell_other(node, args)


def _spell_other(node: Apply, args: list[tir.Expr]) -> tir.Expr:
    p = dict(node.params)
    x = args[0]

    def const(value: float) -> tir.Expr:
        return tirx.const(value, tir.dtype_of(x))

    def saturated(value: tir.Expr) -> tir.Expr:
        low, high = (tirx.const(float(v), tir.dtype_of(value)) for v in limits(node.dtype))
        return tirx.Cast(node.dtype, tirx.Min(tirx.Max(value, low), high))

    def sigmoid() -> tir.Expr:
        return tirx.sigmoid(x)

    scalar = node.op.removesuffix("_scalar")
    if scalar != node.op:
        value = tirx.const(p["value"], tir.dtype_of(x))
        if scalar in ("rsub", "rdiv"):
            return BINARY_NODE[scalar[1:]](value, x)
        return tirx.pow(x, value) if scalar == "pow" else BINARY_NODE[scalar](x, value)
    spellings = {
        "cast": lambda: tirx.Cast(node.dtype, x),
        "logical_not": lambda: tirx.Not(x),
        "bitwise_not": lambda: tirx.BitwiseNot(x),
        "select": lambda: tirx.Select(args[2], x, args[1]),
        "neg": lambda: const(0) - x,
        "cast_saturate": lambda: saturated(x),
        "quantize": lambda: saturated(tirx.nearbyint(x / args[1]) + const(float(p["zero_point"]))),
        "requantize": lambda: saturated(
            tirx.nearbyint(tirx.Cast("float32", x) * args[1]) + tirx.const(float(p["zero_point"]), "float32")
        ),
        "dequantize": lambda: (tirx.Cast("float32", x) - tirx.const(float(p["zero_point"]), "float32")) * args[1],
        "sign": lambda: tirx.Select(x > const(0), const(1), tirx.Select(x < const(0), const(-1), const(0))),
        "selu": lambda: const(1.0507009873554805) * tirx.Select(
            x > const(0), x, (tirx.exp(x) - const(1)) * const(1.6732632423543772)
        ),
        "expm1": lambda: tirx.exp(x) - const(1),
        "relu": lambda: tirx.Max(x, const(0)),
        "square": lambda: x * x,
        "reciprocal": lambda: const(1) / x,
        "silu": lambda: x * sigmoid(),
        "gelu": lambda: x * const(0.5) * (tirx.erf(x * const(0.7071067811865476)) + const(1.0)),
        "clip": lambda: tirx.Min(tirx.Max(x, const(p["low"])), const(p["high"])),
        "leaky_relu": lambda: tirx.Select(x > const(0), x, x * const(p["value"])),
        "prelu": lambda: tirx.Select(x > const(0), x, x * args[1]),
        "fma": lambda: x * args[1] + args[2],
        "axpy": lambda: x * const(p["value"]) + args[1],
        "softplus": lambda: tirx.log(tirx.exp(x) + const(1)),
        "softsign": lambda: x / (tirx.abs(x) + const(1)),
        "mish": lambda: x * tirx.tanh(tirx.log(tirx.exp(x) + const(1))),
        "elu": lambda: tirx.Select(x > const(0), x, (tirx.exp(x) - const(1)) * const(p["alpha"])),
        "gelu_tanh": lambda: x * const(0.5) * (
            tirx.tanh((x + x * x * x * const(0.044715)) * const(0.7978845608028654)) + const(1)
        ),
        "pow": lambda: tirx.pow(x, args[1]),
        "atan2": lambda: tirx.atan2(x, args[1]),
    }  # fmt: skip
    return spellings[node.op]()
