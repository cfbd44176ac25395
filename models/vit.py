"""The vision transformer ViT-B/16, 1000 classes."""

from __future__ import annotations

from onnx import ModelProto

from models.builder import GraphBuilder, Tensor, Window
from models.transformer import attention, feed_forward


def vit_b16(
    batch: int = 1,
    *,
    image: int = 224,
    patch: int = 16,
    layers: int = 12,
    hidden: int = 768,
    heads: int = 12,
    feed_forward_width: int = 3072,
    classes: int = 1000,
    seed: int = 16,
) -> ModelProto:
    """ViT: input [batch, 3, image, image], output logits [batch, classes]."""
    build = GraphBuilder("vit_b16", seed)
    x = build.input("input", (batch, 3, image, image))
    x = _patches(build, x, hidden, patch)
    for _ in range(layers):
        x = pre_norm_layer(build, x, heads, feed_forward_width)
    x = build.gather(build.layer_norm(x), build.indices(0), axis=1)
    return build.output("output", build.gemm(x, classes, after="none"))


def pre_norm_layer(build: GraphBuilder, x: Tensor, heads: int, inner: int) -> Tensor:
    """Attention and feed-forward on x [B, S, H], each on its normalised input and added to x."""
    x = build.add(x, attention(build, build.layer_norm(x), heads))
    return build.add(x, feed_forward(build, build.layer_norm(x), inner))


def _patches(build: GraphBuilder, x: Tensor, hidden: int, patch: int) -> Tensor:
    """Patch embeddings behind a class token, with positions: [batch, 1 + patches, hidden]."""
    batch = x.shape[0]
    x = build.convolution(x, hidden, Window(patch, patch), after="none")
    count = x.shape[2] * x.shape[3]
    x = build.transpose(build.reshape(x, (batch, hidden, count)), (0, 2, 1))
    token = build.constant("class_token", build.normal((1, 1, hidden), 0.5))
    repeated = build.node("Expand", [token, build.indices([batch, 1, hidden])], (batch, 1, hidden))
    positions = build.constant("positions", build.normal((1, count + 1, hidden), 0.3))
    return build.add(build.concat([repeated, x], axis=1), positions)
