"""Spellings that one opcode carries, folded in a tree of operations."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeGuard

from dsa_compiler.emit.expression import Apply, Const, Node

COMMUTATIVE = frozenset({"add", "mul", "max", "min", "eq", "ne", "bitwise_and", "bitwise_or"})
SCALAR_FORMS = frozenset(
    {
        "add", "sub", "mul", "max", "min", "div", "mod", "pow", "eq", "ne", "lt", "le", "gt", "ge",
        "bitwise_and", "bitwise_or", "shift_left", "shift_right",
    }
)  # fmt: skip
REVERSED = {"sub": "rsub", "div": "rdiv", "lt": "gt", "gt": "lt", "le": "ge", "ge": "le"}


def fold(node: Node) -> Node:
    """The tree with every spelling that one opcode carries folded into it, from the leaves up."""
    if not isinstance(node, Apply):
        return node
    node = Apply(node.op, tuple(fold(a) for a in node.args), node.dtype, node.params)
    changed = True
    while changed and isinstance(node, Apply):
        changed = False
        for rule in RULES.get(node.op, ()):
            better = rule(node)
            if better is not None and better != node:
                node, changed = better, True
                break
    return node


def _is(node: Node, op: str) -> TypeGuard[Apply]:
    return isinstance(node, Apply) and node.op == op


def _param(node: Apply, name: str = "value") -> float:
    return dict(node.params)[name]


def _near(a: float, b: float) -> bool:
    """Equal as a constant that went through a 16- or 32-bit float."""
    return math.isclose(a, b, rel_tol=2e-3) or a == b


def _close(a: float, b: float) -> bool:
    return math.isclose(a, b, rel_tol=1e-6) or a == b


def scalar(op: str, x: Node, value: float, dtype: str) -> Apply:
    """A tensor-scalar operation."""
    return Apply(f"{op}_scalar", (x,), dtype, (("value", value),))


def _to_scalar(node: Apply) -> Node | None:
    """An operation with a constant operand in its tensor-scalar form."""
    a, b = node.args
    if isinstance(a, Const) and isinstance(b, Const):
        return None
    if isinstance(b, Const):
        return scalar(node.op, a, b.value, node.dtype)
    if isinstance(a, Const) and node.op in COMMUTATIVE:
        return scalar(node.op, b, a.value, node.dtype)
    if isinstance(a, Const) and node.op in REVERSED:
        return scalar(REVERSED[node.op], b, a.value, node.dtype)
    return None


def _exact_reciprocal(node: Apply) -> Node | None:
    """Division by a constant whose reciprocal is exact, or whose rounding is that of the product."""
    value = _param(node)
    if not node.dtype.startswith("float") or value == 0 or not math.isfinite(value):
        return None
    return scalar("mul", node.args[0], 1.0 / value, node.dtype)


def _identity(node: Apply) -> Node | None:
    """x * 1, x + 0, x - 0."""
    neutral = 1 if node.op == "mul_scalar" else 0
    return node.args[0] if _param(node) == neutral else None


def _rsub(node: Apply) -> Node | None:
    return Apply("neg", node.args, node.dtype) if _param(node) == 0 else None


def _neg(node: Apply) -> Node | None:
    return Apply("neg", node.args, node.dtype) if _param(node) == -1 else None


def _relu(node: Apply) -> Node | None:
    return Apply("relu", node.args, node.dtype) if _param(node) == 0 else None


def _relu_of_min(node: Apply) -> Node | None:
    """max(min(x, high), low)."""
    inner = node.args[0]
    low = 0.0 if node.op == "relu" else _param(node)
    if not _is(inner, "min_scalar") or low > _param(inner):
        return None
    return Apply("clip", inner.args, node.dtype, (("low", low), ("high", _param(inner))))


def _min_of_max(node: Apply) -> Node | None:
    """min(max(x, low), high)."""
    inner = node.args[0]
    if not (_is(inner, "max_scalar") or _is(inner, "relu")):
        return None
    low = 0.0 if inner.op == "relu" else _param(inner)
    if low > _param(node):
        return None
    return Apply("clip", inner.args, node.dtype, (("low", low), ("high", _param(node))))


def _square(node: Apply) -> Node | None:
    return Apply("square", node.args[:1], node.dtype) if node.args[0] == node.args[1] else None


def _reciprocal(node: Apply) -> Node | None:
    if _param(node) != 1:
        return None
    inner = node.args[0]
    if _is(inner, "sqrt"):
        return Apply("rsqrt", inner.args, node.dtype)
    if _is(inner, "add_scalar") and _param(inner) == 1 and _is(inner.args[0], "exp"):
        exponent = inner.args[0].args[0]
        if _is(exponent, "neg"):
            return Apply("sigmoid", exponent.args, node.dtype)
    return Apply("reciprocal", node.args, node.dtype)


def _quotient(node: Apply) -> Node | None:
    """x / (1 + exp(-x)), x / (1 + |x|), x / sqrt(y)."""
    a, b = node.args
    if _is(b, "add_scalar") and _param(b) == 1:
        inner = b.args[0]
        if _is(inner, "exp") and inner.args[0] == Apply("neg", (a,), node.dtype):
            return Apply("silu", (a,), node.dtype)
        if inner == Apply("abs", (a,), node.dtype):
            return Apply("softsign", (a,), node.dtype)
    return None


def _activation_product(node: Apply) -> Node | None:
    """x * sigmoid(x), x * tanh(softplus(x))."""
    for x, y in (node.args, node.args[::-1]):
        if y == Apply("sigmoid", (x,), node.dtype):
            return Apply("silu", (x,), node.dtype)
        if y == Apply("tanh", (Apply("softplus", (x,), node.dtype),), node.dtype):
            return Apply("mish", (x,), node.dtype)
    return None


def _factors(node: Node) -> tuple[float, list[Node]]:
    """A product as a constant and its other factors."""
    if _is(node, "mul"):
        (a, left), (b, right) = _factors(node.args[0]), _factors(node.args[1])
        return a * b, left + right
    if _is(node, "mul_scalar"):
        value, rest = _factors(node.args[0])
        return value * _param(node), rest
    if _is(node, "square"):
        return 1.0, [node.args[0], node.args[0]]
    return 1.0, [node]


def _gelu(node: Apply) -> Node | None:
    """0.5 * x * (1 + erf(x / sqrt 2)) and its form with tanh, in any association."""
    value, factors = _factors(node)
    if len(factors) != 2:
        return None
    for x, gate in (factors, factors[::-1]):
        scale, inner = _gate(gate)
        if inner is None or not _close(value * scale, 0.5):
            continue
        if _is(inner, "erf") and _scaled(inner.args[0], x, math.sqrt(0.5)):
            return Apply("gelu", (x,), node.dtype)
        if _is(inner, "tanh") and _gelu_cubic(inner.args[0], x):
            return Apply("gelu_tanh", (x,), node.dtype)
    return None


def _gate(node: Node) -> tuple[float, Node | None]:
    """s * (1 + g) as (s, g): `g + 1` or `0.5 * g + 0.5`."""
    if not _is(node, "add_scalar"):
        return 1.0, None
    inner = node.args[0]
    if _param(node) == 1:
        return 1.0, inner
    value, factors = _factors(inner)
    if len(factors) == 1 and _close(value, _param(node)):
        return value, factors[0]
    return 1.0, None


def _scaled(node: Node, x: Node, scale: float) -> bool:
    value, factors = _factors(node)
    if _is(node, "div_scalar"):
        value, factors = 1 / _param(node), [node.args[0]]
    return len(factors) == 1 and factors[0] == x and _near(value, scale)


def _gelu_cubic(node: Node, x: Node) -> bool:
    """sqrt(2 / pi) * (x + 0.044715 * x ** 3)."""
    value, factors = _factors(node)
    if not _near(value, math.sqrt(2 / math.pi)) or len(factors) != 1:
        return False
    total = factors[0]
    if _is(total, "axpy"):
        cube, rest, scale = total.args[0], total.args[1], _param(total)
    elif _is(total, "fma"):
        cube, rest, scale = Apply("mul", total.args[:2], total.dtype), total.args[2], 1.0
    elif _is(total, "add"):
        rest, cube, scale = *total.args, 1.0
        if rest != x:
            rest, cube = cube, rest
    else:
        return False
    inner, parts = _factors(cube)
    cubed = parts == [x, x, x] or parts == [Apply("pow_scalar", (x,), x.dtype, (("value", 3.0),))]
    return rest == x and cubed and _near(inner * scale, 0.044715)


def _sum(node: Apply) -> Node | None:
    """a * b + c and a * value + b, and the activations that are spelled so."""
    return _split_activation(node) or _softplus_of_parts(node) or _multiply_add(node)


def _split_activation(node: Apply) -> Node | None:
    """relu(x) + slope * min(x, 0): leaky and parametric relu."""
    for a, b in (node.args, node.args[::-1]):
        if not _is(a, "relu"):
            continue
        x = a.args[0]
        below = Apply("min_scalar", (x,), node.dtype, (("value", 0.0),))
        if _is(b, "mul_scalar") and b.args[0] == below:
            return Apply("leaky_relu", (x,), node.dtype, b.params)
        if _is(b, "mul") and any(f == below for f in b.args):
            slope = b.args[1] if b.args[0] == below else b.args[0]
            return Apply("prelu", (x, slope), node.dtype)
        alpha, factors = _factors(b)
        if len(factors) == 1 and _is(factors[0], "expm1") and factors[0].args[0] == below:
            return Apply("elu", (x,), node.dtype, (("alpha", alpha),))
    return None


def _softplus_of_parts(node: Apply) -> Node | None:
    """relu(x) + log(1 + exp(-|x|))."""
    for a, b in (node.args, node.args[::-1]):
        if not _is(a, "relu"):
            continue
        magnitude = Apply("abs", a.args, node.dtype)
        if b == Apply("softplus", (Apply("neg", (magnitude,), node.dtype),), node.dtype):
            return Apply("softplus", a.args, node.dtype)
    return None


def _multiply_add(node: Apply) -> Node | None:
    for a, b in (node.args, node.args[::-1]):
        if _is(a, "mul_scalar"):
            return Apply("axpy", (a.args[0], b), node.dtype, a.params)
    for a, b in (node.args, node.args[::-1]):
        if _is(a, "mul"):
            return Apply("fma", (*a.args, b), node.dtype)
    return None


def _difference(node: Apply) -> Node | None:
    """a - b * value."""
    a, b = node.args
    if _is(b, "mul_scalar"):
        return Apply("axpy", (b.args[0], a), node.dtype, (("value", -_param(b)),))
    return None


def _leaky(node: Apply) -> Node | None:
    """max(x, slope * x) for a slope between 0 and 1."""
    for x, y in (node.args, node.args[::-1]):
        if _is(y, "mul_scalar") and y.args[0] == x and 0 <= _param(y) <= 1:
            return Apply("leaky_relu", (x,), node.dtype, y.params)
    return None


def _chosen(node: Apply) -> Node | None:
    """select(x > 0, x, f(x)): leaky and parametric relu, elu, relu; select(x > 0, 1, select(x < 0, -1, 0)): sign."""
    yes, no, condition = node.args
    if isinstance(yes, Const) and isinstance(condition, Apply):
        return _sign(node)
    if not isinstance(condition, Apply) or condition.op not in ("gt_scalar", "ge_scalar", "lt_scalar", "le_scalar"):
        return None
    if _param(condition) != 0:
        return None
    x = condition.args[0]
    if condition.op in ("lt_scalar", "le_scalar"):
        yes, no = no, yes
    if yes != x:
        return None
    if isinstance(no, Const) and no.value == 0:
        return Apply("relu", (x,), node.dtype)
    if _is(no, "mul_scalar") and no.args[0] == x:
        return Apply("leaky_relu", (x,), node.dtype, no.params)
    if _is(no, "mul") and x in no.args:
        slope = no.args[1] if no.args[0] == x else no.args[0]
        return Apply("prelu", (x, slope), node.dtype)
    alpha, factors = _factors(no)
    below = Apply("min_scalar", (x,), node.dtype, (("value", 0.0),))
    if factors in ([Apply("expm1", (x,), node.dtype)], [Apply("expm1", (below,), node.dtype)]):
        return Apply("elu", (x,), node.dtype, (("alpha", alpha),))
    return None


def _sign(node: Apply) -> Node | None:
    one, inner, condition = node.args
    if not (_is(condition, "gt_scalar") and _param(condition) == 0 and isinstance(one, Const) and one.value == 1):
        return None
    if not _is(inner, "select"):
        return None
    minus, zero, below = inner.args
    x = condition.args[0]
    if not (isinstance(zero, Const) and zero.value == 0 and isinstance(minus, Const) and minus.value == -1):
        return None
    return Apply("sign", (x,), node.dtype) if _is(below, "lt_scalar") and below.args[0] == x else None


def _selu(node: Apply) -> Node | None:
    """1.0507 * elu(x, 1.67326)."""
    inner = node.args[0]
    if not _is(inner, "elu") or not _near(_param(node), 1.0507009873554805):
        return None
    return Apply("selu", inner.args, node.dtype) if _near(_param(inner, "alpha"), 1.6732632423543772) else None


def _logarithm(node: Apply) -> Node | None:
    """log(1 + exp(x)) and log(1 + x)."""
    inner = node.args[0]
    if not _is(inner, "add_scalar") or _param(inner) != 1:
        return None
    if _is(inner.args[0], "exp"):
        return Apply("softplus", inner.args[0].args, node.dtype)
    return Apply("log1p", inner.args, node.dtype)


def _log1p(node: Apply) -> Node | None:
    inner = node.args[0]
    return Apply("softplus", inner.args, node.dtype) if _is(inner, "exp") else None


def _expm1(node: Apply) -> Node | None:
    """exp(x) - 1."""
    inner = node.args[0]
    value = _param(node) if node.op == "sub_scalar" else -_param(node)
    return Apply("expm1", inner.args, node.dtype) if value == 1 and _is(inner, "exp") else None


def _power(node: Apply) -> Node | None:
    value = _param(node)
    simple = {2: "square", 0.5: "sqrt", -1: "reciprocal", -0.5: "rsqrt"}.get(value)
    if simple:
        return Apply(simple, node.args, node.dtype)
    return node.args[0] if value == 1 else None


def _add_negative(node: Apply) -> Node | None:
    return scalar("add", node.args[0], -_param(node), node.dtype) if node.dtype.startswith("float") else None


def _cast_of_cast(node: Apply) -> Node | None:
    """A cast to the value's own dtype; a cast of a cast whose middle dtype holds every source value."""
    inner = node.args[0]
    if inner.dtype == node.dtype:
        return inner
    if _is(inner, "cast") and inner.args[0].dtype in HELD_BY.get(inner.dtype, ()):
        source = inner.args[0]
        return source if source.dtype == node.dtype else Apply("cast", (source,), node.dtype)
    return None


