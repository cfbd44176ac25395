"""A convolutional network and a transformer that compile in a second: for demos and tests."""

from __future__ import annotations

from onnx import ModelProto

from models.bert import bert
from models.builder import GraphBuilder, Window
from models.mobilenet import inverted_residual


def tiny_cnn(
    batch: int = 1, *, image: int = 32, classes: int = 10, seed: int = 3, fold_batch_norm: bool = True
) -> ModelProto:
    """Strided, residual, depthwise and pooling layers: input [batch, 3, image, image], logits [batch, classes]."""
    build = GraphBuilder("tiny_cnn", seed, fold_batch_norm)
    x = build.input("input", (batch, 3, image, image))
    x = build.relu(build.conv_bn(x, 16, Window(3, 2, 1), after="none"))
    y = build.relu(build.conv_bn(x, 16, Window(3, 1, 1)))
    x = build.relu(build.add(x, build.conv_bn(y, 16, Window(3, 1, 1), scale=0.5)))
    x = build.max_pool(x, Window(2, 2))
    x = inverted_residual(build, x, 4, 32, 1, "relu")
    x = build.relu(build.conv_bn(x, 64, Window(1), after="none"))
    return build.output("output", build.gemm(build.global_pool(x), classes, scale=2.0))


def tiny_transformer(
    batch: int = 1, *, sequence: int = 32, mask: bool = True, embedding: bool = False, seed: int = 4
) -> ModelProto:
    """One BERT layer of width 64 with 2 heads: inputs and output as of `models.bert.bert`."""
    return bert(
        batch,
        sequence=sequence,
        layers=1,
        hidden=64,
        heads=2,
        feed_forward_width=128,
        mask=mask,
        embedding=embedding,
        vocabulary=100,
        seed=seed,
        name="tiny_transformer",
    )
