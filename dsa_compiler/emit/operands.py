"""Which casts an instruction makes by itself: each operand has a dtype of its own.

Floats are computed in float32, whole operands in int32, a mixture in float32; the result is converted to the
destination's dtype.
"""

from __future__ import annotations

from dsa_compiler.emit.expression import Apply, Load, Node
from dsa_compiler.isa.table import OPCODES

FLOATS = frozenset({"float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2"})
WHOLE = frozenset({"int32", "int16", "int8", "uint8", "bool"})
WIDENED = {"float32": FLOATS, "int32": frozenset({"int16", "int8", "uint8"})}
"""The smaller dtypes that operations widen as they read them, by the dtype that they compute in."""
EXACT_DTYPES = frozenset({"requantize"})
"""Operations whose source has to have the dtype itself."""


def strip_rounding(value: Node) -> Node:
    """The operation whose result a cast at the root converts as it is stored."""
    if isinstance(value, Apply) and value.op == "cast" and isinstance(value.args[0], Apply):
        inner = value.args[0]
        to_float = value.dtype in FLOATS and inner.dtype in ("float32", "int32")
        to_whole = value.dtype in WHOLE and inner.dtype in ("float32", "int32") and value.dtype != "bool"
        if (to_float or to_whole) and inner.op not in ("cast", "cast_saturate"):
            return inner
    return value


def strip_widening(value: Node) -> Node:
    """The load under a cast that widens it."""
    inner = strip_free(value)
    return inner if isinstance(inner, Load) else value


def strip_free(node: Node) -> Node:
    """The value under a cast that reading it as an operand does anyway: to float32 or int32 from a smaller dtype."""
    if isinstance(node, Apply) and node.op == "cast" and node.args[0].dtype in WIDENED.get(node.dtype, ()):
        return node.args[0]
    return node


def operand_nodes(node: Apply) -> list[Node]:
    """What an operation reads, without the casts that it makes itself."""
    stripped = list(node.args) if node.op in EXACT_DTYPES else [strip_free(a) for a in node.args]
    for place, arg in enumerate(stripped):
        others = [a for n, a in enumerate(stripped) if n != place]
        if _is_whole_as_float(arg) and (
            computes_in_float(node) or any(a.dtype in FLOATS for a in map(_source, others))
        ):
            stripped[place] = _source(arg)
    return stripped


def _is_whole_as_float(node: Node) -> bool:
    """Whether a node is an integer cast to float32."""
    return isinstance(node, Apply) and node.op == "cast" and node.dtype == "float32" and node.args[0].dtype in WHOLE


def _source(node: Node) -> Node:
    return node.args[0] if isinstance(node, Apply) and _is_whole_as_float(node) else node


def computes_in_float(node: Apply) -> bool:
    """Whether an operation of one source is in float32 whatever the source's dtype."""
    if node.op in ("quantize", "requantize"):
        return True
    definition = OPCODES.get(node.op)
    if definition is None:
        return False
    if any(isinstance(value, float) for _, value in node.params) and {"scalar", "unary"} & definition.tags:
        return node.dtype == "float32"
    return "unary" in definition.tags and definition.cost in ("transcendental", "divide")
