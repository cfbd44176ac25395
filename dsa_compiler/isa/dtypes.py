"""Element types of operands: names, codes, sizes, and the NumPy types that carry their values."""

# mypy: disable-error-code="no-any-return"
from __future__ import annotations

import ml_dtypes
import numpy as np

DTYPES = (
    "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2",
    "int32", "int16", "int8", "uint8", "int4", "bool",
)  # fmt: skip
"""The dtype's place in this tuple is its code in tables and encodings."""

DTYPE_CODE = {name: code for code, name in enumerate(DTYPES)}
FLOATS = frozenset({"float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2"})
INTEGERS = frozenset({"int32", "int16", "int8", "uint8", "int4"})

_NUMPY = {
    **{name: np.dtype(name) for name in ("int64", "uint64", "uint32", "uint16", "float64")},  # bound, never computed
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float8_e4m3fn": np.dtype(ml_dtypes.float8_e4m3fn),
    "float8_e5m2": np.dtype(ml_dtypes.float8_e5m2),
    "int32": np.dtype(np.int32),
    "int16": np.dtype(np.int16),
    "int8": np.dtype(np.int8),
    "uint8": np.dtype(np.uint8),
    "int4": np.dtype(np.int8),
    "bool": np.dtype(np.bool_),
}


def numpy_dtype(name: str) -> np.dtype:
    """The NumPy type of one element; int4 is carried, unpacked, by int8."""
    return _NUMPY[name]


def item_bits(name: str) -> int:
    """Bits that one element takes in memory."""
    return 4 if name == "int4" else _NUMPY[name].itemsize * 8


def item_bytes(name: str) -> int:
    """Bytes of one element; int4 counts as 1 and is halved where rows are measured."""
    return _NUMPY[name].itemsize
