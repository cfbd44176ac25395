"""Every ONNX node that computes something is named by a layer, whatever the passes joined."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

from dsa_compiler.frontend import import_model, load_model
from dsa_compiler.graph import extract_layers, optimize


def node(op, inputs, outputs, **attrs):
    return helper.make_node(op, inputs.split(), outputs.split(), **attrs)


CONSTANTS = {
    "w": np.ones((4, 3, 1, 1), np.float32), "one": np.ones(4, np.float32), "half": np.float32(0.5),
    "root": np.float32(np.sqrt(2)), "unit": np.float32(1),
}  # fmt: skip
CASES = {
    "batch normalisation": [node("Conv", "x w", "c"), node("BatchNormalization", "c one one one one", "y")],
    "silu": [node("Sigmoid", "x", "s"), node("Mul", "x s", "y")],
    "gelu": [node("Div", "x root", "a"), node("Erf", "a", "b"), node("Add", "b unit", "c"), node("Mul", "x c", "d"),
             node("Mul", "d half", "y")],
    "clip": [node("Max", "x half", "a"), node("Min", "a unit", "y")],
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_joined_nodes_keep_their_names(name, precision, build):
    used = {i for n in CASES[name] for i in n.input}
    constants = {k: v for k, v in CONSTANTS.items() if k in used}
    model = load_model(build(CASES[name], {"x": [1, 3, 5, 5]}, ["y"], constants))
    graph = extract_layers(optimize(import_model(model), precision))
    named = {n for layer in graph.layers for n in layer.nodes}
    assert {n.name for n in model.graph.node} <= named
    assert all("\n" not in call.node for layer in graph.layers for call in layer.calls)
