"""A U-Net for portraits: PReLU, transposed convolutions, skips; mask and class of every pixel."""

from __future__ import annotations

from onnx import ModelProto, TensorProto

from models.builder import GraphBuilder, Tensor, Window


def unet_small(
    batch: int = 1, *, image: int = 64, classes: int = 4, seed: int = 14, fold_batch_norm: bool = True
) -> ModelProto:
    """Input [batch, 3, image, image]; outputs probabilities [batch, classes, image, image] and class [batch, image,
    image] int64."""
    build = GraphBuilder("unet_small", seed, fold_batch_norm)
    x = _double(build, build.input("input", (batch, 3, image, image)), 16, "none")
    skips = []
    for channels in (32, 64):
        skips.append(x)
        x = _double(build, build.max_pool(x, Window(2, 2)), channels, "relu")
    for skip in reversed(skips):
        x = build.concat([_widen(build, x, skip.shape[1]), skip], 1)
        x = _double(build, x, skip.shape[1], "relu")
    logits = build.convolution(x, classes, Window(1))
    build.output("probabilities", build.unary("Softmax", logits, axis=1))
    return build.output("class", build.place_of("ArgMax", logits, 1), TensorProto.INT64)


def _double(build: GraphBuilder, x: Tensor, channels: int, after: str) -> Tensor:
    """Two 3x3 convolutions, each with batch norm and PReLU."""
    x = _prelu(build, build.conv_bn(x, channels, Window(3, 1, 1), after=after))
    return _prelu(build, build.conv_bn(x, channels, Window(3, 1, 1)))


def _prelu(build: GraphBuilder, x: Tensor) -> Tensor:
    slope = build.constant("slope", build.uniform((x.shape[1], 1, 1), 0.05, 0.4))
    return build.node("PRelu", [x, slope], x.shape)


def _widen(build: GraphBuilder, x: Tensor, channels: int) -> Tensor:
    """A transposed convolution of 2x2 with stride 2."""
    weight = build.constant("weight", build.normal((x.shape[1], channels, 2, 2), x.shape[1] ** -0.5))
    shape = (x.shape[0], channels, 2 * x.shape[2], 2 * x.shape[3])
    return build.node("ConvTranspose", [x, weight], shape, kernel_shape=[2, 2], strides=[2, 2])
