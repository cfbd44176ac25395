"""Conversion of a computed value to an operand's dtype: where rounding, wrapping and saturation are defined.

* float to a narrower float: round to nearest, ties to even; overflow gives an infinity (NaN in float8_e4m3fn, which
  has none), or the greatest finite value where the instruction saturates.
* float to integer: towards zero, saturating, NaN becoming 0, as the conversion instructions of ARM, RISC-V and
  GPUs do.
* integer to a narrower integer: the low bits, or saturating where the instruction saturates.
* anything to bool: whether it differs from zero.
"""

# mypy: disable-error-code="no-any-return"
from __future__ import annotations

import ml_dtypes
import numpy as np

from dsa_compiler.isa.dtypes import FLOATS, numpy_dtype

FLOAT32 = np.dtype(np.float32)
INT32 = np.dtype(np.int32)
_WHOLE = frozenset(np.dtype(t) for t in (np.int8, np.uint8, np.int16, np.int32, np.int64, np.bool_))
_GREATEST = {name: float(ml_dtypes.finfo(numpy_dtype(name)).max) for name in FLOATS}


def integer_range(dtype: str) -> tuple[int, int]:
    """Least and greatest value of an integer dtype."""
    if dtype == "int4":
        return -8, 7
    info = np.iinfo(numpy_dtype(dtype))
    return int(info.min), int(info.max)


def is_whole(array: np.ndarray) -> bool:
    """Whether the elements are integers or truth values."""
    return array.dtype in _WHOLE


def widen(array: np.ndarray) -> np.ndarray:
    """The array in the type that it is computed in: float32 for floats, int32 for integers and bool."""
    if array.dtype == FLOAT32 or array.dtype == INT32:
        return array
    return array.astype(INT32 if array.dtype in _WHOLE else FLOAT32)


def to_float(array: np.ndarray) -> np.ndarray:
    """The array in float32."""
    return array if array.dtype == FLOAT32 else array.astype(FLOAT32)


def common(*arrays: np.ndarray) -> tuple[np.ndarray, ...]:
    """The arrays in the type that they are computed in together: int32 if all are whole, else float32."""
    wide = tuple(widen(a) for a in arrays)
    if any(a.dtype == FLOAT32 for a in wide):
        return tuple(to_float(a) for a in wide)
    return wide


def convert(value: np.ndarray, dtype: str, saturate: bool = False) -> np.ndarray:
    """`value` in the NumPy type that carries `dtype` (see the module's text); the array itself if it has it."""
    target = numpy_dtype(dtype)
    if value.dtype == target and dtype != "int4":
        return value
    if dtype == "bool":
        return value != 0
    if dtype in FLOATS:
        return _to_narrow_float(value, dtype) if saturate else value.astype(target)
    if is_whole(value):
        return _to_narrow_integer(value, dtype, saturate)
    return _float_to_integer(value, dtype)


def _float_to_integer(value: np.ndarray, dtype: str) -> np.ndarray:
    least, greatest = integer_range(dtype)
    exact = value if greatest < 1 << 24 and value.dtype == FLOAT32 else value.astype(np.float64)
    clipped = np.clip(exact, least, greatest)
    missing = np.isnan(clipped)
    if missing.any():
        clipped = np.where(missing, 0.0, clipped)
    return clipped.astype(numpy_dtype(dtype))


def _to_narrow_float(value: np.ndarray, dtype: str) -> np.ndarray:
    greatest = np.float32(_GREATEST[dtype])
    return np.clip(to_float(value), -greatest, greatest).astype(numpy_dtype(dtype))


def _to_narrow_integer(value: np.ndarray, dtype: str, saturate: bool) -> np.ndarray:
    if saturate:
        least, greatest = integer_range(dtype)
        return np.clip(widen(value), least, greatest).astype(numpy_dtype(dtype))
    if dtype != "int4":
        return value.astype(numpy_dtype(dtype))
    low = widen(value) & 15
    return ((low ^ 8) - 8).astype(np.int8)
