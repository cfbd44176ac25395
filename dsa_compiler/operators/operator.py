"""What the compiler knows about an operator: its category and its meaning on NumPy arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Attrs = Mapping[str, Any]
Evaluate = Callable[[Sequence[Array], Attrs], Array]
Category = Literal[
    "elementwise", "reduction", "convolution", "matmul", "pooling", "softmax", "normalization", "movement", "gather"
]


@dataclass(frozen=True)
class Operator:
    """One operator: `name` is that of Relax without its prefix.

    `evaluate(args, attrs)` takes the tensor operands in order and plain Python attributes (positional
    operands of Relax that are no tensors, such as the shape of a reshape, are attributes here) and
    returns the result; floats narrower than float32 are to be widened by the caller.
    """

    name: str
    category: Category
    evaluate: Evaluate


def accumulator(x: Array) -> Array:
    """Return `x` in the dtype that sums of it are exact in, or at least float32.

    Sums of 8- and 16-bit integers fit a float64, for which NumPy has fast products.
    """
    if x.dtype.kind in "iu" and x.dtype.itemsize <= 2:
        return x.astype(np.float64)
    return x.astype(np.float32) if x.dtype.kind in "fV" and x.dtype.itemsize < 4 else x


def sum_dtype(x: Array) -> np.dtype[Any]:
    """Return the dtype of a product's result: int32 for narrower integers, else that of `x`."""
    return np.dtype(np.int32) if x.dtype.kind in "iu" and x.dtype.itemsize <= 2 else x.dtype
