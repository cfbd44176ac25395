from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from dsa_compiler.errors import UserError
from dsa_compiler.frontend import import_model, load_model
from dsa_compiler.frontend.shapes import assumptions


def node(op, inputs, outputs, **attrs):
    return helper.make_node(op, inputs, outputs if isinstance(outputs, list) else [outputs], **attrs)


def model_of(nodes, shape=(2, 3), outputs=("y",), constants=None, opset=17, dims=None):
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, dims if dims is not None else list(shape))]
    results = [helper.make_tensor_value_info(o, TensorProto.FLOAT, None) for o in outputs]
    tensors = [numpy_helper.from_array(np.asarray(v), n) for n, v in (constants or {}).items()]
    graph = helper.make_graph(nodes, "g", inputs, results, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


RELU = [node("Relu", ["x"], "y")]


def input_shape(model):
    return [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]


def test_path_bytes_and_model_load_alike(tmp_path):
    model = model_of(RELU)
    path = tmp_path / "m.onnx"
    onnx.save(model, path)
    loaded = [load_model(path), load_model(str(path)), load_model(path.read_bytes()), load_model(model)]
    assert {m.SerializeToString() for m in loaded} == {loaded[0].SerializeToString()}
    assert model.graph.node[0].name == ""  # the argument is not changed


def test_no_such_file(tmp_path):
    with pytest.raises(UserError, match="no such file; give the path of an ONNX file"):
        load_model(tmp_path / "none.onnx")


def test_not_onnx(tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(b"\xff\xfe this is no protobuf" * 20)
    with pytest.raises(UserError, match="not an ONNX model, or truncated; check the file"):
        load_model(path)


def test_truncated():
    data = model_of(RELU, constants={"w": np.ones(100, np.float32)}).SerializeToString()
    with pytest.raises(UserError, match="not an ONNX model, or truncated"):
        load_model(data[: len(data) // 2])


def test_empty():
    with pytest.raises(UserError, match="the file holds no graph"):
        load_model(b"")


def test_old_opset():
    with pytest.raises(UserError, match=r"operator set 6 is older than 7; convert it with onnx\.version_converter"):
        load_model(model_of(RELU, opset=6))


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ([node("Relu", ["b"], "a"), node("Relu", ["a"], "b"), node("Relu", ["a"], "y")], "cyclic or unsorted graph"),
        ([node("Relu", ["q"], "y")], "value 'q' is neither an input, an initializer nor computed; repair the model"),
        ([node("Relu", ["x"], "y"), node("Exp", ["x"], "y")], "value 'y' is computed twice; repair the model"),
        ([node("Relu", ["x"], "z")], "output 'y' is never computed; repair the model"),
    ],
)
def test_malformed_graphs(nodes, message):
    with pytest.raises(UserError, match=message):
        load_model(model_of(nodes))


def test_shapes_and_batch():
    model = model_of(RELU, dims=["N", 3, "L"])
    assert input_shape(load_model(model, shapes={"x": [4, 3, 5]})) == [4, 3, 5]
    assert input_shape(load_model(model_of(RELU, dims=["N", 3]), batch=8)) == [8, 3]
    assert input_shape(load_model(model_of(RELU, dims=["N", 3]))) == [1, 3]
    assert input_shape(load_model(model_of(RELU, dims=["N", "N"]), batch=2)) == [2, 2]


@pytest.mark.parametrize(
    ("dims", "options", "message"),
    [
        (["N", "C", 4, 4], {}, r"\[input x\] dimension 1, the channels, has no value; give --shape x=\.\.\. with"),
        ([2, 2**31], {}, r"\[input x\] shape \[2, 2147483648\] has an extent above 2147483647; give smaller extents"),
        ([2**20, 2**20], {}, r"\[input x\] a tensor of shape \[1048576, 1048576\] has 1099511627776 elements, "),
        ([2, 3], {"shapes": {"z": [1]}}, r"no such input: \['z'\]; the inputs are \['x'\]"),
        ([2, 3], {"shapes": {"x": [2]}}, r"shape \[2\] has rank 1, the model 2; give one extent for each dimension"),
        ([2, 3], {"shapes": {"x": [2, 4]}}, r"contradicts the model's \[2, 3\]; change only symbolic dimensions"),
        ([2, "L"], {"shapes": {"x": [2, -4]}}, "has an extent out of range; give positive extents"),
        ([2, 3], {"batch": 0}, "batch 0 is not positive; give a number from 1"),
    ],
)
def test_bad_shapes(dims, options, message):
    with pytest.raises(UserError, match=message):
        load_model(model_of(RELU, dims=dims), **options)


def test_symbols_have_defaults_that_are_told():
    model = load_model(model_of(RELU, dims=["N", 3, "H", "W"]), batch=2)
    assert input_shape(model) == [2, 3, 224, 224]
    assert assumptions(model) == ["input x: dimensions 2 (H), 3 (W) by default: --shape x=2,3,224,224"]
    model = load_model(model_of(RELU, dims=["N", None]))
    assert input_shape(model) == [1, 128]
    assert assumptions(model) == ["input x: dimension 1 by default: --shape x=1,128"]
    assert assumptions(load_model(model_of(RELU, dims=["N", 3]))) == []


def test_an_input_becomes_a_constant():
    model = model_of([node("Gather", ["x", "i"], "y", axis=1)])
    model.graph.input.append(helper.make_tensor_value_info("i", TensorProto.INT64, []))
    loaded = load_model(model, values={"i": 2})
    assert [i.name for i in loaded.graph.input] == ["x"]
    assert numpy_helper.to_array(loaded.graph.initializer[0]) == 2


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"q": 1}, r"\[value of q\] there is no such input; the inputs are \['i', 'x'\]"),
        ({"i": 1.5}, r"\[value of i\] 1\.5 is no int64; give what the input takes"),
        ({"i": "a"}, r"\[value of i\] a is no int64; give what the input takes"),
        ({"i": [1, 2]}, r"\[value of i\] it has shape \[2\], the input \[\]; give that shape"),
    ],
)
def test_values_that_do_not_fit(values, message):
    model = model_of([node("Gather", ["x", "i"], "y", axis=1)])
    model.graph.input.append(helper.make_tensor_value_info("i", TensorProto.INT64, []))
    with pytest.raises(UserError, match=message):
        load_model(model, values=values)


