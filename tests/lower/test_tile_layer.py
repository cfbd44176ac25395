"""Elementwise chains and copies: broadcasts, views, dtypes and tails, on every way to run them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from dsa_compiler.errors import Infeasible
from dsa_compiler.graph.layers import Layer
from dsa_compiler.graph.views import View, flattened
from dsa_compiler.lower.lower import lower_layer
from dsa_compiler.lower.tile_layer import lower_copy_layer, lower_elementwise_layer, simplify_views
from tests.lower.drawing import drawn
from tests.lower.networks import Network, call, check_kernel, check_layer, layer, part_of, permuted, repeated
from tests.lower.parts import changed, part


def add_relu(network: Network, left: View, right: View, out: View, dtype: str = "float16") -> Layer:
    calls = [call("add", (0, 1), out.shape, dtype), call("nn.relu", ("%0",), out.shape, dtype)]
    return layer("elementwise", calls, [left, right], out, master=1)


def copy(source: View, out: View, dtype: str = "float16") -> Layer:
    return layer("movement", [call("copy", (0,), out.shape, dtype)], [source], out)


@pytest.mark.parametrize("target", ["npu-v1", "npu-edge", "tiny", "plain"])
@pytest.mark.parametrize("shape", [(2, 5, 7, 19), (1, 4096), (13, 1), (3, 64, 64)])
def test_two_tensors(shape: tuple[int, ...], target: str) -> None:
    network = Network()
    made = add_relu(network, network.source("a", shape), network.source("b", shape), network.result("y", shape))
    check_layer(network, made, part(target), llvm=target == "npu-edge")


@pytest.mark.parametrize("small", [(19,), (7, 1), (5, 1, 19), (2, 1, 7, 1), (1, 1, 1, 1)])
@pytest.mark.parametrize("target", ["four", "npu-edge"])
def test_broadcasts(small: tuple[int, ...], target: str) -> None:
    network = Network()
    shape = (2, 5, 7, 19)
    right = repeated(network.source("b", small), shape)
    check_layer(
        network,
        add_relu(network, network.source("a", shape), right, network.result("y", shape)),
        part(target),
        llvm=True,
    )


def test_constant_operand() -> None:
    network = Network()
    shape = (3, 6, 21)
    right = repeated(network.given("b", (6, 21)), shape)
    check_layer(
        network,
        add_relu(network, network.source("a", shape), right, network.result("y", shape)),
        part("four"),
        llvm=True,
    )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int32"])
def test_dtypes(dtype: str) -> None:
    network = Network()
    shape = (5, 37)
    made = add_relu(
        network,
        network.source("a", shape, dtype),
        network.source("b", shape, dtype),
        network.result("y", shape, dtype),
        dtype,
    )
    check_layer(network, made, part("npu-v1"), llvm=dtype != "bfloat16")


def test_dense_rows_that_are_not_aligned() -> None:
    """Model inputs and outputs have no padding between rows: everything is one long row."""
    network = Network()
    shape = (7, 11, 13)
    made = add_relu(
        network,
        network.source("a", shape, dense=True),
        network.source("b", shape, dense=True),
        network.result("y", shape, role="output"),
    )
    names = check_layer(network, made, part("npu-edge"), llvm=True).opcodes()
    assert sum(n for name, n in names.items() if name.startswith("load")) == 2 * names["store"]


def test_dense_and_padded_operands_together() -> None:
    network = Network()
    shape = (7, 11, 13)
    made = add_relu(
        network, network.source("a", shape, dense=True), network.source("b", shape), network.result("y", shape)
    )
    check_layer(network, made, part("npu-edge"), llvm=True)


def test_long_chain() -> None:
    """tanh(x * 2 + b) * sigmoid(x) - c, its temporaries in L1."""
    network = Network()
    shape = (4, 9, 40)
    x, b = network.source("x", shape), repeated(network.given("b", (40,)), shape)
    calls = [
        call("multiply", (0, ("const", 2.0)), shape),
        call("add", ("%0", 1), shape),
        call("tanh", ("%1",), shape),
        call("sigmoid", (0,), shape),
        call("multiply", ("%2", "%3"), shape),
        call("subtract", ("%4", ("const", 0.25)), shape),
    ]
    check_layer(
        network,
        layer("elementwise", calls, [x, b], network.result("y", shape), master=5),
        part("npu-edge"),
        llvm=True,
        tolerance=4e-3,
    )


def test_select_and_comparison() -> None:
    network = Network()
    shape = (6, 50)
    a, b = network.source("a", shape), network.source("b", shape)
    calls = [call("greater", (0, 1), shape, "bool"), call("where", ("%0", 0, 1), shape)]
    check_layer(
        network, layer("elementwise", calls, [a, b], network.result("y", shape), master=1), part("npu-edge"), llvm=True
    )


@pytest.mark.parametrize(
    ("source", "result"),
    [("float32", "float16"), ("float16", "float32"), ("int32", "float32"), ("float32", "int32"), ("uint8", "float16")],
)
def test_casts(source: str, result: str) -> None:
    network = Network()
    shape = (5, 33)
    made = layer(
        "elementwise",
        [call("astype", (0,), shape, result)],
        [network.source("a", shape, source)],
        network.result("y", shape, result),
    )
    check_layer(network, made, part("npu-v1"), llvm=True)


def test_slices_and_strides() -> None:
    network = Network()
    left = part_of(network.source("a", (1, 12, 12, 32)), (0, 1, 0, 16), (1, 5, 6, 16), (1, 2, 2, 1))
    right = network.source("b", (1, 5, 6, 16))
    out = part_of(network.result("y", (1, 5, 6, 48)), (0, 0, 0, 32), (1, 5, 6, 16))
    check_layer(network, add_relu(network, left, right, out), part("four"), llvm=True)


def test_smaller_tiles_by_rank() -> None:
    network = Network()
    shape = (64, 1000)
    made = add_relu(network, network.source("a", shape), network.source("b", shape), network.result("y", shape))
    graph = network.graph(made)
    texts = [lower_elementwise_layer(made, graph, part("tiny"), rank=r).tiling for r in range(3)]
    assert len(set(texts)) == 3
    check_layer(network, made, part("tiny"), rank=2, seeds=(1,))


def test_operator_without_expression_is_refused() -> None:
    network = Network()
    made = layer(
        "elementwise", [call("frobnicate", (0,), (4, 4))], [network.source("a", (4, 4))], network.result("y", (4, 4))
    )
    with pytest.raises(Infeasible, match=r"\[lower.expression\] operator frobnicate: 1 needed, 0 available"):
        lower_elementwise_layer(made, network.graph(made), part("npu-edge"))


# ---- copies --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("axes", [(0, 1, 2), (1, 0, 2), (0, 2, 1), (2, 1, 0), (2, 0, 1), (1, 2, 0)])
@pytest.mark.parametrize("target", ["four", "npu-edge"])
def test_permutations(axes: tuple[int, int, int], target: str) -> None:
    network = Network()
    source = permuted(network.source("x", (5, 21, 37)), axes)
    check_layer(network, copy(source, network.result("y", source.shape)), part(target), llvm=True)


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_large_transposition(dtype: str) -> None:
    network = Network()
    source = permuted(network.source("x", (131, 257), dtype), (1, 0))
    check_layer(network, copy(source, network.result("y", source.shape, dtype), dtype), part("npu-v1"))


@pytest.mark.parametrize("target", ["four", "tiny"])
def test_image_layouts(target: str) -> None:
    """A model's image, channel first, to channel last and back."""
    network = Network()
    source = permuted(network.source("x", (2, 3, 19, 23), dense=True), (0, 2, 3, 1))
    check_layer(network, copy(source, network.result("y", (2, 19, 23, 3))), part(target), llvm=True)
    network = Network()
    source = permuted(network.source("x", (2, 19, 23, 5)), (0, 3, 1, 2))
    check_layer(network, copy(source, network.result("y", (2, 5, 19, 23), role="output")), part(target), llvm=True)


