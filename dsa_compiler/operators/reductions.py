"""Reductions, arg-reductions and scans."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from dsa_compiler.operators.operator import Array, Attrs, Operator, accumulator


def _axes(attrs: Attrs) -> tuple[int, ...] | None:
    axis = attrs.get("axis")
    return None if axis is None else (axis,) if isinstance(axis, int) else tuple(axis)


def _reduction(fn: Callable[..., Any]) -> Callable[[Sequence[Array], Attrs], Array]:
    def evaluate(args: Sequence[Array], attrs: Attrs) -> Array:
        result = fn(accumulator(args[0]), axis=_axes(attrs), keepdims=attrs.get("keepdims", False))
        return np.asarray(result).astype(args[0].dtype)

    return evaluate


def _wide(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Return `fn` with floats added up in float64: NumPy adds float32 one by one along an outer axis."""
    return lambda x, **options: fn(x.astype(np.float64) if x.dtype.kind == "f" else x, **options)


def _arg(fn: Callable[..., Any]) -> Callable[[Sequence[Array], Attrs], Array]:
    def evaluate(args: Sequence[Array], attrs: Attrs) -> Array:
        return np.asarray(fn(args[0], axis=attrs.get("axis"), keepdims=attrs.get("keepdims", False)), np.int64)

    return evaluate


def _scan(fn: Callable[..., Any]) -> Callable[[Sequence[Array], Attrs], Array]:
    return lambda args, attrs: np.asarray(fn(accumulator(args[0]), axis=attrs.get("axis"))).astype(args[0].dtype)


def reduction_operators() -> list[Operator]:
    """Return every reduction and scan."""
    table = {
        "sum": _reduction(_wide(np.sum)), "mean": _reduction(_wide(np.mean)), "max": _reduction(np.max),
        "min": _reduction(np.min), "prod": _reduction(np.prod), "variance": _reduction(_wide(np.var)),
        "std": _reduction(_wide(np.std)),
        "argmax": _arg(np.argmax), "argmin": _arg(np.argmin),
        "cumsum": _scan(np.cumsum), "cumprod": _scan(np.cumprod),
    }  # fmt: skip
    return [Operator(name, "reduction", fn) for name, fn in table.items()]
