"""The whole pipeline on one screen: an ONNX model in, an executable out."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from onnx import ModelProto

from dsa_compiler.bounds import Bounds, analyze
from dsa_compiler.compilation import CompiledLayer
from dsa_compiler.frontend import load_model
from dsa_compiler.frontend.shapes import shape_defaults
from dsa_compiler.options import CompileOptions
from dsa_compiler.placement import place_layers
from dsa_compiler.program.tables import Program
from dsa_compiler.program_memory import fit_program
from dsa_compiler.report.provenance import layer_facts
from dsa_compiler.runtime.executable import Executable
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
    proto = load_model(model, shapes=dict(options.shapes), batch=options.batch)
    for line in shape_defaults(proto):
        progress(line)
    bounds = analyze(proto, part, options.precision)
    work, layers = place_layers(proto, part, options, progress)
    progress("assembly")

    def assemble(chosen: list[CompiledLayer]) -> Program:
        info = {**_info(model, proto, bounds, options, chosen), "feedback": dict(work.feedback)}
        return work.assemble(chosen, macs=bounds.total_macs, info=info)

    program = fit_program(work, layers, assemble)
    program.info["compile_s"] = time.perf_counter() - start  # type: ignore[index]
    return Executable(program, proto, work.graph, layers)


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
