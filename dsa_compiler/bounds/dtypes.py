"""Element types: names, sizes, and what a tensor of the model becomes in the compiled precision."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from onnx import TensorProto

ITEM_BYTES: Mapping[str, float] = MappingProxyType(
    {
        "float64": 8,
        "float32": 4,
        "float16": 2,
        "bfloat16": 2,
        "float8_e4m3fn": 1,
        "float8_e4m3fnuz": 1,
        "float8_e5m2": 1,
        "float8_e5m2fnuz": 1,
        "float8_e8m0": 1,
        "float4_e2m1": 0.5,
        "int64": 8,
        "uint64": 8,
        "int32": 4,
        "uint32": 4,
        "int16": 2,
        "uint16": 2,
        "int8": 1,
        "uint8": 1,
        "int4": 0.5,
        "uint4": 0.5,
        "int2": 0.25,
        "uint2": 0.25,
        "bool": 1,
    }
)
"""Bytes of one element."""

FLOATS = frozenset({"float64", "float32", "float16", "bfloat16"})
"""Types that are compiled in the chosen precision."""

_ODD_NAMES = {
    "FLOAT": "float32",
    "DOUBLE": "float64",
    "FLOAT8E4M3FN": "float8_e4m3fn",
    "FLOAT8E4M3FNUZ": "float8_e4m3fnuz",
    "FLOAT8E5M2": "float8_e5m2",
    "FLOAT8E5M2FNUZ": "float8_e5m2fnuz",
    "FLOAT8E8M0": "float8_e8m0",
    "FLOAT4E2M1": "float4_e2m1",
}


def dtype_name(element_type: int) -> str:
    """The name of an ONNX element type; `undefined`, `string` and complex types have no size."""
    name: str = TensorProto.DataType.Name(element_type)
    return _ODD_NAMES.get(name, name.lower())


def compiled_dtype(dtype: str, precision: str | None) -> str:
    """What `dtype` is on the part: floats take the precision (None: they stay), 64-bit integers have 32 bits."""
    if dtype in FLOATS:
        return precision or ("float32" if dtype == "float64" else dtype)
    return {"int64": "int32", "uint64": "int32", "uint32": "int32"}.get(dtype, dtype)
