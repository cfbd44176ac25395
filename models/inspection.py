"""Visual inspection: an autoencoder that samples its code, and the distance of its features to known good ones."""

from __future__ import annotations

from onnx import ModelProto, TensorProto

from models.builder import GraphBuilder, Tensor, Window


def inspector(
    batch: int = 1, *, image: int = 32, code: int = 32, prototypes: int = 24, seed: int = 17,
    fold_batch_norm: bool = True,
) -> ModelProto:  # fmt: skip
    """Inputs image [batch, 3, image, image] and noise [batch, code]; outputs the image as the autoencoder sees it, in
    [-1, 1], its distance [batch] to the nearest prototype, that prototype's number [batch] int64 and whether the
    image is good [batch]: 1 where it is near."""
    build = GraphBuilder("inspector", seed, fold_batch_norm)
    x = build.input("image", (batch, 3, image, image))
    for channels, after in ((16, "none"), (32, "relu"), (64, "relu")):
        x = build.unary("Elu", build.conv_bn(x, channels, Window(3, 2, 1), after=after), alpha=1.0)
    flat = build.node("Flatten", [x], (batch, x.shape[1] * x.shape[2] * x.shape[3]), axis=1)
    mean, spread = build.gemm(flat, code), build.gemm(flat, code, scale=0.3)
    deviation = build.unary("Exp", build.mul(spread, build.scalar(0.5)))
    drawn = build.add(mean, build.mul(deviation, build.input("noise", (batch, code))))
    build.output("seen", _decode(build, drawn, x))
    nearest, number = _nearest(build, mean, prototypes)
    build.output("distance", nearest)
    good = build.binary("Less", nearest, build.scalar(0.8))
    build.output("good", build.node("Cast", [good], nearest.shape, to=TensorProto.FLOAT))
    return build.output("prototype", number, TensorProto.INT64)


def _decode(build: GraphBuilder, drawn: Tensor, like: Tensor) -> Tensor:
    """Code to image: a linear layer to the shape of `like`, then three times twice the size."""
    x = build.reshape(build.gemm(drawn, like.shape[1] * like.shape[2] * like.shape[3], after="none"), like.shape)
    for channels in (32, 16):
        x = build.unary("Selu", build.conv_bn(build.upsample(x), channels, Window(3, 1, 1)))
    x = build.convolution(build.upsample(x), 3, Window(3, 1, 1))
    return build.unary("Tanh", build.mul(x, build.scalar(0.5)))


def _nearest(build: GraphBuilder, features: Tensor, prototypes: int) -> tuple[Tensor, Tensor]:
    """The mean absolute distance to the nearest prototype, and that prototype's number."""
    batch, width = features.shape
    known = build.constant("prototypes", build.normal((prototypes, width), 1.0))
    apart = build.unary("Abs", build.binary("Sub", build.reshape(features, (batch, 1, width)), known))
    distance = build.reshape(build.reduce("ReduceMean", apart, 2), (batch, prototypes))
    nearest = build.reshape(build.reduce("ReduceMin", distance, 1), (batch,))
    return nearest, build.place_of("ArgMin", distance, 1)
