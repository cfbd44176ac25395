"""A compiled model that can be run, timed, reported and saved. Needs no TVM."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dsa_compiler.program import container
from dsa_compiler.program.tables import Program
from dsa_compiler.report.profile import Profile
from dsa_compiler.report.summary import build_report
from dsa_compiler.simulator.machine import SimulationResult, simulate

if TYPE_CHECKING:
    from onnx import ModelProto

    from dsa_compiler.compilation import CompiledLayer
    from dsa_compiler.graph import LayerGraph


@dataclass
class Executable:
    """A program, and how it came about.

    `model` (static, folded), `graph` and `layers` are there only for a model compiled in this process.
    """

    program: Program
    model: ModelProto | None = None
    graph: LayerGraph | None = None
    layers: list[CompiledLayer] = field(default_factory=list)

    def run(self, inputs: Mapping[str, np.ndarray], *, race_seed: int | None = None) -> dict[str, np.ndarray]:
        """Outputs by name for `inputs` by name, on the simulator.

        Raises `UserError` for inputs that do not fit. `race_seed` stretches latencies at random.
        """
        return self.simulate(inputs, race_seed=race_seed).outputs or {}

    def simulate(self, inputs: Mapping[str, np.ndarray] | None = None, **options: Any) -> SimulationResult:
        """Values and time of one run, or time alone without inputs; `options` are those of `simulator.machine`."""
        return simulate(self.program, inputs, values=inputs is not None, **options)

    @cached_property
    def report(self) -> dict[str, Any]:
        """What the program does and takes, as plain JSON values; see `report.summary`."""
        return build_report(self.program)

    def profile(self) -> Profile:
        """The run in time: what each layer and engine did, and when."""
        return Profile.of(self.program)

    def save(self, path: str | Path) -> None:
        """Write a `.npu` file. Raises `UserError` if it cannot be written."""
        container.save(self.program, path)


def load(path: str | Path) -> Executable:
    """The executable in a `.npu` file. Raises `UserError` naming what is wrong with the file."""
    return Executable(container.load(path))
