"""Rows that an index names."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.lower.networks import Network, call, check_layer, layer, part_of
from tests.lower.parts import part

PARTS = ("npu-edge", "four", "narrow", "tiny", "npu-v2")


def taken(network, shape, index, axis, dtype="float16", given=False, dense=False):
    """(x, numbers, result) of a take."""
    count = shape[axis]
    x = network.source("x", shape, dtype, dense=dense)
    places = np.random.default_rng(4).integers(0 if given else -count, count, index).astype(np.int32)
    if given:
        numbers = network.given("n", index, "int32", places)
    else:
        numbers = network.source("n", index, "int32")
        network.values["n"] = places
    out = (*shape[:axis], *index, *shape[axis + 1 :])
    return x, numbers, network.result("y", out, dtype)


@pytest.mark.parametrize("target", PARTS)
@pytest.mark.parametrize(
    ("shape", "index", "axis", "dtype"),
    [
        ((37, 50), (9,), 0, "float16"),
        ((37, 33), (3, 5), 0, "float32"),
        ((5, 37, 19), (11,), 1, "float16"),
        ((300,), (45,), 0, "float32"),
        ((29, 3, 7), (2, 13), 0, "int8"),
        ((2, 3, 21, 5), (1,), 2, "int32"),
    ],
)
@pytest.mark.parametrize("given", [False, True])
def test_rows_of_a_table(shape, index, axis, dtype, given, target):
    network = Network()
    x, n, y = taken(network, shape, index, axis, dtype, given)
    made = call("take", (0, 1), y.shape, dtype=dtype, axis=axis, mode="wrap")
    check_layer(network, layer("gather", [made], [x, n], y), part(target), retries=3)


@pytest.mark.parametrize("target", PARTS)
def test_the_last_axis(target):
    network = Network()
    x, n, y = taken(network, (3, 45), (7,), 1, "float32")
    made = call("take", (0, 1), y.shape, dtype="float32", axis=1, mode="wrap")
    check_layer(network, layer("gather", [made], [x, n], y), part(target), retries=3)


@pytest.mark.parametrize("target", PARTS)
def test_a_gather_with_its_epilogue(target):
    network = Network()
    x, n, _ = taken(network, (37, 50), (2, 9), 0)
    position = network.given("p", (2, 9, 50))
    y = network.result("z", (2, 9, 50), "float32")
    calls = [
        call("take", (0, 1), y.shape, axis=0, mode="wrap"),
        call("add", ("%0", 2), y.shape),
        call("astype", ("%1",), y.shape, dtype="float32"),
    ]
    check_layer(network, layer("gather", calls, [x, n, position], y), part(target), retries=3)


def test_an_index_in_a_column_of_a_tensor():
    network = Network()
    x, n, y = taken(network, (37, 50), (40, 3), 0)
    column = part_of(n, (0, 1), (40, 1))
    column = replace(column, shape=(40,), strides=column.strides[:1])
    y = part_of(y, (0, 1, 0), (40, 1, 50))
    y = replace(y, shape=(40, 50), strides=(y.strides[0], y.strides[2]))
    made = call("take", (0, 1), (40, 50), axis=0, mode="wrap")
    check_layer(network, layer("gather", [made], [x, column], y), part("four"), retries=3)
