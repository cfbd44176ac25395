"""Evaluation of a layer graph with NumPy, floats in float32: the check that extraction is right."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from dsa_compiler.errors import UserError
from dsa_compiler.frontend.host import run_host_model
from dsa_compiler.graph.layers import Arg, Layer, LayerGraph, Tensor
from dsa_compiler.graph.views import View
from dsa_compiler.operators.table import OPERATORS

Array = npt.NDArray[Any]


def evaluate(graph: LayerGraph, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Return the outputs by name, in the model's dtypes; nothing is rounded to float16 on the way."""
    missing = sorted(set(graph.inputs) - set(inputs))
    if missing:
        raise UserError(f"no value for {missing}", where="inputs", action=f"give {list(graph.inputs)}")
    memory = {name: _initial(tensor, inputs) for name, tensor in graph.tensors.items()}
    with np.errstate(all="ignore"):
        for layer in graph.layers:
            if layer.kind == "host":
                _run_host(memory, graph, layer)
                continue
            _window(memory, graph, layer.output)[...] = _run(memory, graph, layer)
    with np.errstate(over="ignore", invalid="ignore"):
        return {
            name: memory[name].reshape(graph.tensors[name].shape).astype(np.dtype(graph.tensors[name].dtype))
            for name in graph.outputs
        }


def _initial(tensor: Tensor, inputs: Mapping[str, Array]) -> Array:
    """Return the contents of a tensor before the first layer, flat; NaN where nothing is written yet."""
    dtype = compute_dtype(tensor.dtype)
    if tensor.role == "input":
        return np.ascontiguousarray(inputs[tensor.name], dtype=dtype).reshape(-1)
    if tensor.value is not None:
        return np.ascontiguousarray(tensor.value.astype(dtype)).reshape(-1)
    return np.full(tensor.size, np.nan if dtype.kind == "f" else 0, dtype)


def compute_dtype(dtype: str) -> np.dtype[Any]:
    """Return float32 for narrower floats, the dtype itself otherwise."""
    kind = np.dtype(dtype)
    return np.dtype(np.float32) if kind.kind in "fV" and kind.itemsize < 4 else kind


def _window(memory: Mapping[str, Array], graph: LayerGraph, view: View) -> Array:
    """Return the elements of `view`, writable."""
    flat, columns = memory[view.tensor], graph.tensors[view.tensor].columns
    strides = tuple(s * flat.itemsize for s in view.flat_strides(columns))
    base = flat[view.flat_offset(columns) :]
    return np.lib.stride_tricks.as_strided(base, view.shape, strides)


def _run_host(memory: Mapping[str, Array], graph: LayerGraph, layer: Layer) -> None:
    """Run the ONNX model of a host step."""
    dtypes = [np.dtype(graph.tensors[v.tensor].dtype) for v in layer.inputs]
    operands = [_window(memory, graph, v).astype(d) for v, d in zip(layer.inputs, dtypes, strict=True)]
    results = run_host_model(layer.calls[0].attrs["model"], operands)
    for view, value in zip(layer.outputs, results, strict=True):
        if value.shape != view.shape:
            raise UserError(f"the host computes {list(value.shape)}, ONNX's shape inference says {list(view.shape)}",
                            where=layer.name, action="report it to onnx")  # fmt: skip
        _window(memory, graph, view)[...] = value


def _run(memory: Mapping[str, Array], graph: LayerGraph, layer: Layer) -> Array:
    operands = [_window(memory, graph, v) for v in layer.inputs]
    results: list[Array] = []

    def fetch(arg: Arg, dtype: np.dtype[Any]) -> Array:
        kind, value = arg
        if kind == "const":
            return np.asarray(value, dtype)
        return operands[int(value)] if kind == "input" else results[int(value)]

    for call in layer.calls:
        tensors = [a for a in call.args if a[0] != "const"]
        like = fetch(tensors[0], np.dtype(np.float32)).dtype if tensors else compute_dtype(call.dtype)
        if call.op == "where":
            like = fetch(tensors[-1], like).dtype if len(tensors) > 1 else compute_dtype(call.dtype)
        args = [fetch(a, like) for a in call.args]
        if call.op == "copy":
            results.append(args[0])
            continue
        attrs = dict(call.attrs)
        if call.op == "astype":
            attrs["dtype"] = compute_dtype(call.dtype)
        value = OPERATORS[call.op].evaluate(args, attrs)
        results.append(np.asarray(value).astype(compute_dtype(call.dtype)).reshape(call.shape))
    return results[-1]
