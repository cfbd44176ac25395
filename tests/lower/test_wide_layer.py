"""64-bit integers in words: casts and copies."""

from __future__ import annotations

import numpy as np
import pytest

from dsa_compiler.compilation import Compilation
from dsa_compiler.graph.layers import LayerGraph, Tensor
from dsa_compiler.graph.views import View, flattened, identity
from dsa_compiler.options import CompileOptions
from dsa_compiler.placing import Placing
from dsa_compiler.simulator.machine import simulate
from tests.lower.networks import call, layer, permuted
from tests.lower.parts import part

PARTS = ("npu-edge", "four", "tiny", "npu-v2")
VALUES = [0, 1, -1, 77, -(2**31), 2**31 - 1, 2**31, -(2**40) - 5, 2**53, 2**62]


def dense(name: str, shape: tuple[int, ...]) -> View:
    return flattened(identity(name, shape), shape[-1] if shape else 1)


def run(op: str, x: np.ndarray, source: View, shape: tuple[int, ...], dtype: str, target: str) -> np.ndarray:
    """The result of one layer from input x to output y, in values; no step may be left to the CPU."""
    made = layer("elementwise" if op == "astype" else "movement", [call(op, (0,), shape, dtype)], [source],
                 dense("y", shape))  # fmt: skip
    tensors = {
        "x": Tensor("x", x.shape, str(x.dtype), "input"),
        "y": Tensor("y", shape, dtype, "output"),
    }
    graph = LayerGraph(tensors, (made,), ("x",), ("y",))
    works = Compilation(graph, part(target), CompileOptions()).compile_layers()
    assert [w.compiled.host_reason for w in works] == [""]
    return simulate(Placing(graph, part(target)).program(works, macs=0, info={}), {"x": x}).outputs["y"]


@pytest.mark.parametrize("target", PARTS)
@pytest.mark.parametrize("shape", [(10,), (1,), (3, 10), (7, 1), (2, 5, 33)])
@pytest.mark.parametrize("dtype", ["int32", "float32", "bool", "uint8"])
def test_casts_of_64_bit_integers(shape, dtype, target):
    x = np.resize(np.array(VALUES, np.int64), shape)
    got = run("astype", x, dense("x", shape), shape, dtype, target)
    np.testing.assert_allclose(got, x.astype(dtype), rtol=1e-6 if dtype == "float32" else 0)


@pytest.mark.parametrize("target", PARTS)
@pytest.mark.parametrize("shape", [(10,), (1,), (3, 10), (7, 1), (2, 5, 33)])
@pytest.mark.parametrize("dtype", ["int32", "float32", "bool", "uint8", "int8", "float16"])
def test_casts_to_64_bit_integers(shape, dtype, target):
    most = {"float32": 2.0**40, "float16": 60000.0, "int32": 2.0**31 - 1}.get(dtype, 120.0)
    x = np.random.default_rng(2).uniform(-most if dtype not in ("bool", "uint8") else 0, most, shape).astype(dtype)
    got = run("astype", x, dense("x", shape), shape, "int64", target)
    np.testing.assert_array_equal(got, x.astype(np.int64))


@pytest.mark.parametrize("target", PARTS)
@pytest.mark.parametrize("dtype", ["int64", "float64", "uint64"])
def test_a_permuted_copy(dtype, target):
    x = np.random.default_rng(2).integers(0, 2**60, (5, 3, 7)).astype(dtype)
    got = run("copy", x, permuted(dense("x", x.shape), (2, 0, 1)), (7, 5, 3), dtype, target)
    np.testing.assert_array_equal(got, x.transpose(2, 0, 1))
