"""Constants as kernels read them: weights cut into the chunks of the tiling, biases in the dtype of the sums."""

from __future__ import annotations

import numpy as np

from dsa_compiler.lower.matrix_plan import MatrixPlan


def chunk_weights(weights: np.ndarray, kernel: MatrixPlan) -> np.ndarray:
    """Weights [batches, kh, kw, c, n] as [batches, n chunks, k chunks, k, pitch of n], filled up with zeros.

    The taps of a diagonal problem, [1, kh, kw, 1, n], have a row for each tap of a k chunk.
    """
    batches, _, _, channels, columns = weights.shape
    t = kernel.t
    c_blocks, h_blocks, w_blocks = kernel.k_blocks
    c = 1 if kernel.p.diagonal else t.c
    wide = np.zeros((*weights.shape[:3], c_blocks * c, kernel.chunks * t.n), weights.dtype)
    wide[:, :, :, :channels, :columns] = weights
    split = wide.reshape(batches, h_blocks, t.taps[0], w_blocks, t.taps[1], c_blocks, c, kernel.chunks, t.n)
    ordered = split.transpose(0, 7, 5, 1, 3, 2, 4, 6, 8)
    rows = ordered.reshape(batches, kernel.chunks, c_blocks * h_blocks * w_blocks, t.taps[0] * t.taps[1] * c, t.n)
    result = np.zeros((*rows.shape[:-1], kernel.n_pitch), weights.dtype)
    result[..., : t.n] = rows
    return result


def chunk_bias(bias: np.ndarray, kernel: MatrixPlan) -> np.ndarray:
    """A bias [batches, n] as [batches, n chunks, n] of the accumulator's dtype."""
    result = np.zeros((bias.shape[0], kernel.chunks * kernel.t.n), np.dtype(kernel.p.accumulator))
    result[:, : bias.shape[1]] = bias
    return result.reshape(bias.shape[0], kernel.chunks, kernel.t.n)
