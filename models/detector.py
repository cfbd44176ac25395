"""A one-stage detector of the YOLO-v4 family: mish backbone, leaky neck, boxes decoded in the graph."""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, TensorProto

from models.builder import GraphBuilder, Tensor, Window

ANCHORS = ((10.0, 14.0), (23.0, 27.0), (37.0, 58.0))


def yolov4_small(
    batch: int = 1, *, image: int = 96, classes: int = 20, seed: int = 13, fold_batch_norm: bool = True
) -> ModelProto:
    """Input [batch, 3, image, image]; outputs for each box of the grid of stride 8: boxes [batch, boxes, 4] as
    corners within the image, scores [batch, boxes], 0 below the threshold, and class [batch, boxes] int64."""
    build = GraphBuilder("yolov4_small", seed, fold_batch_norm)
    x = build.input("input", (batch, 3, image, image))
    x = _mish(build, build.conv_bn(x, 16, Window(3, 2, 1), after="none"))
    x = _stage(build, x, 32)
    route = _stage(build, x, 64)
    deep = _leaky(build, build.conv_bn(_stage(build, route, 96), 48, Window(1), after="silu"))
    x = build.concat([build.upsample(deep), _leaky(build, build.conv_bn(route, 48, Window(1), after="silu"))], 1)
    x = _leaky(build, build.conv_bn(x, 96, Window(3, 1, 1)))
    x = build.convolution(x, len(ANCHORS) * (5 + classes), Window(1))
    return _decode(build, x, classes, 8, image)


def _mish(build: GraphBuilder, x: Tensor) -> Tensor:
    """x * tanh(log(1 + exp(x))), decomposed as exporters write it."""
    return build.mul(x, build.unary("Tanh", build.unary("Softplus", x)))


def _leaky(build: GraphBuilder, x: Tensor) -> Tensor:
    return build.unary("LeakyRelu", x, alpha=0.1)


def _stage(build: GraphBuilder, x: Tensor, channels: int) -> Tensor:
    """Halve the image, then a residual block on one half of the channels (cross stage partial)."""
    x = _mish(build, build.conv_bn(x, channels, Window(3, 2, 1), after="silu"))
    first, second = build.halves(x, 1)
    inner = _mish(build, build.conv_bn(second, channels // 2, Window(1), after="silu"))
    inner = _mish(build, build.conv_bn(inner, channels // 2, Window(3, 1, 1), after="silu"))
    return build.concat([first, build.add(second, inner)], 1)


def _decode(build: GraphBuilder, x: Tensor, classes: int, stride: int, image: int) -> ModelProto:
    """Boxes, scores and classes of the raw map x [batch, anchors * (5 + classes), h, w]."""
    batch, _, height, width = x.shape
    anchors, fields = len(ANCHORS), 5 + classes
    x = build.transpose(build.reshape(x, (batch, anchors, fields, height, width)), (0, 1, 3, 4, 2))
    x = build.reshape(x, (batch, anchors * height * width, fields))
    rows, columns = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    cells = np.tile(np.stack([columns, rows], -1).reshape(-1, 2), (anchors, 1)).astype(np.float32)
    sizes = np.repeat(np.array(ANCHORS, np.float32), height * width, axis=0)
    centre = build.add(build.sigmoid(build.slice(x, 2, 0, 2)), build.constant("cells", cells))
    centre = build.mul(centre, build.scalar(float(stride)))
    size = build.mul(build.unary("Exp", build.slice(x, 2, 2, 4)), build.constant("anchors", sizes * np.float32(0.5)))
    corners = build.concat([build.binary("Sub", centre, size), build.add(centre, size)], 2)
    limits = [build.scalar(0.0), build.scalar(float(image - 1))]
    boxes = build.node("Clip", [corners, *limits], corners.shape)
    chances = build.mul(build.sigmoid(build.slice(x, 2, 5, fields)), build.sigmoid(build.slice(x, 2, 4, 5)))
    best = build.reshape(build.reduce("ReduceMax", chances, 2), (batch, chances.shape[1]))
    good = build.binary("Greater", best, build.scalar(0.25))
    scores = build.where(good, best, build.scalar(0.0))
    build.output("scores", scores)
    build.output("boxes", build.mul(boxes, build.scalar(1.0 / image)))
    return build.output("class", build.place_of("ArgMax", chances, 2), TensorProto.INT64)
