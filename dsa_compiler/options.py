"""Options of a compilation; the machine is not among them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy.typing as npt

from dsa_compiler.errors import UserError

if TYPE_CHECKING:
    from dsa_compiler.schedule.layer_schedule import LayerSchedule

Precision = Literal["float32", "float16"]

PRECISIONS = ("float32", "float16")
GRAPH_SCHEDULES = ("auto", "llb", "none")
EMISSION_PASSES = ("LoopShift", "LoopFission", "LoopCollapse", "IfPromotion", "LoopPartition", "PreProcess")
"""Passes that `disabled_passes` may name; a test holds them to the pipeline's."""



@dataclass(frozen=True)
class CompileOptions:
    """What a user may choose.

    `precision` None compiles as the model is. `disabled_passes` names emission passes to leave out. `dump_ir` is
    a folder for the IR of every stage, numbered. `values` gives inputs by name that become constants.
    `schedule` is a layer schedule to obey, or its file; it goes before `graph_schedule`.
    """

    precision: Precision | None = None
    batch: int | None = None
    shapes: Mapping[str, Sequence[int]] = field(default_factory=dict)
    graph_schedule: str = "auto"
    disabled_passes: frozenset[str] = frozenset()
    dump_ir: Path | None = None
    values: Mapping[str, npt.ArrayLike] = field(default_factory=dict)
    schedule: Path | LayerSchedule | None = None

    def __post_init__(self) -> None:
        """Raises `UserError` for a value that is not offered."""
        if self.precision is not None and self.precision not in PRECISIONS:
            raise _refused("precision", self.precision, PRECISIONS)
        if self.graph_schedule not in GRAPH_SCHEDULES:
            raise _refused("graph schedule", self.graph_schedule, GRAPH_SCHEDULES)
        for name in sorted(self.disabled_passes - set(EMISSION_PASSES)):
            raise _refused("emission pass", name, EMISSION_PASSES)
        if self.batch is not None and self.batch < 1:
            raise UserError(f"a batch of {self.batch} is not possible", where="options", action="give 1 or more")


def _refused(what: str, value: str, offered: Sequence[str]) -> UserError:
    return UserError(f"there is no {what} {value!r}", where="options", action=f"use one of {', '.join(offered)}")
