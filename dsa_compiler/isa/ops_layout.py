"""Data movement, generation, lookup and sorting on the vector engine.

Order of sorting: ascending puts NaN after everything else. With `payload` an operand's rows come in pairs, keys above
payload, and each payload element moves with its key; equal keys are ordered by ascending payload, which makes a sort
stable when the payload is the position. The payload has the keys' dtype (float32 counts exactly to 2**24).

`sort_stage` is one stage of a bitonic network along the rows: elements i and i + distance (for each i with
i & distance == 0) are put in order, ascending where i & direction == 0 (always, if direction is 0), otherwise
descending; `descending` exchanges the two. A full ascending sort of n = 2**p runs direction = 2, 4, ..,
n and for each of them distance = direction / 2, .., 2, 1.

`topk_merge` gives the first of the merge of two sources that are each sorted in the order named, as many as dst holds.
"""

# mypy: disable-error-code="no-any-return"
from __future__ import annotations

import numpy as np

from dsa_compiler.errors import UserError
from dsa_compiler.isa.convert import INT32, common, widen
from dsa_compiler.isa.declare import VALUE, VECTOR_SCOPES, WHOLE, vector_dst, vector_src
from dsa_compiler.isa.definition import Arrays, Attrs, AttrSpec, OpDef, OperandSpec
from dsa_compiler.isa.ops_dma import checked_index, copy, fill, gather_rows, transpose
from dsa_compiler.isa.shapes import (
    deinterleaved,
    interleaved,
    looked_up,
    merged,
    row_gather,
    same_extents,
    sorted_stage,
    transposed,
)


def interleave(arrays: Arrays, attrs: Attrs) -> np.ndarray:
    """src and src2 by turns along the rows."""
    pair = np.stack(common(arrays["src"], arrays["src2"]), axis=-1)
    return pair.reshape(*pair.shape[:-2], -1)


def deinterleave(arrays: Arrays, attrs: Attrs) -> np.ndarray:
    """Every other element of the rows, from `phase`."""
    return arrays["src"][..., attrs["phase"] :: 2]


def reverse(arrays: Arrays, attrs: Attrs) -> np.ndarray:
    """Rows back to front."""
    return arrays["src"][..., ::-1]


def iota(arrays: Arrays, attrs: Attrs) -> np.ndarray:
    """start, start + step, .. along each row."""
    shape, start, step = arrays["dst"].shape, attrs["start"], attrs["step"]
    whole = isinstance(start, int) and isinstance(step, int)
    dtype = np.dtype(np.int32 if whole else np.float32)
    row = np.multiply(np.arange(shape[-1]).astype(dtype), dtype.type(step))
    return np.broadcast_to(row + dtype.type(start), shape)


def lookup(arrays: Arrays, attrs: Attrs) -> np.ndarray:
    """table[src]; the elements of an int8 or int16 source count from the least one."""
    src, table = arrays["src"], arrays["table"]
    index = widen(src) - (np.iinfo(src.dtype).min if src.dtype in (np.int8, np.int16) else 0)
    return table[checked_index(index, len(table))]


