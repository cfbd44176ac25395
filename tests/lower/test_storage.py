"""plan_storage: copies into channel-last order that convolutions over lines do without; dense pixels."""

from __future__ import annotations

from dataclasses import replace

from dsa_compiler.graph.layers import Layer, LayerGraph
from dsa_compiler.lower.storage import plan_storage
from tests.lower.networks import Network, call, layer, permuted
from tests.lower.parts import part

TARGET = part("npu-edge")
ATTRS = {"strides": (1, 1), "padding": (1, 1, 1, 1), "dilation": (1, 1), "groups": 1}


def _conv(network: Network, name: str, channels: int) -> Layer:
    data, weights = network.whole(name), network.given("w", (3, 3, channels, 16))
    out = (1, 8, 20, 16)
    made = layer("conv2d", [call("nn.conv2d", (0, 1), out, **ATTRS)], [data, weights], network.result("y", out))
    return replace(made, name="conv", nodes=("Conv",))


def _copy(network: Network, channels: int) -> Layer:
    source = network.source("x", (1, channels, 8, 20))
    result = network.result("t", (1, 8, 20, channels))
    made = layer("movement", [call("copy", (0,), result.shape)], [permuted(source, (0, 2, 3, 1))], result)
    return replace(made, name="copy", nodes=("Transpose",))


def _planned(network: Network, *layers: Layer) -> LayerGraph:
    return plan_storage(LayerGraph(network.tensors, layers, ("x",), ("y",)), TARGET)


def test_planes_are_read_in_place() -> None:
    network = Network()
    copy = _copy(network, 3)
    graph = _planned(network, copy, _conv(network, "t", 3))
    (conv,) = graph.layers
    assert conv.inputs[0] == copy.inputs[0] and conv.nodes == ("Transpose", "Conv") and "t" not in graph.tensors


def test_many_channels_are_copied() -> None:
    network = Network()
    graph = _planned(network, _copy(network, 32), _conv(network, "t", 32))
    assert [made.name for made in graph.layers] == ["copy", "conv"]


def test_a_copy_with_another_reader_stays() -> None:
    network = Network()
    copy, conv = _copy(network, 3), _conv(network, "t", 3)
    other = layer(
        "elementwise", [call("nn.relu", (0,), (1, 8, 20, 3))], [network.whole("t")], network.result("z", (1, 8, 20, 3))
    )
    kinds = [made.kind for made in _planned(network, copy, conv, other).layers]
    assert kinds == ["movement", "conv2d", "elementwise"]


def test_short_rows_become_dense() -> None:
    network = Network()
    source = network.source("x", (1, 8, 20, 3), "float32", dense=True)
    result = network.result("t", (1, 8, 20, 3))
    cast = layer("elementwise", [call("astype", (0,), (1, 8, 20, 3), dtype="float16")], [source], result)
    graph = _planned(network, cast, _conv(network, "t", 3))
    assert graph.tensors["t"].dense
    assert graph.layers[0].output.strides == graph.layers[1].inputs[0].strides == ((0, 480), (0, 60), (0, 3), (0, 1))


def test_long_rows_stay_padded() -> None:
    network = Network()
    network.source("t", (1, 8, 20, 19))
    graph = _planned(network, _conv(network, "t", 19))
    assert not graph.tensors["t"].dense