def test_concatenation_of_channels() -> None:
    network = Network()
    source = network.source("x", (1, 6, 7, 24))
    out = part_of(network.result("y", (1, 6, 7, 80)), (0, 0, 0, 17), (1, 6, 7, 24))
    check_layer(network, copy(source, out), part("four"), llvm=True)


def test_nearest_enlargement() -> None:
    """Each pixel twice in both directions: strides of 0."""
    network = Network()
    whole = network.source("x", (1, 5, 6, 24))
    n, h, w, c = whole.strides
    source = View("x", (1, 5, 2, 6, 2, 24), (n, h, (0, 0), w, (0, 0), c))
    y = network.result("y", (1, 10, 12, 24))
    steps = (y.strides[0], (y.strides[1][0] * 2, 0), y.strides[1], (y.strides[2][0] * 2, 0), y.strides[2], y.strides[3])
    check_layer(network, copy(source, View("y", source.shape, steps)), part("npu-edge"), llvm=True)


def test_every_second_column() -> None:
    """Columns that are not neighbours, as a channel shuffle reads them."""
    network = Network()
    source = part_of(network.source("x", (1, 6, 5, 48)), (0, 0, 0, 1), (1, 6, 5, 24), (1, 1, 1, 2))
    check_layer(network, copy(source, network.result("y", (1, 6, 5, 24))), part("npu-edge"), llvm=True)


