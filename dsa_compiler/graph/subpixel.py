"""Subpixel: a transposed convolution becomes one convolution for each phase of its stride, interleaved.

Output row s*q + r of stride s takes the taps k with (r + pad - k*dilation) divisible by s: an ordinary convolution
with these taps, reversed. The phases are concatenated along new axes behind h and w, and a reshape interleaves them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import tvm
from tvm import relax

from dsa_compiler.errors import UserError
from dsa_compiler.graph.calls import constant_of, describe, dtype_of, make_constant, op_name, shape_of
from dsa_compiler.graph.rewriter import Rewriter

op = relax.op


@dataclass(frozen=True)
class Phase:
    """One phase along one axis: `taps` of the kernel in order of use, the window's dilation and padding.

    Padding may be negative, which crops the input.
    """

    taps: tuple[int, ...]
    dilation: int
    begin: int
    end: int


def phases(extent: int, outputs: int, kernel: int, stride: int, dilation: int, pad: int) -> list[Phase]:
    """Return the phases of a transposed convolution along one axis, each with ceil(outputs / stride) outputs."""
    count = -(-outputs // stride)
    step = dilation // math.gcd(dilation, stride)
    result = []
    for r in range(stride):
        taps = [k for k in range(kernel) if (r + pad - k * dilation) % stride == 0]
        taps.reverse()
        begin = -((r + pad - taps[0] * dilation) // stride) if taps else 0
        end = count - extent - begin + (len(taps) - 1) * step if taps else 0
        result.append(Phase(tuple(taps), step, begin, end))
    return result


def rewrite_transposed_convolutions(mod: tvm.IRModule) -> tvm.IRModule:
    """Return `mod` without nn.conv2d_transpose."""
    return _Subpixel(mod).run()


class _Subpixel(Rewriter):
    def rewrite(self, call: relax.Call, old: Any) -> Any:
        if op_name(call) != "nn.conv2d_transpose":
            return call
        x, weights, a = call.args[0], constant_of(call.args[1]), describe(call).attrs
        if weights is None:
            raise UserError("the weights of a transposed convolution are computed", where=str(self._node),
                            action="make them constants")  # fmt: skip
        shape, result, (sh, sw) = shape_of(x), shape_of(old), a["strides"]
        top, left, _, _ = a["padding"]
        kh, kw = weights.shape[2:]
        rows = phases(shape[2], result[2], kh, sh, a["dilation"][0], top)
        columns = phases(shape[3], result[3], kw, sw, a["dilation"][1], left)
        parts = [[self._phase(x, weights, r, c, a["groups"], result, (sh, sw)) for c in columns] for r in rows]
        return self._interleave(parts, result)

    def _phase(
        self, x: Any, weights: npt.NDArray[Any], row: Phase, column: Phase, groups: int,
        result: tuple[int, ...], strides: tuple[int, int],
    ) -> Any:  # fmt: skip
        """Return one phase [n, o, ceil(h/sh), ceil(w/sw)]."""
        extents = [-(-result[2] // strides[0]), -(-result[3] // strides[1])]
        if not row.taps or not column.taps:
            return make_constant(np.zeros((*result[:2], *extents), dtype_of(x)))
        kernel = weights[:, :, row.taps, :][:, :, :, column.taps]
        x = self._cropped(x, 2, row)
        x = self._cropped(x, 3, column)
        pads = [max(0, p) for p in (row.begin, column.begin, row.end, column.end)]
        conv = op.nn.conv2d(x, make_constant(_swapped(kernel, groups)), padding=pads,
                            dilation=[row.dilation, column.dilation], groups=groups)  # fmt: skip
        return self.emit(conv)

    def _cropped(self, x: Any, axis: int, phase: Phase) -> Any:
        begin, end = max(0, -phase.begin), shape_of(x)[axis] - max(0, -phase.end)
        if (begin, end) == (0, shape_of(x)[axis]):
            return x
        return self.emit(op.strided_slice(x, [axis], [begin], [end], [1]))

    def _interleave(self, parts: list[list[Any]], result: tuple[int, ...]) -> Any:
        """Return phases [row][column] of [n, o, qh, qw] as [n, o, h, w]."""
        n, o, qh, qw = shape_of(parts[0][0])
        sh, sw = len(parts), len(parts[0])
        if sh == sw == 1:
            return parts[0][0]
        rows = []
        for row in parts:
            split = [self._reshaped(p, [n, o, qh, 1, qw, 1]) for p in row]
            rows.append(self.emit(op.concat(split, 5)) if sw > 1 else split[0])
        y = self.emit(op.concat(rows, 3)) if sh > 1 else rows[0]
        y = self.emit(op.reshape(y, [n, o, qh * sh, qw * sw]))
        for axis in (2, 3):
            if shape_of(y)[axis] != result[axis]:
                y = self.emit(op.strided_slice(y, [axis], [0], [result[axis]], [1]))
        return y

    def _reshaped(self, x: Any, shape: list[int]) -> Any:
        value = constant_of(x)
        return self.emit(op.reshape(x, shape)) if value is None else make_constant(value.reshape(shape))


def _swapped(kernel: npt.NDArray[Any], groups: int) -> npt.NDArray[Any]:
    """Return weights [i, o/groups, h, w] of a transposed convolution as [o, i/groups, h, w]."""
    i, o, h, w = kernel.shape
    split = kernel.reshape(groups, i // groups, o, h, w).transpose(0, 2, 1, 3, 4)
    return np.ascontiguousarray(split).reshape(groups * o, i // groups, h, w)
