"""The rows of a report: what each layer of a program cost, from its entries and the time that they ran."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from dsa_compiler.isa.table import OPCODES
from dsa_compiler.program.tables import ENGINE_CODE, Program
from dsa_compiler.report.bytes_moved import DIRECTIONS, entry_bytes
from dsa_compiler.report.counts import entry_macs, entry_operations
from dsa_compiler.simulator.timing import Timing
from dsa_compiler.target import CORE_ENGINES, ENGINES, Target

Floats = npt.NDArray[np.float64]


class LayerSums:
    """Sums over the entries of each kernel of a program; rows by kernel, entries without one left out.

    `host_steps` gives for each kernel the number of the host step that it is, or None.
    """

    def __init__(
        self, program: Program, timing: Timing, costs: npt.NDArray[Any], host_steps: Sequence[int | None]
    ) -> None:
        self.program, self.target, self.host_steps = program, program.target, host_steps
        entries = program.entries
        self.count = len(program.kernels)
        self._mine = np.flatnonzero(entries["kernel"] >= 0)
        self._kernel = entries["kernel"][self._mine]
        self.entries = self._sum(np.ones(len(program)))
        self.macs = self._sum(entry_macs(program))
        self.operations = self._sum(entry_operations(program))
        self.bytes = {key: self._sum(values) for key, values in entry_bytes(program, costs).items()}
        working = (timing.end > timing.start) & (entries["opcode"] != OPCODES["barrier"].code)
        self.busy = self._by_engine(np.where(working, timing.end - timing.start, 0.0))
        self.needed = self._busiest(np.where(working, costs["startup"] + costs["work"] / costs["rate"], 0.0))
        self.start, self.end = self._span(timing)
        self.cycles = self._cycles(timing)
        self.running = self._running(timing, working)
        self.cores = self._cores()

    def _sum(self, values: npt.NDArray[Any]) -> Floats:
        return np.bincount(self._kernel, values[self._mine], self.count).astype(np.float64)

    def _by_engine(self, values: Floats) -> Floats:
        """Sums by (kernel, engine)."""
        cell = self._kernel * len(ENGINES) + self.program.entries["engine"][self._mine]
        total = np.bincount(cell, values[self._mine], self.count * len(ENGINES)).astype(np.float64)
        return total.reshape(self.count, len(ENGINES))

    def _busiest(self, values: Floats) -> Floats:
        """Sums by (kernel, engine) in the core, or cluster of the prefetch engine, where they are greatest."""
        entries, places = self.program.entries[self._mine], self.target.cores
        place = entries["cluster"].astype(np.int64) * self.target.cores_per_cluster + np.maximum(entries["core"], 0)
        cell = (self._kernel * np.int64(places) + place) * len(ENGINES) + entries["engine"]
        total = np.bincount(cell, values[self._mine], self.count * places * len(ENGINES)).astype(np.float64)
        most: Floats = total.reshape(self.count, places, len(ENGINES)).max(axis=1, initial=0.0)
        return most

    def _span(self, timing: Timing) -> tuple[Floats, Floats]:
        start, end = np.full(self.count, np.inf), np.zeros(self.count)
        np.minimum.at(start, self._kernel, timing.start[self._mine])
        np.maximum.at(end, self._kernel, timing.complete[self._mine])
        times = {host.step: host for host in timing.host}
        for kernel, step in enumerate(self.host_steps):
            if step is not None and step in times:
                start[kernel], end[kernel] = times[step].start, times[step].end
        return np.where(np.isfinite(start), start, 0.0), end

    def _cycles(self, timing: Timing) -> Floats:
        """Time by which the instances of each kernel move the end of the run; its sum is the time of the run."""
        instance = self.program.entries["instance"][self._mine].astype(np.int64)
        pieces, place = np.unique(self._kernel * (instance.max(initial=0) + 1) + instance, return_inverse=True)
        kernel, end = pieces // (instance.max(initial=0) + 1), np.zeros(len(pieces))
        np.maximum.at(end, place.reshape(-1), timing.complete[self._mine])
        host = np.array([k for k, step in enumerate(self.host_steps) if step is not None], np.int64)
        own = ~np.isin(kernel, host)
        kernel, end = np.concatenate([kernel[own], host]), np.concatenate([end[own], self.end[host]])
        order = np.lexsort((kernel, end))
        moved = np.diff(end[order], prepend=0.0)
        return np.bincount(kernel[order], moved, self.count).astype(np.float64)

    def _running(self, timing: Timing, working: npt.NDArray[np.bool_]) -> Floats:
        """Time in which an engine of the busiest core works on each kernel."""
        mine = self._mine[working[self._mine]]
        entries = self.program.entries[mine]
        place = entries["cluster"].astype(np.int64) * self.target.cores_per_cluster + np.maximum(entries["core"], 0)
        cell = entries["kernel"].astype(np.int64) * self.target.cores + place
        order = np.lexsort((timing.start[mine], cell))
        cell, start, end = cell[order], timing.start[mine][order], timing.end[mine][order]
        result = np.zeros(self.count * self.target.cores)
        bounds = np.flatnonzero(np.diff(cell, prepend=-1, append=-1))
        for low, high in itertools.pairwise(bounds):
            reached = np.maximum.accumulate(end[low:high])
            before = np.concatenate([start[low : low + 1], reached[:-1]])
            result[cell[low]] = np.maximum(reached - np.maximum(start[low:high], before), 0.0).sum()
        most: Floats = result.reshape(self.count, self.target.cores).max(axis=1, initial=0.0)
        hosted = np.array([step is not None for step in self.host_steps], bool)
        return np.where(hosted, self.end - self.start, most)

    def _cores(self) -> npt.NDArray[np.int64]:
        """Cores that work on each kernel."""
        entries = self.program.entries[self._mine]
        there = (entries["operands"] > 0) & (entries["engine"] != ENGINE_CODE["prefetch"])
        place = entries["cluster"].astype(np.int64) * self.target.cores_per_cluster + entries["core"]
        pairs = np.unique(self._kernel[there] * np.int64(self.target.cores) + place[there])
        return np.bincount(pairs // self.target.cores, minlength=self.count)


def layer_rows(sums: LayerSums, facts: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row for each layer, summed over its instances. `cycles` is the time by which the layer moves the end of the
    run, so they add up; `running` that in which the busiest core works on it; `start` and `end` also tell how layers
    overlap."""
    return [
        {
            "name": sums.program.kernels[n],
            "onnx_nodes": list(facts[n]["onnx_nodes"]), "kind": facts[n]["kind"],
            "master": facts[n]["master"], "slaves": list(facts[n]["slaves"]),
            "cycles": float(sums.cycles[n]), "running": float(sums.running[n]),
            "start": float(sums.start[n]), "end": float(sums.end[n]),
            "bound_by": bound_by(sums, n),
            "busy": {e: float(sums.busy[n, c]) / _number(e, sums.target) for c, e in enumerate(ENGINES)},
            "bytes": {f"{m}_{d}": int(sums.bytes[m, d][n]) for m, d in DIRECTIONS},
            "macs": int(sums.macs[n]), "element_ops": int(sums.operations[n]),
            "instructions": int(sums.entries[n]),
            "tile": facts[n]["tile"], "cores": int(sums.cores[n]),
        }
        for n in range(sums.count)
    ]  # fmt: skip


def bound_by(sums: LayerSums, layer: int) -> str:
    """What a layer needs most of: the engine with the most work in one core, a memory's bandwidth, or the host."""
    if sums.host_steps[layer] is not None:
        return "host"
    needed = dict(zip(ENGINES, map(float, sums.needed[layer]), strict=True))
    for memory, parts in (("ddr", 1), ("llb", sums.target.clusters)):
        if memory in sums.target.memory and sums.target.memory[memory].bandwidth:
            moved = float(sums.bytes[memory, "read"][layer] + sums.bytes[memory, "written"][layer])
            needed[memory] = moved / sums.target.memory[memory].bandwidth / parts
    return max(needed, key=lambda name: needed[name])


def _number(engine: str, target: Target) -> int:
    return target.cores if engine in CORE_ENGINES else target.clusters
