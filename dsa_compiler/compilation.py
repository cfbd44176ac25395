"""Levels 1 to 5 of one model: kernels for its layers, then a program.

A kernel is compiled once for each distinct function: identical layers share the emitted and expanded kernel and
differ only in their constants.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tvm_ffi

from dsa_compiler.assemble.expand import expand
from dsa_compiler.assemble.link import KernelCall, Stream, link
from dsa_compiler.assemble.memory import DdrPlan, Lifetime, check_ddr, place_tensors
from dsa_compiler.assemble.trace import Trace
from dsa_compiler.emit.pipeline import EmitOptions, EmitResult, emit_kernel
from dsa_compiler.errors import Infeasible
from dsa_compiler.graph import Layer, LayerGraph
from dsa_compiler.lower.binding import LoweredKernel, stored_bytes
from dsa_compiler.lower.lower import lower_layer
from dsa_compiler.options import CompileOptions
from dsa_compiler.program.tables import Binding, Program
from dsa_compiler.target import Target

MOST_RETRIES = 8


@dataclass(frozen=True)
class CompiledLayer:
    """A layer with its kernel at every level: TIR, instruction calls, stream."""

    layer: Layer
    kernel: LoweredKernel
    emitted: EmitResult
    trace: Trace


@dataclass
class Compilation:
    """The work on one graph for one part; `feedback` counts the choices that had to be made again, by limit."""

    graph: LayerGraph
    target: Target
    options: CompileOptions
    feedback: Counter[str] = field(default_factory=Counter)
    _kernels: dict[int, list[tuple[Any, EmitResult, Trace]]] = field(default_factory=dict)

    def compile_layers(self) -> list[CompiledLayer]:
        """Every layer's kernel, in order. Raises `Infeasible` for a layer that no choice fits."""
        return [self._compile_layer(layer, number) for number, layer in enumerate(self.graph.layers)]

    def _compile_layer(self, layer: Layer, number: int) -> CompiledLayer:
        failure: Infeasible | None = None
        for rank in range(MOST_RETRIES):
            try:
                kernel = lower_layer(layer, self.graph, self.target, rank=rank)
                emitted, trace = self._emit(kernel, number)
            except Infeasible as reason:
                failure = failure or reason
                self.feedback[reason.limit] += 1
                continue
            return CompiledLayer(layer, kernel, emitted, trace)
        assert failure is not None  # at least one attempt was made
        raise failure

    def _emit(self, kernel: LoweredKernel, number: int) -> tuple[EmitResult, Trace]:
        key = tvm_ffi.structural_hash(kernel.func.without_attr("global_symbol"))
        for func, emitted, trace in self._kernels.get(key, ()):
            if tvm_ffi.structural_equal(func, kernel.func.without_attr("global_symbol")):
                return emitted, trace
        folder = self._dump_folder(kernel, number)
        emitted = emit_kernel(kernel.func, self.target, EmitOptions(disabled=self.options.disabled_passes, dump=folder))
        if emitted.leftovers:
            raise Infeasible(f"instructions ({emitted.leftovers[0].reason})", len(emitted.leftovers), 0, where=kernel.name)
        trace = expand(emitted.func, kernel.name, self.target)
        _check_footprint(trace, self.target)
        self._kernels.setdefault(key, []).append((kernel.func.without_attr("global_symbol"), emitted, trace))
        return emitted, trace

    def _dump_folder(self, kernel: LoweredKernel, number: int) -> Path | None:
        if self.options.dump_ir is None:
            return None
        return self.options.dump_ir / f"{number:03d}_{kernel.name.replace('/', '_')}"

    def assemble(self, layers: list[CompiledLayer], *, macs: int, info: Mapping[str, Any]) -> Program:
        """The program of compiled layers."""
        plan = place_tensors(self._lifetimes(), self.target)
        calls = [self._call(c, plan, number) for number, c in enumerate(layers)]
        check_ddr(plan.size, self.target)
        stream: Stream = link(calls, self.target)
        return Program(
            target=self.target, entries=stream.entries, operands=stream.operands, flags=stream.flags,
            attrs=stream.attrs, nodes=tuple("+".join(c.layer.nodes) for c in layers),
            kernels=tuple(c.layer.name for c in layers),
            inputs=self._bindings(self.graph.inputs, plan), outputs=self._bindings(self.graph.outputs, plan),
            constants=tuple(plan.constants), ddr_bytes=plan.size, macs=macs, info=dict(info),
        )  # fmt: skip

    def _call(self, compiled: CompiledLayer, plan: DdrPlan, number: int) -> KernelCall:
        alignment = self.target.memory["ddr"].alignment
        addresses, constant = [], []
        for parameter in compiled.kernel.parameters:
            if parameter.value is not None:
                addresses.append(plan.add_constant(parameter.value, alignment))
            elif self.graph.tensors[parameter.tensor].value is not None:
                addresses.append(plan.add_constant(self.graph.tensors[parameter.tensor].value, alignment))
            else:
                addresses.append(plan.address[parameter.tensor])
            tensor = self.graph.tensors.get(parameter.tensor)
            constant.append(tensor is None or tensor.role in ("constant", "input"))
        return KernelCall(compiled.trace, tuple(addresses), tuple(constant), number)

    def _lifetimes(self) -> list[Lifetime]:
        """When each tensor that is no constant is needed; inputs and outputs all the time."""
        first: dict[str, int] = {}
        last: dict[str, int] = {}
        end = len(self.graph.layers)
        for step, layer in enumerate(self.graph.layers):
            for view in (*layer.inputs, layer.output):
                first.setdefault(view.tensor, step)
                last[view.tensor] = step
        result = []
        for name, tensor in self.graph.tensors.items():
            if tensor.value is not None or tensor.role == "constant":
                continue
            whole = tensor.role in ("input", "output")
            if whole or name in first:
                size = stored_bytes(tensor, self.target)
                result.append(Lifetime(name, size, 0 if whole else first[name], end if whole else last[name] + 1))
        return result

    def _bindings(self, names: tuple[str, ...], plan: DdrPlan) -> tuple[Binding, ...]:
        tensors = [self.graph.tensors[n] for n in names]
        return tuple(Binding(t.name, plan.address[t.name], t.shape, t.dtype) for t in tensors)


def _check_footprint(trace: Trace, target: Target) -> None:
    """Raises `Infeasible` if the buffers of a kernel exceed a scratchpad."""
    for scope in ("l1", "l0a", "l0b", "l0c"):
        needed = trace.footprint(scope)
        if needed > target.memory[scope].size:
            raise Infeasible(scope, needed, target.memory[scope].size, where=trace.name)
