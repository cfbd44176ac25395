"""Layers made by hand, lowered for a part, and compared with the graph's own evaluation in NumPy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from dsa_compiler.errors import Infeasible
from dsa_compiler.graph.evaluate import evaluate
from dsa_compiler.graph.layers import Arg, Layer, LayerGraph, OpCall, Tensor
from dsa_compiler.graph.views import View, flattened, identity
from dsa_compiler.isa.dtypes import numpy_dtype
from dsa_compiler.lower.binding import LoweredKernel, row_pitch
from dsa_compiler.lower.lower import lower_layer
from dsa_compiler.target import Target
from tests.lower.kernels import Run, Stored, check


def sample(shape: Sequence[int], dtype: str, seed: int = 0, low: float = -2.0, high: float = 2.0) -> np.ndarray:
    """Random values: floats between `low` and `high`, integers of the same range, booleans."""
    rng = np.random.default_rng(seed)
    if dtype == "bool":
        return rng.random(shape) < 0.5
    if dtype.startswith(("int", "uint")):
        return rng.integers(int(low), int(high), shape, endpoint=True).astype(dtype)
    return rng.uniform(low, high, shape).astype(numpy_dtype(dtype))


class Network:
    """Tensors of one layer. Methods that add a tensor return the view of all of it."""

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}
        self.values: dict[str, np.ndarray] = {}

    def _add(self, tensor: Tensor) -> View:
        self.tensors[tensor.name] = tensor
        return self.whole(tensor.name)

    def whole(self, name: str) -> View:
        tensor = self.tensors[name]
        view = identity(name, tensor.shape)
        stored_dense = tensor.dense or tensor.role != "activation"
        return flattened(view, tensor.columns) if stored_dense else view

    def source(
        self,
        name: str,
        shape: Sequence[int],
        dtype: str = "float16",
        *,
        dense: bool = False,
        low: float = -2.0,
        high: float = 2.0,
    ) -> View:
        """A tensor that the layer reads, in rows of padded pitch unless `dense`."""
        self.values[name] = sample(shape, dtype, seed=len(self.tensors) + 1, low=low, high=high)
        return self._add(Tensor(name, tuple(shape), dtype, "activation", dense=dense))

    def given(self, name: str, shape: Sequence[int], dtype: str = "float16", values: np.ndarray | None = None) -> View:
        """A constant."""
        value = sample(shape, dtype, seed=len(self.tensors) + 1) if values is None else values
        return self._add(Tensor(name, tuple(shape), dtype, "constant", value))

    def result(
        self, name: str, shape: Sequence[int], dtype: str = "float16", *, dense: bool = False, role: str = "activation"
    ) -> View:
        """The tensor that the layer writes."""
        return self._add(Tensor(name, tuple(shape), dtype, role, dense=dense))  # type: ignore[arg-type]

    def graph_of(self, *layers: Layer) -> LayerGraph:
        return LayerGraph(self.tensors, layers, tuple(self.values), tuple(made.output.tensor for made in layers))

    def graph(self, layer: Layer) -> LayerGraph:
        return LayerGraph(self.tensors, (layer,), tuple(self.values), (layer.output.tensor,))

    def expected(self, layer: Layer) -> np.ndarray:
        """Memory of the result after the layer by NumPy, padding included; blank where nothing is written."""
        played = {n: replace(t, role="input") if n in self.values else t for n, t in self.tensors.items()}
        graph = LayerGraph(played, (layer,), tuple(self.values), (layer.output.tensor,))
        return evaluate(graph, self.values)[layer.output.tensor]


def call(
    op: str, args: Sequence[Arg | int | str], shape: Sequence[int], dtype: str = "float16", **attrs: Any
) -> OpCall:
    """A call; an int stands for that input of the layer, "%n" for the result of call n, a tuple for itself."""

    def argument(a: Arg | int | str) -> Arg:
        if isinstance(a, str):
            return ("call", int(a[1:]))
        return ("input", a) if isinstance(a, int) else a

    return OpCall(op, tuple(argument(a) for a in args), attrs, tuple(shape), dtype, f"node_{op}")


def layer(kind: str, calls: Sequence[OpCall], inputs: Sequence[View], output: View, master: int = 0) -> Layer:
    return Layer("layer", kind, tuple(calls), master, tuple(inputs), output, ("node",))  # type: ignore[arg-type]


def permuted(view: View, axes: Sequence[int]) -> View:
    return replace(view, shape=tuple(view.shape[a] for a in axes), strides=tuple(view.strides[a] for a in axes))


def repeated(view: View, shape: Sequence[int]) -> View:
    """The view broadcast to `shape`, as NumPy would."""
    lead = len(shape) - len(view.shape)
    wide = (1,) * lead + view.shape
    steps = ((0, 0),) * lead + view.strides
    strides = tuple((0, 0) if n == 1 and m != 1 else s for n, m, s in zip(wide, shape, steps, strict=True))
    return replace(view, shape=tuple(shape), strides=strides)


def part_of(view: View, begin: Sequence[int], shape: Sequence[int], step: Sequence[int] | None = None) -> View:
    """A slice of the view."""
    steps = step or (1,) * len(shape)
    row = view.offset[0] + sum(b * s[0] for b, s in zip(begin, view.strides, strict=True))
    column = view.offset[1] + sum(b * s[1] for b, s in zip(begin, view.strides, strict=True))
    strides = tuple((s[0] * n, s[1] * n) for s, n in zip(view.strides, steps, strict=True))
    return replace(view, shape=tuple(shape), strides=strides, offset=(row, column))


def covered(view: View, tensor: Tensor) -> np.ndarray:
    """Which elements of the tensor the view takes, in the tensor's shape."""
    taken = np.zeros(math.prod(tensor.shape), np.bool_)
    strides = view.flat_strides(tensor.columns)
    np.lib.stride_tricks.as_strided(taken[view.flat_offset(tensor.columns) :], view.shape, strides)[...] = True
    return taken.reshape(tensor.shape)


