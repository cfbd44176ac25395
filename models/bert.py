"""BERT encoders: base, and the 2-layer one on which the peer tools were measured."""

from __future__ import annotations

from onnx import ModelProto, TensorProto

from models.builder import GraphBuilder, Tensor
from models.transformer import additive_mask, attention, feed_forward


def bert(
    batch: int = 1,
    *,
    sequence: int = 128,
    layers: int = 12,
    hidden: int = 768,
    heads: int = 12,
    feed_forward_width: int = 3072,
    mask: bool = True,
    embedding: bool = False,
    vocabulary: int = 30522,
    seed: int = 12,
    name: str = "bert",
) -> ModelProto:
    """A BERT encoder; the defaults are BERT-base.

    Input `hidden_states` [batch, sequence, hidden] float32, or with `embedding` `input_ids`
    [batch, sequence] int64; with `mask` also `attention_mask` [batch, sequence] float32, 1 where to attend.
    Output [batch, sequence, hidden].
    """
    build = GraphBuilder(name, seed)
    x = _embedded(build, batch, sequence, hidden, vocabulary) if embedding else None
    x = x or build.input("hidden_states", (batch, sequence, hidden))
    term = additive_mask(build, build.input("attention_mask", (batch, sequence))) if mask else None
    for _ in range(layers):
        x = encoder_layer(build, x, heads, feed_forward_width, term)
    return build.output("output", x)


def bert_base(
    batch: int = 1,
    *,
    sequence: int = 128,
    layers: int = 12,
    mask: bool = True,
    embedding: bool = False,
    vocabulary: int = 30522,
    seed: int = 12,
) -> ModelProto:
    """BERT-base at any sequence and batch: inputs and output as of `bert`."""
    return bert(
        batch,
        sequence=sequence,
        layers=layers,
        mask=mask,
        embedding=embedding,
        vocabulary=vocabulary,
        seed=seed,
        name="bert_base",
    )


def bert2(
    batch: int = 1, *, sequence: int = 128, mask: bool = True, embedding: bool = False, seed: int = 22
) -> ModelProto:
    """Two layers, hidden 256, 4 heads, feed-forward 1024: inputs and output as of `bert`."""
    return bert(
        batch,
        sequence=sequence,
        layers=2,
        hidden=256,
        heads=4,
        feed_forward_width=1024,
        mask=mask,
        embedding=embedding,
        seed=seed,
        name="bert2",
    )


def encoder_layer(build: GraphBuilder, x: Tensor, heads: int, inner: int, mask: Tensor | None) -> Tensor:
    """Attention and feed-forward on x [B, S, H], each followed by sum and layer norm."""
    x = build.layer_norm(build.add(x, attention(build, x, heads, mask)))
    return build.layer_norm(build.add(x, feed_forward(build, x, inner)))


def _embedded(build: GraphBuilder, batch: int, sequence: int, hidden: int, vocabulary: int) -> Tensor:
    """Normalised sum of word and position embeddings, [batch, sequence, hidden]."""
    ids = build.input("input_ids", (batch, sequence), TensorProto.INT64)
    words = build.gather(build.constant("word_embedding", build.normal((vocabulary, hidden), 1.0)), ids)
    positions = build.constant("position_embedding", build.normal((sequence, hidden), 0.5))
    return build.layer_norm(build.add(words, positions))
