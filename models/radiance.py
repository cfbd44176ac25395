"""A radiance field (NeRF): positions along rays, encoded by sines, to colours by volume rendering."""

from __future__ import annotations

import numpy as np
from onnx import ModelProto

from models.builder import GraphBuilder, Tensor

FREQUENCIES = 6


def nerf_small(
    batch: int = 1, *, rays: int = 64, samples: int = 32, hidden: int = 64, layers: int = 3, seed: int = 15
) -> ModelProto:
    """Inputs points [batch * rays, samples, 3] and distances [batch * rays, samples]; output colour [batch * rays,
    3]."""
    build = GraphBuilder("nerf_small", seed)
    points = build.input("points", (batch * rays, samples, 3))
    steps = build.unary("Abs", build.input("distances", (batch * rays, samples)))
    code = _encode(build, points)
    x = build.relu(build.linear(code, hidden))
    for layer in range(1, layers):
        x = build.concat([x, code], 2) if layer == layers // 2 else x
        x = build.relu(build.linear(x, hidden, after="relu"))
    colour = build.sigmoid(build.linear(x, 3, after="relu", scale=2.0))
    density = build.unary("Softplus", build.linear(x, 1, after="relu"))
    depth = build.mul(build.reshape(density, steps.shape), build.mul(steps, build.scalar(0.2)))
    return build.output("colour", _render(build, depth, colour))


def _encode(build: GraphBuilder, points: Tensor) -> Tensor:
    """The points, and sine and cosine of each coordinate times each power of two."""
    scale = np.kron(2.0 ** np.arange(FREQUENCIES), np.eye(3)).astype(np.float32)
    angles = build.matmul(points, build.constant("octaves", scale))
    angles = Tensor(angles.name, (*points.shape[:2], 3 * FREQUENCIES))
    return build.concat([points, build.unary("Sin", angles), build.unary("Cos", angles)], 2)


def _render(build: GraphBuilder, depth: Tensor, colour: Tensor) -> Tensor:
    """Weights exp(-depth before) * (1 - exp(-depth)) of each sample, and the sum of its colours."""
    before = build.node("CumSum", [depth, build.indices(1)], depth.shape, exclusive=1)
    reached = build.unary("Exp", build.unary("Neg", before))
    stopped = build.binary("Sub", build.scalar(1.0), build.unary("Exp", build.unary("Neg", depth)))
    weight = build.reshape(build.mul(reached, stopped), (*depth.shape, 1))
    return build.reshape(build.reduce("ReduceSum", build.mul(weight, colour), 1), (depth.shape[0], 3))
