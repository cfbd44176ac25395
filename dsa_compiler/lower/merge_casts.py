"""Casts become part of the copies beside them: a tensor that is only copied is stored in its narrower type.

    t = astype(x); y = copy(t)                 ->  y = copy(x), cast on the way
    t = copy(x); y = astype(t)                 ->  the same
    t = astype(conv(x), float32); y = copy(t)  ->  t = conv(x) in 16 bits; y = copy(t), cast on the way
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from dsa_compiler.graph.layers import Layer, LayerGraph, OpCall, Tensor
from dsa_compiler.graph.views import View, flattened
from dsa_compiler.isa.dtypes import item_bytes


def merge_casts(graph: LayerGraph) -> LayerGraph:
    """The graph with casts merged into copies."""
    for name, tensor in graph.tensors.items():
        if tensor.role == "activation":
            graph = _merged(graph, name)
    return graph


def _merged(graph: LayerGraph, name: str) -> LayerGraph:
    writers = [layer for layer in graph.layers if any(v.tensor == name for v in layer.outputs)]
    readers = [layer for layer in graph.layers if any(v.tensor == name for v in layer.inputs)]
    if not writers or not readers:
        return graph
    if all(_is_copy(r) for r in readers):
        if len(writers) == 1 and _is_cast(writers[0], graph):
            return _read_before(graph, name, writers[0], readers)
        if all(_ends_in_cast(w, graph.tensors[name]) for w in writers):
            return _cast_behind(graph, name, writers, readers)
    if len(readers) == 1 and _is_cast(readers[0], graph) and all(_is_copy(w) for w in writers):
        return _write_behind(graph, name, writers, readers[0])
    return graph


def _is_copy(layer: Layer) -> bool:
    return layer.kind == "movement" and [c.op for c in layer.calls] == ["copy"]


def _is_cast(layer: Layer, graph: LayerGraph) -> bool:
    """Whether a layer only casts floats, all of a tensor to all of another."""
    if layer.kind != "elementwise" or [c.op for c in layer.calls] != ["astype"] or len(layer.inputs) != 1:
        return False
    views = layer.inputs[0], layer.output
    tensors = [graph.tensors[v.tensor] for v in views]
    same = tensors[0].shape == tensors[1].shape and tensors[0].value is None
    return same and all(graph.whole(v) for v in views) and all(t.dtype.startswith("float") for t in tensors)


def _ends_in_cast(layer: Layer, tensor: Tensor) -> bool:
    """Whether the last step of a layer widens its result."""
    if len(layer.calls) < 2 or layer.calls[-1].op != "astype" or layer.kind == "host" or layer.more:
        return False
    before = layer.calls[-2]
    last = layer.calls[-1].args == (("call", len(layer.calls) - 2),) and layer.master < len(layer.calls) - 1
    narrower = item_bytes(before.dtype) < item_bytes(tensor.dtype)
    return last and narrower and before.dtype.startswith("float") and tensor.dtype.startswith("float")


def _on(view: View, tensor: Tensor) -> View:
    """The view of a tensor of the same shape on `tensor`."""
    moved = replace(view, tensor=tensor.name)
    dense = tensor.dense or tensor.role != "activation"
    return flattened(moved, tensor.columns) if dense else moved


def _casting(copy: Layer, source: View, output: View, dtype: str, nodes: Sequence[str]) -> Layer:
    """The copy with a cast to `dtype` behind it."""
    first = copy.calls[0]
    cast = OpCall("astype", (("call", 0),), {}, first.shape, dtype, first.node)
    every = tuple(dict.fromkeys((*copy.nodes, *nodes)))
    return replace(copy, calls=(first, cast), inputs=(source,), output=output, nodes=every)


def _replaced(graph: LayerGraph, swaps: Sequence[tuple[Layer, Layer | None]], tensors: dict[str, Tensor]) -> LayerGraph:
    table = {id(old): new for old, new in swaps}
    layers = tuple(made for layer in graph.layers if (made := table.get(id(layer), layer)) is not None)
    used = {v.tensor for layer in layers for v in (*layer.inputs, *layer.outputs)} | {*graph.inputs, *graph.outputs}
    return replace(graph, layers=layers, tensors={n: t for n, t in tensors.items() if n in used})


def _read_before(graph: LayerGraph, name: str, cast: Layer, readers: Sequence[Layer]) -> LayerGraph:
    source, dtype = graph.tensors[cast.inputs[0].tensor], graph.tensors[name].dtype
    if not _same_columns(source, graph.tensors[name], [v for r in readers for v in r.inputs]):
        return graph
    swaps: list[tuple[Layer, Layer | None]] = [(cast, None)]
    swaps += [(r, _casting(r, _on(r.inputs[0], source), r.output, dtype, cast.nodes)) for r in readers]
    return _replaced(graph, swaps, dict(graph.tensors))


def _write_behind(graph: LayerGraph, name: str, writers: Sequence[Layer], cast: Layer) -> LayerGraph:
    result = graph.tensors[cast.output.tensor]
    if not _same_columns(result, graph.tensors[name], [w.output for w in writers]):
        return graph
    swaps: list[tuple[Layer, Layer | None]] = [(cast, None)]
    swaps += [(w, _casting(w, w.inputs[0], _on(w.output, result), result.dtype, cast.nodes)) for w in writers]
    return _replaced(graph, swaps, dict(graph.tensors))


def _cast_behind(graph: LayerGraph, name: str, writers: Sequence[Layer], readers: Sequence[Layer]) -> LayerGraph:
    tensor = graph.tensors[name]
    tensors = {**graph.tensors, name: replace(tensor, dtype=writers[0].calls[-2].dtype)}
    swaps: list[tuple[Layer, Layer | None]] = [(w, replace(w, calls=w.calls[:-1])) for w in writers]
    swaps += [(r, _casting(r, r.inputs[0], r.output, tensor.dtype, ())) for r in readers]
    return _replaced(graph, swaps, tensors)


def _same_columns(first: Tensor, second: Tensor, views: Sequence[View]) -> bool:
    """Whether views of the second tensor can be moved to the first: where that has rows, they walk rows too."""
    stored_in_rows = first.role == "activation" and not first.dense
    by_columns = second.role != "activation" or second.dense
    return not (stored_in_rows and by_columns) and bool(views)
