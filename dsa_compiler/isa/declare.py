"""The operand and attribute patterns that the family files share."""

from __future__ import annotations

from dsa_compiler.isa.definition import AttrSpec, OperandSpec
from dsa_compiler.isa.dtypes import DTYPES

VECTOR_SCOPES = ("l1", "l0c")
MEMORIES = ("ddr", "llb")
WHOLE = ("int32", "int16", "int8", "uint8", "bool")
INTEGERS = ("int32", "int16", "int8", "uint8")
FLOATING = tuple(d for d in DTYPES if "float" in d)
NUMERIC = tuple(d for d in DTYPES if d != "bool")

VALUE = AttrSpec("value", "float")
PAD = AttrSpec("pad", "pads", least=0)
TRANSPOSE = AttrSpec("transpose", "bool", always=True)
WINDOW = (
    AttrSpec("kernel", "ints", length=2, least=1),
    AttrSpec("stride", "ints", length=2, least=1),
    AttrSpec("dilation", "ints", length=2, least=1),
    AttrSpec("pad", "ints", length=4, least=0),
)
"""Kernel [h, w], stride [h, w], dilation [h, w] and pad [top, left, bottom, right] of a window walk."""


def vector_dst(dtypes: tuple[str, ...] = (), ranks: tuple[int, ...] = (1, 2, 3)) -> OperandSpec:
    """The result of a vector instruction."""
    return OperandSpec("dst", VECTOR_SCOPES, dtypes, ranks)


def vector_src(role: str = "src", dtypes: tuple[str, ...] = (), ranks: tuple[int, ...] = (1, 2, 3)) -> OperandSpec:
    """A source of a vector instruction, whose innermost stride may be 0."""
    return OperandSpec(role, VECTOR_SCOPES, dtypes, ranks, broadcast=True)
