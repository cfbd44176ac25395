"""Reductions that keep little go over all cores in two steps: the same values, less time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from dsa_compiler.graph.evaluate import evaluate
from dsa_compiler.graph.layers import Layer, LayerGraph
from dsa_compiler.lower.split_reductions import split_reductions
from dsa_compiler.lower.storage import plan_storage
from tests.lower.networks import Network, call, layer, repeated
from tests.lower.parts import part


def norm_layer(network: Network, shape: Sequence[int], axes: Sequence[int], channel: int | None, dtype: str) -> Layer:
    data = network.source("x", shape, dtype, dense=True, low=40.0, high=41.0)
    along = [shape[a] for a in axes] if channel is None else [shape[channel]]
    op = "nn.layer_norm" if channel is None else "nn.instance_norm"
    attrs = {"axes": tuple(axes), "epsilon": 1e-5} | ({} if channel is None else {"channel_axis": channel})
    slope = repeated(network.given("slope", (shape[-1],), dtype), shape)
    calls = [
        call(op, (0, 1, 2), shape, dtype, **attrs),
        call("multiply", ("%0", 3), shape, dtype),
        call("nn.relu", ("%1",), shape, dtype),
    ]
    factors = [network.given(f"f{n}", along, dtype) for n in range(2)]
    return layer("norm", calls, [data, *factors, slope], network.result("y", shape, dtype))


def reduce_layer(network: Network, shape: Sequence[int], axes: Sequence[int], op: str, keepdims: bool) -> Layer:
    data = network.source("x", shape)
    kept = [1 if a in axes else n for a, n in enumerate(shape) if keepdims or a not in axes]
    other = network.given("other", kept)
    calls = [call(op, (0,), kept, axis=list(axes), keepdims=keepdims), call("add", ("%0", 1), kept)]
    return layer("reduce", calls, [data, other], network.result("y", kept))


def divided(network: Network, made: Layer, target: str) -> LayerGraph:
    """The graph with the layer divided; NumPy says that it computes the same."""
    graph = network.graph(made)
    split = split_reductions(graph, part(target))
    played = {**split.tensors, "x": replace(split.tensors["x"], role="input")}
    expected = network.expected(made)
    found = evaluate(LayerGraph(played, split.layers, ("x",), ("y",)), {"x": network.values["x"]})["y"]
    scale = np.abs(expected).max()
    assert np.allclose(found.astype(float), expected.astype(float).reshape(found.shape), atol=2e-3 * scale)
    return split


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize(
    ("shape", "axes", "channel"),
    [((1, 96, 128, 3), (1, 2), 3), ((2, 256, 64, 4), (1, 2, 3), None), ((1, 24, 64, 64), (1, 2, 3), 0)],
)
def test_normalisations(shape: tuple[int, ...], axes: tuple[int, ...], channel: int | None, dtype: str) -> None:
    """Values far from 0: variances of parts are taken around their own means."""
    network = Network()
    split = divided(network, norm_layer(network, shape, axes, channel, dtype), "npu-v1")
    assert [made.kind for made in split.layers] == ["reduce"] * 5 + ["elementwise"]
    assert {made.nodes for made in split.layers} == {("node",)}


@pytest.mark.parametrize("op", ["sum", "mean", "max", "min"])
@pytest.mark.parametrize("keepdims", [True, False])
def test_reductions(op: str, keepdims: bool) -> None:
    network = Network()
    split = divided(network, reduce_layer(network, (1, 96, 64, 16), (1, 2), op, keepdims), "npu-v1")
    assert [made.kind for made in split.layers] == ["reduce", "reduce"]
    (partial,) = [t for t in split.tensors.values() if t.name.endswith(".part")]
    assert partial.dtype == ("float16" if op in ("max", "min") else "float32")


@pytest.mark.parametrize(
    ("shape", "axes", "op"),
    [((1, 7, 7, 512), (1, 2), "mean"), ((4096, 64), (1,), "sum"), ((1, 96, 64, 16), (1, 2), "prod")],
)
def test_what_is_left_whole(shape: tuple[int, ...], axes: tuple[int, ...], op: str) -> None:
    """Little to reduce, much that is kept, or an operator that has no two steps."""
    network = Network()
    graph = network.graph(reduce_layer(network, shape, axes, op, True))
    assert split_reductions(graph, part("npu-v1")) is graph


def test_storage_planning_divides() -> None:
    network = Network()
    graph = network.graph(reduce_layer(network, (1, 96, 64, 16), (1, 2), "mean", True))
    assert len(plan_storage(graph, part("npu-v1")).layers) == 2
