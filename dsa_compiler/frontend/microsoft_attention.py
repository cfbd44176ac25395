"""Attention of com.microsoft as products, a softmax and what a mask adds."""

from __future__ import annotations

import math

import numpy as np

from dsa_compiler.frontend.microsoft_body import Body


def _heads(body: Body, x: str, extents: tuple[int, int, int, int]) -> str:
    """[batch, length, heads * size] as [batch, heads, length, size]; `extents` are batch, length, heads, size."""
    split = body.emit("Reshape", x, body.constant(extents, np.int64))
    return body.emit("Transpose", split, perm=[0, 2, 1, 3])


def _attend(body: Body, query: str, key: str, value: str, mask: str, scale: float, extents: tuple[int, ...]) -> str:
    """softmax(query key^T * scale + mask) value of split heads, merged; `extents` are batch, length, heads * size."""
    scores = body.emit("MatMul", query, body.emit("Transpose", key, perm=[0, 1, 3, 2]))
    scores = body.emit("Mul", scores, body.constant(scale, np.float32))
    scores = body.emit("Add", scores, mask) if mask else scores
    merged = body.emit("MatMul", body.emit("Softmax", scores, axis=3), value)
    merged = body.emit("Transpose", merged, perm=[0, 2, 1, 3])
    return body.emit("Reshape", merged, body.constant(extents, np.int64))


def _mask(body: Body, index: int, length: int) -> str:
    """What a mask of words, [batch, length], adds to scores: nothing or the filter value; "" without a mask."""
    if not body.has(index):
        return ""
    shape = body.shape(index)
    hidden = float(body.attrs.get("mask_filter_value", -10000.0))
    if len(shape) == 1 and shape[0] == body.shape(0)[0]:  # the number of words in each sequence
        places = body.constant(np.arange(length)[None], np.int32)
        count = body.emit("Reshape", body.input(index), body.constant([-1, 1], np.int64))
        kept = body.emit("Cast", body.emit("Less", places, count), to=1)
    elif len(shape) == 2 and shape[1] == length:
        kept = body.emit("Cast", body.input(index), to=1)
    else:
        raise body.error(f"a mask of shape {list(shape)}")
    added = body.emit("Mul", body.emit("Sub", body.constant(1, np.float32), kept), body.constant(hidden, np.float32))
    return body.emit("Reshape", added, body.constant([shape[0], 1, 1, length], np.int64))


def rewrite_attention(body: Body) -> None:
    """Attention with the projections of query, key and value in one matrix."""
    if body.has(4) or body.wants(1) or body.attrs.get("do_rotary") or body.attrs.get("qkv_hidden_sizes"):
        raise body.error("attention with a past, rotary places or heads of different sizes")
    batch, length = body.shape(0)[:2]
    width, heads = body.shape(1)[1] // 3, int(body.attrs["num_heads"])
    wide = body.emit("MatMul", body.input(0), body.input(1))
    wide = body.emit("Add", wide, body.input(2)) if body.has(2) else wide
    extents = (batch, length, heads, width // heads)
    query, key, value = (_heads(body, _slice(body, wide, i * width, (i + 1) * width), extents) for i in range(3))
    mask = _mask(body, 3, length)
    if body.attrs.get("unidirectional"):
        causal = body.constant(np.triu(np.full((length, length), -10000.0), 1), np.float32)
        mask = body.emit("Add", mask, causal) if mask else causal
    if body.has(5):
        mask = body.emit("Add", mask, body.input(5)) if mask else body.input(5)
    scale = float(body.attrs.get("scale", 0.0)) or 1 / math.sqrt(width // heads)
    body.returns(_attend(body, query, key, value, mask, scale, (batch, length, width)))


def _slice(body: Body, x: str, begin: int, end: int) -> str:
    """A part of the last of three axes; its bounds are inputs from operator set 10 on."""
    if body.opset < 10:
        return body.emit("Slice", x, starts=[begin], ends=[end], axes=[2])
    return body.emit("Slice", x, *(body.constant([v], np.int64) for v in (begin, end, 2)))


def rewrite_multi_head_attention(body: Body) -> None:
    """Attention of a query, key and value that are projected already."""
    if any(body.has(i) for i in (6, 7)) or body.wants(1) or not (body.has(1) and body.has(2)):
        raise body.error("attention with a past or with packed operands")
    if not len(body.shape(0)) == len(body.shape(1)) == len(body.shape(2)) == 3:
        raise body.error("attention with split heads")
    heads = int(body.attrs["num_heads"])
    begin, parts = 0, []
    for i in range(3):
        width = body.shape(i)[2]
        x = body.input(i)
        if body.has(3):
            x = body.emit("Add", x, body.constant(body.value(3)[begin : begin + width]))
            begin += width
        parts.append(_heads(body, x, (body.shape(i)[0], body.shape(i)[1], heads, width // heads)))
    query, key, value = parts
    batch, length = body.shape(0)[:2]
    keys, width, last = body.shape(1)[1], body.shape(1)[2], body.shape(2)[2]
    mask = _mask(body, 4, keys)
    if body.has(5):
        mask = body.emit("Add", mask, body.input(5)) if mask else body.input(5)
    scale = float(body.attrs.get("scale", 0.0)) or 1 / math.sqrt(width // heads)
    body.returns(_attend(body, query, key, value, mask, scale, (batch, length, last)))
