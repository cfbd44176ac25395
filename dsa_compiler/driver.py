"""The whole pipeline on one screen: an ONNX model in, an executable out."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto

from dsa_compiler.bounds import analyze
from dsa_compiler.compilation import Compilation, CompiledLayer
from dsa_compiler.frontend import import_model, load_model
from dsa_compiler.graph import LayerGraph, extract_layers, optimize
from dsa_compiler.options import CompileOptions
from dsa_compiler.program.tables import Program
from dsa_compiler.simulator.machine import SimulationResult, simulate
from dsa_compiler.target import Target, load_target


@dataclass
class Executable:
    """A compiled model: the program, and how it came about.

    `graph` and `layers` are there only for a model compiled in this process.
    """

    program: Program
    model: ModelProto | None = None
    graph: LayerGraph | None = None
    layers: list[CompiledLayer] = field(default_factory=list)

    def run(self, inputs: Mapping[str, np.ndarray], *, race_seed: int | None = None) -> dict[str, np.ndarray]:
        """Outputs by name for `inputs` by name, on the simulator. Raises `UserError` for inputs that do not fit."""
        return self.simulate(inputs, race_seed=race_seed).outputs or {}

    def simulate(self, inputs: Mapping[str, np.ndarray] | None = None, **options: Any) -> SimulationResult:
        """Values and time of one run, or time alone without inputs."""
        return simulate(self.program, inputs, values=inputs is not None, **options)


def compile_model(
    model: str | Path | bytes | ModelProto, target: str | Path | Target, options: CompileOptions | None = None
) -> Executable:
    """Compile an ONNX model for a part. Raises `UserError` for a model, part or option that cannot be accepted."""
    start = time.perf_counter()
    options = options or CompileOptions()
    part = load_target(target)
    proto = load_model(model, shapes=dict(options.shapes), batch=options.batch)
    graph = extract_layers(optimize(import_model(proto), options.precision))
    work = Compilation(graph, part, options)
    layers = work.compile_layers()
    bounds = analyze(proto, part, options.precision)
    info = {
        "model": _name(model, proto),
        "precision": options.precision or "as the model",
        "batch": options.batch,
        "ideal_cycles": bounds.ideal_cycles,
        "feedback": dict(work.feedback),
    }
    program = work.assemble(layers, macs=int(sum(bounds.macs.values())), info=info)
    program.info["compile_s"] = time.perf_counter() - start  # type: ignore[index]
    return Executable(program, proto, graph, layers)


def _name(model: str | Path | bytes | ModelProto, proto: ModelProto) -> str:
    return Path(model).name if isinstance(model, (str, Path)) else proto.graph.name
