"""Softmax, normalisations and reductions: any axes, tails and epilogues, on every way to run them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from dsa_compiler.errors import Infeasible
from dsa_compiler.graph.layers import Layer
from dsa_compiler.lower.reduce_layer import lower_norm_layer, lower_reduce_layer
from tests.lower.drawing import drawn
from tests.lower.networks import Network, call, check_layer, layer, part_of, repeated
from tests.lower.parts import part


def softmax(
    network: Network, shape: Sequence[int], dtype: str = "float16", op: str = "nn.softmax", axis: int = -1
) -> Layer:
    data = network.source("x", shape, dtype, low=-8, high=8)
    return layer("softmax", [call(op, (0,), shape, dtype, axis=axis)], [data], network.result("y", shape, dtype))


def reduction(
    network: Network,
    shape: Sequence[int],
    op: str,
    axes: Sequence[int] | int | None,
    keepdims: bool,
    dtype: str = "float16",
    relu: bool = False,
) -> Layer:
    data = network.source("x", shape, dtype, low=0.5 if op == "prod" else -2, high=1.5 if op == "prod" else 2)
    named = range(len(shape)) if axes is None else [axes] if isinstance(axes, int) else axes
    reduced = {a % len(shape) for a in named}
    kept = [1 if d in reduced else n for d, n in enumerate(shape) if keepdims or d not in reduced]
    calls = [call(op, (0,), kept, dtype, axis=axes, keepdims=keepdims)]
    if relu:
        calls.append(call("nn.relu", ("%0",), kept, dtype))
    return (
        layer("reduce", calls, [data], network.result("y", kept or [1], dtype))
        if kept
        else layer("reduce", calls, [data], network.result("y", (), dtype))
    )


def norm(
    network: Network, shape: Sequence[int], op: str, axes: Sequence[int], dtype: str = "float16", **attrs: Any
) -> Layer:
    data = network.source("x", shape, dtype)
    along = [shape[a] for a in axes] if op != "nn.instance_norm" else [shape[attrs["channel_axis"]]]
    factors = [network.given(f"f{i}", along, dtype) for i in range(1 if op == "nn.rms_norm" else 2)]
    calls = [call(op, (0, 1, 2)[: 1 + len(factors)], shape, dtype, axes=tuple(axes), epsilon=1e-5, **attrs)]
    return layer("norm", calls, [data, *factors], network.result("y", shape, dtype))


@pytest.mark.parametrize("target", ["npu-v1", "npu-edge", "plain"])
@pytest.mark.parametrize("shape", [(7, 53), (2, 3, 11, 16), (1, 1000), (5, 1)])
def test_softmax(shape: tuple[int, ...], target: str) -> None:
    network = Network()
    check_layer(network, softmax(network, shape), part(target), llvm=target == "npu-edge", tolerance=4e-3)


@pytest.mark.parametrize("op", ["nn.softmax", "nn.log_softmax"])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_softmax_and_its_logarithm(op: str, dtype: str) -> None:
    network = Network()
    check_layer(
        network,
        softmax(network, (9, 37), dtype, op),
        part("npu-edge"),
        llvm=True,
        tolerance=4e-3 if dtype == "float16" else 1e-5,
    )


def test_softmax_of_a_scaled_slice_with_an_epilogue() -> None:
    network = Network()
    data = part_of(network.source("x", (6, 5, 48)), (0, 1, 16), (6, 3, 29))
    shape = data.shape
    calls = [call("nn.softmax", (0,), shape, axis=-1), call("multiply", ("%0", 1), shape)]
    mask = repeated(network.source("m", (6, 1, 1)), shape)
    made = layer("softmax", calls, [data, mask], network.result("y", shape))
    check_layer(network, made, part("four"), llvm=True, tolerance=4e-3)


@pytest.mark.parametrize("op", ["nn.layer_norm", "nn.rms_norm"])
@pytest.mark.parametrize("target", ["npu-v1", "npu-edge", "plain"])
def test_norm_of_rows(op: str, target: str) -> None:
    network = Network()
    check_layer(network, norm(network, (2, 7, 67), op, (-1,)), part(target), llvm=target == "npu-edge", tolerance=4e-3)


def test_norm_of_two_axes() -> None:
    network = Network()
    check_layer(
        network, norm(network, (5, 6, 24), "nn.layer_norm", (1, 2)), part("npu-edge"), llvm=True, tolerance=4e-3
    )


@pytest.mark.parametrize("channels", [16, 21])
def test_norm_of_an_image(channels: int) -> None:
    """Statistics over rows and columns for each channel."""
    network = Network()
    made = norm(network, (2, 5, 7, channels), "nn.instance_norm", (1, 2), channel_axis=3)
    check_layer(network, made, part("npu-edge"), llvm=True, tolerance=4e-3)


def test_norm_with_residual_and_activation() -> None:
    network = Network()
    made = norm(network, (9, 40), "nn.layer_norm", (-1,))
    other = network.source("r", (9, 40))
    calls = [*made.calls, call("add", ("%0", 3), (9, 40)), call("nn.gelu", ("%1",), (9, 40))]
    check_layer(
        network, layer("norm", calls, [*made.inputs, other], made.output), part("four"), llvm=True, tolerance=6e-3
    )


def test_norm_in_float32() -> None:
    network = Network()
    check_layer(
        network, norm(network, (3, 100), "nn.layer_norm", (-1,), "float32"), part("npu-edge"), llvm=True, tolerance=1e-5
    )


@pytest.mark.parametrize("op", ["sum", "mean", "max", "min", "prod", "variance"])
@pytest.mark.parametrize("axes", [(2,), (1,), (0,), (1, 2), (0, 2)])
def test_axes(op: str, axes: tuple[int, ...]) -> None:
    network = Network()
    check_layer(
        network, reduction(network, (3, 5, 19), op, axes, keepdims=op == "sum"), part("npu-edge"), tolerance=6e-3
    )


@pytest.mark.parametrize("op", ["sum", "mean", "max", "min", "prod", "variance"])
def test_on_the_cpu(op: str) -> None:
    network = Network()
    check_layer(
        network,
        reduction(network, (3, 4, 17), op, -1, keepdims=False, relu=True),
        part("four"),
        llvm=True,
        tolerance=6e-3,
    )


@pytest.mark.parametrize("target", ["npu-v1", "npu-edge"])
def test_global_pooling(target: str) -> None:
    network = Network()
    check_layer(
        network,
        reduction(network, (2, 7, 5, 72), "mean", (1, 2), keepdims=True),
        part(target),
        llvm=True,
        tolerance=4e-3,
    )


def test_all_axes() -> None:
    network = Network()
    check_layer(network, reduction(network, (3, 5, 16), "max", None, keepdims=True), part("npu-edge"), llvm=True)


def test_integers() -> None:
    network = Network()
    check_layer(network, reduction(network, (5, 24), "sum", (1,), False, "int32"), part("npu-v1"), llvm=True)


def test_operand_of_the_epilogue() -> None:
    """The mean of each image plus a row of constants, as after a squeeze."""
    network = Network()
    data = network.source("x", (2, 5, 6, 24))
    calls = [call("mean", (0,), (2, 24), axis=(1, 2), keepdims=False), call("add", ("%0", 1), (2, 24))]
    bias = repeated(network.given("b", (24,)), (2, 24))
    made = layer("reduce", calls, [data, bias], network.result("y", (2, 24)))
    check_layer(network, made, part("npu-edge"), llvm=True, tolerance=4e-3)


def test_unknown_reductions_and_norms_are_refused() -> None:
    network = Network()
    made = reduction(network, (4, 4), "argmax", (1,), False)
    with pytest.raises(Infeasible, match=r"\[lower.reduce_layer\] reduction argmax: 1 needed, 0 available"):
        lower_reduce_layer(made, network.graph(made), part("npu-edge"))
    network = Network()
    made = norm(network, (4, 4), "nn.layer_norm", (-1,))
    other = layer("norm", [call("nn.group_norm", (0,), (4, 4), axes=(1,), epsilon=1e-5)], made.inputs, made.output)
    with pytest.raises(Infeasible, match=r"\[lower.reduce_layer\] normalisation nn.group_norm: 1 needed, 0 available"):
        lower_norm_layer(other, network.graph(other), part("npu-edge"))


@drawn(40)
@given(
    st.lists(st.sampled_from([1, 2, 5, 7, 16, 33]), min_size=1, max_size=4),
    st.data(),
    st.sampled_from(["sum", "mean", "max", "min", "variance"]),
    st.booleans(),
    st.sampled_from(["float16", "float32"]),
    st.sampled_from(["four", "plain", "narrow", "npu-v2"]),
)
def test_any_reduction(shape: list[int], data: st.DataObject, op: str, keepdims: bool, dtype: str, target: str) -> None:
    assume(math.prod(shape) <= 10_000)
    axes = data.draw(st.sets(st.integers(0, len(shape) - 1), min_size=1))
    network = Network()
    made = reduction(network, shape, op, sorted(axes), keepdims or len(axes) == len(shape), dtype)
    values = network.values["x"].astype(np.float64)
    scale = max(1.0, math.sqrt(values.size)) if op in ("sum", "mean") else 4.0 if op == "variance" else 1.0
    check_layer(
        network, made, part(target), seeds=(1,), retries=7, tolerance=scale * (4e-3 if dtype == "float16" else 1e-5)
    )


@drawn(25)
@given(
    st.lists(st.sampled_from([1, 3, 7, 16, 33]), min_size=1, max_size=3),
    st.sampled_from(["nn.softmax", "nn.log_softmax", "nn.layer_norm", "nn.rms_norm"]),
    st.sampled_from(["four", "plain", "narrow", "npu-v2"]),
)
def test_any_rows(lead: list[int], op: str, target: str) -> None:
    network = Network()
    shape = (*lead, 41)
    made = softmax(network, shape, op=op) if "softmax" in op else norm(network, shape, op, (-1,))
    check_layer(network, made, part(target), seeds=(1,), retries=7, tolerance=6e-3)
