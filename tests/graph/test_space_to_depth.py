"""Space to depth before a convolution: a larger window over the image itself computes the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from dsa_compiler.graph.evaluate import evaluate
from dsa_compiler.graph.layers import Layer, LayerGraph
from dsa_compiler.graph.space_to_depth import fold_space_to_depth
from tests.lower.networks import Network, call, layer, part_of, permuted

SHAPE = (2, 3, 12, 16)


def slices(
    network: Network, order: Sequence[tuple[int, int]], shape: Sequence[int] = SHAPE, last: bool = False
) -> list[Layer]:
    """Copies of every second row and column, from each of the phases in `order`, into channels of t."""
    images, channels, height, width = shape
    stored = (images, height, width, channels) if last else tuple(shape)
    image = network.source("x", stored, "float32", dense=True)
    image = image if last else permuted(image, (0, 2, 3, 1))
    rows, columns = height // 2, width // 2
    whole = network.result("t", (images, rows, columns, channels * len(order)), "float32")
    made = []
    for number, (row, column) in enumerate(order):
        piece = (images, rows, columns, channels)
        source = part_of(image, (0, row, column, 0), piece, (1, 2, 2, 1))
        out = part_of(whole, (0, 0, 0, number * channels), piece)
        copy = layer("movement", [call("copy", (0,), piece, "float32")], [source], out)
        made.append(replace(copy, name=f"slice{number}", nodes=(f"Slice{number}",)))
    return made


def conv(network: Network, stride: int = 1, groups: int = 1, outputs: int = 8) -> Layer:
    data = network.whole("t")
    images, height, width, channels = data.shape
    weights = network.given("w", (3, 3, channels // groups, outputs), "float32")
    shape = (images, (height - 1) // stride + 1, (width - 1) // stride + 1, outputs)
    attrs = {"strides": (stride, stride), "padding": (1, 1, 1, 1), "dilation": (1, 1), "groups": groups}
    calls = [call("nn.conv2d", (0, 1), shape, "float32", **attrs), call("nn.relu", ("%0",), shape, "float32")]
    made = layer("conv2d", calls, [data, weights], network.result("y", shape, "float32"))
    return replace(made, name="conv", nodes=("Conv",))


def graph_of(network: Network, *layers: Layer) -> LayerGraph:
    tensors = {**network.tensors, "x": replace(network.tensors["x"], role="input")}
    tensors["y"] = replace(tensors["y"], role="output")
    return LayerGraph(tensors, layers, ("x",), ("y",))


PHASES = [(0, 0), (1, 0), (0, 1), (1, 1)]


@pytest.mark.parametrize("order", [PHASES, PHASES[::-1], [PHASES[n] for n in (2, 0, 3, 1)]])
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("stride", [1, 2])
def test_slices_fold(order: list[tuple[int, int]], last: bool, stride: int) -> None:
    network = Network()
    graph = graph_of(network, *slices(network, order, last=last), conv(network, stride))
    folded = fold_space_to_depth(graph)
    copy, made = folded.layers
    assert copy.calls[0].op == "copy" and copy.nodes == ("Slice0", "Slice1", "Slice2", "Slice3")
    assert made.inputs[1].shape == (6, 6, 3, 8)
    assert made.calls[0].attrs["strides"] == (2 * stride, 2 * stride) and made.calls[0].attrs["padding"] == (2, 2, 2, 2)
    assert not {"t", "w"} & set(folded.tensors)
    before, after = (evaluate(g, {"x": network.values["x"]})["y"] for g in (graph, folded))
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "order", [PHASES[:3], [PHASES[0]] * 4, [(0, 0), (1, 0), (0, 1), (0, 1)]], ids=["three", "same", "twice"]
)
def test_what_is_no_space_to_depth_stays(order: list[tuple[int, int]]) -> None:
    network = Network()
    graph = graph_of(network, *slices(network, order), conv(network))
    assert fold_space_to_depth(graph) is graph


def test_groups_stay() -> None:
    network = Network()
    graph = graph_of(network, *slices(network, PHASES), conv(network, groups=2))
    assert fold_space_to_depth(graph) is graph


def test_another_reader_keeps_the_copies() -> None:
    network = Network()
    pieces, made = slices(network, PHASES), conv(network)
    shape = network.tensors["t"].shape
    result = network.result("z", shape, "float32")
    other = layer("elementwise", [call("nn.relu", (0,), shape, "float32")], [network.whole("t")], result)
    graph = graph_of(network, *pieces, made, other)
    assert fold_space_to_depth(graph) is graph