def test_every_second_pixel_of_an_image_plane() -> None:
    """Space to depth: strided columns of a dense image."""
    network = Network()
    source = part_of(network.source("x", (1, 3, 16, 16), dense=True), (0, 0, 1, 0), (1, 3, 8, 8), (1, 1, 2, 2))
    check_layer(network, copy(source, network.result("y", (1, 3, 8, 8))), part("npu-edge"), llvm=True)


def test_splitting_of_rows() -> None:
    """A dense tensor seen with another last dimension."""
    network = Network()
    source = View("x", (6, 10, 4), ((0, 40), (0, 4), (0, 1)))
    network.source("x", (6, 40), dense=True)
    check_layer(network, copy(source, network.result("y", (6, 10, 4))), part("npu-edge"), llvm=True)


# ---- copies by lanes -----------------------------------------------------------------------------------------
def by_lanes(network: Network, made: Layer, target: str, **options: bool) -> str:
    """The tiling of a copy that goes by lanes, checked."""
    kernel = lower_copy_layer(made, network.graph(made), part(target))
    assert kernel.tiling.startswith("LaneTiling"), kernel.tiling
    check_kernel(network, made, kernel, part(target), **options)
    return kernel.tiling


@pytest.mark.parametrize(
    ("target", "dtype"),
    [*((t, "float16") for t in ("npu-v1", "npu-v2", "npu-bench", "four")), ("plain", "float32"), ("npu-v1", "float32")],
)
def test_channel_shuffle(target: str, dtype: str) -> None:
    """Channels (4, 28) of a pixel to (28, 4): neither row is long, but there are many pixels."""
    network = Network()
    network.source("x", (1, 39, 34, 112), dtype)
    source = View("x", (1, 39, 34, 28, 4), ((1326, 0), (34, 0), (1, 0), (0, 1), (0, 28)))
    network.result("y", (1, 39, 34, 112), dtype)
    out = View("y", source.shape, ((1326, 0), (34, 0), (1, 0), (0, 4), (0, 1)))
    by_lanes(network, copy(source, out, dtype), target, llvm=target == "four")