def _precedes(key: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Whether `key` sorts before `other`, NaN being last."""
    return (key < other) | (np.isnan(other) & ~np.isnan(key)) if key.dtype != INT32 else key < other


def sort_stage(arrays: Arrays, attrs: Attrs) -> np.ndarray:
    """One compare-exchange stage (see the module's text)."""
    values, distance = widen(arrays["src"]), attrs["distance"]
    length = values.shape[-1]
    pairs = values.reshape(*values.shape[:-1], length // (2 * distance), 2, distance)
    first, second = pairs[..., 0, :], pairs[..., 1, :]
    starts = np.arange(length // (2 * distance)) * (2 * distance)
    falling = ((starts & attrs["direction"]) != 0) ^ bool(attrs.get("descending", False))
    swap = _exchange(first, second, falling[:, None], bool(attrs.get("payload", False)))
    result = np.stack([np.where(swap, second, first), np.where(swap, first, second)], axis=-2)
    return result.reshape(values.shape)


def _exchange(first: np.ndarray, second: np.ndarray, falling: np.ndarray, payload: bool) -> np.ndarray:
    """Which pairs are out of order; the last two axes are (pair, place)."""
    if not payload:
        return np.where(falling, _precedes(first, second), _precedes(second, first))
    a, b, low, high = first[..., 0, :, :], second[..., 0, :, :], first[..., 1, :, :], second[..., 1, :, :]
    tied = ~_precedes(a, b) & ~_precedes(b, a) & (high < low)
    swap = np.where(falling, _precedes(a, b), _precedes(b, a)) | tied
    return np.stack([swap, swap], axis=-3)


def topk_merge(arrays: Arrays, attrs: Attrs) -> np.ndarray:
    """The first of two sorted sources merged; raises `UserError` where a source is not sorted."""
    falling, payload = bool(attrs["descending"]), bool(attrs.get("payload", False))
    sources = common(arrays["src"], arrays["src2"])
    for role, source in zip(("src", "src2"), sources, strict=True):
        keys = source[..., 0, :] if payload else source
        before, after = keys[..., :-1], keys[..., 1:]
        if bool(np.any(_precedes(before, after) if falling else _precedes(after, before))):
            raise UserError(f"{role} is not sorted", where="topk_merge", action="sort it in the merge's order")
    both = np.concatenate(sources, axis=-1)
    keys = both[..., 0:1, :] if payload else both
    order = np.lexsort((both[..., 1:2, :], _rank(keys, falling)), axis=-1) if payload else _rank_order(keys, falling)
    return np.take_along_axis(both, np.broadcast_to(order, both.shape), -1)[..., : arrays["dst"].shape[-1]]


def _rank(keys: np.ndarray, falling: bool) -> np.ndarray:
    """Numbers that ascend in the order wanted, equal for equal keys."""
    flat = np.unique(keys, return_inverse=True, equal_nan=True)[1].reshape(keys.shape)
    return -flat if falling else flat


def _rank_order(keys: np.ndarray, falling: bool) -> np.ndarray:
    return np.argsort(_rank(keys, falling), axis=-1, kind="stable")


_PAYLOAD = AttrSpec("payload", "bool", required=False)
_PAIR = (vector_dst(), vector_src())
_TAGS = frozenset({"layout"})
_SHAPED = _TAGS | {"shaped"}

LAYOUT = (
    OpDef("transpose", 0xE8, "vector", "gather", (vector_dst(ranks=(2,)), vector_src(ranks=(2,))), transpose,
          "The two axes exchanged.", check=transposed, tags=_TAGS),
    OpDef("interleave", 0xE9, "vector", "gather", (*_PAIR, vector_src("src2")), interleave,
          "src and src2 by turns along the rows.", check=interleaved, tags=_TAGS),
    OpDef("deinterleave", 0xEA, "vector", "gather", _PAIR, deinterleave,
          "Every other element of the rows, from `phase`.", (AttrSpec("phase", "int"),), check=deinterleaved,
          tags=_TAGS),
    OpDef("slide", 0xEB, "vector", "slide",
          (OperandSpec("dst", ("l1",), (), (1, 2)), OperandSpec("src", ("l1",), (), (1, 2), aligned_base=False)), copy,
          "Copy from an element-aligned base.", check=same_extents, tags=_TAGS),
    OpDef("gather", 0xEC, "vector", "gather",
          (vector_dst(ranks=(2,)), OperandSpec("src", VECTOR_SCOPES, (), (2, 3)),
           OperandSpec("index", VECTOR_SCOPES, ("int32",), (1,))), gather_rows,
          "Row index[i] of src into row i.", check=row_gather("src", "dst"), tags=_TAGS),
    OpDef("reverse", 0xED, "vector", "gather", _PAIR, reverse, "Rows back to front.", check=same_extents, tags=_TAGS),
    OpDef("iota", 0xEE, "vector", "simple", (vector_dst(),), iota, "start, start + step, .. along each row.",
          (AttrSpec("start", "float"), AttrSpec("step", "float")), tags=_SHAPED),
    OpDef("fill", 0xEF, "vector", "simple", (vector_dst(),), fill, "`value` everywhere.", (VALUE,),
          tags=_SHAPED | {"fill"}),
    OpDef("lookup", 0xF0, "vector", "gather",
          (vector_dst(), vector_src(dtypes=tuple(d for d in WHOLE if d != "bool")),
           OperandSpec("table", ("l1",), (), (1,))), lookup,
          "The element of a table that src names.", check=looked_up, tags=_TAGS),
    OpDef("sort_stage", 0xF1, "vector", "stage", _PAIR, sort_stage, "One compare-exchange stage along the rows.",
          (AttrSpec("distance", "int", least=1), AttrSpec("direction", "int", least=0),
           AttrSpec("descending", "bool", required=False), _PAYLOAD), check=sorted_stage, tags=_TAGS),
    OpDef("topk_merge", 0xF2, "vector", "merge", (*_PAIR, vector_src("src2")), topk_merge,
          "The first of two sorted sources merged.", (AttrSpec("descending", "bool"), _PAYLOAD), check=merged,
          tags=_SHAPED),
)  # fmt: skip
