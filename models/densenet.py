"""DenseNet-121, 1000 classes."""

from __future__ import annotations

from onnx import ModelProto

from models.builder import GraphBuilder, Tensor, Window

BLOCKS = (6, 12, 24, 16)
GROWTH = 32


def densenet121(
    batch: int = 1, *, image: int = 224, classes: int = 1000, seed: int = 121, fold_batch_norm: bool = True
) -> ModelProto:
    """DenseNet-121: input [batch, 3, image, image], output logits [batch, classes].

    Batch norms of concatenated features follow no convolution and stay in the graph in any case.
    """
    build = GraphBuilder("densenet121", seed, fold_batch_norm)
    x = build.input("input", (batch, 3, image, image))
    x = build.relu(build.conv_bn(x, 64, Window(7, 2, 3), after="none"))
    x = build.max_pool(x, Window(3, 2, 1))
    for index, depth in enumerate(BLOCKS):
        x = _transition(build, x) if index else x
        for _ in range(depth):
            x = dense_layer(build, x)
    x = build.relu(build.batch_norm(x))
    return build.output("output", build.gemm(build.global_pool(x), classes, scale=2.0))


def dense_layer(build: GraphBuilder, x: Tensor) -> Tensor:
    """x [N, C, H, W] and GROWTH new channels computed from all of it."""
    y = build.relu(build.batch_norm(x))
    y = build.relu(build.conv_bn(y, 4 * GROWTH, Window(1)))
    y = build.convolution(y, GROWTH, Window(3, 1, 1), bias=False)
    return build.concat([x, y], axis=1)


def _transition(build: GraphBuilder, x: Tensor) -> Tensor:
    """Half the channels and half the pixels along each axis."""
    y = build.relu(build.batch_norm(x))
    y = build.convolution(y, x.shape[1] // 2, Window(1), bias=False)
    return build.average_pool(y, Window(2, 2))
