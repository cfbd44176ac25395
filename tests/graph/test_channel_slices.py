"""Every n-th channel is read in place by convolutions, with weights of zero between."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dsa_compiler.graph.channel_slices import read_strided_channels
from dsa_compiler.graph.evaluate import evaluate
from dsa_compiler.graph.layers import Layer, LayerGraph
from tests.lower.networks import Network, call, layer, part_of

SHAPE = (1, 6, 7, 48)


def copy_of(network: Network, first: int, step: int, channels: int) -> Layer:
    source = part_of(network.whole("t"), (0, 0, 0, first), (*SHAPE[:3], channels), (1, 1, 1, step))
    result = network.result("s", source.shape, "float32")
    made = layer("movement", [call("copy", (0,), source.shape, "float32")], [source], result)
    return replace(made, name="copy", nodes=("Slice",))


def conv_of(network: Network, kernel: int = 1, groups: int = 1) -> Layer:
    data = network.whole("s")
    weights = network.given("w", (kernel, kernel, data.shape[3] // groups, 16), "float32")
    pad = kernel // 2
    attrs = {"strides": (1, 1), "padding": (pad,) * 4, "dilation": (1, 1), "groups": groups}
    shape = (*SHAPE[:3], 16)
    made = layer(
        "conv2d", [call("nn.conv2d", (0, 1), shape, "float32", **attrs)], [data, weights],
        network.result("y", shape, "float32", role="output"),
    )  # fmt: skip
    return replace(made, name="conv", nodes=("Conv",))


def graph_of(network: Network, first: int = 1, step: int = 2, channels: int = 24, **conv: int) -> LayerGraph:
    """x through relu to t, every n-th channel of t to s, and a convolution of s; other weights leave room for zeros."""
    source, whole = network.source("x", SHAPE, "float32", dense=True), network.result("t", SHAPE, "float32")
    relu = layer("elementwise", [call("nn.relu", (0,), SHAPE, "float32")], [source], whole)
    layers = (relu, copy_of(network, first, step, channels), conv_of(network, **conv))
    network.given("others", (64, 1024), "float32")
    tensors = {**network.tensors, "x": replace(network.tensors["x"], role="input")}
    return LayerGraph(tensors, layers, ("x",), ("y",))


@pytest.mark.parametrize(
    ("first", "step", "channels", "kernel"), [(1, 2, 24, 1), (0, 2, 24, 3), (5, 3, 14, 1), (24, 2, 12, 1)]
)
def test_strided_channels(first: int, step: int, channels: int, kernel: int) -> None:
    network = Network()
    graph = graph_of(network, first, step, channels, kernel=kernel)
    folded = read_strided_channels(graph)
    _, conv = folded.layers
    assert conv.inputs[0].tensor == "t" and conv.inputs[1].shape == (kernel, kernel, channels * step, 16)
    assert conv.nodes == ("Slice", "Conv") and not {"s", "w"} & set(folded.tensors)
    before, after = (evaluate(g, {"x": network.values["x"]})["y"] for g in (graph, folded))
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "options", [{"step": 1}, {"step": 5, "channels": 9}, {"groups": 2}, {"first": 2, "step": 2, "channels": 23}]
)
def test_what_is_copied(options: dict[str, int]) -> None:
    """Neighbours, channels far apart, groups; what runs beyond the last block is kept in bounds."""
    graph = graph_of(Network(), **options)
    folded = read_strided_channels(graph)
    assert (folded is graph) == (options.get("first") != 2)


def test_zeros_have_a_limit() -> None:
    network = Network()
    graph = graph_of(network)
    few = replace(graph, tensors={n: t for n, t in graph.tensors.items() if n != "others"})
    assert read_strided_channels(few) is few


def test_another_reader_keeps_the_copy() -> None:
    network = Network()
    graph = graph_of(network)
    shape = network.tensors["s"].shape
    result = network.result("z", shape, "float32")
    other = layer("elementwise", [call("nn.relu", (0,), shape, "float32")], [network.whole("s")], result)
    both = replace(graph, layers=(*graph.layers, other), tensors={**graph.tensors, "z": network.tensors["z"]})
    assert read_strided_channels(both) is both
