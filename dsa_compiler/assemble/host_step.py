"""Layers that the CPU runs: their level-3 kernel, as it stands, between two segments of the program."""

from __future__ import annotations

import math

import onnx
import tvm

from dsa_compiler.assemble.host_operations import model_operations
from dsa_compiler.assemble.memory import DdrPlan
from dsa_compiler.graph import Layer, LayerGraph, View
from dsa_compiler.isa.dtypes import item_bytes
from dsa_compiler.lower.binding import LoweredKernel
from dsa_compiler.program.tables import TIR_STEP, Binding, HostStep


def outline_layer(
    layer: Layer, kernel: LoweredKernel, addresses: tuple[int, ...], segment: int, reason: str
) -> HostStep:
    """The host step of a layer; its tensors are the kernel's parameters as they lie in ddr, paddings included."""
    bindings = [
        Binding(str(p.buffer.name), address, tuple(int(s) for s in p.buffer.shape), str(p.buffer.dtype))
        for p, address in zip(kernel.parameters, addresses, strict=True)
    ]
    read = tuple(b for b, p in zip(bindings, kernel.parameters, strict=True) if not p.written)
    written = tuple(b for b, p in zip(bindings, kernel.parameters, strict=True) if p.written)
    module = tvm.IRModule({"kernel": kernel.func.with_attr("global_symbol", "kernel")})
    text = TIR_STEP + tvm.ir.save_json(module).encode()
    master = layer.calls[layer.master]
    return HostStep(segment, master.op, "+".join(layer.nodes), read, written, operations(layer), reason, text)


def outline_host_layer(layer: Layer, graph: LayerGraph, plan: DdrPlan, segment: int) -> HostStep:
    """The host step of a layer of kind host: its ONNX model on tensors that lie dense in ddr."""
    call = layer.calls[0]
    model = onnx.load_model_from_string(call.attrs["model"])
    read = tuple(_binding(i.name, v, graph, plan) for i, v in zip(model.graph.input, layer.inputs, strict=True))
    written = tuple(_binding(o.name, v, graph, plan) for o, v in zip(model.graph.output, layer.outputs, strict=True))
    count = model_operations(model)
    node, reason = "+".join(layer.nodes), str(call.attrs["reason"])
    return HostStep(segment, str(call.attrs["operators"]), node, read, written, count, reason, call.attrs["model"])


def _binding(name: str, view: View, graph: LayerGraph, plan: DdrPlan) -> Binding:
    """Where a contiguous view of a dense tensor lies, under its name in the step's model."""
    tensor = graph.tensors[view.tensor]
    if tensor.value is not None:
        base = plan.add_constant(tensor.value, item_bytes(tensor.dtype))
    else:
        base = plan.address[tensor.name]
    address = base + view.flat_offset(tensor.columns) * item_bytes(tensor.dtype)
    return Binding(name, address, view.shape, tensor.dtype)


def operations(layer: Layer) -> int:
    """Scalar operations of a layer on the CPU: one for each output and reduced element of each call."""
    total = 0
    for call in layer.calls:
        size = math.prod(call.shape)
        reads = [math.prod(layer.inputs[int(v)].shape) for k, v in call.args if k == "input"]
        total += max([size, *(reads if call is layer.calls[layer.master] else [])])
    master = layer.calls[layer.master]
    if layer.kind in ("conv2d", "depthwise", "matmul"):
        weights = layer.inputs[int(master.args[1][1])].shape
        depth = math.prod(weights[:-1]) if layer.kind != "matmul" else weights[-2]
        total += math.prod(master.shape) * depth
    return total
