"""The whole pipeline on one screen: an ONNX model in, an executable out."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from onnx import ModelProto

from dsa_compiler.bounds import Bounds, analyze
from dsa_compiler.compilation import CompiledLayer, Work
from dsa_compiler.frontend import load_model
from dsa_compiler.frontend.shapes import assumptions
from dsa_compiler.options import CompileOptions
from dsa_compiler.placement import place_layers
from dsa_compiler.placing import Placing
from dsa_compiler.program.tables import Program
from dsa_compiler.program_memory import fit_program
from dsa_compiler.report.provenance import layer_facts
from dsa_compiler.runtime.executable import Executable
from dsa_compiler.scheduling import schedule_summary
from dsa_compiler.simulator.timing import time_program
from dsa_compiler.target import Target, load_target

__all__ = ["Executable", "compile_model"]

Progress = Callable[[str], None]


def compile_model(
    model: str | Path | bytes | ModelProto,
    target: str | Path | Target,
    options: CompileOptions | None = None,
    progress: Progress = lambda step: None,
) -> Executable:
    """Compile an ONNX model for a part; `progress` is told what comes next.

    Raises `UserError` for a model, part or option that cannot be accepted.
    """
    start = time.perf_counter()
    options = options or CompileOptions()
    part = load_target(target)
    progress("reading the model")
    proto = load_model(model, shapes=dict(options.shapes), batch=options.batch, values=options.values)
    for line in assumptions(proto):
        progress(line)
    bounds = analyze(proto, part, options.precision)
    placed = place_layers(proto, part, options, progress)
    progress("assembly")

    def assemble(works: list[Work], placing: Placing) -> Program:
        def with_info(chosen: list[Work]) -> Program:
            info = _info(model, proto, bounds, options, _rows(chosen))
            info |= {"feedback": dict(placed.work.feedback), "schedule": schedule_summary(placing)}
            return placing.program(chosen, macs=bounds.total_macs, info=info)

        return fit_program(placed.work, works, with_info)

    programs = [(assemble(c.works, c.placing), c.works) for c in placed.candidates]
    program, works = programs[0]
    if len(programs) > 1:
        program, works = min(programs, key=lambda each: time_program(each[0]).cycles)
    program.info["compile_s"] = time.perf_counter() - start  # type: ignore[index]
    return Executable(program, proto, placed.work.graph, _rows(works))


def _rows(works: list[Work]) -> list[CompiledLayer]:
    """One compiled layer for each row of the reports: the first instance stands for all."""
    rows = {w.row: w.compiled for w in reversed(works)}
    return [rows[n] for n in sorted(rows)]



def _info(
    model: str | Path | bytes | ModelProto,
    proto: ModelProto,
    bounds: Bounds,
    options: CompileOptions,
    layers: list[CompiledLayer],
) -> dict[str, Any]:
    """What the program keeps of the model, for its reports."""
    on_host = {node for compiled in layers if compiled.trace is None for node in compiled.layer.nodes}
    facts = layer_facts(proto, bounds, [compiled.layer for compiled in layers], on_host)
    host_steps = itertools.count()
    for row, compiled in zip(facts["layers"], layers, strict=True):
        row["tile"] = compiled.tiling
        row["host_step"] = next(host_steps) if compiled.trace is None else None
    return {
        "model": Path(model).name if isinstance(model, (str, Path)) else proto.graph.name,
        "precision": options.precision or "as the model",
        "batch": options.batch or _leading_extent(proto),
        "ideal_cycles": bounds.ideal_cycles,
        "mac_cycles": bounds.mac_cycles,
        **facts,
    }


def _leading_extent(proto: ModelProto) -> int:
    """The first extent of the first input that has one; 1 without any."""
    shapes = [value.type.tensor_type.shape.dim for value in proto.graph.input]
    return next((int(shape[0].dim_value) for shape in shapes if len(shape)), 1)
