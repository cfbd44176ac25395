"""Functions that NumPy lacks, for float32 arrays, computed in double precision and rounded once."""

from __future__ import annotations

import math

import numpy as np
from numba import njit


@njit(cache=True)  # type: ignore[untyped-decorator]
def _erf(x: np.ndarray, out: np.ndarray) -> None:
    for i in range(x.size):
        out[i] = math.erf(x[i])


@njit(cache=True)  # type: ignore[untyped-decorator]
def _gelu(x: np.ndarray, out: np.ndarray) -> None:
    for i in range(x.size):
        value = np.float64(x[i])
        half = 0.5 * math.erfc(-value * math.sqrt(0.5))
        out[i] = value * half if half > 0.0 or value != value else 0.0


def erf(x: np.ndarray) -> np.ndarray:
    """The error function."""
    out = np.empty(x.shape, np.float32)
    _erf(np.ascontiguousarray(x).reshape(-1), out.reshape(-1))
    return out


def gelu(x: np.ndarray) -> np.ndarray:
    """x / 2 * (1 + erf(x / sqrt(2))); 0 at minus infinity."""
    out = np.empty(x.shape, np.float32)
    _gelu(np.ascontiguousarray(x).reshape(-1), out.reshape(-1))
    return out
