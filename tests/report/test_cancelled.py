"""Quantisations that need no work, and those that do; what a layer need not carry out."""

from __future__ import annotations

import onnx
from onnx import TensorProto, helper

from dsa_compiler.bounds import analyze
from dsa_compiler.report.cancelled import cancelled_quantizations
from dsa_compiler.report.provenance import layer_facts
from dsa_compiler.target import load_target
from tests.report.test_provenance import Call, Layer

SHAPE = [1, 4, 8, 8]
make = helper.make_node


def model(
    middle: list[onnx.NodeProto], last: str, scale: float = 0.5, outputs: tuple[str, ...] = ()
) -> onnx.ModelProto:
    """A dequantisation of x by 0.5, `middle`, a quantisation of `last` by `scale`."""
    nodes = [make("DequantizeLinear", ["x", "s", "z"], ["a"], "before"), *middle,
             make("QuantizeLinear", [last, "t", "z"], ["y"], "after")]  # fmt: skip
    constants = [
        helper.make_tensor("s", TensorProto.FLOAT, [], [0.5]), helper.make_tensor("t", TensorProto.FLOAT, [], [scale]),
        helper.make_tensor("z", TensorProto.UINT8, [], [3]), helper.make_tensor("r", TensorProto.INT64, [2], [4, 64]),
    ]  # fmt: skip
    x = helper.make_tensor_value_info("x", TensorProto.UINT8, SHAPE)
    results = [helper.make_tensor_value_info("y", TensorProto.UINT8, None)]
    results += [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    graph = helper.make_graph(nodes, "g", [x], results, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)


POOL = make("MaxPool", ["a"], ["b"], "pool", kernel_shape=[2, 2])
TURN = make("Transpose", ["b"], ["c"], "turn", perm=[0, 2, 3, 1])


def test_movements_and_choices_between_equal_grids() -> None:
    assert cancelled_quantizations(model([POOL, TURN], "c")) == {"before", "after"}
    assert cancelled_quantizations(model([], "a")) == {"before", "after"}
    both = make("Concat", ["a", "a"], ["b"], "both", axis=1)
    assert cancelled_quantizations(model([both], "b")) == {"before", "after"}


def test_other_grids_operators_and_sources_need_work() -> None:
    assert cancelled_quantizations(model([POOL], "b", scale=0.25)) == frozenset()
    average = make("AveragePool", ["a"], ["b"], "mean", kernel_shape=[2, 2])
    assert cancelled_quantizations(model([average], "b")) == frozenset()
    square = make("Mul", ["a", "a"], ["m"], "square")
    both = make("Concat", ["a", "m"], ["b"], "both", axis=1)
    assert cancelled_quantizations(model([square, both], "b")) == frozenset()


def test_a_dequantisation_with_other_readers_needs_work() -> None:
    square = make("Mul", ["a", "a"], ["m"], "square")
    assert cancelled_quantizations(model([POOL, square], "b", outputs=("m",))) == {"after"}
    assert cancelled_quantizations(model([POOL], "b", outputs=("b",))) == {"after"}


def test_computed_grids_need_work() -> None:
    found = model([POOL], "b")
    found.graph.node[0].input[1] = "x"
    assert cancelled_quantizations(found) == frozenset()


def test_layers_need_not_carry_them_out() -> None:
    target, layers = (
        load_target("npu-v1"),
        [Layer("one", "pool", ("before", "pool", "after"), (Call("nn.max_pool2d"),))],
    )
    for scale, folds in ((0.5, True), (0.25, False)):
        made = model([POOL], "b", scale)
        bounds = analyze(made, target)
        quantisations = sum(sum(r.element_ops.values()) for r in bounds.rows if r.op != "MaxPool")
        (facts,) = layer_facts(made, bounds, layers)["layers"]
        assert facts["folded_ops"] == (quantisations if folds else 0)
