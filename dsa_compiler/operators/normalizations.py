"""Softmax and the normalisations, kept whole so that lowering sees their reductions together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dsa_compiler.operators.operator import Array, Attrs, Operator, accumulator


def softmax(args: Sequence[Array], attrs: Attrs) -> Array:
    """Return exp(x - max) / sum along `axis`."""
    x = accumulator(args[0])
    e = np.exp(x - x.max(axis=attrs["axis"], keepdims=True))
    return np.asarray(e / e.sum(axis=attrs["axis"], keepdims=True)).astype(args[0].dtype)


def log_softmax(args: Sequence[Array], attrs: Attrs) -> Array:
    """Return x - max - log(sum(exp(x - max))) along `axis`."""
    x = accumulator(args[0])
    x = x - x.max(axis=attrs["axis"], keepdims=True)
    return np.asarray(x - np.log(np.exp(x).sum(axis=attrs["axis"], keepdims=True))).astype(args[0].dtype)


def _normalize(x: Array, axes: tuple[int, ...], epsilon: float) -> Array:
    """Return (x - mean) / deviation; sums in float64, since NumPy adds float32 one by one along an outer axis."""
    centered = x - x.mean(axis=axes, keepdims=True, dtype=np.float64).astype(x.dtype)
    variance = np.square(centered).mean(axis=axes, keepdims=True, dtype=np.float64)
    return np.asarray(centered / np.sqrt(variance + epsilon).astype(x.dtype))


def layer_norm(args: Sequence[Array], attrs: Attrs) -> Array:
    """Normalise over `axes`; gamma and beta have the extents of these axes."""
    x, gamma, beta = (accumulator(a) for a in args)
    axes = tuple(a % x.ndim for a in attrs["axes"])
    shape = [n if d in axes else 1 for d, n in enumerate(x.shape)]
    y = _normalize(x, axes, attrs["epsilon"])
    return np.asarray(y * gamma.reshape(shape) + beta.reshape(shape)).astype(args[0].dtype)


def instance_norm(args: Sequence[Array], attrs: Attrs) -> Array:
    """Normalise over `axes`; gamma and beta run along `channel_axis`."""
    x, gamma, beta = (accumulator(a) for a in args)
    shape = [1] * x.ndim
    shape[attrs["channel_axis"]] = -1
    y = _normalize(x, tuple(a % x.ndim for a in attrs["axes"]), attrs["epsilon"])
    return np.asarray(y * gamma.reshape(shape) + beta.reshape(shape)).astype(args[0].dtype)


def rms_norm(args: Sequence[Array], attrs: Attrs) -> Array:
    """Divide by the root of the mean square over `axes`, times the weight."""
    x, weight = (accumulator(a) for a in args)
    axes = tuple(a % x.ndim for a in attrs["axes"])
    mean = np.square(x).mean(axis=axes, keepdims=True, dtype=np.float64).astype(x.dtype)
    return np.asarray(x / np.sqrt(mean + attrs["epsilon"]) * weight).astype(args[0].dtype)


def normalization_operators() -> list[Operator]:
    """Return softmax and the normalisations."""
    return [
        Operator("nn.softmax", "softmax", softmax),
        Operator("nn.log_softmax", "softmax", log_softmax),
        Operator("nn.layer_norm", "normalization", layer_norm),
        Operator("nn.instance_norm", "normalization", instance_norm),
        Operator("nn.rms_norm", "normalization", rms_norm),
    ]
