"""Paddings with a value and reversals."""

from __future__ import annotations

import pytest

from dsa_compiler.errors import Infeasible
from dsa_compiler.lower.lower import lower_layer
from tests.lower.networks import Network, call, check_layer, layer, part_of
from tests.lower.parts import part

PARTS = ("npu-edge", "four", "narrow", "tiny", "npu-v2")


@pytest.mark.parametrize("target", PARTS)
@pytest.mark.parametrize(
    ("shape", "widths", "dtype"),
    [
        ((1, 5, 6, 16), (0, 0, 1, 2, 2, 1, 0, 0), "float16"),
        ((3, 7, 33), (0, 0, 0, 0, 3, 5), "float16"),
        ((3, 7, 33), (1, 0, 2, 1, 0, 4), "float32"),
        ((9, 41), (0, 7, 5, 0), "int8"),
        ((70,), (13, 1), "float32"),
        ((5, 3, 2, 7), (2, 0, 0, 1, 1, 0, 0, 0), "int32"),
    ],
)
def test_padding_with_a_value(shape, widths, dtype, target):
    network = Network()
    wide = tuple(n + widths[2 * a] + widths[2 * a + 1] for a, n in enumerate(shape))
    x, y = network.source("x", shape, dtype), network.result("y", wide, dtype)
    made = call("nn.pad", (0,), wide, dtype=dtype, pad_width=widths, pad_value=3.0, pad_mode="constant")
    check_layer(network, layer("movement", [made], [x], y), part(target), retries=3)


@pytest.mark.parametrize("target", PARTS)
@pytest.mark.parametrize(("shape", "axis"), [((1, 5, 6, 16), 1), ((7, 33), 1), ((7, 33), 0), ((129,), 0)])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_reversal(shape, axis, dtype, target):
    network = Network()
    x, y = network.source("x", shape, dtype), network.result("y", shape, dtype)
    made = call("flip", (0,), shape, dtype=dtype, axis=axis)
    check_layer(network, layer("movement", [made], [x], y), part(target), retries=3)


def test_other_movements_are_refused():
    network = Network()
    x, y = network.source("x", (4, 5)), network.result("y", (6, 5))
    made = call("nn.pad", (0,), y.shape, pad_width=(1, 1, 0, 0), pad_value=0.0, pad_mode="reflect")
    with pytest.raises(Infeasible, match=r"movements of kind nn\.pad"):
        lower_layer(layer("movement", [made], [x], y), network.graph(layer("movement", [made], [x], y)), part("four"))


@pytest.mark.parametrize("target", ["npu-edge", "npu-v2", "tiny"])
@pytest.mark.parametrize(("columns", "begin", "count"), [(57, 8, 25), (57, 0, 29), (9, 2, 4), (33, 1, 16), (64, 0, 32)])
def test_every_other_column_up_to_the_last(columns, begin, count, target):
    """What lies behind the last column of a row is padding that nothing wrote."""
    network = Network()
    x, y = network.source("x", (3, columns), "float32"), network.result("y", (3, count), "float32")
    strided = part_of(x, (0, begin), (3, count), (1, 2))
    made = layer("movement", [call("copy", (0,), (3, count), "float32")], [strided], y)
    check_layer(network, made, part(target), retries=3)
