"""Small networks drawn from a seed, with a batch: convolutional ones and transformers."""

from __future__ import annotations

import numpy as np
from onnx import ModelProto

from models.bert import encoder_layer
from models.builder import GraphBuilder, Tensor, Window


def random_cnn(seed: int, batch: int) -> ModelProto:
    """Convolutions, depthwise ones, residual sums, branches, pools and a head, in a drawn order and of drawn sizes."""
    rng = np.random.default_rng(seed)
    build = GraphBuilder(f"random_cnn_{seed}", seed)
    x = build.input("input", (batch, int(rng.choice([3, 8])), *[int(rng.choice([9, 16, 20]))] * 2))
    x = build.relu(build.conv_bn(x, int(rng.choice([8, 16, 24])), Window(3, 1, 1), after="none"))
    for _ in range(int(rng.integers(2, 6))):
        x = _block(build, x, rng)
    return build.output("output", build.gemm(build.global_pool(x), int(rng.choice([5, 10, 16])), scale=2.0))


def _block(build: GraphBuilder, x: Tensor, rng: np.random.Generator) -> Tensor:
    channels = x.shape[1]
    kind = str(rng.choice(["wide", "residual", "depthwise", "pool", "branches", "excite"]))
    if kind == "residual":
        y = build.relu(build.conv_bn(x, channels, Window(3, 1, 1)))
        return build.relu(build.add(x, build.conv_bn(y, channels, Window(3, 1, 1), scale=0.5)))
    if kind == "depthwise":
        return build.relu6(build.conv_bn(x, channels, Window(3, int(rng.choice([1, 2])), 1), groups=channels))
    if kind == "pool" and x.shape[2] >= 4:
        pool = build.max_pool if rng.integers(2) else build.average_pool
        return pool(x, Window(2, 2))
    if kind == "branches":
        parts = [build.relu(build.conv_bn(x, int(rng.choice([8, 16])), Window(1))), x]
        return build.concat(parts, 1)
    if kind == "excite":
        squeezed = build.global_pool(x)
        gate = build.sigmoid(build.gemm(squeezed, channels))
        return build.mul(x, build.reshape(gate, (x.shape[0], channels, 1, 1)))
    return build.relu(build.conv_bn(x, int(rng.choice([16, 32])), Window(3, int(rng.choice([1, 2])), 1)))


def random_transformer(seed: int, batch: int) -> ModelProto:
    """Encoder layers of drawn width, heads and sequence, with or without a mask; a head on the first token or all."""
    rng = np.random.default_rng(seed)
    build = GraphBuilder(f"random_transformer_{seed}", seed)
    heads = int(rng.choice([1, 2, 4]))
    width = heads * int(rng.choice([8, 16, 24]))
    sequence = int(rng.choice([5, 16, 24, 33]))
    x = build.input("input", (batch, sequence, width))
    mask = None
    if rng.integers(2):
        mask = build.input("mask", (batch, 1, 1, sequence))
    for _ in range(int(rng.integers(1, 3))):
        x = encoder_layer(build, x, heads, int(rng.choice([32, 48])), mask)
    if rng.integers(2):
        x = build.reshape(build.slice(x, 1, 0, 1), (batch, width))
        return build.output("output", build.gemm(x, 7))
    return build.output("output", x)
