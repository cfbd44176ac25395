"""Affine views of tensors.

A tensor of shape (d0, ..., dk) is seen as a matrix of rows (all dimensions but the last, flattened) and columns (the
last): memory pads the pitch of a row, never anything else, so every address is `row * pitch + column * itemsize`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from dsa_compiler.graph.axes import blocks

Stride = tuple[int, int]


@dataclass(frozen=True)
class View:
    """A strided window on a tensor.

    Element v of the view is at row `offset[0] + sum(v[i] * strides[i][0])` and column
    `offset[1] + sum(v[i] * strides[i][1])` of the tensor, in elements. A stride of (0, 0) repeats. Views of a tensor
    that is stored dense count everything in columns: the row parts are 0 and a column runs on in the next rows.
    """

    tensor: str
    shape: tuple[int, ...]
    strides: tuple[Stride, ...]
    offset: Stride = (0, 0)

    def __str__(self) -> str:
        strides = ", ".join(f"{r}r" if c == 0 and r else f"{c}" if r == 0 else f"{r}r+{c}" for r, c in self.strides)
        start = f" from ({self.offset[0]}r, {self.offset[1]})" if any(self.offset) else ""
        return f"{self.tensor}{list(self.shape)} by ({strides}){start}"

    def contiguous(self, dim: int) -> bool:
        """Whether dimension `dim` runs along columns one by one (or has one element)."""
        return self.shape[dim] == 1 or self.strides[dim] == (0, 1)

    def repeats(self, dim: int) -> bool:
        """Whether dimension `dim` repeats one element."""
        return self.shape[dim] == 1 or self.strides[dim] == (0, 0)

    def innermost_contiguous(self) -> bool:
        """Whether the last dimension is contiguous or repeats one element."""
        return not self.shape or self.contiguous(len(self.shape) - 1) or self.repeats(len(self.shape) - 1)

    def flat_strides(self, columns: int) -> tuple[int, ...]:
        """Return the strides in elements of the dense tensor whose rows have `columns` elements."""
        return tuple(r * columns + c for r, c in self.strides)

    def flat_offset(self, columns: int) -> int:
        """Return the offset in elements of the dense tensor whose rows have `columns` elements."""
        return self.offset[0] * columns + self.offset[1]


def identity(tensor: str, shape: Sequence[int]) -> View:
    """Return the view of a whole tensor."""
    strides: list[Stride] = []
    rows = 1
    for i in reversed(range(len(shape))):
        if i == len(shape) - 1:
            strides.append((0, 1))
        else:
            strides.append((rows, 0))
            rows *= shape[i]
    return View(tensor, tuple(shape), tuple(reversed(strides)))


def is_identity(view: View, shape: Sequence[int]) -> bool:
    """Whether `view` is the whole tensor of `shape` in order; strides of single elements do not count."""
    whole = identity(view.tensor, shape)
    if view.shape != whole.shape or view.offset != (0, 0):
        return False
    columns = shape[-1] if shape else 1
    pairs = zip(view.flat_strides(columns), whole.flat_strides(columns), strict=True)
    return all(n == 1 or a == b for n, (a, b) in zip(view.shape, pairs, strict=True))


@dataclass(frozen=True)
class Move:
    """One step from a value to a view of it.

    `kind` and `args`: reshape (shape), permute (axes), slice (begin, extent and step of each axis, flattened),
    broadcast (shape). `before` is the shape that the step starts from.
    """

    kind: str
    args: tuple[int, ...]
    before: tuple[int, ...]

    def invertible(self) -> bool:
        """Whether the step keeps every element once."""
        return self.kind in ("reshape", "permute")

    def inverse(self) -> Move:
        """Return the step back; only for an invertible one."""
        if self.kind == "reshape":
            return Move("reshape", self.before, self.args)
        order = sorted(range(len(self.args)), key=lambda i: self.args[i])
        return Move("permute", tuple(order), tuple(self.before[a] for a in self.args))

    def after(self) -> tuple[int, ...]:
        """Return the shape that the step leads to."""
        if self.kind == "permute":
            return tuple(self.before[a] for a in self.args)
        return self.args[1::3] if self.kind == "slice" else self.args


def apply(view: View, move: Move) -> View | None:
    """Return `view` after one step, None if no affine view is the result."""
    if move.kind == "permute":
        return replace(
            view, shape=tuple(view.shape[a] for a in move.args), strides=tuple(view.strides[a] for a in move.args)
        )
    if move.kind == "slice":
        return _slice(view, move.args)
    if move.kind == "broadcast":
        return _broadcast(view, move.args)
    strides = _reshaped(view, move.args)
    return None if strides is None else replace(view, shape=move.args, strides=strides)


def flattened(view: View, columns: int) -> View:
    """Return `view` of a dense tensor with `columns` columns, all strides in columns."""
    strides = tuple((0, s) for s in view.flat_strides(columns))
    return replace(view, strides=strides, offset=(0, view.flat_offset(columns)))


def _slice(view: View, args: tuple[int, ...]) -> View:
    begins, extents, steps = args[0::3], args[1::3], args[2::3]
    row = view.offset[0] + sum(b * s[0] for b, s in zip(begins, view.strides, strict=True))
    column = view.offset[1] + sum(b * s[1] for b, s in zip(begins, view.strides, strict=True))
    strides = tuple((s[0] * n, s[1] * n) for s, n in zip(view.strides, steps, strict=True))
    return replace(view, shape=extents, strides=strides, offset=(row, column))


def _broadcast(view: View, shape: tuple[int, ...]) -> View:
    lead = len(shape) - len(view.shape)
    wide = (1,) * lead + view.shape
    strides: tuple[Stride, ...] = ((0, 0),) * lead + view.strides
    repeated = tuple((0, 0) if n == 1 and m != 1 else s for n, m, s in zip(wide, shape, strides, strict=True))
    return replace(view, shape=shape, strides=repeated)


def _reshaped(view: View, shape: tuple[int, ...]) -> tuple[Stride, ...] | None:
    """Return the strides of a reshaped view, None if there are none."""
    strides: list[Stride] = [(0, 0)] * len(shape)
    if math.prod(shape) == 0:
        return tuple(strides)
    for block in blocks(view.shape, shape):
        runs = _merged([(view.shape[i], view.strides[i]) for i in block.old])
        if not _divide(runs, [(shape[i], i) for i in block.new], strides):
            return None
    return tuple(strides)


def _merged(dims: list[tuple[int, Stride]]) -> list[tuple[int, Stride]]:
    """Join neighbouring dimensions where the outer steps over exactly the inner's extent."""
    result = [dims[0]]
    for extent, stride in dims[1:]:
        outer, over = result[-1]
        if over == (stride[0] * extent, stride[1] * extent):
            result[-1] = (outer * extent, stride)
        else:
            result.append((extent, stride))
    return result


