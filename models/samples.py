"""Seeded inputs for the networks of this package, by the rank and dtype of each input."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, TensorProto, ValueInfoProto

Array = npt.NDArray[Any]


def sample_inputs(model: ModelProto, seed: int = 0) -> dict[str, Array]:
    """Random inputs by name: smooth noisy images, standard normal features, row numbers, masks with a tail of zeros,
    positions in order, waves of a few tones.

    Two seeds give images that differ in their large structures, so that pooled features differ as well.
    """
    random = np.random.default_rng(seed)
    rows = _gathered_rows(model)
    return {each.name: _sample(random, each, rows) for each in model.graph.input}


def _sample(random: np.random.Generator, value: ValueInfoProto, rows: int) -> Array:
    tensor = value.type.tensor_type
    shape = tuple(axis.dim_value for axis in tensor.shape.dim)
    if value.name == "position_ids":
        return np.broadcast_to(np.arange(shape[1], dtype=np.int64), shape).copy()
    if value.name == "wave":
        return _wave(random, shape)
    if tensor.elem_type == TensorProto.INT64:
        return random.integers(0, rows, shape, dtype=np.int64)
    if value.name == "attention_mask":
        return _mask(random, shape)
    if len(shape) == 4:
        return _image(random, shape)
    return random.standard_normal(shape, dtype=np.float32)


def _mask(random: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Ones with a tail of zeros in each row; at least half of a row is ones."""
    lengths = random.integers((shape[1] + 1) // 2, shape[1] + 1, (shape[0], 1))
    return (np.arange(shape[1])[None, :] < lengths).astype(np.float32)


def _wave(random: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """A chord of three tones that fades, of unit amplitude, and a little noise."""
    time = np.arange(shape[2])
    pitch = random.uniform(0.01, 1.0, (shape[0], 3, 1))
    chord = np.sin(pitch * time).mean(axis=1, keepdims=True) * np.exp(-time / shape[2])
    return (chord + 0.01 * random.standard_normal(shape)).astype(np.float32)


def _image(random: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Blocks of random colour under white noise, each of about half the variance."""
    batch, channels, height, width = shape
    block = max(1, min(height, width) // 8)
    grid = (batch, channels, -(-height // block), -(-width // block))
    coarse = random.standard_normal(grid, dtype=np.float32).repeat(block, axis=2).repeat(block, axis=3)
    noise = random.standard_normal(shape, dtype=np.float32)
    return (coarse[:, :, :height, :width] + noise) * np.float32(0.7)


def _gathered_rows(model: ModelProto) -> int:
    """Rows of the smallest table that is indexed by a graph input, directly or by a column of it; 1 if none."""
    floats = {each.name: each.dims[0] for each in model.graph.initializer if len(each.dims) == 2}
    gathers = [node for node in model.graph.node if node.op_type == "Gather"]
    return min((floats[node.input[0]] for node in gathers if node.input[0] in floats), default=1)
