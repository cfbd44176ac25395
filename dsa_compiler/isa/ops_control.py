"""Entries that may stand in any queue: flags on their own, barriers, the end of a queue.

`queues` of a barrier names every queue that takes part, in the simulator's notation.
"""

from __future__ import annotations

from dsa_compiler.isa.definition import AttrSpec, OpDef

_TAGS = frozenset({"control"})

CONTROL = (
    OpDef("set", 0x120, "control", "control", (), None, "Set flags when all earlier entries are complete.", tags=_TAGS),
    OpDef("wait", 0x121, "control", "control", (), None, "Wait for flags.", tags=_TAGS),
    OpDef("barrier", 0x122, "control", "control", (), None, "Wait until every queue named has arrived.",
          (AttrSpec("scope", "str", choices=("cluster", "chip")), AttrSpec("queues", "strs")), tags=_TAGS),
    OpDef("halt", 0x123, "control", "control", (), None, "The end of a queue.", tags=_TAGS),
)  # fmt: skip
