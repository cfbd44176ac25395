"""Weights cut into the chunks of a tiling: every element is where the kernel looks for it, zeros elsewhere."""

from __future__ import annotations

import numpy as np
import pytest

from dsa_compiler.lower.matrix_kernel import MatrixKernel
from dsa_compiler.lower.matrix_problem import MatrixProblem, MatrixTiling
from dsa_compiler.lower.weights import chunk_bias, chunk_weights
from tests.lower.matrix import PLAIN
from tests.lower.parts import part


@pytest.mark.parametrize("taps", [(3, 2), (1, 2), (1, 1)])
@pytest.mark.parametrize(("channels", "c", "outputs", "n"), [(16, 16, 37, 16), (32, 16, 5, 8), (20, 16, 16, 16)])
def test_weights(taps: tuple[int, int], channels: int, c: int, outputs: int, n: int) -> None:
    problem = MatrixProblem(2, 1, 9, 9, channels, 7, 8, outputs, (3, 2))
    tiling = MatrixTiling((1, 1, 1), 7, 8, 1, 8, n, 1, taps, c)
    kernel = MatrixKernel(problem, tiling, PLAIN, part("npu-edge"))
    weights = np.arange(1, 2 * 3 * 2 * channels * outputs + 1, dtype=np.float32).reshape(2, 3, 2, channels, outputs)
    chunks = chunk_weights(weights, kernel)
    assert chunks.shape == (2, kernel.chunks, np.prod(kernel.k_blocks), kernel.k_chunk, kernel.n_pitch)
    found = np.zeros_like(weights)
    for b, kh, kw, k, o in np.ndindex(weights.shape):
        block = ((k // c) * kernel.k_blocks[1] + kh // taps[0]) * kernel.k_blocks[2] + kw // taps[1]
        row = ((kh % taps[0]) * taps[1] + kw % taps[1]) * c + k % c
        found[b, kh, kw, k, o] = chunks[b, o // n, block, row, o % n]
    assert np.array_equal(found, weights)
    assert np.count_nonzero(chunks) == weights.size


def test_bias() -> None:
    problem = MatrixProblem(2, 1, 4, 1, 16, 4, 1, 37)
    kernel = MatrixKernel(problem, MatrixTiling((1, 1, 1), 4, 1, 4, 1, 16, 1, (1, 1), 16), PLAIN, part("npu-edge"))
    bias = np.arange(1, 75, dtype=np.float16).reshape(2, 37)
    chunks = chunk_bias(bias, kernel)
    assert chunks.shape == (2, 3, 16) and chunks.dtype == np.float32
    assert np.array_equal(chunks.reshape(2, -1)[:, :37], bias.astype(np.float32))
    assert not chunks.reshape(2, -1)[:, 37:].any()
