"""Reductions and normalisations over axes that L1 does not hold, block by block."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsa_compiler.errors import Infeasible
from dsa_compiler.lower.reduce_layer import lower_softmax_layer
from dsa_compiler.lower.stream_kernel import choose_stream_tile
from tests.lower.drawing import drawn
from tests.lower.networks import Network, call, check_layer, layer
from tests.lower.parts import changed, part
from tests.lower.test_reduce_layer import norm, reduction, softmax

SMALL = changed(part("four"), **{"memory.l1.size": 8192, "memory.l1.banks": 1})
ONE = changed(part("npu-edge"), **{"memory.l1.size": 8192, "memory.l1.banks": 1})


@pytest.mark.parametrize("op", ["nn.softmax", "nn.log_softmax"])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_softmax_of_long_rows(op: str, dtype: str) -> None:
    network = Network()
    tolerance = 8e-3 if dtype == "float16" else 1e-5
    check_layer(network, softmax(network, (3, 3001), dtype, op), SMALL, llvm=True, tolerance=tolerance, retries=3)


@pytest.mark.parametrize("op", ["nn.layer_norm", "nn.rms_norm"])
def test_norm_of_long_rows(op: str) -> None:
    network = Network()
    check_layer(network, norm(network, (5, 2777), op, (-1,)), ONE, llvm=True, tolerance=4e-3, retries=3)


@pytest.mark.parametrize("channels", [3, 40])
def test_norm_of_a_large_image(channels: int) -> None:
    network = Network()
    made = norm(network, (2, 31, 23, channels), "nn.instance_norm", (1, 2), channel_axis=3)
    check_layer(network, made, SMALL, llvm=True, tolerance=4e-3, retries=3)


def test_norm_of_everything() -> None:
    network = Network()
    made = norm(network, (1, 30, 29, 3), "nn.instance_norm", (1, 2, 3), channel_axis=0)
    check_layer(network, made, ONE, llvm=True, tolerance=4e-3, retries=3)


@pytest.mark.parametrize("op", ["sum", "mean", "max"])
@pytest.mark.parametrize("axes", [(0, 1, 2), (1,), (0, 2), (0, 1)])
def test_reductions(op: str, axes: tuple[int, ...]) -> None:
    network = Network()
    made = reduction(network, (17, 41, 37), op, axes, keepdims=True, relu=True)
    check_layer(network, made, ONE, tolerance=0.1 if op == "sum" else 4e-3, retries=3)


def test_operand_of_the_epilogue() -> None:
    network = Network()
    data = network.source("x", (2, 40, 41, 24))
    other = network.source("r", (2, 24))
    calls = [call("mean", (0,), (2, 24), axis=(1, 2), keepdims=False), call("add", ("%0", 1), (2, 24))]
    made = layer("reduce", calls, [data, other], network.result("y", (2, 24)))
    check_layer(network, made, SMALL, llvm=True, tolerance=4e-3, retries=3)


def test_no_row_fits() -> None:
    network = Network()
    made = softmax(network, (3, 5000))
    target = changed(part("tiny"), **{"memory.l1.size": 256, "memory.l1.banks": 1})
    with pytest.raises(Infeasible, match=r"\[lower.stream_kernel\] l1: \d+ needed, 256 available"):
        lower_softmax_layer(made, network.graph(made), target)


def test_tiles() -> None:
    target = part("npu-v1")
    space = choose_stream_tile((1, 256, 128, 512), 20.0, frozenset({1, 2}), 2, target)
    assert space.tile[3] == 32 and space.cores == 16 and space.tile[2] == 128
    space = choose_stream_tile((4, 1_000_000), 20.0, frozenset({1}), 2, target)
    assert space.tile == (1, 65536) and space.cores == 4


@drawn(20)
@given(st.data(), st.sampled_from(["nn.softmax", "nn.layer_norm", "sum", "max", "mean"]), st.booleans())
def test_any(data: st.DataObject, op: str, many: bool) -> None:
    network = Network()
    lead = data.draw(st.lists(st.sampled_from([1, 3, 16, 35, 50]), min_size=1, max_size=2))
    shape = (*lead, data.draw(st.sampled_from([1, 33, 700, 1801])))
    target: Any = SMALL if many else ONE
    if op == "nn.softmax":
        made = softmax(network, shape)
    elif op == "nn.layer_norm":
        made = norm(network, shape, op, (-1,))
    else:
        axes = sorted(data.draw(st.sets(st.integers(0, len(shape) - 1), min_size=1)))
        made = reduction(network, shape, op, axes, True, "float32")
    check_layer(network, made, target, seeds=(1,), retries=7, tolerance=1e-2)
