"""Layer graphs for tests of schedules: chains written by hand, and graphs of ONNX models as the compiler has them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from onnx import ModelProto

from dsa_compiler.frontend import load_model
from dsa_compiler.graph.attention import fuse_attention
from dsa_compiler.graph.build import build_graph
from dsa_compiler.graph.join_copies import join_copies
from dsa_compiler.graph.layers import Layer, LayerGraph, OpCall, Tensor
from dsa_compiler.graph.views import identity
from dsa_compiler.lower.lower import lacking
from dsa_compiler.lower.storage import plan_storage
from dsa_compiler.target import Target
from tests.end_to_end.programs import FLOAT, model_of
from tests.lower.parts import part


def graph_of(model: ModelProto, target: Target | str = "npu-v1", precision: str | None = None) -> LayerGraph:
    """The layers of a model as they are scheduled."""
    made = part(target) if isinstance(target, str) else target
    graph = build_graph(load_model(model), precision, lacking, {})
    return plan_storage(join_copies(fuse_attention(graph)), made)


def graph_of_nodes(
    nodes: Sequence[Any], shapes: Mapping[str, Sequence[int]], constants: Mapping[str, Any] | None = None
) -> LayerGraph:
    """The layers of float32 nodes whose last result is `y`."""
    feeds = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    return graph_of(model_of(nodes, feeds, {"y": FLOAT}, constants))


def chain(*shapes: tuple[int, ...], extra: Sequence[tuple[int, int]] = ()) -> LayerGraph:
    """`shapes[0]` is the input, each next one a copy-like layer's result, the last the output.

    (a, b) in `extra` lets layer b also read tensor a. Layers do nothing sensible: schedules look at sizes alone.
    """
    last = len(shapes) - 1
    tensors = {
        f"t{n}": Tensor(f"t{n}", s, "float16", "input" if n == 0 else "output" if n == last else "activation")
        for n, s in enumerate(shapes)
    }
    layers = []
    for n in range(last):
        reads = [n, *(a for a, b in extra if b == n)]
        call = OpCall("copy", (("input", 0),), {}, shapes[n + 1], "float16", f"node{n}")
        layers.append(
            Layer(
                f"layer{n}", "movement", (call,), 0, tuple(identity(f"t{r}", shapes[r]) for r in reads),
                identity(f"t{n + 1}", shapes[n + 1]), (f"node{n}",),
            )
        )  # fmt: skip
    return LayerGraph(tensors, tuple(layers), ("t0",), (f"t{last}",))


def of_images(graph: LayerGraph, layer: Layer, values: Mapping[str, Any], low: int, high: int, images: int) -> Any:
    """Values of the tensors of `layer` for the images [low, high): constants whole."""
    result = {}
    for view in (*layer.inputs, *layer.outputs):
        tensor = graph.tensors[view.tensor]
        if tensor.value is None:
            axis = next(a for a, n in enumerate(tensor.shape) if n > 1 or images == 1)
            step = tensor.shape[axis] // images
            result[view.tensor] = np.take(values[view.tensor], range(low * step, high * step), axis)
    return result


def alone(graph: LayerGraph, layer: Layer, tensors: Mapping[str, Tensor]) -> LayerGraph:
    """A graph of one layer: what it reads is its input, what it writes its output."""
    reads = {v.tensor for v in layer.inputs if graph.tensors[v.tensor].value is None}
    writes = {v.tensor for v in layer.outputs}
    touched = {v.tensor for v in (*layer.inputs, *layer.outputs)}
    roles = {n: "constant" if tensors[n].value is not None else "input" if n in reads else "output" for n in touched}
    own = {n: dataclasses.replace(tensors[n], role=roles[n], scope="ddr") for n in touched}  # type: ignore[arg-type]
    return LayerGraph(own, (layer,), tuple(sorted(reads)), tuple(sorted(writes)))
