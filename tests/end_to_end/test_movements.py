"""Gathers, places of extremes, running sums, paddings and 64-bit integers through the whole compiler."""

from __future__ import annotations

import numpy as np
import pytest

from tests.end_to_end.programs import FLOAT, INT32, INT64, check_model, model_of, node

PARTS = ("npu-edge", "npu-v1")


def random(*shape, seed=3):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def integers(low, high, *shape, dtype=np.int64):
    return np.random.default_rng(7).integers(low, high, shape).astype(dtype)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_embedding_of_token_numbers(part, precision):
    ids = integers(-40, 40, 2, 9)
    nodes = [node("Gather", ["t", "ids"], ["e"]), node("Add", ["e", "p"], ["y"])]
    model = model_of(nodes, {"ids": ids}, {"y": FLOAT}, {"t": random(40, 33), "p": random(9, 33)})
    check_model(model, {"ids": ids}, part, precision)


@pytest.mark.parametrize("part", PARTS)
def test_gather_along_the_last_axis_by_computed_places(part):
    x, at = random(5, 21), integers(0, 21, 7, dtype=np.int32)
    nodes = [node("Abs", ["x"], ["a"]), node("Gather", ["a", "i"], ["y"], axis=1)]
    check_model(model_of(nodes, {"x": x, "i": at}, {"y": FLOAT}), {"x": x, "i": at}, part)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_gather_by_constant_places(part, axis):
    x = random(11, 13, 17)
    nodes = [node("Abs", ["x"], ["a"]), node("Gather", ["a", "i"], ["y"], axis=axis)]
    places = np.array([3, 4, 5, -1, 0, 7, 7, 8])
    check_model(model_of(nodes, {"x": x}, {"y": FLOAT}, {"i": places}), {"x": x}, part)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("op", ["ArgMax", "ArgMin"])
@pytest.mark.parametrize(("axis", "keep"), [(1, 0), (0, 1), (2, 1)])
def test_places_of_extremes(part, op, axis, keep):
    x = np.round(random(5, 21, 9) * 2) / 2  # with equals
    nodes = [node("Neg", ["x"], ["a"]), node(op, ["a"], ["y"], axis=axis, keepdims=keep)]
    check_model(model_of(nodes, {"x": x}, {"y": INT64}), {"x": x}, part)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize(("exclusive", "reverse"), [(0, 0), (1, 0), (0, 1), (1, 1)])
@pytest.mark.parametrize("axis", [0, 1])
def test_running_sums(part, exclusive, reverse, axis):
    x = random(9, 21)
    nodes = [node("Abs", ["x"], ["a"]), node("CumSum", ["a", "axis"], ["y"], exclusive=exclusive, reverse=reverse)]
    check_model(model_of(nodes, {"x": x}, {"y": FLOAT}, {"axis": np.array(axis)}), {"x": x}, part)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("mode", ["constant", "reflect", "edge"])
def test_paddings(part, mode):
    x = random(2, 5, 7)
    nodes = [node("Abs", ["x"], ["a"]), node("Pad", ["a", "p"], ["y"], mode=mode)]
    pads = np.array([0, 2, 3, 0, 1, 4])
    check_model(model_of(nodes, {"x": x}, {"y": FLOAT}, {"p": pads}), {"x": x}, part)


@pytest.mark.parametrize("part", PARTS)
def test_casts_between_integers_of_64_bits_and_the_rest(part):
    ids = np.array([[0, 1, -1, 5, -(2**31), 2**31 - 1, 77], [1, 2, 3, 4, 5, 6, -7]], np.int64)
    x = random(3, 9) * 100
    nodes = [
        node("Cast", ["ids"], ["i32"], to=INT32),
        node("Cast", ["ids"], ["f"], to=FLOAT),
        node("Cast", ["x"], ["i64"], to=INT64),
    ]
    model = model_of(nodes, {"ids": ids, "x": x}, {"i32": INT32, "f": FLOAT, "i64": INT64})
    check_model(model, {"ids": ids, "x": x}, part)


@pytest.mark.parametrize("part", PARTS)
def test_gather_by_several_places(part):
    x, at = random(5, 7, 9), integers(-5, 5, 3, 2, 2)
    nodes = [node("Abs", ["x"], ["a"]), node("GatherND", ["a", "i"], ["y"])]
    check_model(model_of(nodes, {"x": x, "i": at}, {"y": FLOAT}), {"x": x, "i": at}, part)


@pytest.mark.parametrize("part", PARTS)
def test_gather_by_several_places_in_each_batch(part):
    x, at = random(3, 7, 9), integers(-7, 7, 3, 4, 1)
    nodes = [node("Abs", ["x"], ["a"]), node("GatherND", ["a", "i"], ["y"], batch_dims=1)]
    check_model(model_of(nodes, {"x": x, "i": at}, {"y": FLOAT}), {"x": x, "i": at}, part)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize(("axis", "shape"), [(0, (3, 21)), (1, (5, 7))])
def test_gather_of_elements(part, axis, shape):
    x, at = random(5, 21), integers(-5, 5, *shape)
    nodes = [node("Abs", ["x"], ["a"]), node("GatherElements", ["a", "i"], ["y"], axis=axis)]
    check_model(model_of(nodes, {"x": x, "i": at}, {"y": FLOAT}), {"x": x, "i": at}, part)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("axis", [-1, 0, 1])
def test_one_hot(part, axis):
    at = integers(-11, 13, 3, 7)
    constants = {"d": np.array(11), "v": np.array([-1.0, 2.5], np.float32)}
    nodes = [node("OneHot", ["i", "d", "v"], ["y"], axis=axis)]
    check_model(model_of(nodes, {"i": at}, {"y": FLOAT}, constants), {"i": at}, part)


@pytest.mark.parametrize("part", PARTS)
def test_results_without_elements(part):
    x = random(5, 7)
    nodes = [
        node("Slice", ["x", "b", "e"], ["y"]),
        node("Abs", ["y"], ["z"]),
        node("Neg", ["x"], ["w"]),
    ]
    constants = {"b": np.array([9]), "e": np.array([20])}
    model = model_of(nodes, {"x": x}, {"z": FLOAT, "w": FLOAT}, constants)
    check_model(model, {"x": x}, part)
