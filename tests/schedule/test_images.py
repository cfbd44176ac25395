"""Layers divided into images: which are and which are not, and that a slice computes its images of the whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import models
from dsa_compiler.errors import InternalError
from dsa_compiler.graph import evaluate
from dsa_compiler.graph.layers import LayerGraph, OpCall, Tensor
from dsa_compiler.schedule.images import batch_of, divide, image_axis, operand_axis, slice_layer, slice_tensor
from tests.end_to_end.programs import node
from tests.schedule.graphs import alone, chain, graph_of, graph_of_nodes, of_images

IMAGES = 6
RNG = np.random.default_rng(0)


def constant(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


Case = tuple[Sequence[Any], Mapping[str, Sequence[int]], Mapping[str, Any]]
FEATURES = {"x": (IMAGES, 4, 8, 8)}
TOKENS = {"x": (IMAGES, 5, 8)}

DIVISIBLE: dict[str, Case] = {
    "convolution": ([node("Conv", ["x", "w"], ["y"], pads=[1] * 4)], FEATURES, {"w": constant(8, 4, 3, 3)}),
    "depthwise": ([node("Conv", ["x", "w"], ["y"], group=4)], FEATURES, {"w": constant(4, 1, 3, 3)}),
    "max pool": ([node("MaxPool", ["x"], ["y"], kernel_shape=[2, 2], strides=[2, 2])], FEATURES, {}),
    "average pool": ([node("AveragePool", ["x"], ["y"], kernel_shape=[3, 3])], FEATURES, {}),
    "global pool": ([node("GlobalAveragePool", ["x"], ["y"])], FEATURES, {}),
    "product": ([node("MatMul", ["x", "w"], ["y"])], TOKENS, {"w": constant(8, 16)}),
    "rows": ([node("Gemm", ["x", "w", "b"], ["y"])], {"x": (IMAGES, 8)}, {"w": constant(8, 16), "b": constant(16)}),
    "product of activations": ([node("MatMul", ["x", "z"], ["y"])], {**TOKENS, "z": (IMAGES, 8, 3)}, {}),
    "product with a constant of rank three": (
        [node("MatMul", ["x", "w"], ["y"])], {"x": (IMAGES, 5, 8)}, {"w": constant(1, 8, 16)}),
    "product with a constant on the left": (
        [node("MatMul", ["w", "x"], ["y"])], TOKENS, {"w": constant(7, 5)}),
    "product with a constant on the left of rank three": (
        [node("MatMul", ["w", "x"], ["y"])], TOKENS, {"w": constant(1, 7, 5)}),
    "softmax": ([node("Softmax", ["x"], ["y"], axis=-1)], TOKENS, {}),
    "layer norm": (
        [node("LayerNormalization", ["x", "g", "b"], ["y"])], TOKENS, {"g": constant(8), "b": constant(8)}),
    "group norm": (
        [node("InstanceNormalization", ["x", "g", "b"], ["y"])], FEATURES, {"g": constant(4), "b": constant(4)}),
    "reduction": ([node("ReduceMean", ["x", "a"], ["y"], keepdims=0)], TOKENS, {"a": np.array([1])}),
    "sum of two": ([node("Add", ["x", "z"], ["y"])], {**TOKENS, "z": (IMAGES, 5, 8)}, {}),
    "constant for all": ([node("Add", ["x", "c"], ["y"])], TOKENS, {"c": constant(5, 8)}),
    "constant that repeats": ([node("Add", ["x", "c"], ["y"])], TOKENS, {"c": np.tile(constant(1, 5, 8), (6, 1, 1))}),
    "transposed within an image": (
        [node("Transpose", ["x"], ["t"], perm=[0, 2, 1]), node("Relu", ["t"], ["y"])], TOKENS, {}),
    "heads": (
        [node("Reshape", ["x", "s"], ["r"]), node("Transpose", ["r"], ["t"], perm=[0, 2, 1, 3]),
         node("Softmax", ["t"], ["y"])], TOKENS, {"s": np.array([IMAGES, 5, 2, 4])}),
    "batch and rows as one": (
        [node("Reshape", ["x", "s"], ["r"]), node("Relu", ["r"], ["y"])], TOKENS, {"s": np.array([IMAGES * 5, 8])}),
}  # fmt: skip


@pytest.mark.parametrize("name", DIVISIBLE)
@pytest.mark.parametrize("part", [1, 2, 4])
def test_a_slice_computes_its_images_of_the_whole(name: str, part: int) -> None:
    graph = graph_of_nodes(*DIVISIBLE[name])
    assert batch_of(graph) == IMAGES
    require_slices(graph, IMAGES, part)


@pytest.mark.parametrize("name", ["tiny_cnn", "tiny_transformer"])
def test_every_layer_of_a_network_is_divisible(name: str) -> None:
    require_slices(graph_of(models.build(name, batch=IMAGES)), IMAGES, 3)


def require_slices(graph: LayerGraph, images: int, part: int) -> None:
    """Every layer is divisible; on some images it gives what the whole gives for them."""
    rng = np.random.default_rng(1)
    assert graph.layers
    for layer in graph.layers:
        division = divide(layer, graph, images)
        assert division is not None, str(layer)
        touched = [graph.tensors[v.tensor] for v in (*layer.inputs, *layer.outputs)]
        values = {t.name: rng.standard_normal(t.shape).astype(np.float32) for t in touched if t.value is None}
        whole = alone(graph, layer, graph.tensors)
        result = evaluate(whole, {n: values[n] for n in whole.inputs})
        sliced = {
            n: t if t.value is not None else slice_tensor(t, images, part, "llb") for n, t in whole.tensors.items()
        }
        one = alone(graph, slice_layer(layer, division, images, part), sliced)
        low = images - part
        mine = of_images(graph, layer, values, low, images, images)
        got = evaluate(one, {n: mine[n] for n in one.inputs})
        want = of_images(graph, layer, {**values, **result}, low, images, images)
        for name in one.outputs:
            np.testing.assert_allclose(got[name], want[name], rtol=1e-5, atol=1e-5, err_msg=str(layer))


MIXING: dict[str, Case] = {
    "reduction over the batch": ([node("ReduceSum", ["x", "a"], ["y"])], TOKENS, {"a": np.array([0])}),
    "softmax over the batch": ([node("Softmax", ["x"], ["y"], axis=0)], TOKENS, {}),
    "norm over the batch": (
        [node("LayerNormalization", ["x", "g"], ["y"], axis=0)], {"x": (IMAGES, 8)}, {"g": constant(IMAGES, 8)}),
    "transposed batch": (
        [node("Transpose", ["x"], ["t"], perm=[1, 0, 2]), node("Relu", ["t"], ["y"])], {"x": (IMAGES, IMAGES, 8)}, {}),
    "transposed to another extent": (
        [node("Transpose", ["x"], ["t"], perm=[1, 0, 2]), node("Relu", ["t"], ["y"])], TOKENS, {}),
    "constant that varies": ([node("Add", ["x", "c"], ["y"])], TOKENS, {"c": constant(IMAGES, 5, 8)}),
    "cumulative sum over the batch": ([node("CumSum", ["x", "a"], ["y"])], TOKENS, {"a": np.array(0)}),
    "reversed batch": (
        [node("Slice", ["x", "b", "e", "a", "s"], ["y"])], TOKENS,
        {"b": np.array([-1]), "e": np.array([-100]), "a": np.array([0]), "s": np.array([-1])}),
    "gather of images": ([node("Gather", ["x", "i"], ["y"])], TOKENS, {"i": np.array([3, 1, 4, 1, 5, 2])}),
    "product with the batch inside": (
        [node("Transpose", ["x"], ["t"], perm=[1, 0]), node("MatMul", ["w", "t"], ["y"])],
        {"x": (IMAGES, 8)}, {"w": constant(IMAGES, 8)}),
    "product over the batch": ([node("MatMul", ["w", "x"], ["y"])], {"x": (IMAGES, 8)}, {"w": constant(6, IMAGES)}),
    "image beside image": (
        [node("Slice", ["x", "b", "e", "a"], ["p"]), node("Slice", ["x", "c", "f", "a"], ["q"]),
         node("Add", ["p", "q"], ["y"])], {"x": (2 * IMAGES, 8)},
        {"b": np.array([0]), "e": np.array([IMAGES]), "c": np.array([IMAGES]), "f": np.array([2 * IMAGES]),
         "a": np.array([0])}),
}  # fmt: skip


@pytest.mark.parametrize("name", MIXING)
def test_a_layer_that_mixes_images_is_not_divisible(name: str) -> None:
    graph = graph_of_nodes(*MIXING[name])
    assert graph.layers and None in [divide(layer, graph, batch_of(graph)) for layer in graph.layers]


def test_a_concatenation_over_the_batch_is_not_divisible() -> None:
    """Its layers write parts of the batch; nothing of it has all images."""
    graph = graph_of_nodes(
        [node("Relu", ["x"], ["r"]), node("Concat", ["r", "z"], ["y"], axis=0)],
        {"x": (IMAGES, 8), "z": (IMAGES, 8)},
    )
    assert [divide(layer, graph, 2 * IMAGES) for layer in graph.layers] == [None] * len(graph.layers)


def test_a_host_layer_is_not_divisible() -> None:
    graph = chain((IMAGES, 8), (IMAGES, 8))
    layer = graph.layers[0]
    assert divide(layer, graph, IMAGES) is not None
    assert divide(replace(layer, kind="host"), graph, IMAGES) is None
    assert divide(replace(layer, more=(layer.output,)), graph, IMAGES) is None


def test_a_batch_is_what_all_inputs_share() -> None:
    assert batch_of(chain((3, 2), (3, 2))) == 3
    graph = chain((3, 2), (3, 2))
    other = Tensor("z", (4, 2), "float16", "input")
    assert batch_of(replace(graph, tensors={**graph.tensors, "z": other}, inputs=("t0", "z"))) == 1
    scalar = Tensor("z", (), "float16", "input")
    assert batch_of(replace(graph, tensors={**graph.tensors, "z": scalar}, inputs=("z",))) == 1


@pytest.mark.parametrize(
    ("shape", "axis"),
    [((6, 4), 0), ((1, 6, 4), 1), ((12, 4), 0), ((6,), None), ((6, 1), 0), ((5, 4), None), ((0, 4), None)],
)
def test_images_lie_along_the_outermost_dimension(shape: tuple[int, ...], axis: int | None) -> None:
    """A row of a vector cannot be cut: rows are what memory is laid out by."""
    graph = chain(shape, shape)
    assert image_axis(graph.layers[0].output, graph.tensors["t1"], IMAGES) == axis


def test_a_tensor_without_images_cannot_be_sliced() -> None:
    with pytest.raises(InternalError, match=r"t \(5, 6\) has no 6 images"):
        slice_tensor(Tensor("t", (5, 6), "float16", "activation"), 6, 2, "llb")
    assert slice_tensor(Tensor("t", (1, 6, 4), "float16", "activation"), 6, 2, "llb").shape == (1, 2, 4)


def test_unknown_operations_are_taken_to_mix_images() -> None:
    def call(op: str) -> OpCall:
        return OpCall(op, (("input", 0),), {}, (6, 4), "float32", "n")

    assert operand_axis(call("copy"), 0, 0, 2) == 0
    assert operand_axis(call("nn.relu"), 0, 0, 2) == 0
    assert operand_axis(call("nn.relu"), 0, 0, 1) is False
    assert operand_axis(call("something"), 0, 0, 2) is False
    assert operand_axis(call("cumsum"), 0, 0, 2) is False
