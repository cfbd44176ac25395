"""What is refused before anything else looks at a model: each message."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import AttributeProto, ModelProto, TensorProto, helper, numpy_helper

from dsa_compiler.errors import UserError
from dsa_compiler.frontend import load_model
from dsa_compiler.graph.build import build_graph
from dsa_compiler.lower.footprint import check_footprint
from dsa_compiler.target import load_target

VALUE = helper.make_tensor_value_info


def node(op, inputs, outputs, **attrs):
    return helper.make_node(op, inputs, outputs if isinstance(outputs, list) else [outputs], **attrs)


def model_of(*nodes, constants=None, opset=17, shape=(2, 3)) -> ModelProto:
    tensors = [numpy_helper.from_array(np.asarray(v), n) for n, v in (constants or {}).items()]
    graph = helper.make_graph(nodes, "g", [VALUE("x", TensorProto.FLOAT, shape)], [VALUE("y", TensorProto.FLOAT, None)],
                              tensors)  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


RELU = node("Relu", ["x"], "y")
ADD = node("Add", ["x", "w"], "y")
ONES = {"w": np.ones(3, np.float32)}


def body(inputs, outputs):
    return helper.make_graph([node("Identity", ["x"], o) for o in outputs], "b",
                             [VALUE(i, TensorProto.FLOAT, None) for i in inputs],
                             [VALUE(o, TensorProto.FLOAT, None) for o in outputs])  # fmt: skip


TRUE = {"c": np.array(True), "n": np.array(2)}


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (model_of(RELU, opset=99), r"\[model\] operator set 99 is newer than \d+, the newest that is known; export"),
        (model_of(node("Relu", ["x", "x"], "y")), r"\[Relu y\] it has 2 inputs, Relu of operator set 17 takes 1; rep"),
        (model_of(node("MatMul", ["x", ""], "y")), r"\[MatMul y\] input 'B' is absent; give the node that input"),
        (model_of(node("Relu", ["x"], ["y", "z"])), r"\[Relu y\] it has 2 results, Relu of operator set 17 takes 1"),
        (model_of(node("Clip", ["x"] * 4, "y")), "it has 4 inputs, Clip of operator set 17 takes 1 to 3; repair the"),
        (model_of(node("Cast", ["x"], "y")), r"\[Cast y\] attribute 'to' is absent, Cast of operator set 17 needs it;"),
        (model_of(node("Softmax", ["x"], "y", axis=1.5)), r"\[Softmax y\] attribute 'axis' is FLOAT, not INT; repair"),
        (model_of(node("", ["x"], "y")), r"\[node y\] a node has no operator; repair the model"),
        (model_of(node("Relu", ["x"], ""), RELU), r"\[Relu\] it computes nothing; remove the node, or repair the mod"),
        (model_of(node("If", ["c"], "y", then_branch=body([], ["a"]), else_branch=body([], [])), constants=TRUE),
         r"\[If y\] 'else_branch' takes 0 values and returns 0, not 0 and 1; repair the model"),
        (model_of(node("Loop", ["n", "c", "x"], "y", body=body(["i"], ["a"])), constants=TRUE),
         r"\[Loop y\] 'body' takes 1 values and returns 1, not 3 and 2; repair the model"),
        (model_of(node("Loop", ["n", "c", "x", "x"], "y", body=body(["i"], ["a"])), constants=TRUE),
         r"\[Loop y\] it carries 2 values and returns 1; repair the model"),
        (model_of(node("Scan", ["x"], "y", body=body(["i"], ["a"]), num_scan_inputs=3)),
         r"\[Scan y\] it scans 3 of 1 inputs into 1 results; repair the model"),
        (model_of(node("If", ["c"], "y", then_branch=body([], ["a"]), else_branch=helper.make_graph(
            [node("Neg", ["q"], "b")], "b", [], [VALUE("b", 1, None)])), constants=TRUE),
         r"\[Neg b\] value 'q' is neither an input, an initializer nor computed"),
        (model_of(ADD, constants={"w": np.ones(3)}), r"\[Add Add_y\] input 'B' \('w'\) is tensor\(double\), the othe"),
        (model_of(node("And", ["x", "x"], "y")),
         r"\[And And_y\] input 'A' \('x'\) is tensor\(float\), not one of tensor\(bool\); cast it, or repair"),
        (model_of(node("ConstantOfShape", ["s"], "c"), node("Add", ["x", "c"], "y"),
                  constants={"s": np.array([2**20, 2**20, 3])}),
         r"\[ConstantOfShape .*\] a tensor of shape \[1048576, 1048576, 3\] has 3298534883328 elements, at most"),
        (model_of(node("Reshape", ["w", "s"], "r"), node("Add", ["x", "r"], "y"), constants={
            **ONES, "s": np.array([2, 2])}),
         r"\[Reshape Reshape_r\] constants do not compute: .*; check the node and its inputs"),
    ],
)  # fmt: skip
def test_malformed_nodes(model, message):
    with pytest.raises(UserError, match=message):
        load_model(model)


def changed(change) -> ModelProto:
    model = model_of(ADD, constants=ONES)
    change(model)
    return model


def add_twin(model):
    model.graph.initializer.add().CopyFrom(model.graph.initializer[0])


def set_type(model, name, value):
    attribute = model.graph.node[0].attribute.add(name=name, type=value)
    if value == AttributeProto.INT:
        attribute.t.SetInParent()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (add_twin, r"\[model\] two initializers are called 'w'; give each a name of its own"),
        (lambda m: m.graph.input.add().CopyFrom(m.graph.input[0]), r"two inputs are called 'x'; give each a name of"),
        (lambda m: setattr(m.graph.input[0], "name", ""), r"\[model\] an input has no name; repair the model"),
        (lambda m: m.graph.ClearField("output"), r"\[model\] it has no output; export the model with its outputs"),
        (lambda m: m.graph.initializer[0].dims.append(2),
         r"\[initializer 'w'\] it holds 12 bytes, its shape \[3, 2\] takes 24; repair the model"),
        (lambda m: m.graph.initializer[0].dims.append(-2),
         r"\[initializer 'w'\] its shape is \[3, -2\]; make every extent 0 or more"),
        (lambda m: m.graph.initializer[0].dims.extend([2**30] * 2), r"\[initializer 'w'\] a tensor of shape .* eleme"),
        (lambda m: setattr(m.graph.initializer[0], "data_type", 77), r"\[initializer 'w'\] it has the unknown elemen"),
        (lambda m: m.graph.initializer[0].segment.SetInParent(), r"it is one segment of a tensor; store whole tensors"),
        (lambda m: setattr(m.graph.input[0].type.tensor_type, "elem_type", 99), r"\[input x\] it has the unknown ele"),
        (lambda m: setattr(m.graph.output[0].type.tensor_type, "elem_type", 99), r"\[output y\] it has the unknown e"),
        (lambda m: setattr(m.graph.input[0].type.tensor_type, "elem_type", 8), "it does not hold numbers; use tensor"),
        (lambda m: setattr(m.graph.output[0].type.tensor_type, "elem_type", 7),
         r"\[output y\] it is declared as int64, the model computes float; repair the model"),
        (lambda m: m.graph.input[0].type.Clear(), r"\[input x\] it is no tensor; use tensors as inputs"),
        (lambda m: set_type(m, "a", AttributeProto.UNDEFINED), r"\[Add y\] attribute 'a' has the unknown type 0; rep"),
        (lambda m: set_type(m, "a", AttributeProto.TENSOR), r"\[Add y\] attribute 'a' holds nothing; repair the model"),
        (lambda m: set_type(m, "a", AttributeProto.INT), r"attribute 'a' holds what its type does not name; repair"),
        (lambda m: [set_type(m, "a", AttributeProto.INTS) for _ in range(2)], "two attributes are called 'a'; give e"),
    ],
)  # fmt: skip
def test_malformed_parts(change, message):
    with pytest.raises(UserError, match=message):
        load_model(changed(change))


def test_names_that_are_no_text():
    data = model_of(RELU).SerializeToString().replace(b"Relu", b"Re\xff\xfe")
    with pytest.raises(UserError, match=r"the name b'Re\\xff\\xfe' is not UTF-8; repair the model"):
        load_model(data)


def sparse(indices, dims=(2, 3)) -> ModelProto:
    values = numpy_helper.from_array(np.array([5, 7], np.float32), "w")
    places = numpy_helper.from_array(np.asarray(indices), "w_places")
    model = model_of(ADD)
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, places, list(dims)))
    return model


@pytest.mark.parametrize("indices", [[1, 5], [[0, 1], [1, 2]]])
def test_sparse_initializers_become_dense(indices):
    model = load_model(sparse(indices))
    (tensor,) = model.graph.initializer
    np.testing.assert_array_equal(numpy_helper.to_array(tensor), [[0, 5, 0], [0, 0, 7]])


@pytest.mark.parametrize(
    ("indices", "message"),
    [
        ([1, 6], r"\[initializer 'w'\] an index lies outside the shape \[2, 3\]; repair the model"),
        ([1, 2, 3], r"2 values have indices of shape \[3\]; give each value one linear index, or one for each dimens"),
    ],
)
def test_sparse_initializers_that_do_not_fit(indices, message):
    with pytest.raises(UserError, match=message):
        load_model(sparse(indices))


def test_a_shape_error_names_the_node():
    nodes = [node("MatMul", ["x", "w"], "a", name="product"), node("Relu", ["a"], "y")]
    model = load_model(model_of(*nodes, constants={"w": np.ones((4, 5), np.float32)}))
    with pytest.raises(UserError, match=r"\[MatMul product\] shapes do not fit: .*; check the shapes given, and the"):
        build_graph(model, None, lambda layer: "")


def test_out_of_memory_is_told_before_kernels_are_made():
    part = load_target("npu-edge")
    wide = build_graph(load_model(model_of(RELU, shape=(2**14, 2**14))), None, lambda layer: "")
    with pytest.raises(UserError, match=r"\[model\] inputs, outputs and weights take 2147483648 bytes, ddr of npu-ed"):
        check_footprint(wide, part)
    nodes = [node("Expand", ["x", "s"], "a"), node("Softmax", ["a"], "b"), node("ReduceSum", ["b", "o"], "y")]
    constants = {"s": np.array([2**14, 2**15]), "o": np.array([0])}
    inner = build_graph(load_model(model_of(*nodes, constants=constants, shape=(1, 2**15))), None, lambda layer: "")
    message = r"its operands take \d+ bytes, ddr of npu-edge has 1073741824; use a smaller batch, a smaller"
    with pytest.raises(UserError, match=message):
        check_footprint(inner, part)


def test_onnx_takes_what_is_accepted():
    """The models that the cases above break are right before."""
    for model in (model_of(RELU), model_of(ADD, constants=ONES), sparse([1, 5])):
        model.graph.output[0].type.tensor_type.shape.SetInParent()
        onnx.checker.check_model(model)
        load_model(model)


def test_an_output_that_is_no_tensor():
    model = model_of(RELU)
    model.graph.output[0].type.CopyFrom(helper.make_sequence_type_proto(helper.make_tensor_type_proto(1, None)))
    with pytest.raises(UserError, match=r"\[output y\] it is no tensor but a sequence; end the model where its resul"):
        load_model(model)
