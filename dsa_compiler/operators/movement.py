"""Data movement: operators that only place elements."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dsa_compiler.operators.operator import Array, Attrs, Operator


def slices(rank: int, attrs: Attrs) -> tuple[slice, ...]:
    """Return the slice of each axis that a strided_slice takes (begin and end may be negative or beyond)."""
    result = [slice(None)] * rank
    strides = attrs.get("strides") or (1,) * len(attrs["axes"])
    for axis, begin, end, stride in zip(attrs["axes"], attrs["begin"], attrs["end"], strides, strict=True):
        stop = None if stride < 0 and end < -(2**31) else end
        result[axis] = slice(begin, stop, stride)
    return tuple(result)


def _pad(args: Sequence[Array], attrs: Attrs) -> Array:
    flat = attrs["pad_width"]
    widths = [(flat[2 * i], flat[2 * i + 1]) for i in range(args[0].ndim)]
    mode = str(attrs.get("pad_mode", "constant"))
    if mode == "constant":
        return np.pad(args[0], widths, constant_values=attrs.get("pad_value", 0))
    return np.pad(args[0], widths, mode="edge" if mode in ("edge", "replicate") else "reflect")


def _take(args: Sequence[Array], attrs: Attrs) -> Array:
    return np.take(args[0], args[1], axis=attrs.get("axis"), mode="wrap")


def movement_operators() -> list[Operator]:
    """Return the data movements and the gather."""
    table = {
        "reshape": lambda args, attrs: args[0].reshape(attrs["shape"]),
        "permute_dims": lambda args, attrs: args[0].transpose(attrs["axes"]),
        "broadcast_to": lambda args, attrs: np.broadcast_to(args[0], attrs["shape"]),
        "strided_slice": lambda args, attrs: args[0][slices(args[0].ndim, attrs)],
        "concat": lambda args, attrs: np.concatenate(list(args), axis=attrs["axis"]),
        "flip": lambda args, attrs: np.flip(args[0], attrs["axis"]),
        "nn.pad": _pad,
    }
    return [Operator(name, "movement", fn) for name, fn in table.items()] + [Operator("take", "gather", _take)]