@pytest.mark.parametrize("target", ["npu-edge", "plain"])
@pytest.mark.parametrize("channels", [3, 5])
def test_planes_of_an_image_by_lanes(target: str, channels: int) -> None:
    """Few planes to pixels of as many channels."""
    network = Network()
    source = permuted(network.source("x", (1, channels, 48, 64), dense=True), (0, 2, 3, 1))
    by_lanes(network, copy(source, network.result("y", (1, 48, 64, channels), dense=True)), target)


@pytest.mark.parametrize("channels", [3, 5])
def test_pixels_to_planes_by_lanes(channels: int) -> None:
    network = Network()
    source = permuted(network.source("x", (1, 48, 64, channels), dense=True), (0, 3, 1, 2))
    by_lanes(network, copy(source, network.result("y", (1, channels, 48, 64), role="output")), "plain")


@pytest.mark.parametrize(("source_dtype", "dtype"), [("float16", "float32"), ("float32", "float16")])
@pytest.mark.parametrize("target", ["npu-edge", "npu-v2", "plain"])
@pytest.mark.parametrize("channels", [3, 40])
@pytest.mark.parametrize("last", [True, False])
def test_copies_that_cast(source_dtype: str, dtype: str, target: str, channels: int, last: bool) -> None:
    """Planes to pixels and back, in another type: by lanes, by transposing loads, or on the vector engine."""
    network = Network()
    shape = (1, channels, 24, 32) if last else (1, 24, 32, channels)
    source = permuted(network.source("x", shape, source_dtype, dense=True), (0, 2, 3, 1) if last else (0, 3, 1, 2))
    result = network.result("y", source.shape, dtype, dense=True)
    calls = [call("copy", (0,), source.shape, source_dtype), call("astype", ("%0",), source.shape, dtype)]
    check_layer(network, layer("movement", calls, [source], result), part(target), llvm=target == "plain")


def test_rows_that_stay_are_cast() -> None:
    network = Network()
    source = part_of(network.source("x", (1, 6, 7, 24)), (0, 1, 0, 0), (1, 5, 7, 24))
    calls = [call("copy", (0,), source.shape), call("astype", ("%0",), source.shape, "float32")]
    made = layer("movement", calls, [source], network.result("y", source.shape, "float32"))
    check_layer(network, made, part("four"), llvm=True)


def test_transposing_loads_where_they_are_faster() -> None:
    network = Network()
    source = permuted(network.source("x", (1, 32, 32, 64), dense=True), (0, 2, 3, 1))
    run = check_layer(network, copy(source, network.result("y", (1, 32, 64, 32))), part("npu-bench"))
    assert "load_transpose" in run.opcodes() and "transpose" not in run.opcodes()


def test_steps_within_a_lane() -> None:
    """Every third pixel of planes: what lies between is loaded and left out."""
    network = Network()
    whole = part_of(network.source("x", (1, 4, 32, 96), dense=True), (0, 0, 0, 2), (1, 4, 32, 32), (1, 1, 1, 3))
    source = permuted(whole, (0, 2, 3, 1))
    by_lanes(network, copy(source, network.result("y", (1, 32, 32, 4), dense=True)), "npu-bench", llvm=True)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "bool", "int32", "bfloat16"])
def test_shuffles_of_other_types(dtype: str) -> None:
    network = Network()
    network.source("x", (1, 39, 34, 112), dtype)
    source = View("x", (1, 39, 34, 28, 4), ((1326, 0), (34, 0), (1, 0), (0, 1), (0, 28)))
    network.result("y", (1, 39, 34, 112), dtype)
    out = View("y", source.shape, ((1326, 0), (34, 0), (1, 0), (0, 4), (0, 1)))
    made = copy(source, out, dtype)
    by_lanes(network, made, "npu-v1")
    again = lower_copy_layer(made, network.graph(made), part("npu-v1"), rank=1)
    assert again.tiling.startswith("TileSpace")


