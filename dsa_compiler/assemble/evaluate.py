"""Evaluate index expressions of TIR over many loop iterations at once.

An environment maps each loop variable to an int64 array with one element an iteration; an expression becomes
an array of the same length (or a scalar, where no variable occurs in it).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from tvm.ir import Call
from tvm.tirx import IntImm, Var

from dsa_compiler.errors import InternalError

Array = np.ndarray
Environment = Mapping[Any, Array]

_BINARY: dict[str, Callable[[Any, Any], Any]] = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "FloorDiv": np.floor_divide,
    "FloorMod": np.mod,
    "Div": lambda a, b: np.trunc(np.divide(a, b)).astype(np.int64),
    "Mod": np.fmod,
    "Min": np.minimum,
    "Max": np.maximum,
    "LT": np.less,
    "LE": np.less_equal,
    "GT": np.greater,
    "GE": np.greater_equal,
    "EQ": np.equal,
    "NE": np.not_equal,
    "And": np.logical_and,
    "Or": np.logical_or,
}


def evaluate(expr: Any, env: Environment) -> Any:
    """The value of `expr` for every iteration of `env`; raises `InternalError` for what is no index expression."""
    if isinstance(expr, IntImm):
        return int(expr.value)
    if isinstance(expr, int):
        return expr
    if isinstance(expr, Var):
        if expr not in env:
            raise InternalError(f"{expr} is no tile loop's variable", where="assemble.expand")
        return env[expr]
    kind = type(expr).__name__
    if kind in _BINARY:
        return _BINARY[kind](evaluate(expr.a, env), evaluate(expr.b, env))
    if kind == "Not":
        return np.logical_not(evaluate(expr.a, env))
    if kind == "Cast":
        return evaluate(expr.value, env)
    if kind == "Select":
        return np.where(*(evaluate(e, env) for e in (expr.condition, expr.true_value, expr.false_value)))
    if isinstance(expr, Call) and expr.op.name == "prim.if_then_else":
        return np.where(*(evaluate(e, env) for e in expr.args))
    if isinstance(expr, Call) and expr.op.name in ("prim.likely", "tirx.likely"):
        return evaluate(expr.args[0], env)
    if kind == "FloatImm":
        return float(expr.value)
    raise InternalError(f"{kind} {expr} is no index expression", where="assemble.expand")
