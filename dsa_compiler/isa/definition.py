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

Arrays have the operand's extents as shape; the result is rounded or cast to the destination's dtype by the
caller unless it has that dtype already. `acc` is among the arrays of an accumulating instruction.
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
    """An attribute: `kind` is int, float, bool, str, ints (flat list) or pads (pairs)."""

    name: str
    kind: str
    required: bool = True


@dataclass(frozen=True)
class OpDef:
    """One instruction. `code` is its encoding; `feature` names the flag of the part that it needs.

    `elementwise` is the number of table operations for each element of dst (0 where that has no meaning).
    `check` says what is wrong with shapes or dtypes that the generic rules cannot see, or returns None.
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
