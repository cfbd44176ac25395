"""MobileNet-v2 at width 1.0, 1000 classes."""

from __future__ import annotations

from onnx import ModelProto

from models.builder import GraphBuilder, Tensor, Window

# expansion, output channels, blocks, stride of the first block
STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


def mobilenet_v2(
    batch: int = 1, *, image: int = 224, classes: int = 1000, seed: int = 2, fold_batch_norm: bool = True
) -> ModelProto:
    """MobileNet-v2: input [batch, 3, image, image], output logits [batch, classes]."""
    build = GraphBuilder("mobilenet_v2", seed, fold_batch_norm)
    x = build.input("input", (batch, 3, image, image))
    x = build.relu6(build.conv_bn(x, 32, Window(3, 2, 1), after="none"))
    after = "relu6"
    for expansion, channels, blocks, first_stride in STAGES:
        for index in range(blocks):
            x = inverted_residual(build, x, expansion, channels, first_stride if index == 0 else 1, after)
            after = "none"
    x = build.relu6(build.conv_bn(x, 1280, Window(1), after="none"))
    return build.output("output", build.gemm(build.global_pool(x), classes, scale=2.0))


def inverted_residual(build: GraphBuilder, x: Tensor, expansion: int, channels: int, stride: int, after: str) -> Tensor:
    """Widen by 1x1, filter each channel by 3x3, narrow by 1x1; add x where shapes allow."""
    wide = x.shape[1] * expansion
    y = x if expansion == 1 else build.relu6(build.conv_bn(x, wide, Window(1), after=after))
    y = build.relu6(build.conv_bn(y, wide, Window(3, stride, 1), groups=wide))
    joined = stride == 1 and x.shape[1] == channels
    y = build.conv_bn(y, channels, Window(1), scale=0.5 if joined else 1.0)
    return build.add(x, y) if joined else y
