"""64-bit integers, which no instruction takes: pairs of 32-bit words, the low one first.

Copies move the words. Casts to other dtypes take the words apart, and casts from other dtypes join them, in L1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from tvm import tirx

from dsa_compiler.graph.layers import Layer, LayerGraph, Tensor
from dsa_compiler.graph.views import View
from dsa_compiler.isa.dtypes import item_bytes
from dsa_compiler.lower.binding import LoweredKernel, Parameter, Reach, reach, varying
from dsa_compiler.lower.tile_kernel import TileKernel, TileOperand, choose_tile
from dsa_compiler.lower.tile_layer import RING, simplify_views, view_parameter
from dsa_compiler.lower.tir import Buffer, Expr, Stmt, allocate, buffer, cast, integer, nest, sequence, store, when
from dsa_compiler.target import Target

WIDE = frozenset({"int64"})
"""Dtypes that are cast in words."""
PAIRED = frozenset({"int64", "uint64", "float64"})
"""Dtypes that are moved in words."""
_WORD = 2.0**32


def is_wide_cast(layer: Layer, graph: LayerGraph) -> bool:
    """Whether a layer is one cast from or to 64-bit integers."""
    if len(layer.calls) != 1 or layer.calls[0].op != "astype":
        return False
    source, result = graph.tensors[layer.inputs[0].tensor].dtype, graph.tensors[layer.output.tensor].dtype
    return (source in WIDE) != (result in WIDE) and not (source in PAIRED and result in PAIRED)


def in_words(layer: Layer, graph: LayerGraph) -> tuple[Layer, LayerGraph]:
    """Copies of 64-bit tensors as copies of twice as many 32-bit words; other layers as they are."""
    names = {v.tensor for v in (*layer.inputs, *layer.outputs)}
    wide = {n: _words_of(graph.tensors[n]) for n in names if graph.tensors[n].dtype in PAIRED}
    if not wide:
        return layer, graph

    def view(given: View) -> View:
        return _paired(given) if given.tensor in wide else given

    calls = tuple(replace(c, shape=(*c.shape, 2), dtype="int32") for c in layer.calls)
    words = replace(layer, calls=calls, inputs=tuple(view(v) for v in layer.inputs), output=view(layer.output))
    return words, replace(graph, tensors={**graph.tensors, **wide})


def _words_of(tensor: Tensor) -> Tensor:
    shape = (*tensor.shape[:-1], 2 * tensor.columns)
    value = None if tensor.value is None else np.ascontiguousarray(tensor.value).reshape(-1).view(np.int32)
    return replace(tensor, shape=shape, dtype="int32", value=None if value is None else value.reshape(shape))


def _paired(view: View) -> View:
    """The view of the words: one more dimension, of the two words of an element."""
    strides = tuple((r, 2 * c) for r, c in view.strides)
    offset = (view.offset[0], 2 * view.offset[1])
    return View(view.tensor, (*view.shape, 2), (*strides, (0, 1)), offset)


def lower_wide_cast(layer: Layer, graph: LayerGraph, target: Target, *, rank: int = 0) -> LoweredKernel:
    """The kernel of a cast from or to int64. Raises `Infeasible` if no tile fits L1."""
    (source,), out = simplify_views(layer.inputs, layer.output, graph, target)
    read, inputs = _reach("in0", source, graph, target)
    place, _ = _reach("out", out, graph, target)
    parameters = (view_parameter(read, source, inputs), Parameter(place.buffer, out.tensor, written=True))
    size = sum(item_bytes(graph.tensors[v.tensor].dtype) for v in (source, out))
    space = choose_tile(out.shape, (RING * size + 16) * 1.2 * 2**rank, target)
    widens = graph.tensors[out.tensor].dtype in WIDE
    operand = TileOperand(read.buffer, read.index, varying(source))
    kernel = WideCast(space, [operand], place.buffer, place.index, None, target, ring=RING)
    kernel.widens = widens
    func = kernel.build(layer.name, [p.buffer for p in parameters])
    return LoweredKernel(layer.name, func, parameters, str(space))


def _reach(name: str, view: View, graph: LayerGraph, target: Target) -> tuple[Reach, LayerGraph]:
    """How `view` is reached; that of a 64-bit tensor by its words, the last coordinate."""
    tensor = graph.tensors[view.tensor]
    if tensor.dtype not in WIDE:
        return reach(name, view, graph, target), graph
    words = replace(graph, tensors={**graph.tensors, view.tensor: _words_of(tensor)})
    return reach(name, _paired(view), words, target), words


class WideCast(TileKernel):
    """A cast by words: from pairs to single elements, or (`widens`) the other way."""

    widens = False

    def _hold(self) -> list[Stmt]:
        return []

    def _tile(self, core: Expr, step: Expr) -> Stmt:
        number = core * self.per_core + step
        starts = self._starts(number)
        body = self._widened(starts) if self.widens else self._narrowed(starts)
        return when(self._exists(number), body)

    def _local(self, name: str, dtype: str, words: int = 1) -> Buffer:
        tile = self.space.tile
        inner = self.target.pitch(tile[-1] * words, item_bytes(dtype))
        return buffer(name, (*tile[:-1], inner), dtype, "l1")

    def _each(self, starts: list[Expr], into: Buffer, value: Callable[..., Expr]) -> Stmt:
        """`into[at] = value(at)` over the tile."""
        axes = [(f"i{a}", e) for a, e in enumerate(self.space.tile)]
        return nest(
            axes,
            lambda *at: when(self.inside(starts, at, inner=True), store(into, list(at), cast(value(at), _dtype(into)))),
        )

    def _words(self, starts: list[Expr], statement: Callable[[Sequence[Expr], Expr, list[Expr]], Stmt]) -> Stmt:
        """`statement(coordinates, word, place of the word in L1)` for each word of the tile."""
        axes = [*((f"i{a}", e) for a, e in enumerate(self.space.tile)), ("word", 2)]

        def element(*indices: Expr) -> Stmt:
            *at, word = indices
            place = [*at[:-1], at[-1] * 2 + word]
            whole = [s + i for s, i in zip(starts, at, strict=True)]
            return when(self.inside(starts, at, inner=True), statement(whole, word, place))

        return nest(axes, element)

    def _narrowed(self, starts: list[Expr]) -> Stmt:
        dtype = str(self.out.dtype)
        out = self._local("out1", dtype)
        needed = 1 if dtype == "int32" else 2
        stmts, words = self._taken_apart(starts, needed)
        stmts += [allocate(out, RING), self._each(starts, out, lambda at: narrow([w[tuple(at)] for w in words], dtype))]
        return sequence(*stmts, self._store(out, starts))

    def _taken_apart(self, starts: list[Expr], needed: int) -> tuple[list[Stmt], list[Buffer]]:
        """The first `needed` words of each element, in buffers of their own."""
        operand = self.operands[0]
        words = [self._local(name, "int32") for name in ("low", "high")[:needed]]

        def source(at: Sequence[Expr], word: Expr) -> Expr:
            return operand.source[tuple(operand.index([*at, word]))]

        if self.space.tile[-1] == 1:  # rows of one element: the words are loaded one by one
            stmts: list[Stmt] = []
            for number, buf in enumerate(words):
                word = integer(number)
                load = self._each(starts, buf, lambda at, w=word: source(_sums(starts, at), w))
                stmts += [allocate(buf, RING), load]
            return stmts, words
        pairs = self._local("pairs", "int32", 2)
        stmts = [allocate(pairs, RING), self._words(starts, lambda at, w, place: store(pairs, place, source(at, w)))]
        for number, buf in enumerate(words):
            stmts += [allocate(buf, 1), self._each(starts, buf, lambda at, w=number: _word(pairs, at, w))]
        return stmts, words

    def _store(self, out: Buffer, starts: list[Expr]) -> Stmt:
        axes = [(f"i{a}", e) for a, e in enumerate(self.space.tile)]

        def element(*at: Expr) -> Stmt:
            place = self.out_index([s + i for s, i in zip(starts, at, strict=True)])
            return when(self.inside(starts, at, inner=True), store(self.out, place, out[tuple(at)]))

        return nest(axes, element)

    def _widened(self, starts: list[Expr]) -> Stmt:
        operand = self.operands[0]
        source, pairs = self._local("in1", operand.dtype), self._local("pairs", "int32", 2)
        low, high = self._local("low", "int32"), self._local("high", "int32")

        def value(at: Sequence[Expr]) -> Expr:
            return operand.source[tuple(operand.index([s + i for s, i in zip(starts, at, strict=True)]))]

        words = widen(operand.dtype)
        compute = [
            self._each(starts, b, lambda at, w=w: words(source[tuple(at)])[w]) for w, b in enumerate((low, high))
        ]
        stmts = [
            allocate(source, RING), self._each(starts, source, value), allocate(low, RING), allocate(high, RING),
            *compute,
        ]  # fmt: skip
        if self.space.tile[-1] == 1:  # rows of one element: the words are stored one by one
            return sequence(*stmts, *(self._single(starts, b, w) for w, b in enumerate((low, high))))
        joined = [self._joined(starts, pairs, b, w) for w, b in enumerate((low, high))]
        back = self._words(
            starts, lambda at, word, place: store(self.out, self.out_index([*at, word]), pairs[tuple(place)])
        )
        return sequence(*stmts, allocate(pairs, RING), *joined, back)

    def _single(self, starts: list[Expr], words: Buffer, word: int) -> Stmt:
        """One word of each element of the tile, stored."""
        axes = [(f"i{a}", e) for a, e in enumerate(self.space.tile)]

        def element(*at: Expr) -> Stmt:
            place = self.out_index([*(s + i for s, i in zip(starts, at, strict=True)), integer(word)])
            return when(self.inside(starts, at, inner=True), store(self.out, place, words[tuple(at)]))

        return nest(axes, element)

    def _joined(self, starts: list[Expr], pairs: Buffer, words: Buffer, word: int) -> Stmt:
        axes = [(f"i{a}", e) for a, e in enumerate(self.space.tile)]

        def element(*at: Expr) -> Stmt:
            place = [*at[:-1], at[-1] * 2 + integer(word)]
            return when(self.inside(starts, at, inner=True), store(pairs, place, words[tuple(at)]))

        return nest(axes, element)


def _sums(starts: Sequence[Expr], at: Sequence[Expr]) -> list[Expr]:
    return [s + i for s, i in zip(starts, at, strict=True)]


def _dtype(tile: Buffer) -> str:
    return str(tile.dtype)


def _word(pairs: Buffer, at: Sequence[Expr], word: int) -> Expr:
    return pairs[(*at[:-1], at[-1] * 2 + integer(word))]


def narrow(words: Sequence[Expr], dtype: str) -> Expr:
    """A 64-bit integer given as its int32 words, the low one first, in `dtype`; int32 needs the low word alone.

    Floats are the sum of the low word, as a signed number, and of the high word plus what that borrows.
    """
    zero = tirx.const(0, "int32")
    low = words[0]
    if len(words) == 1:
        return low
    high = words[1]
    if dtype == "bool":
        return tirx.NE(low | high, zero)
    if not dtype.startswith(("float", "bfloat")):
        return low
    carried = high + tirx.Select(low < zero, tirx.const(1, "int32"), zero)
    return cast(carried, "float32") * tirx.const(_WORD, "float32") + cast(low, "float32")


def widen(dtype: str) -> Callable[[Expr], tuple[Expr, Expr]]:
    """The two int32 words of an element of `dtype` as a 64-bit integer; floats are rounded towards zero."""

    def of_float(x: Expr) -> tuple[Expr, Expr]:
        """The words of the magnitude, exact in float32, then negated as a whole where x is negative."""
        value = cast(x, "float32")
        magnitude = tirx.floor(tirx.abs(value))
        high = tirx.floor(magnitude * tirx.const(1 / _WORD, "float32"))
        rest = magnitude - high * tirx.const(_WORD, "float32")
        limit, zero = tirx.const(_WORD / 2, "float32"), tirx.const(0.0, "float32")
        signed = rest - tirx.Select(rest >= limit, tirx.const(_WORD, "float32"), zero)
        low, top = cast(signed, "int32"), cast(high, "int32")
        none, one = tirx.const(0, "int32"), tirx.const(1, "int32")
        borrowed = none - top - tirx.Select(tirx.NE(low, none), one, none)
        negative = value < zero
        return tirx.Select(negative, none - low, low), tirx.Select(negative, borrowed, top)

    def of_integer(x: Expr) -> tuple[Expr, Expr]:
        low, zero = cast(x, "int32"), tirx.const(0, "int32")
        return low, tirx.Select(low < zero, tirx.const(-1, "int32"), zero)

    return of_float if dtype.startswith(("float", "bfloat")) else of_integer
