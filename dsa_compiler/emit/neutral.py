"""Neutral elements of accumulating operations."""

from __future__ import annotations

import ml_dtypes
import numpy as np

from dsa_compiler.isa.dtypes import numpy_dtype


def neutral(op: str, dtype: str) -> float | int | bool:
    """The value that leaves an accumulator of `op` as it is; for max and min the extreme of the dtype."""
    if op in ("add", "logical_or"):
        return False if dtype == "bool" else 0
    if op in ("mul", "logical_and"):
        return True if dtype == "bool" else 1
    low, high = limits(dtype)
    return low if op == "max" else high


def is_neutral(op: str, value: float, dtype: str) -> bool:
    """Whether a first value leaves an accumulator as it is."""
    if op in ("max", "min"):
        low, high = limits(dtype)
        return value <= low if op == "max" else value >= high
    return value == neutral(op, dtype)


def limits(dtype: str) -> tuple[float | int, float | int]:
    """The least and the greatest finite value."""
    kind = numpy_dtype(dtype)
    if np.issubdtype(kind, np.integer):
        info = np.iinfo(kind)
        return int(info.min), int(info.max)
    if kind == np.bool_:
        return 0, 1
    high = float(ml_dtypes.finfo(kind).max)
    return -high, high
