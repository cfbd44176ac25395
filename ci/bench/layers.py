"""Single layers of a compiled model: their programs, and how busy they keep the matrix engine."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from dsa_compiler.compilation import Compilation, CompiledLayer, Slice, Work
from dsa_compiler.options import CompileOptions
from dsa_compiler.placing import Placing
from dsa_compiler.program.tables import ENGINE_CODE, Program
from dsa_compiler.report import build_report
from dsa_compiler.runtime.executable import Executable
from dsa_compiler.simulator.timing import Timing, time_program


@dataclass(frozen=True)
class LayerTime:
    """A layer run alone, operands and result in ddr as its kernel wants them."""

    name: str
    kind: str
    shape: tuple[int, ...]
    cycles: float
    span_busy: float
    bound_by: str
    tiling: str


def layer_program(executable: Executable, number: int) -> Program:
    """The program of one layer alone, on the whole chip from ddr to ddr."""
    assert executable.graph is not None
    graph, target = executable.graph, executable.program.target
    name = executable.layers[number].layer.name
    layer = next(one for whole in graph.layers for one in (whole, *whole.parts) if one.name == name)
    compiled = Compilation(graph, target, CompileOptions()).compile_layer(layer, Slice(graph, target), number)
    return Placing(graph, target).program([Work(0, compiled, 0)], macs=0, info={})


def layer_times(executable: Executable, kinds: tuple[str, ...] = ()) -> list[LayerTime]:
    """Every layer on the NPU (of these kinds, if any are named) alone, by time simulation."""
    result = []
    for number, compiled in enumerate(executable.layers):
        layer = compiled.layer
        if compiled.trace is None or (kinds and layer.kind not in kinds):
            continue
        program = layer_program(executable, number)
        timing = time_program(program)
        bound = build_report(program, timing)["layers"][0]["bound_by"]
        result.append(
            LayerTime(
                layer.name, layer.kind, tuple(layer.calls[layer.master].shape), timing.cycles,
                matrix_span_busy(program, timing), bound, tiling_of(compiled),
            )
        )  # fmt: skip
    return result


def matrix_span_busy(program: Program, timing: Timing) -> float:
    """The share of the time between a core's first and last product that its matrix engine is occupied, over all
    cores that have products; NaN without any."""
    entries = program.entries
    products = np.flatnonzero((entries["engine"] == ENGINE_CODE["matrix"]) & (entries["operands"] > 0))
    if not len(products):
        return float("nan")
    place = entries["cluster"].astype(np.int64) * program.target.cores_per_cluster + entries["core"]
    _, core = np.unique(place[products], return_inverse=True)
    first, last = np.full(core.max() + 1, np.inf), np.zeros(core.max() + 1)
    np.minimum.at(first, core, timing.start[products])
    np.maximum.at(last, core, timing.end[products])
    busy = float((timing.end - timing.start)[products].sum())
    return busy / float((last - first).sum())


def tiling_of(compiled: CompiledLayer) -> str:
    """The tiling of a layer's kernel, "" for one that has none."""
    return compiled.kernel.tiling if compiled.kernel is not None else ""


def short_tiling(text: str) -> str:
    """A tiling without its class, its ring sizes and what is as usual."""
    inside = text.partition("(")[2].removesuffix(")")
    return re.sub(r"(ring_\w+=\d+|panel_outer=True|stream_[ab]=False|panel=1\b)(, )?", "", inside).removesuffix(", ")