def parameters(kernel: LoweredKernel, network: Network, target: Target) -> list[Stored]:
    """What lies in ddr behind each parameter of a kernel."""
    result = []
    for p in kernel.parameters:
        shape = tuple(int(s) for s in p.buffer.shape)
        if p.value is not None:
            assert p.value.shape == shape and str(p.value.dtype) == str(p.buffer.dtype)
            result.append(Stored(shape, str(p.buffer.dtype), p.value))
            continue
        tensor = network.tensors[p.tensor]
        assert str(p.buffer.dtype) == tensor.dtype
        values = None if p.written else tensor.value if tensor.value is not None else network.values[p.tensor]
        result.append(Stored(shape, tensor.dtype, values, row_pitch(tensor, target)))
    return result


def check_layer(
    network: Network, made: Layer, target: Target, *, rank: int = 0, retries: int = 0, **options: Any
) -> Run:
    """Lower a layer and compare its runs with NumPy; up to `retries` further ranks where one is infeasible."""
    graph = network.graph(made)
    for attempt in range(rank, rank + retries):
        try:
            return check_kernel(network, made, lower_layer(made, graph, target, rank=attempt), target, **options)
        except Infeasible:
            continue
    return check_kernel(network, made, lower_layer(made, graph, target, rank=rank + retries), target, **options)


def check_kernel(network: Network, made: Layer, kernel: LoweredKernel, target: Target, **options: Any) -> Run:
    tensor = network.tensors[made.output.tensor]
    values = network.expected(made).astype(numpy_dtype(tensor.dtype))
    stored = parameters(kernel, network, target)
    memory = stored[-1].memory.copy()
    rows = memory.reshape(-1, row_pitch(tensor, target))
    taken = covered(made.output, tensor).reshape(-1, tensor.columns)
    rows[: len(taken), : tensor.columns][taken] = values.reshape(-1, tensor.columns)[taken]
    return check(kernel.func, target, stored, memory, **options)
