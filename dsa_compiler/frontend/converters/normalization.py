"""ONNX normalisations and softmax."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from tvm import relax

from dsa_compiler.frontend.node import Converter, Node, dtype_of, scalar, shape_of

op = relax.op


def _batch_normalization(node: Node) -> Any:
    """Emit x * scale + shift, with constants computed here where the statistics are constant."""
    x = node.inputs[0]
    if node.attrs.get("training_mode"):
        raise node.error("training mode")
    shape = [-1] + [1] * (len(shape_of(x)) - 2)
    epsilon = node.attrs.get("epsilon", 1e-5)
    values = [node.value(i) for i in range(1, 5)]
    known = [v.astype(np.float64) for v in values if v is not None]
    if len(known) == 4:
        gamma, beta, mean, variance = known
        factor = gamma / np.sqrt(variance + epsilon)
        kind = np.dtype(dtype_of(x))
        scale = relax.const(factor.astype(kind).reshape(shape))
        shift = relax.const((beta - mean * factor).astype(kind).reshape(shape))
    else:
        root = node.emit(op.sqrt(node.emit(op.add(node.inputs[4], scalar(epsilon, x)))))
        factor_expr = node.emit(op.divide(node.inputs[1], root))
        offset = node.emit(op.subtract(node.inputs[2], node.emit(op.multiply(node.inputs[3], factor_expr))))
        full = [shape_of(x)[1], *shape[1:]]
        scale, shift = node.emit(op.reshape(factor_expr, full)), node.emit(op.reshape(offset, full))
    return node.emit(op.add(node.emit(op.multiply(x, scale)), shift))


def _instance_normalization(node: Node) -> Any:
    x, gamma, beta = node.inputs
    axes = list(range(2, len(shape_of(x))))
    epsilon = node.attrs.get("epsilon", 1e-5)
    return node.emit(op.nn.instance_norm(x, gamma, beta, channel_axis=1, axes=axes, epsilon=epsilon))


def _layer_normalization(node: Node) -> Any:
    x, gamma = node.inputs[0], node.inputs[1]
    if node.outputs > 1:
        raise node.error("the mean and deviation as results")
    rank = len(shape_of(x))
    axes = list(range(node.attrs.get("axis", -1) % rank, rank))
    extents = [shape_of(x)[a] for a in axes]
    if list(shape_of(gamma)) != extents:
        raise node.error(f"a scale of shape {shape_of(gamma)}")
    beta = node.inputs[2] if node.has(2) else relax.const(np.zeros(extents, dtype_of(x)))
    return node.emit(op.nn.layer_norm(x, gamma, beta, axes=axes, epsilon=node.attrs.get("epsilon", 1e-5)))


def _group_normalization(node: Node) -> Any:
    """Reshape groups to instances of one channel, then scale and shift."""
    x, gamma, beta = node.inputs
    shape, groups = shape_of(x), node.attrs["num_groups"]
    split = [shape[0], groups, math.prod(shape[1:]) // groups]
    ones, zeros = (relax.const(np.full(groups, v, dtype_of(x))) for v in (1, 0))
    y = node.emit(op.reshape(x, split))
    epsilon = node.attrs.get("epsilon", 1e-5)
    y = node.emit(op.nn.instance_norm(y, ones, zeros, channel_axis=1, axes=[2], epsilon=epsilon))
    per_group = shape_of(gamma)[0] == groups and node.opset < 21 and groups != shape[1]
    tail = [groups, 1] if per_group else [shape[1]] + [1] * (len(shape) - 2)
    if not per_group:
        y = node.emit(op.reshape(y, shape))
    y = node.emit(op.multiply(y, node.emit(op.reshape(gamma, tail))))
    y = node.emit(op.add(y, node.emit(op.reshape(beta, tail))))
    return node.emit(op.reshape(y, shape)) if per_group else y


def _lp_normalization(node: Node) -> Any:
    x, axis = node.inputs[0], node.attrs.get("axis", -1)
    if node.attrs.get("p", 2) == 1:
        norm = node.emit(op.sum(node.emit(op.abs(x)), axis=[axis], keepdims=True))
    else:
        norm = node.emit(op.sqrt(node.emit(op.sum(node.emit(op.square(x)), axis=[axis], keepdims=True))))
    some = node.emit(op.greater(norm, scalar(0, x)))  # what has no length stays zero
    return node.emit(op.divide(x, node.emit(op.where(some, norm, scalar(1, x)))))


def _softmax(node: Node) -> Any:
    """Emit a softmax; before opset 13 it runs over all axes from `axis` (default 1) on, flattened."""
    fn = op.nn.log_softmax if node.op == "LogSoftmax" else op.nn.softmax
    x = node.inputs[0]
    shape = shape_of(x)
    if node.opset >= 13:
        return node.emit(fn(x, axis=node.attrs.get("axis", -1)))
    axis = node.attrs.get("axis", 1) % len(shape) if shape else 0
    wide = [a for a in range(axis, len(shape)) if shape[a] > 1]
    if len(wide) <= 1:
        return node.emit(fn(x, axis=wide[0] if wide else len(shape) - 1))
    flat = node.emit(op.reshape(x, [math.prod(shape[:axis]), math.prod(shape[axis:])]))
    return node.emit(op.reshape(node.emit(fn(flat, axis=1)), shape))


def _lrn(node: Node) -> Any:
    """Emit x * (bias + sum over neighbouring channels of (sqrt(alpha / size) * x)^2) ^ -beta.

    The sum is a 1x1 convolution with a band of ones: a matrix product on channel-last data.
    """
    x, size = node.inputs[0], int(node.attrs["size"])
    shape = shape_of(x)
    if len(shape) != 4:
        raise node.error(f"rank {len(shape)}")
    alpha, beta, bias = (node.attrs.get(k, d) for k, d in (("alpha", 1e-4), ("beta", 0.75), ("bias", 1.0)))
    distance = np.arange(shape[1])[None, :] - np.arange(shape[1])[:, None]
    band = (distance >= -((size - 1) // 2)) & (distance <= size // 2)
    weights = relax.const(band.astype(dtype_of(x)).reshape(shape[1], shape[1], 1, 1))
    squares = node.emit(op.square(node.emit(op.multiply(x, scalar(math.sqrt(alpha / size), x)))))
    total = node.emit(op.add(node.emit(op.nn.conv2d(squares, weights)), scalar(bias, x)))
    return node.emit(op.multiply(x, node.emit(op.power(total, scalar(-beta, x)))))


def normalization_converters() -> dict[str, Converter]:
    """Return the converters of normalisations and softmax."""
    return {
        "BatchNormalization": _batch_normalization,
        "GroupNormalization": _group_normalization,
        "InstanceNormalization": _instance_normalization,
        "LRN": _lrn,
        "LayerNormalization": _layer_normalization,
        "LogSoftmax": _softmax,
        "LpNormalization": _lp_normalization,
        "Softmax": _softmax,
    }
