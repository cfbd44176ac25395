"""Decoders of text: a network of the Llama family and one of the GPT-2 family, as exporters write them."""

from __future__ import annotations

import math

import numpy as np
from onnx import ModelProto, TensorProto

from models.builder import GraphBuilder, Tensor
from models.transformer import feed_forward, merge_heads, split_heads

IGNORED = -1e4
"""The score of a position that is not attended to; within the range of float16."""


def llama_small(
    batch: int = 1, *, sequence: int = 32, layers: int = 2, hidden: int = 128, heads: int = 4, inner: int = 256,
    vocabulary: int = 512, seed: int = 11,
) -> ModelProto:  # fmt: skip
    """Rotary positions, RMS normalisation and a gated feed-forward.

    Inputs input_ids and position_ids [batch, sequence] int64 and attention_mask [batch, sequence]; outputs
    log_probabilities [batch, sequence, vocabulary] and token [batch, sequence] int64.
    """
    build = GraphBuilder("llama_small", seed)
    ids = build.input("input_ids", (batch, sequence), TensorProto.INT64)
    positions = build.input("position_ids", (batch, sequence), TensorProto.INT64)
    mask = build.input("attention_mask", (batch, sequence))
    x = build.gather(build.constant("embedding", build.normal((vocabulary, hidden), 1.0)), ids)
    place = build.node("Cast", [positions], positions.shape, to=TensorProto.FLOAT)
    cosine, sine = _rotary_angles(build, place, hidden // heads)
    allowed = _allowed(build, place, mask)
    for _ in range(layers):
        x = build.add(x, _attention(build, _rms_norm(build, x), heads, (cosine, sine), allowed))
        x = build.add(x, _gated(build, _rms_norm(build, x), inner))
    return _head(build, build.linear(_rms_norm(build, x), vocabulary))


def gpt2_small(
    batch: int = 1, *, sequence: int = 32, layers: int = 2, hidden: int = 128, heads: int = 4, vocabulary: int = 512,
    seed: int = 12,
) -> ModelProto:  # fmt: skip
    """Learned positions, layer normalisation and gelu by tanh; inputs and outputs as of `llama_small`, without mask
    and positions."""
    build = GraphBuilder("gpt2_small", seed)
    ids = build.input("input_ids", (batch, sequence), TensorProto.INT64)
    x = build.gather(build.constant("embedding", build.normal((vocabulary, hidden), 1.0)), ids)
    x = build.add(x, build.constant("positions", build.normal((sequence, hidden), 0.3)))
    past = build.constant("causal", np.tril(np.ones((sequence, sequence), np.bool_)))
    for _ in range(layers):
        x = build.add(x, _attention(build, build.layer_norm(x), heads, None, past))
        x = build.add(x, feed_forward(build, build.layer_norm(x), 4 * hidden, "gelu_tanh"))
    return _head(build, build.linear(build.layer_norm(x), vocabulary))


def _head(build: GraphBuilder, logits: Tensor) -> ModelProto:
    build.output("log_probabilities", build.unary("LogSoftmax", logits, axis=-1))
    return build.output("token", build.place_of("ArgMax", logits, 2), TensorProto.INT64)


def _rms_norm(build: GraphBuilder, x: Tensor) -> Tensor:
    """x / sqrt(mean(x^2) + epsilon) * scale."""
    squares = build.binary("Pow", x, build.scalar(2.0))
    mean = build.reduce("ReduceMean", squares, 2)
    root = build.unary("Sqrt", build.add(mean, build.scalar(1e-5)))
    return build.mul(build.binary("Div", x, root), build.constant("scale", build.uniform((x.shape[2],), 0.8, 1.2)))


def _rotary_angles(build: GraphBuilder, place: Tensor, depth: int) -> tuple[Tensor, Tensor]:
    """Cosine and sine [batch, 1, sequence, depth] of position times frequency, each frequency twice."""
    frequency = build.constant("frequency", (10000.0 ** (-np.arange(0, depth, 2) / depth)).astype(np.float32))
    batch, sequence = place.shape
    half = build.mul(build.reshape(place, (batch, 1, sequence, 1)), frequency)
    angles = build.concat([half, half], 3)
    return build.unary("Cos", angles), build.unary("Sin", angles)


def _rotate(build: GraphBuilder, x: Tensor, angles: tuple[Tensor, Tensor]) -> Tensor:
    """x [batch, heads, sequence, depth] turned by its position: x * cos + (-second half, first half) * sin."""
    middle, end = x.shape[3] // 2, x.shape[3]
    turned = [build.unary("Neg", build.slice(x, 3, middle, end)), build.slice(x, 3, 0, middle)]
    return build.add(build.mul(x, angles[0]), build.mul(build.concat(turned, 3), angles[1]))


def _allowed(build: GraphBuilder, place: Tensor, mask: Tensor) -> Tensor:
    """Which positions [batch, 1, query, key] are attended to: no later ones, and those that the mask has."""
    batch, sequence = place.shape
    query, key = build.reshape(place, (batch, 1, sequence, 1)), build.reshape(place, (batch, 1, 1, sequence))
    earlier = build.binary("GreaterOrEqual", query, key)
    there = build.binary("Greater", build.reshape(mask, (batch, 1, 1, sequence)), build.scalar(0.5))
    return build.binary("And", earlier, there)


def _attention(
    build: GraphBuilder, x: Tensor, heads: int, angles: tuple[Tensor, Tensor] | None, allowed: Tensor
) -> Tensor:
    width = x.shape[2]
    query = split_heads(build, build.linear(x, width, scale=1.5), heads)
    key = split_heads(build, build.linear(x, width), heads)
    value = split_heads(build, build.linear(x, width), heads)
    if angles is not None:
        query, key = _rotate(build, query, angles), _rotate(build, key, angles)
    scores = build.matmul(query, build.transpose(key, (0, 1, 3, 2)))
    scores = build.mul(scores, build.scalar(1.0 / math.sqrt(width // heads)))
    scores = build.where(allowed, scores, build.scalar(IGNORED))
    return build.linear(merge_heads(build, build.matmul(build.softmax(scores), value)), width)


def _gated(build: GraphBuilder, x: Tensor, inner: int) -> Tensor:
    """Feed-forward with a gate: silu(x A) * (x B), then C."""
    gate = build.silu(build.linear(x, inner))
    return build.linear(build.mul(gate, build.linear(x, inner)), x.shape[2], after="silu")
