"""Pooling and depthwise layers, with explicit tilings and with those that are chosen, on every way to run them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsa_compiler.errors import Infeasible
from dsa_compiler.graph.layers import Layer
from dsa_compiler.lower.window_kernel import WindowProblem, WindowTiling, lowest
from dsa_compiler.lower.window_layer import lower_window_layer
from dsa_compiler.lower.window_tiling import choose_window_tiling
from tests.lower.drawing import drawn
from tests.lower.networks import Network, call, check_layer, layer, part_of, repeated, sample
from tests.lower.parts import changed, part

Pair = tuple[int, int]


def window_layer(
    network: Network,
    shape: Sequence[int],
    kind: str,
    kernel: Pair = (3, 3),
    stride: Pair = (1, 1),
    dilation: Pair = (1, 1),
    padding: Sequence[int] = (1, 1, 1, 1),
    dtype: str = "float16",
    include: bool = False,
    relu: bool = False,
    bias: bool = False,
) -> Layer:
    """A "max", "average" or "depthwise" layer over a new source."""
    data = network.source("x", shape, dtype)
    extents = [
        (n + padding[d] + padding[d + 2] - (kernel[d] - 1) * dilation[d] - 1) // stride[d] + 1
        for d, n in enumerate(shape[1:3])
    ]
    out = (shape[0], *extents, shape[3])
    attrs: dict[str, Any] = {"strides": stride, "padding": tuple(padding), "dilation": dilation}
    if kind == "depthwise":
        taps = sample((*kernel, 1, shape[3]), dtype, 9)
        calls = [call("nn.conv2d", (0, 1), out, dtype, groups=shape[3], **attrs)]
        inputs = [data, network.given("taps", taps.shape, dtype, taps)]
    else:
        attrs |= {"pool_size": kernel, "layout": "NHWC", "ceil_mode": False, "count_include_pad": include}
        calls = [call("nn.max_pool2d" if kind == "max" else "nn.avg_pool2d", (0,), out, dtype, **attrs)]
        inputs = [data]
    if bias:
        inputs.append(repeated(network.given("bias", (shape[3],), dtype), out))
        calls.append(call("add", (f"%{len(calls) - 1}", len(inputs) - 1), out, dtype))
    if relu:
        calls.append(call("nn.relu", (f"%{len(calls) - 1}",), out, dtype))
    return layer("depthwise" if kind == "depthwise" else "pool", calls, inputs, network.result("y", out, dtype))


@pytest.mark.parametrize("target", ["npu-v1", "npu-edge", "tiny", "plain"])
@pytest.mark.parametrize("kind", ["max", "average", "depthwise"])
def test_three_by_three(kind: str, target: str) -> None:
    network = Network()
    made = window_layer(network, (2, 13, 11, 37), kind, relu=kind == "depthwise", bias=kind == "depthwise")
    check_layer(network, made, part(target), llvm=target == "npu-edge")


@pytest.mark.parametrize("kind", ["max", "average", "depthwise"])
def test_float32(kind: str) -> None:
    network = Network()
    made = window_layer(network, (1, 10, 9, 21), kind, (2, 2), (2, 2), padding=(0, 0, 1, 1), dtype="float32")
    check_layer(network, made, part("npu-bench"), llvm=True)


@pytest.mark.parametrize("kind", ["max", "average", "depthwise"])
def test_dilation_and_odd_stride(kind: str) -> None:
    network = Network()
    made = window_layer(network, (1, 19, 17, 16), kind, (3, 2), (3, 2), (2, 3), (2, 0, 1, 3))
    check_layer(network, made, part("four"), llvm=True)


@pytest.mark.parametrize("include", [False, True])
def test_average_divides_by_what_it_covers(include: bool) -> None:
    network = Network()
    made = window_layer(
        network, (1, 7, 6, 24), "average", (3, 3), (2, 2), padding=(1, 1, 1, 1), include=include, relu=True
    )
    check_layer(network, made, part("npu-edge"), llvm=True)


def test_global_average() -> None:
    network = Network()
    made = window_layer(network, (2, 7, 7, 40), "average", (7, 7), padding=(0, 0, 0, 0))
    check_layer(network, made, part("npu-v1"), llvm=True)


def test_maximum_of_negative_values_at_the_border() -> None:
    network = Network()
    made = window_layer(network, (1, 6, 5, 16), "max", (3, 3), (2, 2), padding=(1, 1, 1, 1))
    network.values["x"] = -1 - np.abs(network.values["x"])
    check_layer(network, made, part("npu-edge"), llvm=True)


@pytest.mark.parametrize("target", ["four", "npu-edge"])
def test_channels_and_pixels_of_other_tensors(target: str) -> None:
    """The source is a slice of a tensor, the result one of another."""
    network = Network()
    whole = network.source("x", (1, 12, 10, 64))
    data = part_of(whole, (0, 2, 1, 32), (1, 9, 9, 16))
    out = (1, 4, 4, 16)
    attrs = {"strides": (2, 2), "padding": (0, 0, 0, 0), "dilation": (1, 1), "pool_size": (3, 3), "layout": "NHWC"}
    result = part_of(network.result("y", (1, 4, 4, 48)), (0, 0, 0, 16), out)
    check_layer(
        network, layer("pool", [call("nn.max_pool2d", (0,), out, **attrs)], [data], result), part(target), llvm=True
    )


def test_residual_of_the_epilogue() -> None:
    network = Network()
    made = window_layer(network, (1, 8, 7, 24), "depthwise", bias=True)
    other = network.source("r", (1, 8, 7, 24))
    calls = [*made.calls, call("add", ("%1", 3), made.calls[-1].shape)]
    check_layer(network, layer("depthwise", calls, [*made.inputs, other], made.output), part("four"), llvm=True)


def test_one_pixel_one_channel() -> None:
    network = Network()
    check_layer(network, window_layer(network, (1, 1, 1, 1), "depthwise", (3, 3)), part("npu-edge"), llvm=True)


def test_large_image_in_a_narrow_memory() -> None:
    """More columns than fit at once: tiles of columns with their borders."""
    network = Network()
    check_layer(
        network, window_layer(network, (1, 5, 211, 19), "depthwise", (3, 5), padding=(1, 2, 1, 2)), part("tiny")
    )


def test_ranks_are_other_tilings() -> None:
    network = Network()
    made = window_layer(network, (1, 16, 16, 32), "max")
    graph = network.graph(made)
    texts = [lower_window_layer(made, graph, part("npu-edge"), rank=r).tiling for r in range(4)]
    assert len(set(texts)) == 4
    for rank in (1, 3):
        check_layer(network, made, part("npu-edge"), rank=rank)


PROBLEM = WindowProblem(1, 56, 56, 96, 56, 56, (3, 3), (1, 1), (1, 1), (1, 1), "multiply", "float16")


@pytest.mark.parametrize("target", ["npu-v1", "npu-v2", "npu-edge", "npu-bench", "tiny"])
def test_choice_uses_the_cores(target: str) -> None:
    tiling = choose_window_tiling(PROBLEM, 0, part(target))
    assert 1 <= tiling.cores <= part(target).cores
    assert 2 * tiling.cores >= part(target).cores
    assert isinstance(tiling, WindowTiling)


def test_nothing_fits() -> None:
    target = changed(part("tiny"), **{"memory.l1.size": 1024, "memory.l1.banks": 1})
    with pytest.raises(Infeasible, match=r"\[lower.window_tiling\] l1: \d+ needed, 1024 available"):
        choose_window_tiling(PROBLEM, 0, target)


def test_no_more_ranks() -> None:
    with pytest.raises(Infeasible, match=r"\[lower.window_tiling\] l1: "):
        choose_window_tiling(PROBLEM, 0, part("npu-edge"), rank=1_000_000)


def test_other_layouts_are_refused() -> None:
    network = Network()
    made = window_layer(network, (1, 6, 6, 16), "max")
    wrong = layer("pool", [call("nn.max_pool2d", (0,), (1, 6, 6, 16), layout="NCHW")], made.inputs, made.output)
    with pytest.raises(Infeasible, match=r"\[lower.window_layer\] windows of nn.max_pool2d: 1 needed, 0 available"):
        lower_window_layer(wrong, network.graph(wrong), part("npu-edge"))


def test_lowest_values() -> None:
    assert lowest("float16") == float(np.finfo(np.float16).min) and lowest("float32") == float(np.finfo(np.float32).min)
    assert (lowest("int8"), lowest("uint8"), lowest("int32")) == (-128, 0, -(2**31))


def test_problem_extents() -> None:
    assert (PROBLEM.rows_in(4), PROBLEM.columns_in(1), PROBLEM.padded) == (6, 3, True)
    assert not WindowProblem(1, 8, 8, 4, 4, 4, (2, 2), (2, 2), (1, 1), (0, 0), "max", "float16").padded


@st.composite
def cases(draw: st.DrawFn) -> dict[str, Any]:
    kernel = draw(st.sampled_from([(1, 1), (2, 2), (3, 3), (5, 3), (7, 1)]))
    dilation = draw(st.sampled_from([(1, 1), (1, 1), (2, 2)]))
    padding = [draw(st.integers(0, (k - 1) // 2)) for k in (*kernel, *kernel)]
    extents = [(k - 1) * d + draw(st.sampled_from([1, 2, 5, 12])) for k, d in zip(kernel, dilation, strict=True)]
    return {
        "shape": (draw(st.integers(1, 3)), *extents, draw(st.sampled_from([1, 7, 16, 31, 64, 101]))),
        "kind": draw(st.sampled_from(["max", "average", "depthwise"])),
        "kernel": kernel,
        "dilation": dilation,
        "stride": draw(st.sampled_from([(1, 1), (2, 2), (3, 1)])),
        "padding": padding,
        "dtype": draw(st.sampled_from(["float16", "float32"])),
        "include": draw(st.booleans()),
        "relu": draw(st.booleans()),
    }


@drawn(40)
@given(cases(), st.sampled_from(["four", "plain", "narrow", "tiny", "npu-bench", "npu-v2"]))
def test_any_window(case: dict[str, Any], target: str) -> None:
    network = Network()
    made = window_layer(network, **case)
    check_layer(network, made, part(target), seeds=(1,))
