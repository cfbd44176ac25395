"""Layers that no choice fits run on the CPU, with the reason named; nothing fails."""

from __future__ import annotations

import numpy as np

from tests.end_to_end.programs import FLOAT, INT64, check_model, model_of, node
from tests.lower.parts import changed, part

RANDOM = np.random.default_rng(5)


def starved(name: str = "npu-edge"):
    """A part whose scratchpads hold next to nothing."""
    sizes = {f"memory.{scope}.size": 512 for scope in ("l1", "l0a", "l0b", "l0c")}
    return changed(part(name), name="starved", **sizes)


def test_a_layer_that_no_tile_fits_runs_on_the_host():
    x = RANDOM.standard_normal((5, 33)).astype(np.float32)
    w = RANDOM.standard_normal((33, 700)).astype(np.float32)
    nodes = [node("Abs", ["x"], ["a"]), node("MatMul", ["a", "w"], ["b"]), node("Transpose", ["b"], ["y"])]
    model = model_of(nodes, {"x": x}, {"y": FLOAT}, {"w": w})
    executable = check_model(model, {"x": x}, starved(), host=True)
    steps = executable.report["host_steps"]
    assert steps
    assert all("no choice fits: " in step["reason"] and "needed" in step["reason"] for step in steps)
    assert executable.report["feedback"]["host"] == len(steps)


def test_results_of_host_steps_may_be_int64():
    x = RANDOM.standard_normal((1, 2, 4, 6)).astype(np.float32)
    nodes = [node("Abs", ["x"], ["a"]), node("MaxPool", ["a"], ["y", "i"], kernel_shape=[2, 2])]
    model = model_of(nodes, {"x": x}, {"y": FLOAT, "i": INT64})
    assert check_model(model, {"x": x}, "npu-v1", host=True).report["host_steps"]


def test_an_operator_without_a_template_is_a_host_step_of_its_node():
    x = RANDOM.standard_normal((4, 6)).astype(np.float32)
    nodes = [
        node("Abs", ["x"], ["a"]),
        node("TopK", ["a", "k"], ["v", "i"]),
        node("Neg", ["v"], ["y"]),
    ]
    model = model_of(nodes, {"x": x}, {"y": FLOAT, "i": INT64}, {"k": np.array([3])})
    steps = check_model(model, {"x": x}, "npu-v1", host=True).report["host_steps"]
    assert [s["op"] for s in steps] == ["TopK"]
    assert "no template for" in steps[0]["reason"]
