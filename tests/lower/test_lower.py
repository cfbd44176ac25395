"""Every kind of layer has a template, or is refused with its kind."""

from __future__ import annotations

import pytest

from dsa_compiler.errors import Infeasible, InternalError
from dsa_compiler.lower.lower import TEMPLATES, lower_layer
from tests.lower.networks import Network, call, layer
from tests.lower.parts import part

KINDS = {"conv2d", "depthwise", "matmul", "pool", "softmax", "norm", "reduce", "elementwise", "movement"}


def test_kinds() -> None:
    assert set(TEMPLATES) >= KINDS


def test_parameters_and_name() -> None:
    network = Network()
    x = network.source("x", (4, 24))
    made = layer("elementwise", [call("nn.relu", (0,), (4, 24))], [x], network.result("y", (4, 24)))
    kernel = lower_layer(made, network.graph(made), part("npu-edge"))
    assert kernel.name == "layer" and kernel.tiling
    assert [(p.tensor, p.written) for p in kernel.parameters] == [("x", False), ("y", True)]
    assert [p.buffer.same_as(b) for p, b in zip(kernel.parameters, kernel.func.params, strict=True)] == [True, True]


def test_other_kinds_are_refused() -> None:
    network = Network()
    x = network.source("x", (4, 24))
    made = layer("other", [call("mystery", (0,), (4, 24))], [x], network.result("y", (4, 24)))
    with pytest.raises(Infeasible, match=r"^\[lower\] layers of kind other: 1 needed, 0 available$"):
        lower_layer(made, network.graph(made), part("npu-edge"))


def test_other_movements_are_refused() -> None:
    network = Network()
    x = network.source("x", (4, 24))
    made = layer("movement", [call("roll", (0,), (4, 24), axis=0)], [x], network.result("y", (4, 24)))
    with pytest.raises(Infeasible, match=r"^\[layer\] movements of kind roll: 1 needed, 0 available$"):
        lower_layer(made, network.graph(made), part("npu-edge"))


def test_an_anchor_that_depends_on_its_own_layer() -> None:
    network = Network()
    x, w = network.source("x", (4, 8)), network.given("w", (8, 8))
    calls = [call("nn.relu", (0,), (4, 8)), call("matmul", ("%0", 1), (4, 8))]
    made = layer("matmul", calls, [x, w], network.result("y", (4, 8)), master=1)
    with pytest.raises(InternalError, match=r"^\[layer\] its anchor reads a call of its own layer$"):
        lower_layer(made, network.graph(made), part("npu-edge"))
