"""The ten programs."""

from __future__ import annotations

from ci.handwritten import (
    attention,
    conv1x1,
    conv3x3,
    depthwise,
    layernorm,
    maxpool,
    product,
    reduction,
    softmax,
    transpose,
)
from ci.handwritten.program import Handwritten

PROGRAMS: tuple[Handwritten, ...] = (
    product.PROGRAM,
    conv1x1.PROGRAM,
    conv3x3.PROGRAM,
    depthwise.PROGRAM,
    softmax.PROGRAM,
    layernorm.PROGRAM,
    attention.PROGRAM,
    maxpool.PROGRAM,
    transpose.PROGRAM,
    reduction.PROGRAM,
)
