"""The layers that the transformers of this package share."""

from __future__ import annotations

import math

from models.builder import GraphBuilder, Tensor


def split_heads(build: GraphBuilder, x: Tensor, heads: int, order: tuple[int, ...] = (0, 2, 1, 3)) -> Tensor:
    """x [B, S, H] as [B, heads, S, H / heads], or with the axes in another order."""
    batch, sequence, width = x.shape
    return build.transpose(build.reshape(x, (batch, sequence, heads, width // heads)), order)


def merge_heads(build: GraphBuilder, x: Tensor) -> Tensor:
    """x [B, heads, S, D] as [B, S, heads * D]."""
    batch, heads, sequence, depth = x.shape
    return build.reshape(build.transpose(x, (0, 2, 1, 3)), (batch, sequence, heads * depth))


def attention(build: GraphBuilder, x: Tensor, heads: int, mask: Tensor | None = None) -> Tensor:
    """Multi-head self-attention of x [B, S, H]; `mask` is added to the scores [B, heads, S, S]."""
    width = x.shape[-1]
    query = split_heads(build, build.linear(x, width, scale=1.5), heads)
    key = split_heads(build, build.linear(x, width), heads, order=(0, 2, 3, 1))
    value = split_heads(build, build.linear(x, width), heads)
    scores = build.mul(build.matmul(query, key), build.scalar(1.0 / math.sqrt(width // heads)))
    if mask is not None:
        scores = build.add(scores, mask)
    context = merge_heads(build, build.matmul(build.softmax(scores), value))
    return build.linear(context, width)


def feed_forward(build: GraphBuilder, x: Tensor, inner: int, activation: str = "gelu") -> Tensor:
    """Two linear layers with gelu, gelu_tanh or silu between them; x [B, S, H], `inner` wide inside."""
    activations = {"gelu": build.gelu, "gelu_tanh": build.gelu_tanh, "silu": build.silu}
    hidden = activations[activation](build.linear(x, inner))
    return build.linear(hidden, x.shape[-1], after="gelu" if activation == "gelu_tanh" else activation)


def additive_mask(build: GraphBuilder, mask: Tensor) -> Tensor:
    """Turn mask [B, S] (1 = attend, 0 = ignore) into the term [B, 1, 1, S] that is added to scores."""
    batch, sequence = mask.shape
    ignored = build.node("Sub", [build.scalar(1.0), mask], mask.shape)
    return build.reshape(build.mul(ignored, build.scalar(-10000.0)), (batch, 1, 1, sequence))
