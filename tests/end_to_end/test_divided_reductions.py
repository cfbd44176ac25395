"""Normalisations and reductions that are divided over cores, from ONNX to values."""

from __future__ import annotations

import numpy as np
import pytest

from tests.end_to_end.programs import FLOAT, check_model, model_of, node
from tests.lower.parts import part


@pytest.mark.parametrize("precision", ["float32", "float16"])
@pytest.mark.parametrize("target", ["npu-v1", "npu-bench", "plain"])
def test_instance_norm_of_an_image(target: str, precision: str) -> None:
    x = np.random.default_rng(0).normal(3.0, 2.0, (1, 3, 64, 96)).astype(np.float32)
    nodes = [node("InstanceNormalization", ["x", "s", "b"], ["n"], epsilon=1e-5), node("Relu", ["n"], ["y"])]
    constants = {"s": np.float32([0.5, 1.0, 2.0]), "b": np.float32([0.1, -0.2, 0.3])}
    made = check_model(model_of(nodes, {"x": x}, {"y": FLOAT}, constants), {"x": x}, part(target), precision)
    assert sum(row["kind"] == "reduce" for row in made.report["layers"]) >= 5


@pytest.mark.parametrize("op", ["ReduceMean", "ReduceMax"])
def test_global_reduction(op: str) -> None:
    x = np.random.default_rng(1).normal(0.0, 1.0, (1, 96, 64, 16)).astype(np.float32)
    model = model_of([node(op, ["x", "axes"], ["y"], keepdims=0)], {"x": x}, {"y": FLOAT}, {"axes": np.int64([1, 2])})
    made = check_model(model, {"x": x}, "npu-v1", "float16")
    assert sum(row["kind"] == "reduce" for row in made.report["layers"]) == 2
