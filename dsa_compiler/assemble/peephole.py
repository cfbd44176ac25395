"""Replace instructions whose operands, once known, allow a plainer one.

Which tiles touch a border is known only when the tile loops have been evaluated: a padded load without padding
is a load, and one whose source lies wholly outside is a fill.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from dsa_compiler.assemble.trace import Trace
from dsa_compiler.isa.table import OPCODES


def simplify_paddings(trace: Trace) -> Trace:
    """`trace` with load_pad as load where nothing is padded, and as load_fill where nothing is read."""
    padded = np.flatnonzero(trace.entries["opcode"] == OPCODES["load_pad"].code)
    if not len(padded):
        return trace
    entries = trace.entries.copy()
    source = trace.operands[entries["operand"][padded] + 1]
    empty = (source["extents"] <= 0).any(axis=1)
    plain = np.array([not np.any(a.get("pad", [[1, 1]])) for a in trace.attrs])[entries["attrs"][padded]]
    entries["opcode"][padded[plain & ~empty]] = OPCODES["load"].code
    attrs = list(trace.attrs)
    entries["attrs"][padded[plain & ~empty]] = _intern(attrs, {})
    for row in padded[empty]:
        value = attrs[entries["attrs"][row]]["value"]
        entries["opcode"][row] = OPCODES["load_fill"].code
        entries["attrs"][row] = _intern(attrs, {"value": value})
        entries["operands"][row] = 1
    return replace(trace, entries=entries, attrs=tuple(attrs))


def _intern(attrs: list[Mapping[str, Any]], value: Mapping[str, Any]) -> int:
    if value not in attrs:
        attrs.append(value)
    return attrs.index(value)