def test_the_direct_way_where_rows_are_long() -> None:
    network = Network()
    source = permuted(network.source("x", (256, 512)), (1, 0))
    made = copy(source, network.result("y", (512, 256)))
    assert lower_copy_layer(made, network.graph(made), part("npu-v1")).tiling.startswith("TileSpace")


def test_lanes_do_not_walk_backwards_or_repeat() -> None:
    network = Network()
    network.source("x", (64, 64), dense=True)
    for strides in (((0, -1), (0, 64)), ((0, 0), (0, 64))):
        source = View("x", (4, 64), strides, (0, 3))
        made = copy(source, network.result("y", (4, 64)))
        assert not lower_copy_layer(made, network.graph(made), part("npu-v1")).tiling.startswith("LaneTiling")


def test_copy_that_does_not_fit() -> None:
    network = Network()
    source = permuted(network.source("x", (64, 64)), (1, 0))
    made = copy(source, network.result("y", (64, 64)))
    target = changed(part("tiny"), **{"memory.l1.size": 1024, "memory.l1.banks": 1})
    with pytest.raises(Infeasible, match=r"\[lower.transpose_kernel\] l1: \d+ needed, 1024 available"):
        lower_copy_layer(made, network.graph(made), target)


# ---- views ---------------------------------------------------------------------------------------------------
def addresses(view: View, pitch: int) -> list[int]:
    """Element addresses in the order of the view."""
    grid = np.indices(view.shape).reshape(len(view.shape), -1)
    rows = view.offset[0] + sum(g * s[0] for g, s in zip(grid, view.strides, strict=True))
    columns = view.offset[1] + sum(g * s[1] for g, s in zip(grid, view.strides, strict=True))
    return (rows * pitch + columns).tolist()


def test_neighbours_are_joined() -> None:
    network = Network()
    shape = (4, 5, 6, 16)
    x, y = network.source("x", shape), network.result("y", shape)
    (source,), out = simplify_views([x], y, network.graph(copy(x, y)), part("npu-edge"))
    assert source.shape == out.shape == (4 * 5 * 6 * 16,)


def test_padded_rows_stay_apart_from_columns() -> None:
    network = Network()
    shape = (4, 5, 6, 15)
    x, y = network.source("x", shape), network.result("y", shape)
    (source,), out = simplify_views([x], y, network.graph(copy(x, y)), part("npu-edge"))
    assert source.shape == out.shape == (4 * 5 * 6, 15)


def test_broadcasts_keep_dimensions_apart() -> None:
    network = Network()
    shape = (4, 5, 6, 16)
    x, y = network.source("x", shape), network.result("y", shape)
    b = repeated(network.source("b", (5, 1, 1)), shape)
    views, out = simplify_views([x, b], y, network.graph(copy(x, y)), part("npu-edge"))
    assert out.shape == (4, 5, 96) and {v.shape for v in views} == {out.shape}


@drawn(60)
@given(st.lists(st.sampled_from([1, 2, 3, 16]), min_size=1, max_size=4), st.data())
def test_simplified_views_walk_the_same_elements(shape: Sequence[int], data: st.DataObject) -> None:
    network = Network()
    axes = data.draw(st.permutations(range(len(shape))))
    source = permuted(network.source("x", [shape[axes.index(a)] for a in range(len(shape))]), axes)
    out = network.result("y", tuple(shape))
    target = part("npu-edge")
    graph = network.graph(copy(source, out))
    (small,), small_out = simplify_views([source], out, graph, target)
    assert math.prod(small_out.shape) == math.prod(shape) and len(small_out.shape) <= max(len(shape), 1)

    def walk(view: View, original: View) -> list[int]:
        tensor = graph.tensors[view.tensor]
        pitch = target.pitch(tensor.columns, 2)
        if pitch == tensor.columns:
            return addresses(flattened(view, pitch), pitch)
        return addresses(view, pitch)

    assert walk(small, source) == walk(source, source)
    assert walk(small_out, out) == walk(out, out)


