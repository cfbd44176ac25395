"""Control flow is resolved before import; what cannot be stays for the host."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from dsa_compiler.errors import UserError
from dsa_compiler.frontend import import_model, load_model
from dsa_compiler.frontend.shapes import assumptions
from dsa_compiler.graph import evaluate, extract_layers, optimize

F = TensorProto.FLOAT


def info(name, dtype=F, shape=None):
    return helper.make_tensor_value_info(name, dtype, shape)


def node(op, inputs, outputs, **attrs):
    return helper.make_node(op, inputs.split(), outputs.split(), **attrs)


def body(nodes, inputs, outputs, constants=None):
    tensors = [numpy_helper.from_array(np.asarray(v), n) for n, v in (constants or {}).items()]
    return helper.make_graph(nodes, "body", inputs, outputs, tensors)


def model_of(nodes, outputs, inputs=None, constants=None, opset=17):
    tensors = [numpy_helper.from_array(np.asarray(v), n) for n, v in (constants or {}).items()]
    given = [info("x", F, [3, 4])] if inputs is None else inputs
    graph = helper.make_graph(nodes, "g", given, [info(o) for o in outputs], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def check(model, **extra):
    """Compare layers with the reference; return the operators that are left."""
    loaded = load_model(model)
    feeds = {"x": np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32), **extra}
    names = [o.name for o in model.graph.output]
    actual = evaluate(extract_layers(optimize(import_model(loaded))), feeds)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    for name, value in zip(names, session.run(names, feeds), strict=True):
        np.testing.assert_allclose(actual[name], value, rtol=1e-5, atol=1e-6)
    return [n.op_type for n in loaded.graph.node]


def branches(then="Exp", other="Relu"):
    return {f"{k}_branch": body([node(op, "a", "r")], [], [info("r")]) for k, op in (("then", then), ("else", other))}


@pytest.mark.parametrize(("condition", "kept"), [(True, "Exp"), (False, "Relu")])
def test_constant_condition(condition, kept):
    nodes = [node("Neg", "x", "a"), node("If", "c", "y", **branches())]
    assert check(model_of(nodes, ["y"], constants={"c": np.asarray(condition)})) == ["Neg", kept, "Identity"]


def test_condition_on_a_shape():
    nodes = [node("Neg", "x", "a"), node("Size", "a", "n"), node("Equal", "n twelve", "c"),
             node("If", "c", "y", **branches())]  # fmt: skip
    assert "Exp" in check(model_of(nodes, ["y"], constants={"twelve": np.asarray(12)}))


@pytest.mark.parametrize("value", [True, False])
def test_computed_condition_takes_both_branches(value):
    nodes = [node("Neg", "x", "a"), node("If", "c", "y", **branches())]
    inputs = [info("x", F, [3, 4]), info("c", TensorProto.BOOL, [])]
    assert check(model_of(nodes, ["y"], inputs), c=np.asarray(value)).count("Where") == 1


def test_branch_that_cannot_run_is_never_taken():
    parts = {
        "then_branch": body([node("MatMul", "a a", "r")], [], [info("r")]),
        "else_branch": body([node("Relu", "a", "r")], [], [info("r")]),
    }
    nodes = [node("Neg", "x", "a"), node("If", "c", "y", **parts)]
    inputs = [info("x", F, [3, 4]), info("c", TensorProto.BOOL, [])]
    loaded = load_model(model_of(nodes, ["y"], inputs))
    assert [n.op_type for n in loaded.graph.node] == ["Neg", "Relu", "Identity"]
    assert assumptions(loaded) == ["If If_y: only its else branch fits the shapes, so it is always taken"]


def test_branches_of_different_shapes_stay():
    parts = {
        "then_branch": body([node("Transpose", "a", "r")], [], [info("r")]),
        "else_branch": body([node("Relu", "a", "r")], [], [info("r")]),
    }
    nodes = [node("Neg", "x", "a"), node("If", "c", "y", **parts)]
    inputs = [info("x", F, [3, 4]), info("c", TensorProto.BOOL, [])]
    loaded = load_model(model_of(nodes, ["y"], inputs))
    assert [n.op_type for n in loaded.graph.node] == ["Neg", "If"]
    with pytest.raises(UserError, match=r"the shape of 'y' depends on values; remove the operator"):
        import_model(loaded)


def test_nested_branches_see_what_aliases_hide():
    pairs = (("then_branch", "Exp"), ("else_branch", "Neg"))
    inner = {k: body([node(op, "b", "s")], [], [info("s")]) for k, op in pairs}
    outer = body([node("Identity", "a", "b"), node("If", "c", "r", **inner)], [], [info("r")])
    nodes = [node("Abs", "x", "a"), node("If", "c", "y", then_branch=outer, else_branch=outer)]
    assert "Exp" in check(model_of(nodes, ["y"], constants={"c": np.asarray(True)}))


@pytest.mark.parametrize("opset", [11, 17])
def test_loop_of_known_length(opset):
    steps = [node("Add", "s one", "t"), node("Mul", "t t", "row"), node("Identity", "go", "on")]
    inputs = [info("i", TensorProto.INT64, []), info("go", TensorProto.BOOL, []), info("s", F, [3, 4])]
    outputs = [info("on", TensorProto.BOOL, []), info("t", F, [3, 4]), info("row", F, [3, 4])]
    loop = node("Loop", "n true x", "y rows", body=body(steps, inputs, outputs, {"one": np.float32(1)}))
    constants = {"n": np.asarray(3), "true": np.asarray(True)}
    assert "Loop" not in check(model_of([loop], ["y", "rows"], constants=constants, opset=opset))


def test_loop_that_a_value_ends_stays():
    steps = [node("Add", "s s", "t"), node("ReduceMax", "t", "m", keepdims=0), node("Less", "m limit", "on")]
    inputs = [info("i", TensorProto.INT64, []), info("go", TensorProto.BOOL, []), info("s", F, [3, 4])]
    outputs = [info("on", TensorProto.BOOL, []), info("t", F, [3, 4])]
    loop = node("Loop", "n true x", "y", body=body(steps, inputs, outputs, {"limit": np.float32(9)}))
    model = model_of([loop], ["y"], constants={"n": np.asarray(30), "true": np.asarray(True)})
    assert check(model) == ["Loop"]


@pytest.mark.parametrize(
    "attrs", [{}, {"scan_input_directions": [1]}, {"scan_output_directions": [1]}, {"scan_output_axes": [1]}]
)
def test_scan(attrs):
    steps = [node("Add", "s e", "t"), node("Exp", "t", "row")]
    parts = body(steps, [info("s", F, [4]), info("e", F, [4])], [info("t", F, [4]), info("row", F, [4])])
    scan = node("Scan", "start x", "y rows", body=parts, num_scan_inputs=1, **attrs)
    ops = check(model_of([scan], ["y", "rows"], constants={"start": np.zeros(4, np.float32)}))
    assert "Scan" not in ops


def test_functions_are_inlined():
    function = helper.make_function("mine", "Twice", ["a"], ["b"], [node("Add", "a a", "b")],
                                    [helper.make_opsetid("", 17)])  # fmt: skip
    model = model_of([helper.make_node("Twice", ["x"], ["y"], domain="mine")], ["y"])
    model.opset_import.append(helper.make_opsetid("mine", 1))
    model.functions.append(function)
    assert check(model) == ["Add"]


def test_operators_defined_by_others_are_taken_apart():
    node_ = node("Bernoulli", "x", "y", seed=1.0)
    assert "Bernoulli" not in [n.op_type for n in load_model(model_of([node_], ["y"])).graph.node]


def test_indices_that_are_a_box_scatter_by_concatenation():
    indices = np.stack(np.meshgrid([1, 2], [1, 2, 3], indexing="ij"), -1)
    nodes = [node("Slice", "x b e", "u"), node("ScatterND", "x i u", "y")]
    constants = {"i": indices, "b": np.asarray([0, 0]), "e": np.asarray([2, 3])}
    model = model_of(nodes, ["y"], constants=constants)
    graph = extract_layers(optimize(import_model(load_model(model))))
    check(model)
    assert "host" not in graph.counts()


def test_other_indices_scatter_on_the_host():
    nodes = [node("Slice", "x b e", "u"), node("ScatterND", "x i u", "y")]
    constants = {"i": np.asarray([[0], [2]]), "b": np.asarray([0]), "e": np.asarray([2])}
    model = model_of(nodes, ["y"], constants=constants)
    check(model)
    (step,) = [s for s in extract_layers(optimize(import_model(load_model(model)))).layers if s.kind == "host"]
    assert step.calls[0].attrs["reason"] == "scattering to places that are no box"
    assert onnx.load_model_from_string(step.calls[0].attrs["model"]).graph.node[0].op_type == "ScatterND"
