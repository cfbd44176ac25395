"""Levels 1 to 5 of one model: kernels for its layers, then a program.

A kernel is compiled once for each distinct function: identical layers share the emitted and expanded kernel and
differ only in their constants.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tvm_ffi

from dsa_compiler.assemble.expand import expand
from dsa_compiler.assemble.host_step import outline_host_layer, outline_layer
from dsa_compiler.assemble.link import KernelCall, Stream, link
from dsa_compiler.assemble.memory import DdrPlan, Lifetime, check_ddr, place_tensors
from dsa_compiler.assemble.trace import Trace
from dsa_compiler.emit.pipeline import EmitOptions, EmitResult, emit_kernel
from dsa_compiler.errors import Infeasible
from dsa_compiler.graph import Layer, LayerGraph
from dsa_compiler.lower.binding import LoweredKernel, stored_bytes
from dsa_compiler.lower.host_layer import lower_host_layer
from dsa_compiler.lower.lower import lower_layer
from dsa_compiler.options import CompileOptions
from dsa_compiler.program.tables import Binding, HostStep, Program
from dsa_compiler.target import Target

MOST_RETRIES = 8


@dataclass(frozen=True)
class CompiledLayer:
    """A layer with its kernel at every level: TIR, instruction calls, stream.

    A layer that could not be emitted has no stream: the CPU runs its TIR, for the reason `host_reason`. A host layer of
    the graph has no kernel either: the CPU runs its ONNX model.
    """

    layer: Layer
    kernel: LoweredKernel | None
    emitted: EmitResult | None
    trace: Trace | None
    host_reason: str = ""

    @property
    def tiling(self) -> str:
        """The choice of tiles, "" for a host layer."""
        return self.kernel.tiling if self.kernel is not None else ""


@dataclass
class Compilation:
    """The work on one graph for one part; `feedback` counts the choices that had to be made again, by limit."""

    graph: LayerGraph
    target: Target
    options: CompileOptions
    feedback: Counter[str] = field(default_factory=Counter)
    _kernels: dict[int, list[tuple[Any, EmitResult, Trace | None]]] = field(default_factory=dict)

    def compile_layers(self) -> list[CompiledLayer]:
        """Every layer's kernel, in order; a layer that no choice fits is a step of the host."""
        return [c for number, layer in enumerate(self.graph.layers) for c in self._compile_joined(layer, number)]

    def _compile_joined(self, layer: Layer, number: int) -> list[CompiledLayer]:
        """The layer's kernel, or those of its parts if it stands for several and none fits all of it."""
        if not layer.parts:
            return [self._compile_layer(layer, number)]
        whole = self._compile_layer(layer, number, host=False)
        if whole.trace is not None:
            return [whole]
        self.feedback["joined layers"] += 1
        return [self._compile_layer(part, number) for part in layer.parts]

    def _compile_layer(self, layer: Layer, number: int, *, host: bool = True) -> CompiledLayer:
        """The layer's kernel: at most `MOST_RETRIES` choices are tried; one that fits but has no instructions is
        left to the CPU, and so is, with `host`, a layer that nothing fits."""
        if layer.kind == "host":
            return CompiledLayer(layer, None, None, None, str(layer.calls[0].attrs["reason"]))
        failure: Exception | None = None
        outlined: CompiledLayer | None = None
        for rank in range(MOST_RETRIES):
            try:
                kernel = lower_layer(layer, self.graph, self.target, rank=rank)
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
                return CompiledLayer(layer, kernel, emitted, trace)
            self.feedback["instructions"] += 1
            outlined = outlined or CompiledLayer(layer, kernel, emitted, None, emitted.leftovers[0].reason)
        if outlined is not None:
            return outlined
        assert failure is not None  # at least one attempt was made
        return self._on_the_host(layer, failure, host)

    def _on_the_host(self, layer: Layer, failure: Exception, host: bool) -> CompiledLayer:
        """The layer as a step of the CPU, which has room for any tile; `failure` is why the part does not take it.

        Without a kernel where even that fails, or without `host`.
        """
        lines = str(failure).strip().splitlines() or [type(failure).__name__]
        reason = f"no choice fits: {failure}" if isinstance(failure, Infeasible) else f"defect: {lines[-1].strip()}"
        if not host:
            return CompiledLayer(layer, None, None, None, reason)
        try:
            kernel = lower_host_layer(layer, self.graph, self.target)
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

    def assemble(self, layers: list[CompiledLayer], *, macs: int, info: Mapping[str, Any]) -> Program:
        """The program of compiled layers."""
        plan = place_tensors(self._lifetimes([c.layer for c in layers]), self.target)
        calls: list[KernelCall] = []
        steps: list[HostStep] = []
        segment = 0
        for number, compiled in enumerate(layers):
            if compiled.kernel is None:
                segment += bool(calls and calls[-1].segment == segment)
                steps.append(outline_host_layer(compiled.layer, self.graph, plan, segment))
                continue
            addresses = self._addresses(compiled.kernel, plan)
            if compiled.trace is not None:
                calls.append(
                    KernelCall(compiled.trace, addresses, self._constant(compiled.kernel), number, segment, number)
                )
                continue
            segment += bool(calls and calls[-1].segment == segment)
            steps.append(outline_layer(compiled.layer, compiled.kernel, addresses, segment, compiled.host_reason))
        check_ddr(plan.size, self.target)
        stream: Stream = link(calls, self.target)
        return Program(
            target=self.target, entries=stream.entries, operands=stream.operands, flags=stream.flags,
            attrs=stream.attrs, nodes=tuple("+".join(c.layer.nodes) for c in layers),
            kernels=tuple(c.layer.name for c in layers),
            inputs=self._bindings(self.graph.inputs, plan), outputs=self._bindings(self.graph.outputs, plan),
            constants=tuple(plan.constants), host_steps=tuple(steps), ddr_bytes=plan.size, macs=macs, info=dict(info),
        )  # fmt: skip

    def _addresses(self, kernel: LoweredKernel, plan: DdrPlan) -> tuple[int, ...]:
        """Where the parameters of a kernel lie in ddr; constants join the plan."""
        alignment = self.target.memory["ddr"].alignment
        addresses = []
        for parameter in kernel.parameters:
            value = parameter.value if not parameter.tensor else self.graph.tensors[parameter.tensor].value
            where = plan.address[parameter.tensor] if value is None else plan.add_constant(value, alignment)
            addresses.append(where)
        return tuple(addresses)

    def _constant(self, kernel: LoweredKernel) -> tuple[bool, ...]:
        """Which parameters nothing in the program writes."""
        tensors = [self.graph.tensors.get(p.tensor) for p in kernel.parameters]
        return tuple(t is None or t.role in ("constant", "input") for t in tensors)

    def _lifetimes(self, layers: Sequence[Layer]) -> list[Lifetime]:
        """When each tensor that is no constant is needed; inputs and outputs all the time."""
        first: dict[str, int] = {}
        last: dict[str, int] = {}
        end = len(layers)
        for step, layer in enumerate(layers):
            for view in (*layer.inputs, *layer.outputs):
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