@st.composite
def elementwise_cases(draw: st.DrawFn) -> tuple[list[int], list[list[int]], str]:
    shape = draw(st.lists(st.sampled_from([1, 2, 3, 7, 16, 29]), min_size=1, max_size=4))
    assume(math.prod(shape) <= 10_000)
    smaller = [[n if draw(st.booleans()) else 1 for n in shape] for _ in range(2)]
    return shape, smaller, draw(st.sampled_from(["float16", "float32"]))


@drawn(40)
@given(elementwise_cases(), st.sampled_from(["four", "plain", "narrow", "tiny", "npu-v2"]))
def test_any_broadcast(case: tuple[list[int], list[list[int]], str], target: str) -> None:
    shape, smaller, dtype = case
    network = Network()
    operands = [repeated(network.source(f"x{i}", s, dtype), shape) for i, s in enumerate([shape, *smaller])]
    calls = [call("multiply", (0, 1), shape, dtype), call("add", ("%0", 2), shape, dtype)]
    made = layer("elementwise", calls, operands, network.result("y", shape, dtype), master=1)
    check_layer(network, made, part(target), seeds=(1,), retries=7)


@st.composite
def copy_cases(draw: st.DrawFn) -> tuple[list[int], list[int], list[int], list[int]]:
    shape = draw(st.lists(st.sampled_from([1, 2, 5, 16, 33]), min_size=2, max_size=4))
    assume(math.prod(shape) <= 10_000)
    axes = draw(st.permutations(range(len(shape))))
    before, behind = ([draw(st.sampled_from([0, 0, 1, 3])) for _ in shape] for _ in range(2))
    return shape, list(axes), before, behind


@drawn(40)
@given(
    copy_cases(), st.sampled_from(["float16", "float32", "int8"]), st.sampled_from(["four", "plain", "tiny", "npu-v2"])
)
def test_any_copy(case: tuple[list[int], list[int], list[int], list[int]], dtype: str, target: str) -> None:
    """A slice of a tensor, permuted, into a slice of another."""
    shape, axes, before, behind = case
    network = Network()
    whole = network.source("x", [b + n + e for b, n, e in zip(before, shape, behind, strict=True)], dtype)
    source = permuted(part_of(whole, before, shape), axes)
    larger = [n + b for n, b in zip(source.shape, behind, strict=True)]
    out = part_of(network.result("y", larger, dtype), behind, source.shape)
    check_layer(network, copy(source, out, dtype), part(target), seeds=(1,), retries=7)


# ---- movements that are no copies ----------------------------------------------------------------------------
def right_or_refused(network: Network, made: Layer, target: str) -> None:
    """A layer that no template takes is refused, for the CPU to run; it is never computed wrongly."""
    try:
        kernel = lower_layer(made, network.graph(made), part(target))
    except Infeasible as reason:
        assert made.calls[0].op in reason.limit
        return
    check_kernel(network, made, kernel, part(target))


@pytest.mark.parametrize("mode", ["constant", "reflect", "edge"])
@pytest.mark.parametrize("target", ["four", "npu-edge"])
def test_padding(mode: str, target: str) -> None:
    network = Network()
    x, y = network.source("x", (1, 5, 6, 16)), network.result("y", (1, 8, 9, 16))
    made = call("nn.pad", (0,), y.shape, pad_width=(0, 0, 1, 2, 2, 1, 0, 0), pad_value=0.5, pad_mode=mode)
    right_or_refused(network, layer("movement", [made], [x], y), target)


@pytest.mark.parametrize("axis", [1, 3])
def test_reversal(axis: int) -> None:
    network = Network()
    x, y = network.source("x", (1, 5, 6, 16)), network.result("y", (1, 5, 6, 16))
    right_or_refused(network, layer("movement", [call("flip", (0,), y.shape, axis=axis)], [x], y), "npu-edge")