HELD_BY = {
    "float32": ("float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "int16", "int8", "uint8", "bool"),
    "float16": ("float8_e4m3fn", "float8_e5m2", "int8", "uint8", "bool"),
    "int32": ("int16", "int8", "uint8", "bool"),
    "int16": ("int8", "uint8", "bool"),
}
"""Dtypes whose every value another dtype holds exactly."""


def _saturating(node: Apply) -> Node | None:
    """A cast to an integer of a value held within that integer's range, and the quantisations that end so."""
    inner = node.args[0]
    if not _is(inner, "clip") or not inner.dtype.startswith("float") or node.dtype not in WHOLE_LIMITS:
        return None
    low, high = _param(inner, "low"), _param(inner, "high")
    if (low, high) == WHOLE_LIMITS[node.dtype]:
        return _quantized(inner.args[0], node.dtype) or Apply("cast_saturate", inner.args, node.dtype)
    if not float(low).is_integer() or not float(high).is_integer():
        return None
    result = _quantized(inner.args[0], node.dtype)
    return None if result is None else _held(result, int(low), int(high))


def _held(value: Node, low: int, high: int) -> Node:
    """A small integer held between bounds of which one may be that of its dtype."""
    least, most = WHOLE_LIMITS[value.dtype]
    value = scalar("max", value, low, value.dtype) if low > least else value
    return scalar("min", value, high, value.dtype) if high < most else value


def _quantized(value: Node, dtype: str) -> Node | None:
    """round(x / s) + zero and round((whole - z) * s) + zero."""
    zero = 0.0
    if _is(value, "add_scalar"):
        zero = _param(value)
        value = value.args[0]
    if not _is(value, "round") or not float(zero).is_integer():
        return None
    scaled, params = value.args[0], (("zero_point", int(zero)),)
    if _is(scaled, "div"):
        return Apply("quantize", scaled.args, dtype, params)
    if not _is(scaled, "dequantize") or dtype not in ("int8", "uint8"):
        return None
    source = _less_zero(scaled.args[0], int(_param(scaled, "zero_point")))
    return Apply("requantize", (source, scaled.args[1]), dtype, params)


def _less_zero(source: Node, zero: int) -> Node:
    """A whole number less its zero point, in int32."""
    wide = source if source.dtype == "int32" else Apply("cast", (source,), "int32")
    return scalar("sub", wide, zero, "int32") if zero else wide


def _dequantized(node: Apply) -> Node | None:
    """(q - zero) * scale of an integer."""
    for a, scale in (node.args, node.args[::-1]):
        zero = 0.0
        if _is(a, "add_scalar"):
            zero = -_param(a)
            a = a.args[0]
        if not _is(a, "cast") or a.args[0].dtype not in WHOLE_LIMITS or not float(zero).is_integer():
            continue
        if scale.dtype == "float32" and not _is(scale, "cast"):
            return Apply("dequantize", (a.args[0], scale), node.dtype, (("zero_point", int(zero)),))
    return None


WHOLE_LIMITS = {
    "int8": (-128, 127), "uint8": (0, 255), "int16": (-32768, 32767), "int32": (-(2**31), 2**31 - 1),
}  # fmt: skip


def _not_comparison(node: Apply) -> Node | None:
    opposite = {"eq": "ne", "ne": "eq", "lt": "ge", "ge": "lt", "gt": "le", "le": "gt"}
    inner = node.args[0]
    if not isinstance(inner, Apply):
        return None
    base = inner.op.removesuffix("_scalar")
    if base not in opposite or base in ("lt", "ge", "gt", "le"):
        return None
    return Apply(inner.op.replace(base, opposite[base]), inner.args, "bool", inner.params)


Rule = Callable[[Apply], "Node | None"]
RULES: dict[str, tuple[Rule, ...]] = {
    **dict.fromkeys(SCALAR_FORMS, (_to_scalar,)),
    "add": (_to_scalar, _sum),
    "sub": (_to_scalar, _difference),
    "mul": (_to_scalar, _dequantized, _square, _activation_product, _gelu),
    "div": (_to_scalar, _quotient),
    "max": (_to_scalar, _leaky),
    "mul_scalar": (_identity, _neg, _selu, _gelu),
    "add_scalar": (_identity, _expm1),
    "sub_scalar": (_identity, _expm1, _add_negative),
    "rsub_scalar": (_rsub,),
    "div_scalar": (_exact_reciprocal,),
    "rdiv_scalar": (_reciprocal,),
    "max_scalar": (_relu, _relu_of_min),
    "relu": (_relu_of_min,),
    "min_scalar": (_min_of_max,),
    "pow_scalar": (_power,),
    "select": (_chosen,),
    "log": (_logarithm,),
    "log1p": (_log1p,),
    "cast": (_cast_of_cast, _saturating),
    "logical_not": (_not_comparison,),
}
