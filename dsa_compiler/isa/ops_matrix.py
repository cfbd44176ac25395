"""Instructions of the matrix engine: lhs [m, k] in l0a times rhs [k, n] in l0b into [m, n] in l0c.

Floats multiply exactly and accumulate in float32, integers in int32, modulo 2**32. A sparse product keeps two of every
four rows of rhs: `rhs` is [k/2, n], and `index` [k/4, n] holds a byte for each group of four and column, with the place
of the first kept element in bits 0-1 and of the second in bits 2-3.
"""

# mypy: disable-error-code="no-any-return"
from __future__ import annotations

import numpy as np

from dsa_compiler.isa.convert import INT32, is_whole, to_float
from dsa_compiler.isa.declare import NUMERIC
from dsa_compiler.isa.definition import Arrays, Attrs, AttrSpec, OpDef, OperandSpec
from dsa_compiler.isa.shapes import matrix

_EXACT_IN_FLOAT32 = 1 << 24
_FACTORS = tuple(d for d in NUMERIC if d not in ("int32", "int16"))
_SPARSE = ("float16", "bfloat16", "int8")
_ACCUMULATORS = ("float32", "int32")


_GREATEST = {np.dtype(np.int8): 128, np.dtype(np.uint8): 255}


def multiply(lhs: np.ndarray, rhs: np.ndarray) -> np.ndarray:
    """The product, in float32 or int32. Integers are carried by float32 in pieces of k that it sums exactly."""
    left, right = to_float(lhs), to_float(rhs)
    if not is_whole(lhs):
        return np.matmul(left, right)
    step = _EXACT_IN_FLOAT32 // (_GREATEST[lhs.dtype] * _GREATEST[rhs.dtype])
    result = np.matmul(left[:, :step], right[:step]).astype(INT32)
    for k in range(step, lhs.shape[1], step):
        result += np.matmul(left[:, k : k + step], right[k : k + step]).astype(INT32)
    return result


def centred(lhs: np.ndarray, rhs: np.ndarray, zero_a: int, zero_b: int) -> np.ndarray:
    """The product of integers less their zero points, from the plain product and the sums of rows and columns."""
    rows = lhs.sum(axis=1, dtype=np.int64, keepdims=True) * zero_b
    columns = rhs.sum(axis=0, dtype=np.int64, keepdims=True) * zero_a
    return (multiply(lhs, rhs) - rows - columns + lhs.shape[1] * zero_a * zero_b).astype(INT32)


def expand(rhs: np.ndarray, index: np.ndarray) -> np.ndarray:
    """The dense right operand [k, n] of a sparse one."""
    groups, columns = index.shape
    dense = np.zeros((groups, 4, columns), rhs.dtype)
    places = np.stack([index & 3, (index >> 2) & 3], axis=1).astype(np.intp)
    np.put_along_axis(dense, places, rhs.reshape(groups, 2, columns), axis=1)
    return dense.reshape(groups * 4, columns)


def _product(arrays: Arrays, attrs: Attrs) -> np.ndarray:
    lhs, rhs = arrays["lhs"], arrays["rhs"]
    if "index" in arrays:
        rhs = expand(rhs, arrays["index"])
    if "zero_a" in attrs:
        return centred(lhs, rhs, attrs["zero_a"], attrs["zero_b"])
    return multiply(lhs, rhs)




def product(arrays: Arrays, attrs: Attrs) -> np.ndarray:
    """lhs x rhs."""
    return _product(arrays, attrs)


def product_acc(arrays: Arrays, attrs: Attrs) -> np.ndarray:
    """acc + lhs x rhs."""
    return arrays["acc"] + _product(arrays, attrs)


def product_bias(arrays: Arrays, attrs: Attrs) -> np.ndarray:
    """bias + lhs x rhs."""
    return arrays["bias"] + _product(arrays, attrs)


def _factor(role: str, scope: str, dtypes: tuple[str, ...]) -> OperandSpec:
    return OperandSpec(role, (scope,), dtypes, (2,))


def _operands(result: str, dtypes: tuple[str, ...], bias: bool, sparse: bool) -> tuple[OperandSpec, ...]:
    specs = [_factor(result, "l0c", _ACCUMULATORS), _factor("lhs", "l0a", dtypes), _factor("rhs", "l0b", dtypes)]
    if bias:
        specs.append(_factor("bias", "l0b", _ACCUMULATORS))
    if sparse:
        specs.append(_factor("index", "l0b", ("uint8",)))
    return tuple(specs)


def _family(suffix: str, code: int, doc: str, dtypes: tuple[str, ...], attrs: tuple[AttrSpec, ...], feature: str = "",
            ) -> tuple[OpDef, ...]:
    """Product, accumulating product and product with a bias row."""
    sparse = bool(feature)
    tags = frozenset({"matrix", *({"sparse"} if sparse else ()), *({"zero_point"} if suffix == "_zp" else ())})
    name = f"matmul{suffix}" if sparse else "matmul"
    after = "" if sparse else suffix
    parts = (
        ("", "dst", product, f"lhs x rhs{doc}.", False),
        ("_acc", "acc", product_acc, f"acc + lhs x rhs{doc}.", False),
        ("_bias", "dst", product_bias, f"bias + lhs x rhs{doc}.", True),
    )
    return tuple(
        OpDef(f"{name}{kind}{after}", code + i, "matrix", "matrix", _operands(result, dtypes, bias, sparse),
              semantics, text, attrs, feature, matrix, tags | ({"accumulate"} if result == "acc" else frozenset()))
        for i, (kind, result, semantics, text, bias) in enumerate(parts)
    )  # fmt: skip


_SPARSE_MARK = (AttrSpec("sparse", "bool", always=True),)
_ZERO_POINTS = (AttrSpec("zero_a", "int"), AttrSpec("zero_b", "int"))

MATRIX = (
    *_family("", 0x30, "", _FACTORS, ()),
    *_family("_zp", 0x33, " of integers less their zero points", ("int8", "uint8", "int4"), _ZERO_POINTS),
    *_family("_sparse", 0x36, " with a 2:4 sparse rhs", _SPARSE, _SPARSE_MARK, "sparse_2_4"),
)
