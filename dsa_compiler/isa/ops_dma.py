"""Instructions of the load, store and prefetch engines: copies between memories. DMA never converts.

A plain copy moves the elements in order; source and destination may be different views of as many elements. A
row gather takes row index[i] of `src` (a source of rank 3 is numbered plane by plane) into row i of `dst`; a scatter
puts row i of `src` into row index[i] of `dst`, the last of several winning.
"""

# mypy: disable-error-code="no-any-return"
from __future__ import annotations

from typing import Any

import numpy as np

from dsa_compiler.errors import UserError
from dsa_compiler.isa.declare import MEMORIES, PAD, TRANSPOSE, VALUE
from dsa_compiler.isa.definition import Arrays, Attrs, OpDef, OperandSpec
from dsa_compiler.isa.shapes import (
    all_of,
    between_memories,
    padded,
    row_gather,
    same_dtype,
    same_elements,
    transposed,
)

_L1 = ("l1",)
_STORED = ("l1", "l0c")
_INDEX = OperandSpec("index", _L1, ("int32",), (1,))


def copy(arrays: Arrays, attrs: Attrs) -> np.ndarray:
    """The source as it is."""
    return arrays["src"]


def constant(value: Any, dtype: np.dtype) -> Any:
    """An attribute's value as an element: integers truncate and saturate, NaN becoming 0."""
    number = float(value)
    if dtype == np.bool_:
        return number != 0
    if dtype.kind not in "iu":
        return np.array(number).astype(dtype)
    info = np.iinfo(dtype)
    return 0 if np.isnan(number) else int(min(max(number, info.min), info.max))


def pad(arrays: Arrays, attrs: Attrs) -> np.ndarray:
    """The source with `value` around it."""
    src, pads = arrays["src"], attrs["pad"]
    shape = [e + before + after for e, (before, after) in zip(src.shape, pads, strict=True)]
    result = np.full(shape, constant(attrs["value"], src.dtype), src.dtype)
    result[tuple(slice(b, b + e) for e, (b, _) in zip(src.shape, pads, strict=True))] = src
    return result


def transpose(arrays: Arrays, attrs: Attrs) -> np.ndarray:
    """The source with its two axes exchanged."""
    return arrays["src"].T


def checked_index(index: np.ndarray, rows: int) -> np.ndarray:
    """The index itself; raises `UserError` where it leaves 0 .. rows - 1."""
    if index.size and (int(index.min()) < 0 or int(index.max()) >= rows):
        bad = index[(index < 0) | (index >= rows)].flat[0]
        raise UserError(f"index {int(bad)} is outside 0 to {rows - 1}", where="gather", action="correct the index")
    return index


def gather_rows(arrays: Arrays, attrs: Attrs) -> np.ndarray:
    """Row index[i] of src for each i."""
    rows = arrays["src"].reshape(-1, arrays["src"].shape[-1])
    return rows[checked_index(arrays["index"], len(rows))]


def fill(arrays: Arrays, attrs: Attrs) -> np.ndarray:
    """`value` everywhere."""
    value = attrs["value"]
    dtype = np.int32 if isinstance(value, int) else np.float32
    return np.full(arrays["dst"].shape, value if isinstance(value, int) else float(value), dtype)


def _operands(
    src: tuple[str, ...], dst: tuple[str, ...], ranks: tuple[int, ...] = (1, 2, 3)
) -> tuple[OperandSpec, ...]:
    return OperandSpec("dst", dst, (), ranks), OperandSpec("src", src, (), ranks)


_COPY = all_of(same_dtype, same_elements)
_PAD = all_of(same_dtype, padded)
_PREFETCH = all_of(same_dtype, between_memories)
_DMA = frozenset({"dma"})
_FILL = frozenset({"dma", "fill", "shaped"})
_MULTICAST = frozenset({"dma", "multicast"})

