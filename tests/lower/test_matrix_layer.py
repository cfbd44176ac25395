"""Convolution and product layers: views, epilogues and layouts as a graph gives them, on every way to run them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsa_compiler.errors import Infeasible, InternalError
from dsa_compiler.graph.layers import Layer, OpCall
from dsa_compiler.graph.views import View
from dsa_compiler.isa.dtypes import DTYPE_CODE
from dsa_compiler.isa.table import OPCODES
from dsa_compiler.lower import matrix_layer
from dsa_compiler.lower.matrix_layer import join_rows, lower_matrix_layer
from dsa_compiler.lower.matrix_problem import MatrixProblem
from dsa_compiler.program.tables import ENGINE_CODE
from tests.lower.drawing import drawn
from tests.lower.networks import Network, call, check_layer, layer, part_of, permuted, repeated, sample
from tests.lower.parts import part

Pair = tuple[int, int]


def out_extent(extent: int, kernel: int, stride: int, dilation: int, pad: int) -> int:
    return (extent + pad - (kernel - 1) * dilation - 1) // stride + 1


def conv(
    network: Network,
    data: View,
    outputs: int,
    kernel: Pair = (1, 1),
    stride: Pair = (1, 1),
    dilation: Pair = (1, 1),
    padding: Sequence[int] = (0, 0, 0, 0),
    groups: int = 1,
    dtype: str = "float16",
) -> tuple[OpCall, View]:
    """The call of a convolution of input 0 by input 1, and its weights."""
    images, height, width, channels = data.shape
    shape = (
        images,
        out_extent(height, kernel[0], stride[0], dilation[0], padding[0] + padding[2]),
        out_extent(width, kernel[1], stride[1], dilation[1], padding[1] + padding[3]),
        outputs,
    )
    values = sample((*kernel, channels // groups, outputs), dtype, 5, -0.3, 0.3)
    weights = network.given("w", values.shape, dtype, values)
    attrs = {"strides": stride, "padding": tuple(padding), "dilation": dilation, "groups": groups}
    return call("nn.conv2d", (0, 1), shape, dtype, **attrs), weights


def conv_layer(network: Network, data: View, outputs: int, dtype: str = "float16", **options: Any) -> Layer:
    """Convolution, bias, relu."""
    first, weights = conv(network, data, outputs, dtype=dtype, **options)
    bias = repeated(network.given("bias", (outputs,), dtype), first.shape)
    calls = [first, call("add", ("%0", 2), first.shape, dtype), call("nn.relu", ("%1",), first.shape, dtype)]
    return layer("conv2d", calls, [data, weights, bias], network.result("y", first.shape, dtype))


@pytest.mark.parametrize("target", ["npu-v1", "npu-edge", "tiny", "plain"])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_padded_convolution(target: str, dtype: str) -> None:
    network = Network()
    made = conv_layer(
        network, network.source("x", (2, 11, 13, 24), dtype), 37, dtype, kernel=(3, 3), padding=(1, 1, 1, 1)
    )
    check_layer(network, made, part(target), llvm=target == "npu-edge")


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_image_of_few_channels(channels: int) -> None:
    """The pixel of an img2col move is a multiple of 8 bytes: missing channels are filled with zeros."""
    network = Network()
    data = network.source("x", (1, 19, 17, channels), dense=True)
    check_layer(
        network,
        conv_layer(network, data, 16, kernel=(7, 7), stride=(2, 2), padding=(3, 3, 3, 3)),
        part("npu-edge"),
        llvm=True,
    )


@pytest.mark.parametrize("groups", [2, 3])
def test_groups(groups: int) -> None:
    network = Network()
    data = network.source("x", (1, 9, 7, 8 * groups))
    made = conv_layer(network, data, 5 * groups, kernel=(3, 3), stride=(2, 1), padding=(1, 1, 0, 1), groups=groups)
    check_layer(network, made, part("four"), llvm=True)


def test_groups_of_odd_channels() -> None:
    network = Network()
    data = network.source("x", (1, 9, 7, 9))
    made = conv_layer(network, data, 12, kernel=(3, 3), padding=(1, 1, 1, 1), groups=3)
    check_layer(network, made, part("npu-edge"))


def test_pointwise_joins_rows() -> None:
    network = Network()
    check_layer(network, conv_layer(network, network.source("x", (2, 7, 5, 40)), 24), part("four"), llvm=True)


def test_pointwise_with_stride() -> None:
    network = Network()
    check_layer(
        network, conv_layer(network, network.source("x", (2, 7, 5, 40)), 24, stride=(2, 2)), part("npu-edge"), llvm=True
    )


def test_a_pointwise_window_loads_only_the_pixels_it_reads() -> None:
    """Every second pixel of every second row is a quarter of the tensor: l1 gets no more of it."""
    network = Network()
    data = network.source("x", (1, 16, 16, 64))
    run = check_layer(network, conv_layer(network, data, 32, stride=(2, 2)), part("npu-edge"))
    entries, operands = run.program.entries, run.program.operands
    loads = entries[entries["engine"] == ENGINE_CODE["load"]]
    loaded = int(operands["extents"][loads["operand"]].prod(axis=1).sum())
    weights, bias, pixels = 64 * 32, 32, 8 * 8 * 64
    assert loaded <= weights + bias + pixels


def test_pointwise_groups() -> None:
    network = Network()
    check_layer(network, conv_layer(network, network.source("x", (1, 6, 5, 48)), 32, groups=2), part("four"))


def test_residual_then_activation() -> None:
    network = Network()
    data, other = network.source("x", (1, 8, 7, 16)), network.source("r", (1, 8, 7, 24))
    first, weights = conv(network, data, 24, kernel=(3, 3), padding=(1, 1, 1, 1))
    bias = repeated(network.given("bias", (24,)), first.shape)
    calls = [
        first,
        call("add", ("%0", 2), first.shape),
        call("add", ("%1", 3), first.shape),
        call("nn.relu", ("%2",), first.shape),
    ]
    made = layer("conv2d", calls, [data, weights, bias, other], network.result("y", first.shape))
    check_layer(network, made, part("npu-edge"), llvm=True)


def test_activation_used_twice() -> None:
    """y = c * sigmoid(c), as a swish is written."""
    network = Network()
    data = network.source("x", (1, 8, 7, 16))
    first, weights = conv(network, data, 24, kernel=(3, 3), padding=(1, 1, 1, 1))
    calls = [first, call("sigmoid", ("%0",), first.shape), call("multiply", ("%0", "%1"), first.shape)]
    made = layer("conv2d", calls, [data, weights], network.result("y", first.shape))
    check_layer(network, made, part("npu-edge"), llvm=True, tolerance=4e-3)


def test_channel_slopes_and_scalars() -> None:
    """Operands that vary with the channel alone, and a number."""
    network = Network()
    data = network.source("x", (1, 6, 5, 16))
    first, weights = conv(network, data, 21)
    slope = repeated(network.given("slope", (21,)), first.shape)
    calls = [
        first,
        call("multiply", ("%0", ("const", 0.5)), first.shape),
        call("add", ("%1", ("const", 1.0)), first.shape),
        call("multiply", ("%2", 2), first.shape),
        call("maximum", ("%2", "%3"), first.shape),
    ]
    made = layer("conv2d", calls, [data, weights, slope], network.result("y", first.shape))
    check_layer(network, made, part("four"), llvm=True)


def test_operand_per_image() -> None:
    """A gate of squeeze and excitation: one value for each image and channel."""
    network = Network()
    data, gate = network.source("x", (2, 6, 5, 16)), network.source("g", (2, 1, 1, 24))
    first, weights = conv(network, data, 24, kernel=(3, 3), padding=(1, 1, 1, 1))
    calls = [first, call("multiply", ("%0", 2), first.shape)]
    made = layer("conv2d", calls, [data, weights, repeated(gate, first.shape)], network.result("y", first.shape))
    check_layer(network, made, part("four"), llvm=True)


def test_operand_per_pixel() -> None:
    network = Network()
    data, mask = network.source("x", (2, 6, 5, 16)), network.source("m", (2, 6, 5, 1))
    first, weights = conv(network, data, 24, kernel=(3, 3), padding=(1, 1, 1, 1))
    calls = [first, call("multiply", ("%0", 2), first.shape)]
    made = layer("conv2d", calls, [data, weights, repeated(mask, first.shape)], network.result("y", first.shape))
    check_layer(network, made, part("npu-edge"), llvm=True)


def test_writes_channels_of_a_concatenation() -> None:
    network = Network()
    data = network.source("x", (1, 7, 6, 16))
    first, weights = conv(network, data, 24, kernel=(3, 3), padding=(1, 1, 1, 1))
    whole = network.result("y", (1, 7, 6, 56))
    made = layer("conv2d", [first], [data, weights], part_of(whole, (0, 0, 0, 16), first.shape))
    check_layer(network, made, part("four"), llvm=True)


def test_reads_channels_and_pixels_of_a_tensor() -> None:
    network = Network()
    whole = network.source("x", (1, 14, 9, 48))
    data = part_of(whole, (0, 1, 0, 16), (1, 6, 5, 16), (1, 2, 2, 1))
    check_layer(
        network, conv_layer(network, data, 24, kernel=(3, 3), padding=(1, 1, 1, 1)), part("npu-edge"), llvm=True
    )


def test_writes_every_second_pixel() -> None:
    """One phase of a transposed convolution."""
    network = Network()
    data = network.source("x", (1, 5, 4, 16))
    first, weights = conv(network, data, 12, kernel=(2, 2), padding=(1, 1, 0, 0))
    whole = network.result("y", (1, 10, 8, 12))
    made = layer("conv2d", [first], [data, weights], part_of(whole, (0, 1, 0, 0), first.shape, (1, 2, 2, 1)))
    check_layer(network, made, part("npu-edge"), llvm=True)


def test_writes_a_model_output_in_its_own_dtype() -> None:
    network = Network()
    data = network.source("x", (1, 6, 5, 16))
    first, weights = conv(network, data, 10)
    calls = [first, call("astype", ("%0",), first.shape, "float32")]
    made = layer("conv2d", calls, [data, weights], network.result("y", first.shape, "float32", role="output"))
    check_layer(network, made, part("npu-edge"), llvm=True, tolerance=1e-3)


def test_largest_rank_has_other_tiles() -> None:
    network = Network()
    made = conv_layer(network, network.source("x", (1, 9, 9, 16)), 24, kernel=(3, 3), padding=(1, 1, 1, 1))
    graph = network.graph(made)
    texts = {lower_matrix_layer(made, graph, part("npu-edge"), rank=r).tiling for r in range(3)}
    assert len(texts) == 3
    for rank in (1, 2):
        check_layer(network, made, part("npu-edge"), rank=rank)


# ---- products ------------------------------------------------------------------------------------------------
def product(network: Network, left: View, right: View, dtype: str = "float16", scale: float = 0.125) -> Layer:
    """left x right, scaled."""
    lead = np.broadcast_shapes(left.shape[:-2], right.shape[:-2])
    shape = (*lead, left.shape[-2], right.shape[-1])
    calls = [call("matmul", (0, 1), shape, dtype), call("multiply", ("%0", ("const", scale)), shape, dtype)]
    return layer("matmul", calls, [left, right], network.result("y", shape, dtype))


@pytest.mark.parametrize("target", ["npu-v1", "npu-edge", "tiny", "plain"])
def test_fully_connected(target: str) -> None:
    network = Network()
    left, right = network.source("x", (7, 131)), network.given("w", (131, 101))
    bias = repeated(network.given("b", (101,)), (7, 101))
    calls = [call("matmul", (0, 1), (7, 101)), call("add", ("%0", 2), (7, 101)), call("nn.gelu", ("%1",), (7, 101))]
    made = layer("matmul", calls, [left, right, bias], network.result("y", (7, 101)))
    check_layer(network, made, part(target), llvm=target == "npu-edge", tolerance=4e-3)


def test_weights_stored_transposed() -> None:
    network = Network()
    right = permuted(network.given("w", (37, 64)), (1, 0))
    check_layer(network, product(network, network.source("x", (3, 5, 64)), right), part("four"), llvm=True)


def test_joined_batches() -> None:
    network = Network()
    check_layer(
        network,
        product(network, network.source("x", (3, 5, 64)), network.given("w", (64, 40))),
        part("npu-edge"),
        llvm=True,
    )


@pytest.mark.parametrize("target", ["four", "npu-edge"])
def test_attention_scores_over_views(target: str) -> None:
    """q k^T of heads that lie beside each other in the channels: no transposition of its own."""
    network = Network()
    shape, order = (2, 13, 3, 16), (0, 2, 1, 3)

    def heads(name: str) -> View:
        view = network.source(name, (2, 13, 48))
        rows, columns = view.strides[1], view.strides[2]
        return View(name, shape, (view.strides[0], rows, (columns[0] * 16, columns[1] * 16), columns), view.offset)

    q, k = permuted(heads("q"), order), permuted(heads("k"), order)
    check_layer(network, product(network, q, permuted(k, (0, 1, 3, 2))), part(target), llvm=True)


@pytest.mark.parametrize("target", ["four", "npu-edge"])
def test_attention_values_write_merged_heads(target: str) -> None:
    network = Network()
    scores = network.source("s", (2, 3, 13, 13))
    values = network.source("v", (2, 13, 48))
    columns = values.strides[2]
    split = View(
        "v", (2, 13, 3, 16), (values.strides[0], values.strides[1], (columns[0] * 16, columns[1] * 16), columns)
    )
    merged = network.result("y", (2, 13, 48))
    steps = (merged.strides[0], (0, 16), merged.strides[1], (0, 1))
    made = layer(
        "matmul",
        [call("matmul", (0, 1), (2, 3, 13, 16))],
        [scores, permuted(split, (0, 2, 1, 3))],
        View("y", (2, 3, 13, 16), steps),
    )
    check_layer(network, made, part(target), llvm=True)


def test_mask_is_added_to_all_heads() -> None:
    network = Network()
    left, right = network.source("q", (2, 3, 11, 16)), network.source("k", (2, 3, 16, 11))
    mask = repeated(network.source("m", (2, 1, 1, 11)), (2, 3, 11, 11))
    shape = (2, 3, 11, 11)
    calls = [call("matmul", (0, 1), shape), call("add", ("%0", 2), shape)]
    made = layer("matmul", calls, [left, right, mask], network.result("y", shape))
    check_layer(network, made, part("four"), llvm=True)


def test_left_transposed() -> None:
    network = Network()
    left = permuted(network.source("x", (3, 24, 13)), (0, 2, 1))
    check_layer(network, product(network, left, network.source("w", (3, 24, 19))), part("npu-edge"), llvm=True)


def test_one_batch_of_the_left_for_all_of_the_right() -> None:
    network = Network()
    check_layer(
        network,
        product(network, network.source("x", (1, 9, 24)), network.source("w", (3, 24, 19))),
        part("npu-edge"),
        llvm=True,
    )


def test_constant_right_of_many_batches() -> None:
    network = Network()
    check_layer(
        network,
        product(network, network.source("x", (3, 9, 24)), network.given("w", (3, 24, 19))),
        part("four"),
        llvm=True,
    )


def test_bias_of_batches_that_do_not_join() -> None:
    """The batch is contiguous and the depth is not: no view has all rows in one dimension."""
    network = Network()
    w, bias = network.given("w", (24, 19)), network.given("c", (19,))
    network.source("x", (24, 9))
    turned = View("x", (9, 1, 24), ((0, 1), (1, 0), (1, 0)))
    row = repeated(bias, (9, 1, 19))
    y = network.result("y", (9, 1, 19))
    calls = [call("matmul", (0, 1), y.shape), call("add", ("%0", 2), y.shape)]
    check_layer(network, layer("matmul", calls, [turned, w, row], y), part("four"))


def test_vector_times_matrix() -> None:
    network = Network()
    check_layer(
        network,
        product(network, network.source("x", (1, 100)), network.given("w", (100, 1))),
        part("npu-v1"),
        llvm=True,
    )


def test_computed_operands_are_refused() -> None:
    network = Network()
    x, w = network.source("x", (4, 8)), network.given("w", (8, 8))
    calls = [call("nn.relu", (0,), (4, 8)), call("matmul", ("%0", 1), (4, 8))]
    made = layer("matmul", calls, [x, w], network.result("y", (4, 8)), master=1)
    with pytest.raises(
        Infeasible, match=r"\[lower.matrix_layer\] operands of a product that are computed: 1 needed, 0 available"
    ):
        lower_matrix_layer(made, network.graph(made), part("npu-edge"))


def test_views_that_do_not_join_are_a_defect() -> None:
    """A form is joined only if every view joins; `seen` would not hide a mistake there."""
    network = Network()
    whole = network.source("x", (2, 3, 4, 8))
    problem = MatrixProblem(1, 1, 24, 1, 8, 24, 1, 8)
    form = matrix_layer._row_form(problem, whole, None)
    with pytest.raises(InternalError, match=r"^\[lower.matrix_layer\] x\[2, 3, 2, 8\] by .* does not join$"):
        form.seen(part_of(whole, (0, 0, 0, 0), (2, 3, 2, 8)))


def test_join_rows() -> None:
    network = Network()
    whole = network.source("x", (2, 3, 4, 8))
    joined = join_rows(whole)
    assert joined is not None and (joined.shape, joined.strides) == ((24, 8), ((1, 0), (0, 1)))
    assert join_rows(part_of(whole, (0, 0, 0, 0), (2, 3, 2, 8))) is None
    strided = join_rows(part_of(whole, (0, 0, 0, 0), (2, 3, 2, 8), (1, 1, 2, 1)))
    assert strided is not None and strided.strides == ((2, 0), (0, 1))
    single = join_rows(network.source("z", (1, 1, 1, 8)))
    assert single is not None and single.shape == (1, 8)


@st.composite
def conv_cases(draw: st.DrawFn) -> dict[str, Any]:
    kernel = draw(st.sampled_from([(1, 1), (3, 3), (2, 3), (5, 1), (7, 7)]))
    pad = [draw(st.integers(0, k - 1)) for k in (*kernel, *kernel)]
    dilation = draw(st.sampled_from([(1, 1), (1, 1), (2, 1)]))
    least = [(k - 1) * d + 1 - a - b for k, d, a, b in zip(kernel, dilation, pad[:2], pad[2:], strict=True)]
    height, width = (max(1, m) + draw(st.sampled_from([0, 1, 4, 10])) for m in least)
    groups = draw(st.sampled_from([1, 1, 1, 2]))
    return {
        "shape": (draw(st.integers(1, 2)), height, width, groups * draw(st.sampled_from([1, 3, 8, 17, 33]))),
        "outputs": groups * draw(st.sampled_from([1, 3, 16, 31])),
        "dtype": draw(st.sampled_from(["float16", "float32"])),
        "kernel": kernel,
        "stride": draw(st.sampled_from([(1, 1), (2, 2), (1, 3)])),
        "dilation": dilation,
        "padding": pad,
        "groups": groups,
    }


@drawn(30)
@given(conv_cases(), st.sampled_from(["four", "plain", "narrow", "npu-bench", "npu-v2"]))
def test_any_convolution_with_its_best_tiling(case: dict[str, Any], target: str) -> None:
    network = Network()
    options = dict(case)
    data = network.source("x", options.pop("shape"), case["dtype"])
    made = conv_layer(network, data, options.pop("outputs"), **options)
    check_layer(network, made, part(target), seeds=(1,))


@pytest.mark.parametrize(("dtype", "operand"), [("float16", "float16"), ("float32", "float32")])
def test_slow_operators_work_on_rounded_elements(dtype: str, operand: str) -> None:
    """An accumulator is twice as wide as a 16-bit result: it is rounded before an operator of many cycles."""
    network = Network()
    first, weights = conv(network, network.source("x", (1, 9, 11, 32), dtype), 48, kernel=(3, 3), dtype=dtype)
    made = layer(
        "conv2d", [first, call("nn.silu", ("%0",), first.shape, dtype)], [network.whole("x"), weights],
        network.result("y", first.shape, dtype),
    )  # fmt: skip
    run = check_layer(network, made, part("npu-edge"), llvm=True)
    entries, operands = run.program.entries, run.program.operands
    slow = entries[entries["opcode"] == OPCODES["silu"].code]
    assert len(slow) and set(operands["dtype"][slow["operand"] + 1]) == {DTYPE_CODE[operand]}
