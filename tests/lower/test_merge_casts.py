"""Casts beside copies: the copy casts, and what is only copied is stored in its narrower type."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from dsa_compiler.graph.evaluate import evaluate
from dsa_compiler.graph.layers import Layer, LayerGraph
from dsa_compiler.graph.views import View
from dsa_compiler.lower.merge_casts import merge_casts
from tests.lower.networks import Network, call, layer, permuted

SHAPE = (1, 6, 8, 40)
PLANES = (1, 40, 6, 8)


def named(made: Layer, name: str) -> Layer:
    return replace(made, name=name, nodes=(name,))


def cast_layer(source: View, result: View, dtype: str, name: str = "cast") -> Layer:
    return named(layer("elementwise", [call("astype", (0,), result.shape, dtype)], [source], result), name)


def copy_layer(source: View, result: View, dtype: str, name: str = "copy") -> Layer:
    return named(layer("movement", [call("copy", (0,), result.shape, dtype)], [source], result), name)


def merged(network: Network, layers: Sequence[Layer], output: str = "y") -> LayerGraph:
    """The merged graph, which NumPy says computes the same."""
    tensors = {n: replace(t, role="input") if n == "x" else t for n, t in network.tensors.items()}
    graph = LayerGraph(tensors, tuple(layers), ("x",), (output,))
    found = merge_casts(graph)
    inputs = {"x": network.values["x"]}
    np.testing.assert_array_equal(evaluate(found, inputs)[output], evaluate(graph, inputs)[output])
    return found


def input_of(network: Network, shape: Sequence[int], dtype: str) -> View:
    return network.source("x", shape, dtype, dense=True)


def test_a_cast_before_a_copy() -> None:
    network = Network()
    source = input_of(network, PLANES, "float32")
    narrow, result = network.result("t", PLANES), network.result("y", SHAPE, role="output")
    layers = [cast_layer(source, narrow, "float16"), copy_layer(permuted(narrow, (0, 2, 3, 1)), result, "float16")]
    (made,) = merged(network, layers).layers
    assert [c.op for c in made.calls] == ["copy", "astype"] and made.nodes == ("copy", "cast")
    assert made.inputs[0].tensor == "x" and made.output.tensor == "y"


def test_a_cast_behind_a_copy() -> None:
    network = Network()
    source = input_of(network, SHAPE, "float16")
    moved, result = network.result("t", PLANES), network.result("y", PLANES, "float32", role="output")
    layers = [copy_layer(permuted(source, (0, 3, 1, 2)), moved, "float16"), cast_layer(moved, result, "float32")]
    (made,) = merged(network, layers).layers
    assert [c.dtype for c in made.calls] == ["float16", "float32"] and made.output.tensor == "y"


def test_a_result_is_copied_in_its_narrower_type() -> None:
    network = Network()
    source = input_of(network, SHAPE, "float16")
    wide, result = network.result("t", SHAPE, "float32"), network.result("y", PLANES, "float32", role="output")
    calls = [call("nn.relu", (0,), SHAPE), call("astype", ("%0",), SHAPE, "float32")]
    relu = named(layer("elementwise", calls, [source], wide), "relu")
    graph = merged(network, [relu, copy_layer(permuted(wide, (0, 3, 1, 2)), result, "float32")])
    first, second = graph.layers
    assert [c.op for c in first.calls] == ["nn.relu"] and graph.tensors["t"].dtype == "float16"
    assert [c.op for c in second.calls] == ["copy", "astype"]


def test_other_readers_keep_the_cast() -> None:
    network = Network()
    source = input_of(network, PLANES, "float32")
    narrow, moved = network.result("t", PLANES), network.result("s", SHAPE)
    result = network.result("y", PLANES, role="output")
    relu = named(layer("elementwise", [call("nn.relu", (0,), PLANES)], [narrow], result), "relu")
    layers = [cast_layer(source, narrow, "float16"), copy_layer(permuted(narrow, (0, 2, 3, 1)), moved, "float16"), relu]
    assert merged(network, layers).layers == tuple(layers)


def test_integers_keep_their_cast() -> None:
    network = Network()
    source = input_of(network, PLANES, "int32")
    wide, result = network.result("t", PLANES, "float32"), network.result("y", SHAPE, "float32", role="output")
    layers = [cast_layer(source, wide, "float32"), copy_layer(permuted(wide, (0, 2, 3, 1)), result, "float32")]
    assert len(merged(network, layers).layers) == 2
