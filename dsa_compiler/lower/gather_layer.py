"""Rows of a table that an index names: embeddings and takes along any axis, with an elementwise epilogue.

A tile's indices are loaded into L1, brought into the table's range by the vector engine (negative ones count from the
end), and name the rows that one gathering load fetches. Every core gathers its own tiles.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from tvm import tirx

from dsa_compiler.graph.layers import Layer, LayerGraph
from dsa_compiler.graph.views import View
from dsa_compiler.isa.dtypes import item_bytes
from dsa_compiler.lower.binding import LoweredKernel, Parameter, Reach, reach, row_pitch
from dsa_compiler.lower.chain import Chain, chain_after
from dsa_compiler.lower.expression import computation_dtype
from dsa_compiler.lower.tile_kernel import TileKernel, TileOperand, TileSpace, choose_tile
from dsa_compiler.lower.tile_layer import RING, bind_operands, join_dimensions, view_parameter
from dsa_compiler.lower.tir import Buffer, Expr, Stmt, allocate, buffer, cast, integer, nest, sequence, store, when
from dsa_compiler.target import Target


@dataclass(frozen=True)
class Gathering:
    """A gather in few dimensions: `table` (outer.., rows, inner..), `index`, `out` (outer.., index.., inner..).

    `axis` is the table's axis that the index walks; `others` are the operands of the epilogue, as views of `out`'s
    shape.
    """

    table: View
    index: View
    out: View
    others: tuple[View, ...]
    axis: int

    @property
    def indexed(self) -> range:
        """The dimensions of `out` along which the index varies."""
        return range(self.axis, self.axis + len(self.index.shape))


def lower_gather_layer(layer: Layer, graph: LayerGraph, target: Target, *, rank: int = 0) -> LoweredKernel:
    """The kernel of a take and its epilogue; the table is a whole tensor in order.

    Raises `Infeasible` if no tile fits L1.
    """
    call = layer.calls[layer.master]
    chain = chain_after(layer, layer.master)
    table, index = (layer.inputs[int(v)] for _, v in call.args)
    axis = int(call.attrs["axis"]) % max(len(table.shape), 1)
    found = simplified(Gathering(table, index, layer.output, tuple(layer.inputs[i] for i in chain.inputs), axis))
    source = _table(found.table, graph, target)
    numbers = reach("index", found.index, graph, target)
    parameters, operands = bind_operands(found.others, graph, target)
    place = reach("out", found.out, graph, target)
    parameters = [
        view_parameter(source, found.table, graph), view_parameter(numbers, found.index, graph), *parameters,
        Parameter(place.buffer, found.out.tensor, written=True),
    ]  # fmt: skip
    widths = [str(source.buffer.dtype), str(place.buffer.dtype), *(o.dtype for o in operands)]
    per_element = RING * sum(map(item_bytes, widths)) + 4 * max(0, min(chain.operations - 1, 3))
    space = choose_tile(found.out.shape, per_element * 1.2 * 2**rank, target)
    positive = graph.tensors[index.tensor].value is not None
    kernel = GatherKernel(space, operands, place, source, numbers, found, target, chain, positive)
    func = kernel.build(layer.name, [p.buffer for p in parameters])
    return LoweredKernel(layer.name, func, tuple(parameters), str(space))


def simplified(given: Gathering) -> Gathering:
    """The same gather with neighbouring dimensions joined where all its views walk them as one; rows have columns."""
    if given.axis == len(given.table.shape) - 1:
        given = _with_column(given)
    found = given
    dim = 0
    while dim + 1 < len(found.out.shape):
        joined = _joined(found, dim)
        if joined is None:
            dim += 1
        else:
            found = joined
    return found


def _with_column(given: Gathering) -> Gathering:
    """Rows of one element as rows of one column."""

    def extended(view: View) -> View:
        return replace(view, shape=(*view.shape, 1), strides=(*view.strides, (0, 1)))

    others = tuple(extended(v) for v in given.others)
    return replace(given, table=extended(given.table), out=extended(given.out), others=others)


def _joined(given: Gathering, dim: int) -> Gathering | None:
    """Dimensions `dim` and `dim + 1` of the result as one, if they belong together and every view allows it."""
    first, last = given.axis, given.axis + len(given.index.shape)
    table, index, axis = given.table, given.index, given.axis
    if dim + 1 < first:
        shorter = join_dimensions(table, dim)
        axis -= 1
    elif dim >= last:
        shorter = join_dimensions(table, dim - len(index.shape) + 1)
    elif dim >= first and dim + 1 < last:
        shorter = table
        narrower = join_dimensions(index, dim - first)
        if narrower is None:
            return None
        index = narrower
    else:
        return None
    rest = [join_dimensions(v, dim) for v in (given.out, *given.others)]
    if shorter is None or any(v is None for v in rest):
        return None
    out, *others = [v for v in rest if v is not None]
    return Gathering(shorter, index, out, tuple(others), axis)


def _table(view: View, graph: LayerGraph, target: Target) -> Reach:
    """The table by its own dimensions: a whole tensor in order, whose last dimension has the pitch of its rows."""
    tensor = graph.tensors[view.tensor]
    pitch = row_pitch(tensor, target)
    shape = list(view.shape)
    if pitch != tensor.columns:
        padded = -2 if shape[-1] == 1 and tensor.columns != 1 else -1
        shape[padded] = pitch
    return Reach(buffer("table", shape, tensor.dtype, tensor.scope), lambda at: list(at))


class GatherKernel(TileKernel):
    """`out[o, i, c] = epilogue(table[o, index[i], c])`, tile by tile. `positive`: no index counts from the end."""

    def __init__(
        self, space: TileSpace, operands: Sequence[TileOperand], place: Reach, source: Reach, numbers: Reach,
        found: Gathering, target: Target, chain: Chain, positive: bool,
    ) -> None:  # fmt: skip
        super().__init__(space, operands, place.buffer, place.index, lambda _: sequence(), target, ring=RING)
        self.source, self.numbers, self.found = source, numbers, found
        self.chain, self.positive = chain, positive

    def _tile(self, core: Expr, step: Expr) -> Stmt:
        number = core * self.per_core + step
        starts = self._starts(number)
        rows, stmts = self._rows(starts)
        if not self.operands and self.chain.identity and str(rows.dtype) == str(self.out.dtype):
            return when(self._exists(number), sequence(*stmts, self._store_rows(rows, starts)))
        context, loads = self.context(starts)

        def element(*at: Expr) -> Stmt:
            anchor = cast(rows[tuple(at)], computation_dtype(str(rows.dtype)))
            value = self.chain.value(anchor, [context.element(n, at) for n in range(len(self.operands))])
            return when(context.inside(at), store(context.out, list(at), cast(value, str(context.out.dtype))))

        body = sequence(*stmts, *loads, nest(context.axes, element), self.store(context, starts))
        return when(self._exists(number), body)

    def _rows(self, starts: list[Expr]) -> tuple[Buffer, list[Stmt]]:
        """The rows of a tile in L1, and what brings them there."""
        index, stmts = self._indices(starts)
        dtype = str(self.source.buffer.dtype)
        tile = list(self.space.tile)
        rows = buffer("rows1", (*tile[:-1], self.target.pitch(tile[-1], item_bytes(dtype))), dtype, "l1")
        indexed = self.found.indexed

        def element(*at: Expr) -> Stmt:
            place = [s + i for s, i in zip(starts, at, strict=True)]
            row = index[tuple(at[d] for d in indexed)]
            where = [*place[: indexed.start], row, *place[indexed.stop :]]
            value = self.source.buffer[tuple(self.source.index(where))]
            return when(self.inside(starts, at, inner=True), store(rows, list(at), value))

        axes = [(f"i{a}", e) for a, e in enumerate(tile)]
        return rows, [*stmts, allocate(rows, self.ring), nest(axes, element)]

    def _indices(self, starts: list[Expr]) -> tuple[Buffer, list[Stmt]]:
        """The indices of a tile in L1, none of them negative."""
        indexed = self.found.indexed
        tile = [self.space.tile[d] for d in indexed]
        padded = (*tile[:-1], self.target.pitch(tile[-1], 4))
        raw, index = (buffer(name, padded, "int32", "l1") for name in ("index0", "index1"))
        axes = [(f"i{d}", e) for d, e in zip(indexed, tile, strict=True)]
        count = int(self.found.table.shape[self.found.axis])

        def guards(at: Sequence[Expr]) -> list[Expr]:
            whole = [integer(0)] * len(starts)
            for d, i in zip(indexed, at, strict=True):
                whole[d] = i
            return self.inside(starts, whole, inner=True, axes=frozenset(indexed))

        def load(*at: Expr) -> Stmt:
            place = self.numbers.index([starts[d] + i for d, i in zip(indexed, at, strict=True)])
            return when(guards(at), store(raw, list(at), self.numbers.buffer[tuple(place)]))

        def bring(*at: Expr) -> Stmt:
            value, zero = raw[tuple(at)], tirx.const(0, "int32")
            if self.positive:
                value = tirx.max(value, zero)
            else:
                value = tirx.Select(value < zero, value + tirx.const(count, "int32"), value)
            return when(guards(at), store(index, list(at), value))

        stmts = [allocate(raw, self.ring), nest(axes, load), allocate(index, self.ring), nest(axes, bring)]
        return index, stmts

    def _store_rows(self, rows: Buffer, starts: list[Expr]) -> Stmt:
        axes = [(f"i{a}", e) for a, e in enumerate(self.space.tile)]

        def element(*at: Expr) -> Stmt:
            place = self.out_index([s + i for s, i in zip(starts, at, strict=True)])
            return when(self.inside(starts, at, inner=True), store(self.out, place, rows[tuple(at)]))

        return nest(axes, element)


