"""What an instruction is: one `OpDef` holds every fact from which the other tools derive.

Encoder, decoder, assembler text, validator, simulator dispatch, costs and the ISA page all read it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

ROLES = ("dst", "acc", "src", "src2", "src3", "lhs", "rhs", "bias", "index", "table", "taps")
"""The role's place in this tuple is its code in tables and encodings."""

ROLE_CODE = {name: code for code, name in enumerate(ROLES)}
WRITTEN_ROLES = frozenset({"dst", "acc"})

COST_CLASSES = (
    "simple", "divide", "transcendental", "gather", "slide", "stage", "scan",
    "dma", "img2col", "matrix", "windowed", "merge", "scalar", "control",
)  # fmt: skip
"""How time is counted; the first seven are the classes that listings name."""

Arrays = dict[str, np.ndarray]
Attrs = Mapping[str, Any]
Semantics = Callable[[Arrays, Attrs], "np.ndarray | None"]
"""From the operands read, by role, and the attributes to the value written to `dst` or `acc`.

Arrays have the operand's extents as shape. The result is rounded or cast to the destination's dtype by the
caller (`isa.convert.convert`, saturating if the instruction is tagged so) and has the destination's elements in
order, so that a DMA copy between different views needs a reshape only. `acc` is among the arrays of an
accumulating instruction; `dst` is among those of an instruction tagged `shaped`, for its shape alone. Callers
run under ``np.errstate(all="ignore")``: infinities and NaNs are values.
"""


@dataclass(frozen=True)
class OperandSpec:
    """What an operand may be: scopes, dtypes (empty: any of the part), ranks, and whether it may be absent.

    `aligned_base` False exempts the base from the scope's alignment (slide); `aligned_strides` False exempts
    the outer strides (img2col: multiples of 8 bytes). `broadcast` allows an innermost stride of 0.
    """

    role: str
    scopes: tuple[str, ...]
    dtypes: tuple[str, ...] = ()
    ranks: tuple[int, ...] = (1, 2, 3)
    optional: bool = False
    broadcast: bool = False
    aligned_base: bool = True
    aligned_strides: bool = True


@dataclass(frozen=True)
class AttrSpec:
    """An attribute: `kind` is int, float, bool, str, ints (flat list), pads (pairs) or strs (list of texts).

    A float may be written as a whole number (with whole-number sources the arithmetic is then int32) or as
    "inf", "-inf", "nan". `length` is the length of the list (0: any), `least` and `most` bound an int, a whole float
    and the members of ints and pads, `choices` are the texts allowed;
    `always` marks a bool that is true wherever it stands, since listings rely on it.
    """

    name: str
    kind: str
    required: bool = True
    length: int = 0
    least: int = -(1 << 31)
    most: int = (1 << 31) - 1
    choices: tuple[str, ...] = ()
    always: bool = False


@dataclass(frozen=True)
class OpDef:
    """One instruction. `code` is its encoding; `feature` names the flag of the part that it needs.

    `engine` is "control" for entries that stand in any queue. `check` says what is wrong with shapes or dtypes that
    the generic rules cannot see, or returns None; it sees each operand's scope, dtype, extents and strides.
    `tags` name families (unary, binary, reduce, ...) and what callers must know: `saturate`, `shaped`, and
    `scatter` (row i of the value goes to row index[i] of dst, the last of several winning).
    """

    name: str
    code: int
    engine: str
    cost: str
    operands: tuple[OperandSpec, ...]
    semantics: Semantics | None
    doc: str
    attrs: tuple[AttrSpec, ...] = ()
    feature: str = ""
    check: Callable[[Mapping[str, Any], Attrs], str | None] | None = None
    tags: frozenset[str] = field(default_factory=frozenset)

    def spec(self, role: str) -> OperandSpec | None:
        """The operand of that role, or None."""
        return next((o for o in self.operands if o.role == role), None)
