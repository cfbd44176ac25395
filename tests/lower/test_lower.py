"""Every kind of layer has a template, or is refused with its kind."""

from __future__ import annotations

import pytest

from dsa_compiler.errors import Infeasible
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
