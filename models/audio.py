"""Tagging of sounds: log-mel features made in the graph as Whisper makes them, then a small convolutional network."""

from __future__ import annotations

import numpy as np
from onnx import ModelProto

from models.builder import FloatArray, GraphBuilder, Tensor, Window

FRAME, HOP, BANDS = 256, 128, 40


def audio_tagger(
    batch: int = 1, *, samples: int = 8320, classes: int = 12, seed: int = 16, fold_batch_norm: bool = True
) -> ModelProto:
    """Input wave [batch, 1, samples]; output logits [batch, classes]."""
    build = GraphBuilder("audio_tagger", seed, fold_batch_norm)
    wave = build.input("wave", (batch, 1, samples))
    x = _log_mel(build, wave)
    x = build.reshape(x, (batch, 1, *x.shape[1:]))
    x = _elu(build, build.conv_bn(x, 16, Window(3, 2, 1), after="none"))
    x = _elu(build, build.conv_bn(x, 32, Window(3, 2, 1)))
    level = build.reshape(build.node("GlobalMaxPool", [x], (*x.shape[:2], 1, 1)), x.shape[:2])
    return build.output("logits", build.gemm(build.add(level, build.global_pool(x)), classes, scale=2.0))


def _elu(build: GraphBuilder, x: Tensor) -> Tensor:
    return build.unary("Elu", x, alpha=1.0)


def _log_mel(build: GraphBuilder, wave: Tensor) -> Tensor:
    """log10 of the mel bands' power [batch, bands, frames], at most 8 below the greatest, about in [-1, 1]."""
    frames = (wave.shape[2] - FRAME) // HOP + 1
    basis = build.constant("fourier", _fourier()[:, None, :])
    bins = FRAME // 2 + 1
    spectrum = build.node("Conv", [wave, basis], (wave.shape[0], 2 * bins, frames), strides=[HOP], kernel_shape=[FRAME])
    real, imaginary = build.halves(spectrum, 1)
    power = build.add(build.mul(real, real), build.mul(imaginary, imaginary))
    bands = build.matmul(build.constant("mel", _mel(bins)[None]), power)
    bands = Tensor(bands.name, (wave.shape[0], BANDS, frames))
    floor = build.binary("Max", bands, build.scalar(1e-5))
    level = build.mul(build.unary("Log", floor), build.scalar(float(1 / np.log(10.0))))
    greatest = build.reduce("ReduceMax", build.reduce("ReduceMax", level, 2), 1)
    level = build.binary("Max", level, build.binary("Sub", greatest, build.scalar(3.0)))
    return build.mul(build.add(level, build.scalar(1.0)), build.scalar(0.5))


def _fourier() -> FloatArray:
    """Windowed cosines, then sines: [2 * bins, frame], of unit gain."""
    angle = 2.0 * np.pi * np.outer(np.arange(FRAME // 2 + 1), np.arange(FRAME)) / FRAME
    window = np.hanning(FRAME) / np.sqrt(FRAME)
    return np.concatenate([np.cos(angle) * window, np.sin(angle) * window]).astype(np.float32)


def _mel(bins: int) -> FloatArray:
    """Triangles over the bins, narrow where frequencies are low: [bands, bins]."""
    edges = (bins - 1) * (np.linspace(0.0, 1.0, BANDS + 2) ** 1.5)
    low, middle, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    place = np.arange(bins)[None, :]
    rise, fall = (place - low) / (middle - low), (high - place) / (high - middle)
    return np.maximum(0.0, np.minimum(rise, fall)).astype(np.float32) + np.float32(1e-3)
