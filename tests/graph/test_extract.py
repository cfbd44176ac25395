"""Extraction: which data movements become views, which layers are left, and that the values are right."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from dsa_compiler.errors import InternalError, UserError
from dsa_compiler.frontend import import_model, load_model
from dsa_compiler.graph import evaluate, extract_layers, optimize, run_relax
from dsa_compiler.graph.layers import Tensor
from dsa_compiler.graph.storage import Storage, innermost
from dsa_compiler.graph.views import Lazy

RNG = np.random.default_rng(0)


def node(op, inputs, outputs, **attrs):
    return helper.make_node(op, inputs, outputs if isinstance(outputs, list) else [outputs], **attrs)


def weights(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def attention_nodes(batch, rows, heads, depth):
    width = heads * depth
    constants = {f"w{n}": weights(width, width) for n in "qkvo"}
    constants |= {"split": np.array([batch, rows, heads, depth]), "join": np.array([batch, rows, width]),
                  "scale": np.float32(depth**-0.5)}  # fmt: skip
    nodes = []
    for n, perm in (("q", [0, 2, 1, 3]), ("k", [0, 2, 3, 1]), ("v", [0, 2, 1, 3])):
        nodes += [node("MatMul", ["x", f"w{n}"], f"{n}1"), node("Reshape", [f"{n}1", "split"], f"{n}2"),
                  node("Transpose", [f"{n}2"], f"{n}3", perm=perm)]  # fmt: skip
    nodes += [node("MatMul", ["q3", "k3"], "s1"), node("Mul", ["s1", "scale"], "s2"), node("Add", ["s2", "mask"], "s3"),
              node("Softmax", ["s3"], "s4", axis=-1), node("MatMul", ["s4", "v3"], "c1"),
              node("Transpose", ["c1"], "c2", perm=[0, 2, 1, 3]), node("Reshape", ["c2", "join"], "c3"),
              node("MatMul", ["c3", "wo"], "o1"), node("Add", ["o1", "x"], "y")]  # fmt: skip
    return nodes, constants


def test_attention_needs_no_movement(build, compare):
    nodes, constants = attention_nodes(2, 6, 4, 8)
    graph = compare(build(nodes, {"x": [2, 6, 32], "mask": [2, 1, 1, 6]}, ["y"], constants))
    assert graph.counts() == {"matmul": 6, "softmax": 1}
    scores = next(layer for layer in graph.layers if len(layer.calls) == 3)
    assert [c.op for c in scores.calls] == ["matmul", "multiply", "add"]
    assert scores.inputs[1].strides[-2:] == ((0, 1), (1, 0))  # k along columns, n along rows


def test_a_concatenation_is_written_by_its_producers(build, compare):
    constants = {"w": weights(4, 2, 1, 1), "u": weights(3, 2, 1, 1), "v": weights(2, 7, 1, 1)}
    nodes = [node("Conv", ["x", "w"], "a"), node("Conv", ["x", "u"], "b"), node("Concat", ["a", "b"], "c", axis=1),
             node("Conv", ["c", "v"], "y")]  # fmt: skip
    graph = compare(build(nodes, {"x": [1, 2, 6, 5]}, ["y"], constants))
    assert graph.counts() == {"conv2d": 3, "movement": 2}  # input and output change their layout
    parts = [layer.output for layer in graph.layers if layer.kind == "conv2d"][:2]
    assert parts[0].tensor == parts[1].tensor and {p.offset for p in parts} == {(0, 0), (0, 4)}


def test_a_concatenation_of_the_same_value_copies_once(build, compare):
    nodes = [node("Relu", ["x"], "a"), node("Concat", ["a", "a"], "y", axis=1)]
    graph = compare(build(nodes, {"x": [3, 4]}, ["y"]))
    assert graph.counts() == {"elementwise": 1, "movement": 1}


def test_slices_are_views_of_the_consumer(build, compare):
    nodes = [node("Split", ["x"], ["a", "b"], axis=1), node("Sigmoid", ["b"], "c"), node("Mul", ["a", "c"], "y")]
    graph = compare(build(nodes, {"x": [3, 8]}, ["y"], opset=13))
    assert graph.counts() == {"elementwise": 1}
    assert {v.offset for v in graph.layers[0].inputs} == {(0, 0), (0, 4)}


def test_strided_columns_are_copied(build, compare):
    constants = {"s": np.array([0]), "e": np.array([8]), "a": np.array([1]), "n": np.array([2])}
    nodes = [node("Slice", ["x", "s", "e", "a", "n"], "b"), node("Relu", ["b"], "y")]
    assert compare(build(nodes, {"x": [3, 8]}, ["y"], constants)).counts() == {"elementwise": 1, "movement": 1}


def test_a_flattened_activation_is_stored_dense(build, compare):
    constants = {"w": weights(3, 2, 3, 3), "f": weights(48, 5)}
    nodes = [node("Conv", ["x", "w"], "a"), node("Flatten", ["a"], "b"), node("MatMul", ["b", "f"], "y")]
    graph = compare(build(nodes, {"x": [2, 2, 6, 6]}, ["y"], constants))
    conv = next(layer for layer in graph.layers if layer.kind == "conv2d")
    assert graph.tensors[conv.output.tensor].dense and all(r == 0 for r, _ in conv.output.strides)


def test_a_transposed_convolution_writes_strided_phases(build, compare):
    constants = {"w": weights(2, 4, 4, 4), "b": weights(4), "v": weights(3, 4, 1, 1)}
    nodes = [node("ConvTranspose", ["x", "w", "b"], "a", strides=[2, 2], pads=[1, 1, 1, 1]), node("Relu", ["a"], "r"),
             node("Conv", ["r", "v"], "y")]  # fmt: skip
    graph = compare(build(nodes, {"x": [1, 2, 5, 6]}, ["y"], constants))
    assert graph.counts() == {"conv2d": 5, "movement": 2}
    phases = [layer for layer in graph.layers if layer.calls[-1].op == "nn.relu"]
    assert len(phases) == 4 and len({p.output.tensor for p in phases}) == 1


def test_an_output_that_is_an_input_is_copied(build, compare):
    graph = compare(build([node("Transpose", ["x"], "y", perm=[1, 0])], {"x": [3, 4]}, ["y"]))
    assert graph.counts() == {"movement": 1}


def test_two_outputs_of_one_value(build, compare):
    nodes = [node("Relu", ["x"], "y"), node("Reshape", ["y", "s"], "z")]
    graph = compare(build(nodes, {"x": [3, 4]}, ["y", "z"], {"s": np.array([12])}))
    assert graph.counts() == {"elementwise": 1, "movement": 1}


def test_residual_and_relu_fuse_into_the_later_convolution(build, compare):
    constants = {"w": weights(2, 2, 3, 3), "b": weights(2), "u": weights(2, 2, 1, 1)}
    nodes = [node("Conv", ["x", "u"], "s"), node("Conv", ["x", "w", "b"], "c", pads=[1, 1, 1, 1]),
             node("Add", ["c", "s"], "d"), node("Relu", ["d"], "y")]  # fmt: skip
    graph = compare(build(nodes, {"x": [1, 2, 6, 6]}, ["y"], constants))
    fused = next(layer for layer in graph.layers if len(layer.calls) > 1)
    assert [c.op for c in fused.calls] == ["nn.conv2d", "add", "add", "nn.relu"] and fused.master == 0
    assert fused.nodes == ("Conv_c", "Add_d", "Relu_y")


def test_a_diamond_of_elementwise_operators_is_one_layer(build, compare):
    nodes = [node("MatMul", ["x", "w"], "a"), node("HardSigmoid", ["a"], "b"), node("Mul", ["a", "b"], "c"),
             node("Tanh", ["c"], "d"), node("Exp", ["c"], "e"), node("Sub", ["d", "e"], "y")]  # fmt: skip
    assert compare(build(nodes, {"x": [3, 4]}, ["y"], {"w": weights(4, 4)})).counts() == {"matmul": 1}


def test_a_value_used_outside_ends_the_layer(build, compare):
    nodes = [node("MatMul", ["x", "w"], "a"), node("Relu", ["a"], "b"), node("Exp", ["b"], "c"),
             node("Softmax", ["b"], "d"), node("Add", ["c", "d"], "y")]  # fmt: skip
    graph = compare(build(nodes, {"x": [3, 4]}, ["y"], {"w": weights(4, 4)}))
    assert graph.counts() == {"matmul": 1, "softmax": 1}


def test_depthwise_is_a_kind_of_its_own(build, compare):
    nodes = [node("Conv", ["x", "w"], "y", group=4, pads=[1, 1, 1, 1])]
    assert compare(build(nodes, {"x": [1, 4, 5, 5]}, ["y"], {"w": weights(4, 1, 3, 3)})).counts()["depthwise"] == 1
    grouped = [node("Conv", ["x", "w"], "y", group=2, pads=[1, 1, 1, 1])]
    assert compare(build(grouped, {"x": [1, 4, 5, 5]}, ["y"], {"w": weights(6, 2, 3, 3)})).counts()["conv2d"] == 1


def test_the_graph_prints_and_is_frozen(build, compare):
    graph = compare(build([node("Relu", ["x"], "y")], {"x": [3, 4]}, ["y"]))
    assert "%0 = nn.relu(in0): [3, 4] float32 *" in str(graph)
    assert str(graph).startswith("input x [3, 4] float32\noutput y [3, 4] float32\n")
    with pytest.raises(dataclasses.FrozenInstanceError):
        graph.layers[0].name = "other"


def test_missing_inputs_are_named(build):
    mod = import_model(load_model(build([node("Relu", ["x"], "y")], {"x": [3, 4]}, ["y"])))
    with pytest.raises(UserError, match=r"\[inputs\] no value for \['x'\]; give \['x'\]"):
        run_relax(mod, {})
    with pytest.raises(UserError, match=r"\[inputs\] no value for \['x'\]; give \['x'\]"):
        evaluate(extract_layers(optimize(mod)), {})


def test_storage_refuses_what_is_no_view():
    tensors = {"t": Tensor("t", (2, 3, 4), "float32", "activation")}
    storage = Storage(tensors)
    merged = Lazy("t", (2, 3, 4)).then("permute", (1, 0, 2)).then("reshape", (6, 4))
    with pytest.raises(InternalError, match="is no affine view"):
        storage.view(merged)
    with pytest.raises(InternalError, match="is no view that its layer can use"):
        storage.use(Lazy("t", (2, 3, 4)).then("permute", (2, 1, 0)), innermost)


@st.composite
def graphs(draw):
    """Return a random chain of operators on [2, 4, 6, 6] with branches, as an ONNX model."""
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    constants, nodes, values = [], [], [("x", (2, 4, 6, 6))]

    def constant(value):
        name = f"c{len(constants)}"
        constants.append(numpy_helper.from_array(value, name))
        return name

    for i in range(draw(st.integers(2, 7))):
        name, shape = values[draw(st.integers(max(0, len(values) - 3), len(values) - 1))]
        kinds = ["relu", "scale", "transpose", "reshape", "softmax", "mean", "concat"]
        kinds += ["conv", "pool", "norm", "deconv", "slice"] if len(shape) == 4 and min(shape[2:]) > 2 else []
        kind, out = draw(st.sampled_from(kinds)), f"v{i}"
        if kind == "relu":
            nodes.append(node("Relu", [name], out))
        elif kind == "scale":
            nodes.append(node("Mul", [name, constant(rng.standard_normal(shape[-1:]).astype("f"))], out))
        elif kind == "transpose":
            perm = draw(st.permutations(range(len(shape))))
            nodes.append(node("Transpose", [name], out, perm=perm))
            shape = tuple(shape[p] for p in perm)
        elif kind == "reshape":
            shape = draw(st.sampled_from([(shape[0], int(np.prod(shape[1:]))), (int(np.prod(shape[:-1])), shape[-1]),
                                          (1, *shape), (int(np.prod(shape)),)]))[:4]  # fmt: skip
            total = int(np.prod(next(s for n, s in values if n == name)))
            shape = shape if int(np.prod(shape)) == total else (total,)
            nodes.append(node("Reshape", [name, constant(np.array(shape))], out))
        elif kind == "softmax":
            nodes.append(node("Softmax", [name], out, axis=draw(st.integers(0, len(shape) - 1))))
        elif kind == "mean":
            axis = draw(st.integers(0, len(shape) - 1))
            nodes.append(node("ReduceMean", [name], out, axes=[axis], keepdims=1))
            shape = tuple(1 if a == axis else n for a, n in enumerate(shape))
        elif kind == "concat":
            axis = draw(st.integers(0, len(shape) - 1))
            nodes += [node("Sigmoid", [name], out + "s"), node("Concat", [name, out + "s"], out, axis=axis)]
            shape = tuple(2 * n if a == axis else n for a, n in enumerate(shape))
        elif kind == "conv":
            w = constant((rng.standard_normal((3, shape[1], 3, 3)) / 6).astype("f"))
            nodes.append(node("Conv", [name, w], out, pads=[1, 1, 1, 1]))
            shape = (shape[0], 3, *shape[2:])
        elif kind == "pool":
            nodes.append(node("AveragePool", [name], out, kernel_shape=[3, 3], pads=[1, 1, 1, 1]))
        elif kind == "norm":
            g = [constant(rng.standard_normal(shape[1]).astype("f")) for _ in range(2)]
            nodes.append(node("InstanceNormalization", [name, *g], out))
        elif kind == "deconv":
            w = constant((rng.standard_normal((shape[1], 2, 3, 3)) / 6).astype("f"))
            nodes.append(node("ConvTranspose", [name, w], out, strides=[2, 2], pads=[1, 1, 0, 0]))
            shape = (shape[0], 2, shape[2] * 2, shape[3] * 2)
        else:
            arrays = [constant(np.array(v)) for v in ([1], [shape[2]], [2], [2])]
            nodes.append(node("Slice", [name, *arrays], out))
            shape = (shape[0], shape[1], shape[2] // 2, shape[3])
        values.append((out, shape))
    outputs = [helper.make_tensor_value_info(values[-1][0], TensorProto.FLOAT, None)]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 4, 6, 6])]
    graph = helper.make_graph(nodes, "random", inputs, outputs, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


@settings(max_examples=60, derandomize=True, deadline=None)
@given(model=graphs())
def test_random_graphs_keep_their_values(model, compare):
    compare(model, 2e-4)
