"""Layers that no choice fits run on the CPU, with the reason named; nothing fails."""

from __future__ import annotations

import numpy as np

from dsa_compiler import compilation
from dsa_compiler.graph import build
from dsa_compiler.graph.pipeline import optimize
from dsa_compiler.lower import host_layer
from dsa_compiler.lower.lower import lower_layer
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


def test_neighbours_that_run_on_the_host_are_one_step():
    x = RANDOM.standard_normal((5, 700)).astype(np.float32)
    v, w = (RANDOM.standard_normal(shape).astype(np.float32) for shape in ((700, 650), (650, 700)))
    nodes = [node("Abs", ["x"], ["a"]), node("MatMul", ["a", "v"], ["b"]), node("MatMul", ["b", "w"], ["y"])]
    model = model_of(nodes, {"x": x}, {"y": FLOAT}, {"v": v, "w": w})
    executable = check_model(model, {"x": x}, starved(), host=True)
    assert [s["node"] for s in executable.report["host_steps"]] == ["MatMul_b+MatMul_y"]


def test_a_pass_that_fails_costs_time_and_not_the_model(monkeypatch):
    def broken(layer, graph, target, *, rank=0):
        if layer.kind == "softmax":
            raise ValueError("something unforeseen")
        return lower_layer(layer, graph, target, rank=rank)

    monkeypatch.setattr(compilation, "lower_layer", broken)
    monkeypatch.setattr(host_layer, "lower_layer", broken)
    x = RANDOM.standard_normal((5, 33)).astype(np.float32)
    nodes = [node("Abs", ["x"], ["a"]), node("Softmax", ["a"], ["b"]), node("Neg", ["b"], ["y"])]
    executable = check_model(model_of(nodes, {"x": x}, {"y": FLOAT}), {"x": x}, "npu-edge", host=True)
    (step,) = executable.report["host_steps"]
    assert step["op"] == "Softmax+Neg"  # its epilogue goes with it
    assert step["reason"] == "defect: something unforeseen"
    assert executable.report["feedback"]["defects"] == 1


def test_graph_passes_that_fail_leave_the_model_to_the_host(monkeypatch):
    def broken(mod, precision):
        if any("dsac.host" not in str(b.value) for b in mod["main"].body.blocks[0].bindings[:-1]):
            raise ValueError("an unforeseen graph")
        return optimize(mod, precision)

    monkeypatch.setattr(build, "optimize", broken)
    x = RANDOM.standard_normal((5, 33)).astype(np.float32)
    nodes = [node("Abs", ["x"], ["a"]), node("Neg", ["a"], ["y"])]
    executable = check_model(model_of(nodes, {"x": x}, {"y": FLOAT}), {"x": x}, "npu-edge", host=True)
    (step,) = executable.report["host_steps"]
    assert step["reason"] == "the graph passes failed: an unforeseen graph"
