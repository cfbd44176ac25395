"""Instructions of the scalar engine: integer and address arithmetic, compare, and single elements of l1.

An entry stands for what the scalar core executes, loops unrolled in the account: operands of rank 1 name the elements
of all trips in order, `ops` is the total of operations (at least one an element) and `control` the total of control
instructions (branches, loop ends). Bases are element-aligned. s_branch and s_loop carry control alone.
"""

# mypy: disable-error-code="no-any-return"
from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from dsa_compiler.isa import elementwise as e
from dsa_compiler.isa.convert import INT32, common, widen
from dsa_compiler.isa.declare import INTEGERS, WHOLE
from dsa_compiler.isa.definition import Arrays, Attrs, AttrSpec, OpDef, OperandSpec, Semantics
from dsa_compiler.isa.ops_dma import checked_index, copy
from dsa_compiler.isa.shapes import all_of, counted, one_of_many, same_dtype, same_extents

_MOST = 1 << 53
_COUNTS = (AttrSpec("ops", "int", least=1, most=_MOST), AttrSpec("control", "int", least=0, most=_MOST))
_CONTROL = (AttrSpec("control", "int", least=1, most=_MOST),)
_TAGS = frozenset({"scalar_core"})
_SAME = all_of(same_extents, counted)
COMPARISONS: Mapping[str, Callable[..., np.ndarray]] = {
    "eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal,
}  # fmt: skip


def element(role: str, dtypes: tuple[str, ...] = (), broadcast: bool = True) -> OperandSpec:
    """Single elements of l1, element-aligned."""
    return OperandSpec(role, ("l1",), dtypes, (1,), broadcast=broadcast, aligned_base=False)


def compare(arrays: Arrays, attrs: Attrs) -> np.ndarray:
    """Whether src compares with src2 as `condition` says."""
    return COMPARISONS[attrs["condition"]](*common(arrays["src"], arrays["src2"]))


def address(arrays: Arrays, attrs: Attrs) -> np.ndarray:
    """src * value + src2."""
    return widen(arrays["src"]) * INT32.type(attrs["value"]) + widen(arrays["src2"])


def pick(arrays: Arrays, attrs: Attrs) -> np.ndarray:
    """src[index]."""
    return arrays["src"][checked_index(arrays["index"], len(arrays["src"]))]


def _binary(code: int, name: str, semantics: Semantics, doc: str, dtypes: tuple[str, ...] = INTEGERS) -> OpDef:
    operands = (element("dst", dtypes, broadcast=False), element("src", dtypes), element("src2", dtypes))
    return OpDef(name, code, "scalar", "scalar", operands, semantics, doc, _COUNTS, check=_SAME, tags=_TAGS)


_DST, _SRC, _SRC2 = element("dst", broadcast=False), element("src"), element("src2")
_INDEX = element("index", ("int32",))

SCALAR_CORE = (
    _binary(0x100, "s_add", e.on_pair(np.add), "src + src2."),
    _binary(0x101, "s_sub", e.on_pair(np.subtract), "src - src2."),
    _binary(0x102, "s_mul", e.on_pair(np.multiply), "src * src2."),
    _binary(0x103, "s_div", e.on_pair(e.divide), "src / src2, truncated."),
    _binary(0x104, "s_mod", e.on_pair(e.remainder), "The remainder with src's sign."),
    _binary(0x105, "s_min", e.on_pair(np.minimum), "The less."),
    _binary(0x106, "s_max", e.on_pair(np.maximum), "The greater."),
    _binary(0x107, "s_and", e.bits(np.bitwise_and), "Bits set in both.", WHOLE),
    _binary(0x108, "s_or", e.bits(np.bitwise_or), "Bits set in either.", WHOLE),
    _binary(0x109, "s_xor", e.bits(np.bitwise_xor), "Bits set in one alone.", WHOLE),
    _binary(0x10A, "s_shl", e.on_pair(e.shift_left), "src shifted left by src2 bits."),
    _binary(0x10B, "s_shr", e.on_pair(e.shift_right), "src shifted right by src2 bits, keeping its sign."),
    OpDef("s_cmp", 0x10C, "scalar", "scalar", (element("dst", WHOLE, broadcast=False), _SRC, _SRC2), compare,
          "Whether src compares with src2 as `condition` says.",
          (AttrSpec("condition", "str", choices=tuple(COMPARISONS)), *_COUNTS), check=_SAME, tags=_TAGS),
    OpDef("s_select", 0x10D, "scalar", "scalar", (_DST, _SRC, _SRC2, element("src3", ("bool",))), e.select,
          "src where src3 is true, else src2.", _COUNTS, check=_SAME, tags=_TAGS),
    OpDef("s_move", 0x10E, "scalar", "scalar", (_DST, _SRC), copy, "src.", _COUNTS, check=_SAME, tags=_TAGS),
    OpDef("s_addr", 0x10F, "scalar", "scalar",
          (element("dst", INTEGERS, broadcast=False), element("src", INTEGERS), element("src2", INTEGERS)), address,
          "src * value + src2.", (AttrSpec("value", "int"), *_COUNTS), check=_SAME, tags=_TAGS),
    OpDef("s_load", 0x110, "scalar", "scalar", (_DST, _SRC, _INDEX), pick, "The elements src[index].", _COUNTS,
          check=all_of(same_dtype, one_of_many, counted), tags=_TAGS),
    OpDef("s_store", 0x111, "scalar", "scalar", (_DST, _SRC, _INDEX), copy, "src to the elements dst[index].", _COUNTS,
          check=all_of(same_dtype, one_of_many, counted), tags=_TAGS | {"scatter"}),
    OpDef("s_branch", 0x112, "scalar", "scalar", (), None, "Branches of the scalar core.", _CONTROL, tags=_TAGS),
    OpDef("s_loop", 0x113, "scalar", "scalar", (), None, "Loop control of the scalar core.", _CONTROL, tags=_TAGS),
)  # fmt: skip
