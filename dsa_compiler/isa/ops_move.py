"""Instructions of the move engine: l1 to the matrix operands."""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import as_strided

from dsa_compiler.isa.declare import TRANSPOSE, WINDOW
from dsa_compiler.isa.definition import Arrays, Attrs, AttrSpec, OpDef, OperandSpec
from dsa_compiler.isa.ops_dma import copy, transpose
from dsa_compiler.isa.shapes import all_of, img2col, same_dtype, same_elements, transposed, window_grid


def unfold(arrays: Arrays, attrs: Attrs) -> np.ndarray:
    """The windows of src [h, w, c] as rows [output pixel, (kernel row, kernel column, channel)]."""
    src, pad, (kh, kw) = arrays["src"], attrs["pad"], attrs["kernel"]
    high, wide = window_grid(src.shape, attrs)
    if any(pad):
        around = ((pad[0], pad[2]), (pad[1], pad[3]), (0, 0))
        src = np.pad(src, around, constant_values=src.dtype.type(attrs["zero_point"]))
    (sy, sx, sc), (ry, rx), (dy, dx) = src.strides, attrs["stride"], attrs["dilation"]
    shape = (high, wide, kh, kw, src.shape[2])
    windows = as_strided(src, shape, (sy * ry, sx * rx, sy * dy, sx * dx, sc), writeable=False)
    return windows.reshape(high * wide, -1)


def _move(scope: str, ranks: tuple[int, ...] = (1, 2, 3)) -> tuple[OperandSpec, ...]:
    return OperandSpec("dst", (scope,), (), ranks), OperandSpec("src", ("l1",), (), ranks)


_COPY = all_of(same_dtype, same_elements)
_TRANSPOSE = all_of(same_dtype, transposed)
_TAGS = frozenset({"dma"})

MOVE = (
    OpDef("move_a", 0x28, "move", "dma", _move("l0a"), copy, "Copy a left operand.", check=_COPY, tags=_TAGS),
    OpDef("move_b", 0x29, "move", "dma", _move("l0b"), copy, "Copy a right operand, a bias row or index bytes.",
          check=_COPY, tags=_TAGS),
    OpDef("move_a_transpose", 0x2A, "move", "dma", _move("l0a", (2,)), transpose,
          "Copy a left operand exchanging its axes.", (TRANSPOSE,), check=_TRANSPOSE, tags=_TAGS),
    OpDef("move_b_transpose", 0x2B, "move", "dma", _move("l0b", (2,)), transpose,
          "Copy a right operand exchanging its axes.", (TRANSPOSE,), check=_TRANSPOSE, tags=_TAGS),
    OpDef(
        "img2col", 0x2C, "move", "img2col",
        (OperandSpec("dst", ("l0a",), (), (2,)), OperandSpec("src", ("l1",), (), (3,), aligned_strides=False)), unfold,
        "Walk a window over a channel-last tensor: rows are output pixels, columns (kernel row, column, channel).",
        (*WINDOW, AttrSpec("zero_point", "int")), "img2col_move", all_of(same_dtype, img2col), _TAGS,
    ),
)  # fmt: skip
