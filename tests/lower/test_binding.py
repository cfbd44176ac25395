"""How kernels reach tensors in ddr: indices against the definition of a view."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tvm import tirx

from dsa_compiler.assemble.evaluate import evaluate
from dsa_compiler.graph.layers import LayerGraph, Tensor
from dsa_compiler.graph.views import View
from dsa_compiler.lower.binding import (
    constant_parameter,
    materialize,
    reach,
    row_pitch,
    stored_bytes,
    varying,
)
from tests.lower.drawing import drawn
from tests.lower.networks import Network, part_of, permuted, repeated
from tests.lower.parts import part

TARGET = part("npu-edge")


def tensor(shape: Sequence[int], role: str = "activation", dense: bool = False, dtype: str = "float16") -> Tensor:
    value = np.zeros(shape, dtype) if role == "constant" else None
    return Tensor("t", tuple(shape), dtype, role, value, dense)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("made", "pitch", "size"),
    [
        (tensor((3, 5, 17)), 32, 3 * 5 * 32 * 2),
        (tensor((3, 5, 16)), 16, 3 * 5 * 16 * 2),
        (tensor((3, 5, 17), dense=True), 17, 3 * 5 * 17 * 2),
        (tensor((3, 5, 17), role="input"), 17, 3 * 5 * 17 * 2),
        (tensor((3, 5, 17), role="output"), 17, 3 * 5 * 17 * 2),
        (tensor((3, 5, 17), role="constant"), 17, 3 * 5 * 17 * 2),
        (tensor((7,), dtype="float32"), 8, 32),
        (tensor((), dtype="float32"), 8, 32),
        (tensor((33, 1), dtype="int8"), 32, 33 * 32),
    ],
)
def test_storage(made: Tensor, pitch: int, size: int) -> None:
    assert row_pitch(made, TARGET) == pitch
    assert stored_bytes(made, TARGET) == size


def require_same_walk(view: View, graph: LayerGraph) -> None:
    """The elements that `reach` indexes are those of the view's definition, in one flat memory."""
    stored = graph.tensors[view.tensor]
    pitch = row_pitch(stored, TARGET)
    place = reach("b", view, graph, TARGET)
    shape = [int(s) for s in place.buffer.shape]
    assert str(place.buffer.dtype) == stored.dtype and int(np.prod(shape)) >= stored.size // stored.columns * pitch
    variables = [tirx.Var(f"v{d}", "int64") for d in range(len(view.shape))]
    grid = np.indices(view.shape).reshape(len(view.shape), -1).astype(np.int64)
    environment = dict(zip(variables, grid, strict=True))
    indices = [np.broadcast_to(evaluate(e, environment), grid.shape[1:]) for e in place.index(variables)]
    assert len(indices) == len(shape)
    for index, extent in zip(indices, shape, strict=True):
        assert index.min() >= 0 and index.max() < extent
    actual = np.ravel_multi_index(indices, shape)
    row = view.offset[0] + sum(g * s[0] for g, s in zip(grid, view.strides, strict=True))
    column = view.offset[1] + sum(g * s[1] for g, s in zip(grid, view.strides, strict=True))
    assert np.array_equal(actual, row * pitch + column)


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("columns", [16, 19])
def test_whole_slice_permutation_and_repetition(columns: int, dense: bool) -> None:
    network = Network()
    shape = (2, 3, 5, columns)
    whole = network.source("x", shape, dense=dense)
    graph = LayerGraph(network.tensors, (), ("x",), ())
    views = [
        whole,
        part_of(whole, (0, 0, 0, 3), (2, 3, 5, 8)),
        part_of(whole, (0, 1, 1, 0), (2, 2, 2, columns), (1, 1, 2, 1)),
        permuted(whole, (2, 0, 1, 3)),
        permuted(whole, (3, 0, 1, 2)),
        repeated(part_of(whole, (0, 0, 0, 0), (1, 1, 5, 1)), (2, 3, 5, 8)),
        part_of(whole, (1, 2, 4, columns - 1), (1, 1, 1, 1)),
    ]
    for view in views:
        require_same_walk(view, graph)


def test_rows_keep_their_dimensions() -> None:
    """A whole tensor is indexed by its own dimensions, so that emission sees plain axes."""
    network = Network()
    place = reach("b", network.source("x", (2, 3, 17)), network.graph_of(), TARGET)
    assert [int(s) for s in place.buffer.shape] == [2, 3, 32]


@drawn(80)
@given(st.lists(st.sampled_from([1, 2, 3, 8, 17]), min_size=1, max_size=4), st.booleans(), st.data())
def test_any_view(shape: list[int], dense: bool, data: st.DataObject) -> None:
    network = Network()
    whole = network.source("x", shape, dense=dense)
    begin = [data.draw(st.integers(0, n - 1)) for n in shape]
    step = [data.draw(st.integers(1, 2)) for _ in shape]
    extents = [data.draw(st.integers(1, (n - b - 1) // s + 1)) for n, b, s in zip(shape, begin, step, strict=True)]
    view = permuted(part_of(whole, begin, extents, step), data.draw(st.permutations(range(len(shape)))))
    require_same_walk(view, network.graph_of())


def test_varying_dimensions() -> None:
    network = Network()
    whole = network.source("x", (2, 1, 5, 16))
    assert varying(whole) == {0, 2, 3}
    assert varying(repeated(part_of(whole, (0, 0, 0, 0), (1, 1, 5, 1)), (2, 1, 5, 16))) == {2}


def test_values_of_views_of_constants() -> None:
    network = Network()
    values = np.arange(24, dtype=np.float16).reshape(2, 3, 4)
    whole = network.given("w", (2, 3, 4), values=values)
    stored = network.tensors["w"]
    assert np.array_equal(materialize(permuted(whole, (2, 0, 1)), stored), values.transpose(2, 0, 1))
    assert np.array_equal(materialize(part_of(whole, (0, 1, 2), (2, 2, 2)), stored), values[:, 1:, 2:])
    assert np.array_equal(
        materialize(repeated(part_of(whole, (0, 0, 0), (2, 1, 1)), (2, 3, 2)), stored),
        np.broadcast_to(values[:, :1, :1], (2, 3, 2)),
    )


def test_constants_of_kernels() -> None:
    made = constant_parameter("c", np.arange(6).reshape(2, 3).astype(np.float32), "float32")
    assert [int(s) for s in made.buffer.shape] == [2, 3] and made.tensor == "" and not made.written
    scalar = constant_parameter("c", np.float32(3.0) * np.ones((), np.float32), "float32")
    assert scalar.value is not None and scalar.value.shape == (1,)