def _divide(runs: list[tuple[int, Stride]], dims: list[tuple[int, int]], strides: list[Stride]) -> bool:
    """Divide runs into dimensions (extent, place in `strides`); False if a dimension spans two runs."""
    dims = list(dims)
    for extent, stride in reversed(runs):
        factor = 1
        while factor < extent:
            if not dims or extent % (factor * dims[-1][0]):
                return False
            size, place = dims.pop()
            strides[place] = (stride[0] * factor, stride[1] * factor)
            factor *= size
    return not dims


@dataclass(frozen=True)
class Lazy:
    """A value as steps from a tensor; what view that is depends on where the tensor is stored."""

    tensor: str
    shape: tuple[int, ...]
    moves: tuple[Move, ...] = ()

    def then(self, kind: str, args: Sequence[int]) -> Lazy:
        """Return the value after one more step."""
        move = Move(kind, tuple(int(a) for a in args), self.shape)
        return Lazy(self.tensor, move.after(), (*self.moves, move))

    def invertible(self) -> bool:
        """Whether every element of the tensor stands once in the value."""
        return all(m.invertible() for m in self.moves)

    def undone(self, onto: Lazy) -> Lazy:
        """Return the tensor as a view of `onto`, a value of the shape of this one that replaces it."""
        for move in reversed(self.moves):
            back = move.inverse()
            onto = onto.then(back.kind, back.args)
        return onto


def expand_slice(shape: tuple[int, ...], attrs: Any) -> tuple[int, ...]:
    """Return the arguments of a slice step from those of a strided_slice with positive strides."""
    begins, extents, steps = [0] * len(shape), list(shape), [1] * len(shape)
    strides = attrs.get("strides") or (1,) * len(attrs["axes"])
    for axis, begin, end, step in zip(attrs["axes"], attrs["begin"], attrs["end"], strides, strict=True):
        places = range(*slice(begin, end, step).indices(shape[axis]))
        begins[axis], extents[axis], steps[axis] = places.start, len(places), step
    return tuple(n for triple in zip(begins, extents, steps, strict=True) for n in triple)