LOAD = (
    OpDef("load", 0x01, "load", "dma", _operands(MEMORIES, _L1), copy, "Copy into l1.", check=_COPY, tags=_DMA),
    OpDef(
        "load_pad", 0x02, "load", "dma", _operands(MEMORIES, _L1), pad, "Copy into l1 with padding around the source.",
        (PAD, VALUE), check=_PAD, tags=_DMA,
    ),
    OpDef(
        "load_multicast", 0x03, "load", "dma", _operands(MEMORIES, _L1), copy,
        "Copy into the l1 of every core of the group.", feature="multicast", check=_COPY, tags=_MULTICAST,
    ),
    OpDef(
        "load_pad_multicast", 0x04, "load", "dma", _operands(MEMORIES, _L1), pad,
        "Padded copy into the l1 of every core of the group.", (PAD, VALUE), "multicast", _PAD, _MULTICAST,
    ),
    OpDef(
        "load_transpose", 0x05, "load", "dma", _operands(MEMORIES, _L1, (2,)), transpose,
        "Copy into l1 exchanging the two axes.", (TRANSPOSE,), "transpose_load",
        all_of(same_dtype, transposed), _DMA,
    ),
    OpDef(
        "load_gather", 0x06, "load", "dma",
        (OperandSpec("dst", _L1, (), (2,)), OperandSpec("src", MEMORIES, (), (2, 3)), _INDEX), gather_rows,
        "Rows of src chosen by an index in l1.", check=all_of(same_dtype, row_gather("src", "dst")), tags=_DMA,
    ),
    OpDef("load_fill", 0x07, "load", "dma", (OperandSpec("dst", _L1),), fill, "Fill l1.", (VALUE,), tags=_FILL),
)  # fmt: skip

STORE = (
    OpDef("store", 0x10, "store", "dma", _operands(_STORED, MEMORIES), copy, "Copy out of the core.", check=_COPY,
          tags=_DMA),
    OpDef(
        "store_round", 0x11, "store", "dma",
        (OperandSpec("dst", MEMORIES, ("float16", "bfloat16")), OperandSpec("src", ("l0c",), ("float32",))), copy,
        "Copy accumulators out of the core, rounding float32 to a 16-bit float.", check=same_elements,
        tags=_DMA | {"round"},
    ),
    OpDef("store_pad", 0x12, "store", "dma", _operands(_STORED, MEMORIES), pad,
          "Copy out of the core with padding around the source.", (PAD, VALUE), check=_PAD, tags=_DMA),
    OpDef(
        "store_scatter", 0x13, "store", "dma",
        (OperandSpec("dst", MEMORIES, (), (2, 3)), OperandSpec("src", _L1, (), (2,)), _INDEX), copy,
        "Rows of src to places chosen by an index in l1.", check=all_of(same_dtype, row_gather("dst", "src")),
        tags=_DMA | {"scatter"},
    ),
    OpDef("store_fill", 0x14, "store", "dma", (OperandSpec("dst", MEMORIES),), fill, "Fill ddr or llb.", (VALUE,),
          tags=_FILL),
)  # fmt: skip

PREFETCH = (
    OpDef("prefetch", 0x20, "prefetch", "dma", _operands(MEMORIES, MEMORIES), copy, "Copy between ddr and llb.",
          check=all_of(_COPY, _PREFETCH), tags=_DMA),
    OpDef("prefetch_pad", 0x21, "prefetch", "dma", _operands(MEMORIES, MEMORIES), pad,
          "Copy between ddr and llb with padding around the source.", (PAD, VALUE), check=all_of(_PAD, _PREFETCH),
          tags=_DMA),
    OpDef("prefetch_multicast", 0x22, "prefetch", "dma", _operands(("ddr",), ("llb",)), copy,
          "Copy from ddr into the llb of every cluster of the group.", feature="multicast",
          check=all_of(_COPY, _PREFETCH), tags=_MULTICAST),
    OpDef("prefetch_fill", 0x23, "prefetch", "dma", (OperandSpec("dst", MEMORIES),), fill, "Fill ddr or llb.", (VALUE,),
          tags=_FILL),
)  # fmt: skip
