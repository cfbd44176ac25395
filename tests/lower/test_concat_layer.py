"""Concatenations of copied pieces as one kernel, against the copies that they stand for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from dsa_compiler.errors import Infeasible
from dsa_compiler.graph.join_copies import join_copies
from dsa_compiler.graph.layers import Layer, LayerGraph
from dsa_compiler.lower.concat_layer import lower_concat_layer
from tests.lower.drawing import drawn
from tests.lower.networks import Network, call, check_kernel, layer, part_of
from tests.lower.parts import changed, part


def joined(
    network: Network, shape: Sequence[int], axis: int, sizes: Sequence[int], dtype: str = "float16", dense: bool = False
) -> tuple[Layer, LayerGraph]:
    """Pieces of `sizes` along `axis` of a tensor whose other extents are those of `shape`; one layer, and its graph."""
    whole = network.result("y", [sum(sizes) if d == axis else n for d, n in enumerate(shape)], dtype)
    copies, begin = [], [0] * len(shape)
    for number, size in enumerate(sizes):
        extents = [size if d == axis else n for d, n in enumerate(shape)]
        source = network.source(f"x{number}", extents, dtype, dense=dense)
        out = part_of(whole, begin, extents)
        copies.append(
            replace(layer("movement", [call("copy", (0,), extents, dtype)], [source], out), name=f"c{number}")
        )
        begin[axis] += size
    graph = LayerGraph(network.tensors, tuple(copies), tuple(network.values), ("y",))
    (made,) = join_copies(graph).layers
    assert made.kind == "concat" and made.parts == tuple(copies)
    return made, graph


@pytest.mark.parametrize("target", ["npu-v1", "npu-edge", "npu-bench", "plain"])
@pytest.mark.parametrize(("axis", "sizes"), [(3, (16, 24)), (3, (3, 1, 5)), (2, (4, 7)), (1, (2, 2, 3)), (0, (1, 2))])
def test_axes(axis: int, sizes: tuple[int, ...], target: str) -> None:
    network = Network()
    made, graph = joined(network, (2, 5, 6, 19), axis, sizes)
    check_kernel(network, made, lower_concat_layer(made, graph, part(target)), part(target), llvm=target == "npu-edge")


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_dtypes(dtype: str) -> None:
    network = Network()
    made, graph = joined(network, (3, 4, 8), 2, (33, 8, 1), dtype)
    check_kernel(network, made, lower_concat_layer(made, graph, part("four")), part("four"), llvm=True)


def test_dense_pieces() -> None:
    network = Network()
    made, graph = joined(network, (3, 7, 8), 2, (5, 11), dense=True)
    check_kernel(network, made, lower_concat_layer(made, graph, part("npu-edge")), part("npu-edge"), llvm=True)


def test_smaller_tiles_by_rank() -> None:
    network = Network()
    made, graph = joined(network, (1, 40, 40, 64), 3, (64, 64))
    kernels = [lower_concat_layer(made, graph, part("narrow"), rank=r) for r in range(3)]
    assert len({k.tiling for k in kernels}) == 3
    check_kernel(network, made, kernels[2], part("narrow"), seeds=(1,))


def test_rows_that_do_not_fit() -> None:
    network = Network()
    made, graph = joined(network, (2, 8), 1, (4096, 4096))
    target = changed(part("tiny"), **{"memory.l1.size": 4096, "memory.l1.banks": 1})
    with pytest.raises(Infeasible, match=r"^\[lower.tile_kernel\] l1: \d+ needed, 4096 available$"):
        lower_concat_layer(made, graph, target)


@drawn(30)
@given(
    st.lists(st.sampled_from([1, 2, 5, 16, 29]), min_size=2, max_size=4),
    st.data(),
    st.sampled_from(["float16", "float32", "int8"]),
    st.sampled_from(["four", "plain", "npu-edge", "npu-v2"]),
)
def test_any_pieces(shape: list[int], data: st.DataObject, dtype: str, target: str) -> None:
    axis = data.draw(st.integers(0, len(shape) - 1))
    sizes = data.draw(st.lists(st.sampled_from([1, 3, 8, 16, 33]), min_size=2, max_size=4))
    total = 1
    for d, n in enumerate(shape):
        total *= sum(sizes) if d == axis else n
    assume(total <= 20_000)
    network = Network()
    made, graph = joined(network, shape, axis, sizes, dtype)
    check_kernel(network, made, lower_concat_layer(made, graph, part(target)), part(target), seeds=(1,))
