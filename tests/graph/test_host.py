"""Host steps: what has no layer runs by ONNX's reference, in as few steps as possible."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from dsa_compiler.errors import UserError
from dsa_compiler.frontend import import_model, load_model
from dsa_compiler.graph import evaluate, extract_layers, optimize, run_relax


def node(op, inputs, outputs, **attrs):
    return helper.make_node(op, inputs, outputs, **attrs)


def model_of(nodes, outputs, shape=(4, 6), constants=None, types=None):
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(shape))]
    results = [helper.make_tensor_value_info(o, (types or {}).get(o, TensorProto.FLOAT), None) for o in outputs]
    tensors = [numpy_helper.from_array(np.asarray(v), n) for n, v in (constants or {}).items()]
    graph = helper.make_graph(nodes, "g", inputs, results, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def check(model, precision=None, relax=True, tolerance=1e-5):
    loaded = load_model(model)
    mod = optimize(import_model(loaded), precision)
    graph = extract_layers(mod)
    shape = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
    feeds = {"x": np.random.default_rng(0).standard_normal(shape).astype(np.float32)}
    names = [o.name for o in model.graph.output]
    expected = ReferenceEvaluator(model).run(names, feeds)
    for actual in [evaluate(graph, feeds), *([run_relax(mod, feeds)] if relax else [])]:
        for name, value in zip(names, expected, strict=True):
            np.testing.assert_allclose(actual[name], value, rtol=tolerance, atol=tolerance)
            assert actual[name].dtype == value.dtype
    return graph


UNIQUE = [node("Relu", ["x"], ["a"]), node("Det", ["a"], ["b"]), node("Exp", ["b"], ["y"])]


@pytest.mark.parametrize("precision", [None, "float16"])
def test_step_between_layers(precision):
    graph = check(model_of(UNIQUE, ["y"], (2, 3, 3)), precision, tolerance=5e-2 if precision else 1e-5)
    assert [layer.kind for layer in graph.layers][:2] == ["elementwise", "host"] or precision
    step = next(layer for layer in graph.layers if layer.kind == "host")
    assert step.calls[0].attrs["reason"] == "no converter for Det"
    assert step.nodes == ("Det_b",)
    assert onnx.load_model_from_string(step.calls[0].attrs["model"]).graph.node[0].op_type == "Det"
    assert all(graph.tensors[v.tensor].dtype == "float32" for v in (*step.inputs, *step.outputs))
    assert "<" in str(step) and "bytes>" in str(step)


def test_several_results_of_one_step():
    nodes = [node("Relu", ["x"], ["a"]), node("MaxPool", ["a"], ["y", "i"], kernel_shape=[2, 2])]
    graph = check(model_of(nodes, ["y", "i"], (1, 2, 4, 4), types={"i": TensorProto.INT64}), relax=False)
    step = next(layer for layer in graph.layers if layer.kind == "host")
    assert len(step.outputs) == 2
    assert step.calls[0].attrs["reason"] == "the indices as a result"


def test_independent_nodes_share_a_step_and_others_do_not():
    nodes = [
        node("Det", ["x"], ["a"], name="first"), node("Relu", ["x"], ["r"]), node("Det", ["r"], ["b"], name="second"),
        node("Exp", ["a"], ["c"]), node("Add", ["c", "b"], ["y"]),
    ]  # fmt: skip
    graph = check(model_of(nodes, ["y"], (2, 3, 3)))
    steps = [layer.nodes for layer in graph.layers if layer.kind == "host"]
    assert steps == [("first",), ("second",)] or steps == [("first", "second")]


def test_operand_that_is_a_view_is_copied():
    nodes = [node("Transpose", ["x"], ["t"], perm=[0, 2, 1]), node("Det", ["t"], ["y"])]
    graph = check(model_of(nodes, ["y"], (2, 3, 3)))
    assert [layer.kind for layer in graph.layers] == ["movement", "host", "movement"] or len(graph.layers) == 2


def test_shape_that_depends_on_values():
    nodes = [node("NonZero", ["x"], ["n"], name="nz"), node("Cast", ["n"], ["y"], to=1)]
    message = r"\[nz\] the shape of 'n' depends on values; remove the operator, or end the model before it"
    with pytest.raises(UserError, match=message):
        import_model(load_model(model_of(nodes, ["y"])))
