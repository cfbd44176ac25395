"""Join copies that fill one tensor piece by piece: what is left of a concatenation whose operands lie elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from dsa_compiler.graph.layers import Layer, LayerGraph, OpCall
from dsa_compiler.graph.views import View

MOST_PIECES = 8


def join_copies(graph: LayerGraph) -> LayerGraph:
    """The graph with neighbouring pieces along one axis of a tensor as one layer of kind concat, with its `parts`.

    Before: `a -> t[0:16]`, ..., `b -> t[16:24]`; after, at the last of them: `concat(a, b) -> t[0:24]`. Copies stay
    apart if something between them reads the tensor, or if a piece is not copied row by row.
    """
    open_: dict[str, list[Layer]] = {}
    joined: dict[str, Layer] = {}
    dropped: set[str] = set()

    def close(tensor: str) -> None:
        pieces = open_.pop(tensor, [])
        whole = _joined(pieces)
        if whole is not None:
            joined[pieces[-1].name] = whole
            dropped.update(p.name for p in pieces[:-1])

    for layer in graph.layers:
        for view in layer.inputs:
            close(view.tensor)
        tensor = layer.output.tensor
        if not _is_piece(layer):
            close(tensor)
            continue
        pieces = open_.setdefault(tensor, [])
        if pieces and (len(pieces) == MOST_PIECES or _axis([*pieces, layer]) is None):
            close(tensor)
            pieces = open_.setdefault(tensor, [])
        pieces.append(layer)
    for tensor in list(open_):
        close(tensor)
    layers = tuple(joined.get(layer.name, layer) for layer in graph.layers if layer.name not in dropped)
    return replace(graph, layers=layers)


def _is_piece(layer: Layer) -> bool:
    """Whether a layer copies rows as they are."""
    plain = layer.kind == "movement" and len(layer.calls) == 1 and layer.calls[0].op == "copy"
    return plain and layer.inputs[0].innermost_contiguous() and layer.output.innermost_contiguous()


def _axis(pieces: Sequence[Layer]) -> int | None:
    """The axis along which the pieces lie one behind the other, None if they do not."""
    views = [p.output for p in pieces]
    first = views[0]
    for axis in range(len(first.shape)):
        if all(_follows(a, b, axis) for a, b in pairwise(views)):
            return axis
    return None


def _follows(a: View, b: View, axis: int) -> bool:
    """Whether `b` begins where `a` ends along `axis` and is like it otherwise."""
    if len(a.shape) != len(b.shape) or a.strides != b.strides:
        return False
    if any(n != m for d, (n, m) in enumerate(zip(a.shape, b.shape, strict=True)) if d != axis):
        return False
    step = a.strides[axis]
    end = (a.offset[0] + a.shape[axis] * step[0], a.offset[1] + a.shape[axis] * step[1])
    return step != (0, 0) and b.offset == end


def _joined(pieces: Sequence[Layer]) -> Layer | None:
    """One layer for the pieces, None for fewer than two."""
    axis = _axis(pieces) if len(pieces) > 1 else None
    if axis is None:
        return None
    last = pieces[-1]
    shape = list(last.output.shape)
    shape[axis] = sum(p.output.shape[axis] for p in pieces)
    output = replace(pieces[0].output, shape=tuple(shape))
    call = OpCall(
        "concat", tuple(("input", i) for i in range(len(pieces))), {"axis": axis}, tuple(shape), last.calls[0].dtype,
        last.calls[0].node,
    )  # fmt: skip
    nodes = tuple(dict.fromkeys(n for p in pieces for n in p.nodes))
    inputs = tuple(p.inputs[0] for p in pieces)
    return Layer(last.name, "concat", (call,), 0, inputs, output, nodes, parts=tuple(pieces))
