"""Comparison node by node: what is stored, what each node gives alone, where each ran."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

import dsa_compiler as dsac
from dsa_compiler.frontend import load_model
from dsa_compiler.node_verification import Placement, _ends, isolated, place_nodes, reference_values, verify_nodes
from dsa_compiler.options import CompileOptions
from dsa_compiler.verification import TOLERANCES


def model_of(*nodes, constants=None, outputs=("y",)) -> ModelProto:
    info = helper.make_tensor_value_info
    tensors = [numpy_helper.from_array(np.asarray(v), n) for n, v in (constants or {}).items()]
    graph = helper.make_graph(nodes, "g", [info("x", TensorProto.FLOAT, [4, 16])],
                              [info(o, TensorProto.FLOAT, None) for o in outputs], tensors)  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def node(op, inputs, output, **attrs):
    return helper.make_node(op, inputs, [output], name=output, **attrs)


W = {"w": np.eye(16, dtype=np.float32) * 2}
CHAIN = (node("MatMul", ["x", "w"], "a"), node("Relu", ["a"], "b"), node("Transpose", ["b"], "c", perm=[1, 0]),
         node("MatMul", ["b", "c"], "y"))  # fmt: skip


def test_values_are_seen_where_they_are_stored() -> None:
    places = [Placement("a", "MatMul", "npu", ("one",)), Placement("b", "Relu", "npu", ("one",)),
              Placement("c", "Transpose", "none", ()), Placement("y", "MatMul", "npu", ("two",))]  # fmt: skip
    assert _ends(load_model(model_of(*CHAIN, constants=W)), places) == {"a": "b", "b": "b", "c": "y", "y": "y"}


def test_a_value_that_only_views_take_on_is_stored() -> None:
    nodes = (node("Exp", ["x"], "a"), node("Transpose", ["a"], "b", perm=[1, 0]), node("MatMul", ["b", "x"], "y"))
    places = [Placement("a", "Exp", "npu", ("one",)), Placement("b", "Transpose", "none", ()),
              Placement("y", "MatMul", "npu", ("two",))]  # fmt: skip
    assert _ends(load_model(model_of(*nodes)), places)["a"] == "a"


def test_nodes_alone_take_the_reference() -> None:
    model = load_model(model_of(*CHAIN, constants=W))
    x = np.random.default_rng(0).standard_normal((4, 16)).astype(np.float32)
    values = {"x": x, **reference_values(model, {"x": x})}
    apart, feeds = isolated(model, list(model.graph.node), values)
    assert [i.name for i in apart.graph.input] == ["x@a", "a@b", "b@c", "b@y", "c@y"]
    assert [o.name for o in apart.graph.output] == ["a", "b", "c", "y"]
    np.testing.assert_array_equal(feeds["b@c"], np.maximum(2 * x, 0))


def test_every_node_is_compared_and_placed() -> None:
    nodes = (*CHAIN[:3], node("MatMul", ["b", "c"], "d"), node("Det", ["d"], "e"), node("Add", ["d", "e"], "y"))
    executable = dsac.compile(model_of(*nodes, constants=W), "npu-edge")
    x = np.random.default_rng(0).standard_normal((4, 16)).astype(np.float32)
    results = verify_nodes(executable, {"x": x}, CompileOptions())
    assert [r.placement.node for r in results] == ["a", "b", "c", "d", "e", "y"]
    assert all(r.accumulated is not None and r.alone is not None for r in results)
    assert all(r.within(TOLERANCES["float32"]) for r in results)
    places = {p.node: p for p in place_nodes(executable)}
    assert places["e"].where == "host" and places["e"].reason == "no converter for Det"
    assert {places[n].where for n in "abdy"} == {"npu"}


def test_a_node_that_cannot_be_compiled_alone_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    executable = dsac.compile(model_of(*CHAIN, constants=W), "npu-edge")
    compile_model = dsac.compile

    def refusing(model, *args, **options):
        if any(n.name == "b" for n in model.graph.node) and any("@" in i.name for i in model.graph.input):
            raise dsac.UserError("no", where="here")
        return compile_model(model, *args, **options)

    monkeypatch.setattr(dsac, "compile", refusing)
    results = verify_nodes(executable, {"x": np.ones((4, 16), np.float32)}, CompileOptions())
    assert [r.problem for r in results] == ["", "[here] no", "", ""]
    assert [r.alone is None for r in results] == [False, True, False, False]
    assert not results[1].within(TOLERANCES["float32"])