def test_unknown_rank():
    model = model_of(RELU)
    model.graph.input[0].type.tensor_type.ClearField("shape")
    with pytest.raises(UserError, match=r"\[input x\] its rank is unknown; give --shape x=..."):
        load_model(model)


def test_initializers_leave_the_inputs():
    model = model_of([node("Add", ["x", "w"], "y")], constants={"w": np.ones(3, np.float32)})
    model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [3]))
    assert [i.name for i in load_model(model).graph.input] == ["x"]


def test_names_are_given_and_kept():
    nodes = [node("Relu", ["x"], "a"), node("Exp", ["a"], "b", name="mine"), node("Abs", ["b"], "y", name="mine")]
    assert [n.name for n in load_model(model_of(nodes)).graph.node] == ["Relu_a", "mine", "mine_1"]


def test_identities_and_unused_nodes_go():
    nodes = [node("Identity", ["x"], "a"), node("Dropout", ["a"], ["b", "mask"]), node("Exp", ["a"], "unused"),
             node("Relu", ["b"], "y")]  # fmt: skip
    assert [n.op_type for n in load_model(model_of(nodes)).graph.node] == ["Relu"]


def test_an_identity_from_input_to_output_stays():
    assert [n.op_type for n in load_model(model_of([node("Identity", ["x"], "y")])).graph.node] == ["Identity"]


def test_shape_arithmetic_is_resolved():
    nodes = [
        node("Shape", ["x"], "s"), node("Gather", ["s", "zero"], "n"), node("Unsqueeze", ["n", "axes"], "u"),
        node("Concat", ["u", "rest"], "t", axis=0), node("Reshape", ["x", "t"], "r"), node("Shape", ["r"], "s2"),
        node("ConstantOfShape", ["s2"], "c"), node("Add", ["r", "c"], "y"),
    ]  # fmt: skip
    constants = {"zero": np.array(0), "axes": np.array([0]), "rest": np.array([-1])}
    model = load_model(model_of(nodes, (2, 3, 4), constants=constants))
    assert [n.op_type for n in model.graph.node] == ["Reshape", "Add"]


def test_random_and_quantising_nodes_stay():
    nodes = [node("RandomNormal", [], "r", shape=[2, 3]), node("Add", ["x", "r"], "y")]
    assert [n.op_type for n in load_model(model_of(nodes)).graph.node] == ["RandomNormal", "Add"]


def test_constants_that_do_not_compute():
    nodes = [node("Reshape", ["c", "s"], "r"), node("Add", ["x", "r"], "y")]
    constants = {"c": np.ones(5, np.float32), "s": np.array([2, 3])}
    with pytest.raises(UserError, match=r"constants do not compute|shapes do not fit"):
        load_model(model_of(nodes, constants=constants))


def test_shapes_that_do_not_fit():
    constants = {"w": np.ones((4, 5), np.float32)}
    message = r"shapes do not fit|\[MatMul MatMul_y\] cannot be converted: .*check its inputs"
    with pytest.raises(UserError, match=message):
        import_model(load_model(model_of([node("MatMul", ["x", "w"], "y")], constants=constants)))


def test_unsupported_operators_are_listed_together():
    nodes = [node("Foo", ["x"], "a", domain="mine"), node("Bar", ["a"], "b", domain="mine"), node("Relu", ["b"], "y")]
    model = model_of(nodes)
    model.opset_import.append(helper.make_opsetid("mine", 1))
    message = r"operators not defined: mine\.Foo \(Foo_a\), mine\.Bar \(Bar_b\); remove or rewrite them"
    with pytest.raises(UserError, match=message):
        import_model(load_model(model))


def test_names_lead_back_to_the_model():
    nodes = [node("Relu", ["x"], "a", name="net/relu:0"), node("Softplus", ["a"], "y", name="1.soft")]
    mod = import_model(load_model(model_of(nodes)))
    origins = dict(mod["main"].attrs["dsac.nodes"].items())
    assert set(origins.values()) == {"net/relu:0", "1.soft"}
    assert origins["net_relu_0"] == "net/relu:0"
    assert list(mod["main"].attrs["dsac.inputs"]) == ["x"] and list(mod["main"].attrs["dsac.outputs"]) == ["y"]
