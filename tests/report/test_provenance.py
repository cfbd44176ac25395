"""Nodes to layers: those that layers name, those that passes dropped, groups, and what folds."""

from __future__ import annotations

from dataclasses import dataclass, field

import onnx
from onnx import TensorProto, helper

from dsa_compiler.bounds import analyze
from dsa_compiler.report.provenance import layer_facts
from dsa_compiler.target import load_target


@dataclass
class Call:
    op: str


@dataclass
class Layer:
    name: str
    kind: str
    nodes: tuple[str, ...]
    calls: tuple[Call, ...] = field(default_factory=lambda: (Call("nn.conv2d"), Call("nn.relu")))
    master: int = 0


def model() -> onnx.ModelProto:
    """Conv, BatchNormalization, Relu, then a second Relu; 4 channels at 8 x 8."""
    shape = [1, 4, 8, 8]
    make = helper.make_node
    nodes = [
        make("Conv", ["x", "w"], ["a"], "conv", kernel_shape=[1, 1]),
        make("BatchNormalization", ["a", "s", "s", "s", "s"], ["b"], "norm"),
        make("Relu", ["b"], ["c"], "relu"),
        make("Relu", ["c"], ["y"], "last"),
    ]
    constants = [
        helper.make_tensor("w", TensorProto.FLOAT, [4, 4, 1, 1], [1.0] * 16),
        helper.make_tensor("s", TensorProto.FLOAT, [4], [1.0] * 4),
    ]
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n in ("x", "y")]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def facts(layers: list[Layer], on_host: tuple[str, ...] = ()) -> dict:
    made = model()
    return layer_facts(made, analyze(made, load_target("npu-v1")), layers, on_host)


MACS, ELEMENTS = 4 * 4 * 64, 4 * 64


def test_work_goes_to_the_layer_that_names_a_node() -> None:
    found = facts([Layer("one", "conv2d", ("conv", "norm", "relu")), Layer("two", "elementwise", ("last",))])
    one, two = found["layers"]
    assert (one["macs"], one["element_ops"], one["folded_ops"]) == (MACS, 3 * ELEMENTS, 2 * ELEMENTS)
    assert (two["macs"], two["element_ops"], two["folded_ops"]) == (0, ELEMENTS, 0)
    assert found["outside"] == {"macs": 0, "element_ops": 0}
    assert one["master"] == "nn.conv2d" and one["slaves"] == ["nn.relu"] and one["onnx_nodes"][0] == "conv"


def test_a_dropped_node_belongs_to_the_next_that_consumes_it() -> None:
    one, two = facts([Layer("one", "conv2d", ("norm",)), Layer("two", "elementwise", ("relu", "last"))])["layers"]
    assert one["macs"] == MACS
    assert two["element_ops"] == 2 * ELEMENTS


def test_a_dropped_node_at_the_end_belongs_to_the_one_before() -> None:
    (one,) = facts([Layer("one", "conv2d", ("conv",))])["layers"]
    assert one["element_ops"] == 4 * ELEMENTS


def test_layers_that_share_a_node_are_a_group() -> None:
    layers = [Layer("a", "movement", ("conv",)), Layer("b", "conv2d", ("conv", "norm", "relu")),
              Layer("c", "elementwise", ("last",))]  # fmt: skip
    a, b, c = (row["group"] for row in facts(layers)["layers"])
    assert a == b != c


def test_host_nodes_are_outside() -> None:
    found = facts([Layer("one", "conv2d", ("conv", "norm", "relu"))], on_host=("last",))
    assert found["outside"] == {"macs": 0, "element_ops": ELEMENTS}


def test_without_layers_all_work_is_outside() -> None:
    assert facts([]) == {"layers": [], "outside": {"macs": MACS, "element_ops": 4 * ELEMENTS}}


def test_nothing_folds_into_an_elementwise_layer() -> None:
    (one,) = facts([Layer("one", "elementwise", ("norm", "relu", "last"))])["layers"]
    assert one["folded_ops"] == 0


def test_a_softmax_in_attention_leaves_its_sum_and_scale_to_the_products() -> None:
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Softmax", ["x"], ["y"], "softmax")], "g",
        [value("x", TensorProto.FLOAT, [8, 16])], [value("y", TensorProto.FLOAT, [8, 16])],
    )  # fmt: skip
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    bounds = analyze(made, load_target("npu-v1"))
    for kind, folded in (("attention", 2 * 128), ("softmax", 0), ("conv2d", 0)):
        (row,) = layer_facts(made, bounds, [Layer("a", kind, ("softmax",))])["layers"]
        assert (row["element_ops"], row["folded_ops"]) == (5 * 128, folded)
