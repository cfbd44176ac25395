"""Reductions and scans of the vector engine.

`reduce` names the axis removed: row along each row, column across the rows of a plane, plane across planes. A
reduction of floats accumulates in float32, of integers in int32 modulo 2**32.
"""

# mypy: disable-error-code="no-any-return"
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from dsa_compiler.isa.convert import INT32, widen
from dsa_compiler.isa.declare import vector_dst, vector_src
from dsa_compiler.isa.definition import Arrays, Attrs, AttrSpec, OpDef, Semantics
from dsa_compiler.isa.shapes import AXES, reduced, scanned

_REDUCE = AttrSpec("reduce", "str", choices=tuple(AXES))


def _reduction(function: Callable[..., Any]) -> Semantics:
    """`function(x, axis, keepdims=True)` over the axis that `reduce` names."""
    return lambda arrays, attrs: function(widen(arrays["src"]), AXES[attrs["reduce"]], keepdims=True)


def _sum(x: np.ndarray, axis: int, keepdims: bool) -> np.ndarray:
    return np.sum(x, axis, dtype=x.dtype, keepdims=keepdims)


def _product(x: np.ndarray, axis: int, keepdims: bool) -> np.ndarray:
    return np.prod(x, axis, dtype=x.dtype, keepdims=keepdims)


def _squares(x: np.ndarray, axis: int, keepdims: bool) -> np.ndarray:
    return _sum(x * x, axis, keepdims)


def _magnitude(x: np.ndarray, axis: int, keepdims: bool) -> np.ndarray:
    return np.max(np.abs(x), axis, keepdims=keepdims)


def _any(x: np.ndarray, axis: int, keepdims: bool) -> np.ndarray:
    return np.any(x != 0, axis, keepdims=keepdims)


def _all(x: np.ndarray, axis: int, keepdims: bool) -> np.ndarray:
    return np.all(x != 0, axis, keepdims=keepdims)


def _arg(function: Callable[..., Any]) -> Callable[..., np.ndarray]:
    """The place of an extreme, the first of equals, as int32; a NaN is an extreme."""

    def place(x: np.ndarray, axis: int, keepdims: bool) -> np.ndarray:
        return function(x, axis, keepdims=keepdims).astype(INT32)

    return place


def _reduce(code: int, name: str, function: Callable[..., Any], doc: str, dst: tuple[str, ...] = ()) -> OpDef:
    return OpDef(name, code, "vector", "simple", (vector_dst(dst), vector_src()), _reduction(function), doc, (_REDUCE,),
                 check=reduced, tags=frozenset({"reduce"}))  # fmt: skip


def _scan(code: int, name: str, function: Callable[..., Any], doc: str) -> OpDef:
    def semantics(arrays: Arrays, attrs: Attrs) -> np.ndarray:
        src = widen(arrays["src"])
        return function(src, attrs["axis"], dtype=src.dtype)

    return OpDef(name, code, "vector", "scan", (vector_dst(), vector_src()), semantics, doc,
                 (AttrSpec("axis", "int", least=0),), check=scanned, tags=frozenset({"scan"}))  # fmt: skip


REDUCE = (
    _reduce(0xD0, "reduce_sum", _sum, "The sum."),
    _reduce(0xD1, "reduce_max", np.max, "The greatest."),
    _reduce(0xD2, "reduce_min", np.min, "The least."),
    _reduce(0xD3, "reduce_prod", _product, "The product."),
    _reduce(0xD4, "reduce_sumsq", _squares, "The sum of the squares."),
    _reduce(0xD5, "reduce_absmax", _magnitude, "The greatest magnitude."),
    _reduce(0xD6, "reduce_any", _any, "Whether any differs from 0."),
    _reduce(0xD7, "reduce_all", _all, "Whether all differ from 0."),
    _reduce(0xD8, "arg_max", _arg(np.argmax), "The place of the greatest, the first of equals.", ("int32",)),
    _reduce(0xD9, "arg_min", _arg(np.argmin), "The place of the least, the first of equals.", ("int32",)),
)

SCAN = (
    _scan(0xDC, "cumsum", np.add.accumulate, "Running sums along `axis`."),
    _scan(0xDD, "cumprod", np.multiply.accumulate, "Running products along `axis`."),
    _scan(0xDE, "cummax", np.maximum.accumulate, "Running maxima along `axis`."),
    _scan(0xDF, "cummin", np.minimum.accumulate, "Running minima along `axis`."),
)
