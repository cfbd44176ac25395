"""Windowed instructions of the vector engine over channel-last tensors: pooling and depthwise products.

Source [h, w, c], result [oh, ow, c], weights [kernel h, kernel w, c]; the result is the whole window grid. Taps in
the padding take no part: a maximum of none is the least value (-inf for floats), a sum or product of none is 0.
"""

# mypy: disable-error-code="no-any-return"
from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from dsa_compiler.isa.convert import FLOAT32, INT32, common, is_whole, widen
from dsa_compiler.isa.declare import VECTOR_SCOPES, WINDOW, vector_dst
from dsa_compiler.isa.definition import Arrays, Attrs, AttrSpec, OpDef, OperandSpec
from dsa_compiler.isa.shapes import window_grid, windowed

_Tap = tuple[tuple[int, int], tuple[slice, slice], tuple[slice, slice]]
_RANK3 = (3,)
_TAPS = AttrSpec("taps", "int", least=1)
_MACS = AttrSpec("macs", "bool", always=True)
_ZERO_POINTS = (AttrSpec("zero_a", "int", required=False), AttrSpec("zero_b", "int", required=False))


def _inside(size: int, grid: int, tap: int, stride: int, before: int) -> tuple[slice, slice]:
    """Along one axis: the outputs whose tap at offset `tap` lies in the source, and the source elements it meets."""
    first = max(0, -((tap - before) // stride))
    last = min(grid - 1, (size - 1 - tap + before) // stride)
    start = first * stride + tap - before
    stop = last * stride + tap - before + 1
    return slice(first, last + 1), slice(start, max(start, stop), stride)


def walk(shape: tuple[int, ...], attrs: Attrs) -> Iterator[_Tap]:
    """Each tap with the part of the result that it reaches and the part of the source that it reads."""
    grid, (kh, kw), pad = window_grid(shape, attrs), attrs["kernel"], attrs["pad"]
    for i in range(kh):
        out_y, in_y = _inside(shape[0], grid[0], i * attrs["dilation"][0], attrs["stride"][0], pad[0])
        for j in range(kw):
            out_x, in_x = _inside(shape[1], grid[1], j * attrs["dilation"][1], attrs["stride"][1], pad[1])
            if out_y.stop > out_y.start and out_x.stop > out_x.start:
                yield (i, j), (out_y, out_x), (in_y, in_x)


def pool_max(arrays: Arrays, attrs: Attrs) -> np.ndarray:
    """The greatest of each window."""
    src = arrays["src"]
    least = np.iinfo(src.dtype).min if is_whole(src) and src.dtype != np.bool_ else -np.inf
    source = widen(src)
    lowest = 0 if src.dtype == np.bool_ else least
    result = np.full((*window_grid(src.shape, attrs), src.shape[2]), lowest, source.dtype)
    for _, (out_y, out_x), (in_y, in_x) in walk(src.shape, attrs):
        part = result[out_y, out_x]
        np.maximum(part, source[in_y, in_x], out=part)
    return result


def pool_sum(arrays: Arrays, attrs: Attrs) -> np.ndarray:
    """The sum of each window."""
    source = widen(arrays["src"])
    result = np.zeros((*window_grid(source.shape, attrs), source.shape[2]), source.dtype)
    for _, (out_y, out_x), (in_y, in_x) in walk(source.shape, attrs):
        result[out_y, out_x] += source[in_y, in_x]
    return result


def depthwise(arrays: Arrays, attrs: Attrs) -> np.ndarray:
    """Each channel's windows times its own weights, less zero points where given."""
    source, weights = common(arrays["src"], arrays["taps"])
    source = source - source.dtype.type(attrs["zero_a"]) if attrs.get("zero_a") else source
    weights = weights - weights.dtype.type(attrs["zero_b"]) if attrs.get("zero_b") else weights
    result = np.zeros((*window_grid(source.shape, attrs), source.shape[2]), source.dtype)
    for (i, j), (out_y, out_x), (in_y, in_x) in walk(source.shape, attrs):
        result[out_y, out_x] += source[in_y, in_x] * weights[i, j]
    return result


def depthwise_acc(arrays: Arrays, attrs: Attrs) -> np.ndarray:
    """The accumulator plus a depthwise product."""
    value = depthwise(arrays, attrs)
    return arrays["acc"].astype(FLOAT32 if value.dtype == FLOAT32 else INT32) + value


def _source(role: str) -> OperandSpec:
    return OperandSpec(role, VECTOR_SCOPES, (), _RANK3)


_POOL = (vector_dst(ranks=_RANK3), _source("src"))

WINDOWED = (
    OpDef("pool_max", 0xE0, "vector", "windowed", _POOL, pool_max, "The greatest of each window.", (*WINDOW, _TAPS),
          check=windowed, tags=frozenset({"window"})),
    OpDef("pool_sum", 0xE1, "vector", "windowed", _POOL, pool_sum, "The sum of each window.", (*WINDOW, _TAPS),
          check=windowed, tags=frozenset({"window"})),
    OpDef("depthwise", 0xE2, "vector", "windowed", (*_POOL, _source("taps")), depthwise,
          "Each channel's windows times its own weights.", (*WINDOW, _TAPS, _MACS, *_ZERO_POINTS), check=windowed,
          tags=frozenset({"window", "macs"})),
    OpDef("depthwise_acc", 0xE3, "vector", "windowed", (_source("acc"), _source("src"), _source("taps")), depthwise_acc,
          "The accumulator plus each channel's windows times its own weights.",
          (*WINDOW, _TAPS, _MACS, *_ZERO_POINTS), check=windowed, tags=frozenset({"window", "macs", "accumulate"})),
)  # fmt: skip
