"""Levels 1 to 4 of one model: kernels for its layers.

A kernel is compiled once for each distinct function: identical layers share the emitted and expanded kernel and
differ only in their constants.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tvm_ffi

from dsa_compiler.assemble.expand import expand
from dsa_compiler.assemble.trace import Trace
from dsa_compiler.emit.pipeline import EmitOptions, EmitResult, emit_kernel
from dsa_compiler.errors import Infeasible
from dsa_compiler.graph import Layer, LayerGraph
from dsa_compiler.lower.binding import LoweredKernel
from dsa_compiler.lower.host_layer import lower_host_layer
from dsa_compiler.lower.lower import lower_layer
from dsa_compiler.options import CompileOptions
from dsa_compiler.target import Target

MOST_RETRIES = 8


@dataclass(frozen=True)
class Slice:
    """The tensors that a kernel sees, and the cores that it may use: the whole graph and chip, or a part of both."""

    graph: LayerGraph
    target: Target


@dataclass(frozen=True)
class CompiledLayer:
    """A layer with its kernel at every level: TIR, instruction calls, stream.

    A layer that could not be emitted has no stream: the CPU runs its TIR, for the reason `host_reason`. A host layer of
    the graph has no kernel either: the CPU runs its ONNX model. `where` is what the kernel was compiled for.
    """

    layer: Layer
    kernel: LoweredKernel | None
    emitted: EmitResult | None
    trace: Trace | None
    host_reason: str = ""
    where: Slice | None = None

    @property
    def tiling(self) -> str:
        """The choice of tiles, "" for a host layer."""
        return self.kernel.tiling if self.kernel is not None else ""


@dataclass(frozen=True)
class Work:
    """A kernel or host step at its place in the program.

    `row` is the layer's row in reports, `step` that of the schedule. A kernel on a cluster's share runs on the images
    [low, low + count) of each of `clusters`, counted within the cluster's share; without clusters it runs on the chip.
    It takes its turns with others from `start` to `end` of the schedule's time line, once the work at place `after` of
    the program is complete, in a `region` of L1 (all of it without), from its end with `from_top`.
    """

    row: int
    compiled: CompiledLayer
    step: int
    clusters: tuple[int, ...] = ()
    low: int = 0
    count: int = 0
    chip_wide: bool = True
    instance: int = 0
    start: float = 0.0
    end: float = 0.0
    after: int = -1
    from_top: bool | None = None
    region: tuple[int, int] | None = None


@dataclass
class Compilation:
    """The work on one graph for one part; `feedback` counts the choices that had to be made again, by limit."""

    graph: LayerGraph
    target: Target
    options: CompileOptions
    feedback: Counter[str] = field(default_factory=Counter)
    _kernels: dict[int, list[tuple[Any, EmitResult, Trace | None]]] = field(default_factory=dict)

    def compile_layers(self) -> list[Work]:
        """Every layer on the whole chip, in order; a layer that no choice fits is a step of the host."""
        whole = Slice(self.graph, self.target)
        made = [c for number, layer in enumerate(self.graph.layers) for c in self.compile_joined(layer, whole, number)]
        return [Work(n, c, n, start=float(n), end=n + 1.0, after=n - 1) for n, c in enumerate(made)]

    def compile_joined(self, layer: Layer, where: Slice, number: int) -> list[CompiledLayer]:
        """The layer's kernel, or those of its parts if it stands for several and none fits all of it."""
        if not layer.parts:
            return [self.compile_layer(layer, where, number)]
        whole = self.compile_layer(layer, where, number, host=False)
        if whole.trace is not None:
            return [whole]
        self.feedback["joined layers"] += 1
        return [self.compile_layer(part, where, number) for part in layer.parts]

    def compile_layer(self, layer: Layer, where: Slice, number: int, *, host: bool = True) -> CompiledLayer:
        """The layer's kernel: at most `MOST_RETRIES` choices are tried; one that fits but has no instructions is
        left to the CPU, and so is, with `host`, a layer that nothing fits."""
        if layer.kind == "host":
            return CompiledLayer(layer, None, None, None, str(layer.calls[0].attrs["reason"]))
        failure: Exception | None = None
        outlined: CompiledLayer | None = None
        for rank in range(MOST_RETRIES):
            try:
                kernel = lower_layer(layer, where.graph, where.target, rank=rank)
                emitted, trace = self.emit(kernel, number)
            except Infeasible as reason:
                failure = failure or reason
                self.feedback[reason.limit] += 1
                continue
            except Exception as error:  # a defect of ours or of TVM's costs time, not the model
                self.feedback["defects"] += 1
                failure = error
                break
            if trace is not None:
                return CompiledLayer(layer, kernel, emitted, trace, where=where)
            self.feedback["instructions"] += 1
            outlined = outlined or CompiledLayer(layer, kernel, emitted, None, emitted.leftovers[0].reason)
        if outlined is not None:
            return outlined
        assert failure is not None  # at least one attempt was made
        return self._on_the_host(layer, where, failure, host)

    def _on_the_host(self, layer: Layer, where: Slice, failure: Exception, host: bool) -> CompiledLayer:
        """The layer as a step of the CPU, which has room for any tile; `failure` is why the part does not take it.

        Without a kernel where even that fails, or without `host`.
        """
        lines = str(failure).strip().splitlines() or [type(failure).__name__]
        reason = f"no choice fits: {failure}" if isinstance(failure, Infeasible) else f"defect: {lines[-1].strip()}"
        if not host:
            return CompiledLayer(layer, None, None, None, reason)
        try:
            kernel = lower_host_layer(layer, where.graph, where.target)
        except Exception:  # the reason is that of the part
            return CompiledLayer(layer, None, None, None, reason)
        return CompiledLayer(layer, kernel, None, None, reason)

    def emit(self, kernel: LoweredKernel, number: int) -> tuple[EmitResult, Trace | None]:
        """The kernel as instructions and as a stream; no stream if nests were left over."""
        func = kernel.func.without_attr("global_symbol")
        key = tvm_ffi.structural_hash(func)
        for known, emitted, trace in self._kernels.get(key, ()):
            if tvm_ffi.structural_equal(known, func):
                return emitted, trace
        folder = self._dump_folder(kernel, number)
        emitted = emit_kernel(kernel.func, self.target, EmitOptions(disabled=self.options.disabled_passes, dump=folder))
        trace = None
        if not emitted.leftovers:
            trace = expand(emitted.func, kernel.name, self.target)
            _check_footprint(trace, self.target)
        self._kernels.setdefault(key, []).append((func, emitted, trace))
        return emitted, trace

    def _dump_folder(self, kernel: LoweredKernel, number: int) -> Path | None:
        if self.options.dump_ir is None:
            return None
        return self.options.dump_ir / f"{number:03d}_{kernel.name.replace('/', '_')}"


def _check_footprint(trace: Trace, target: Target) -> None:
    """Raises `Infeasible` if the buffers of a kernel exceed a scratchpad."""
    for scope in ("l1", "l0a", "l0b", "l0c"):
        needed = trace.footprint(scope)
        if needed > target.memory[scope].size:
            raise Infeasible(scope, needed, target.memory[scope].size, where=trace.name)
