"""Convolutions over images of few channels, by lines of planes or of dense pixels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsa_compiler.graph.layers import Layer
from dsa_compiler.lower.lines import line_convolution, line_view, takes_lines
from tests.lower.drawing import drawn
from tests.lower.networks import Network, call, check_layer, layer, permuted, repeated, sample
from tests.lower.parts import part

Pair = tuple[int, int]


def convolution(
    network: Network, shape: Sequence[int], outputs: int, kernel: Pair = (3, 3), stride: Pair = (1, 1),
    padding: Sequence[int] = (1, 1, 1, 1), dilation: Pair = (1, 1), dtype: str = "float16", planar: bool = True,
    bias: bool = True, residual: bool = False,
) -> Layer:  # fmt: skip
    """A conv2d over a new image [n, h, w, c], stored as planes or as dense pixels."""
    n, h, w, c = shape
    if planar:
        data = permuted(network.source("x", (n, c, h, w), dtype), (0, 2, 3, 1))
    else:
        data = network.source("x", shape, dtype, dense=True)
    extents = [
        (size + padding[d] + padding[d + 2] - (kernel[d] - 1) * dilation[d] - 1) // stride[d] + 1
        for d, size in enumerate((h, w))
    ]  # fmt: skip
    out = (n, *extents, outputs)
    attrs: dict[str, Any] = {"strides": stride, "padding": tuple(padding), "dilation": dilation, "groups": 1}
    weights = sample((*kernel, c, outputs), dtype, 7, -0.5, 0.5)
    calls = [call("nn.conv2d", (0, 1), out, dtype, **attrs)]
    inputs = [data, network.given("w", weights.shape, dtype, weights)]
    if bias:
        inputs.append(repeated(network.given("bias", (outputs,), dtype), out))
        calls.append(call("add", (f"%{len(calls) - 1}", len(inputs) - 1), out, dtype))
    if residual:
        inputs.append(network.source("r", out, dtype))
        calls.append(call("add", (f"%{len(calls) - 1}", len(inputs) - 1), out, dtype))
    return layer("conv2d", calls, inputs, network.result("y", out, dtype))


@pytest.mark.parametrize("target", ["npu-v1", "npu-edge", "plain"])
@pytest.mark.parametrize("planar", [False, True])
def test_three_channels(planar: bool, target: str) -> None:
    network = Network()
    made = convolution(network, (1, 13, 18, 3), 20, (7, 7), (2, 2), (3, 3, 3, 3), planar=planar)
    check_layer(network, made, part(target), llvm=target == "npu-edge", retries=3)


@pytest.mark.parametrize("planar", [False, True])
def test_float32_phases_of_unequal_width(planar: bool) -> None:
    """15 columns in two phases of pairs of elements."""
    network = Network()
    made = convolution(network, (2, 9, 15, 3), 9, dtype="float32", planar=planar, residual=True)
    check_layer(network, made, part("four"), llvm=True)


def test_one_phase() -> None:
    network = Network()
    made = convolution(network, (1, 23, 30, 3), 16, (11, 11), (4, 4), (2, 2, 2, 2))
    check_layer(network, made, part("npu-bench"), llvm=True)
    found = line_convolution(made, network.graph(made), made.inputs[0], np.zeros((11, 11, 3, 16), np.float16))
    assert found.problem.batches == 1 and found.problem.stride == (12, 1) and found.weights.shape == (1, 33, 3, 4, 16)


def test_dilated_rows_of_one_plane() -> None:
    network = Network()
    made = convolution(network, (1, 12, 20, 1), 8, (3, 5), (1, 1), (2, 2, 2, 2), (2, 1))
    assert takes_lines(made, made.inputs[0], network.tensors["x"], part("npu-edge"))
    check_layer(network, made, part("npu-edge"), llvm=True)


def test_what_takes_no_lines() -> None:
    network = Network()
    target = part("npu-edge")
    made = convolution(network, (1, 8, 8, 3), 8, (3, 3), (1, 1), (2, 2, 2, 2), (2, 1))
    assert not takes_lines(made, made.inputs[0], network.tensors["x"], target)
    wide = Network()
    made = convolution(wide, (1, 8, 8, 16), 8)
    assert not takes_lines(made, made.inputs[0], wide.tensors["x"], target)
    padded = Network()
    assert line_view(padded.source("x", (1, 8, 8, 3))) is None


@st.composite
def cases(draw: st.DrawFn) -> dict[str, Any]:
    kernel = draw(st.sampled_from([(1, 1), (3, 3), (5, 2), (2, 7)]))
    extents = [k + draw(st.sampled_from([0, 1, 4, 11])) for k in kernel]
    return {
        "shape": (draw(st.integers(1, 2)), *extents, draw(st.integers(1, 7))),
        "outputs": draw(st.sampled_from([1, 5, 16, 37])), "kernel": kernel, "planar": draw(st.booleans()),
        "stride": draw(st.sampled_from([(1, 1), (2, 2), (1, 3), (3, 4)])),
        "padding": [draw(st.integers(0, (k - 1) // 2)) for k in (*kernel, *kernel)],
        "dtype": draw(st.sampled_from(["float16", "float32"])), "bias": draw(st.booleans()),
        "residual": draw(st.booleans()),
    }  # fmt: skip


@drawn(30)
@given(cases(), st.sampled_from(["four", "plain", "npu-bench", "npu-v2", "npu-edge"]))
def test_any_image_of_few_channels(case: dict[str, Any], target: str) -> None:
    network = Network()
    check_layer(network, convolution(network, **case), part(target), seeds=(1,), retries=3)
