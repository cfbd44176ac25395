"""A Conformer encoder for speech: 12 layers, width 256, feed-forward 2048, 4 heads, kernel 15."""

from __future__ import annotations

import math

import numpy as np
from onnx import ModelProto

from models.builder import GraphBuilder, Tensor, Window
from models.transformer import feed_forward, merge_heads, split_heads


def conformer(
    batch: int = 1,
    *,
    frames: int = 1000,
    features: int = 80,
    layers: int = 12,
    hidden: int = 256,
    heads: int = 4,
    feed_forward_width: int = 2048,
    kernel: int = 15,
    seed: int = 15,
    fold_batch_norm: bool = True,
) -> ModelProto:
    """Conformer: input [batch, frames, features], output [batch, about frames / 4, hidden].

    Attention scores have a content and a position term, the latter from projected sinusoids.
    """
    build = GraphBuilder("conformer", seed, fold_batch_norm)
    x = build.input("input", (batch, frames, features))
    x = _subsample(build, x, hidden)
    positions = build.constant("positions", sinusoids(x.shape[1], hidden))
    for _ in range(layers):
        x = conformer_layer(build, x, positions, heads, feed_forward_width, kernel)
    return build.output("output", x)


def conformer_layer(build: GraphBuilder, x: Tensor, positions: Tensor, heads: int, inner: int, kernel: int) -> Tensor:
    """Half a feed-forward, attention, convolution, half a feed-forward on x [B, T, H]; then layer norm."""
    x = _half_feed_forward(build, x, inner)
    x = build.add(x, positional_attention(build, build.layer_norm(x), positions, heads))
    x = build.add(x, convolution_module(build, build.layer_norm(x), kernel))
    return build.layer_norm(_half_feed_forward(build, x, inner))


def positional_attention(build: GraphBuilder, x: Tensor, positions: Tensor, heads: int) -> Tensor:
    """Self-attention of x [B, T, H] with scores (q + u) k + (q + v) p, p projected from positions [1, T, H]."""
    width = x.shape[-1]
    depth = width // heads
    query = build.reshape(build.linear(x, width), (*x.shape[:2], heads, depth))
    key = split_heads(build, build.linear(x, width), heads, order=(0, 2, 3, 1))
    value = split_heads(build, build.linear(x, width), heads)
    place = split_heads(build, build.linear(positions, width), heads, order=(0, 2, 3, 1))
    content = build.matmul(_biased(build, query), key)
    position = build.node("MatMul", [_biased(build, query), place], content.shape)
    scores = build.mul(build.add(content, position), build.scalar(1.0 / math.sqrt(2.0 * depth)))
    context = merge_heads(build, build.matmul(build.softmax(scores), value))
    return build.linear(context, width)


def convolution_module(build: GraphBuilder, x: Tensor, kernel: int) -> Tensor:
    """Gated 1x1, depthwise with batch norm and silu, 1x1: along the time axis of x [B, T, H]."""
    width = x.shape[-1]
    y = build.convolution(build.transpose(x, (0, 2, 1)), 2 * width, Window(1), after="none")
    y = _gated(build, y)
    y = build.silu(build.conv_bn(y, width, Window(kernel, 1, kernel // 2), groups=width, after="glu"))
    y = build.convolution(y, width, Window(1), after="silu")
    return build.transpose(y, (0, 2, 1))


def sinusoids(frames: int, width: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """Sine and cosine position codes [1, frames, width], interleaved."""
    angles = np.arange(frames)[:, None] * np.exp(np.arange(0, width, 2) * (-math.log(10000.0) / width))
    return np.stack([np.sin(angles), np.cos(angles)], axis=-1).reshape(1, frames, width).astype(np.float32)


def _biased(build: GraphBuilder, query: Tensor) -> Tensor:
    """query [B, T, heads, D] plus a learned bias for each head, as [B, heads, T, D]."""
    bias = build.constant("position_bias", build.normal(query.shape[2:], 0.3))
    return build.transpose(build.add(query, bias), (0, 2, 1, 3))


def _gated(build: GraphBuilder, x: Tensor) -> Tensor:
    """The first half of the channels of x [B, 2 C, T] times the sigmoid of the second half."""
    value, gate = build.halves(x, axis=1)
    return build.mul(value, build.sigmoid(gate))


def _half_feed_forward(build: GraphBuilder, x: Tensor, inner: int) -> Tensor:
    """x plus half of its feed-forward."""
    y = feed_forward(build, build.layer_norm(x), inner, "silu")
    return build.add(x, build.mul(y, build.scalar(0.5)))


def _subsample(build: GraphBuilder, x: Tensor, hidden: int) -> Tensor:
    """Two strided 3x3 convolutions over [B, 1, T, F] and a projection: [B, about T / 4, hidden]."""
    x = build.reshape(x, (x.shape[0], 1, *x.shape[1:]))
    x = build.relu(build.convolution(x, hidden, Window(3, 2), after="none"))
    x = build.relu(build.convolution(x, hidden, Window(3, 2)))
    batch, channels, frames, features = x.shape
    x = build.reshape(build.transpose(x, (0, 2, 1, 3)), (batch, frames, channels * features))
    return build.linear(x, hidden, after="relu")
