"""ONNX operators that move data."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm import relax

from dsa_compiler.frontend.node import Converter, Node, shape_of

op = relax.op


def _reshape_to(node: Node, x: Any, shape: list[int]) -> Any:
    return x if list(shape_of(x)) == list(shape) else node.emit(op.reshape(x, shape))


def _reshape(node: Node) -> Any:
    x = node.inputs[0]
    old = shape_of(x)
    wanted = node.ints(1) or []
    if not node.attrs.get("allowzero"):
        wanted = [old[i] if n == 0 else n for i, n in enumerate(wanted)]
    if -1 in wanted:
        rest = math.prod(n for n in wanted if n != -1)
        wanted[wanted.index(-1)] = math.prod(old) // rest if rest else 0
    if math.prod(wanted) != math.prod(old):
        raise node.error(f"shape {wanted} does not hold {list(old)}")
    return _reshape_to(node, x, wanted)


def _transpose(node: Node) -> Any:
    rank = len(shape_of(node.inputs[0]))
    axes = [int(a) for a in node.attrs.get("perm", reversed(range(rank)))]
    return node.inputs[0] if axes == list(range(rank)) else node.emit(op.permute_dims(node.inputs[0], axes))


def _flatten(node: Node) -> Any:
    shape, axis = shape_of(node.inputs[0]), node.attrs.get("axis", 1)
    axis = axis + len(shape) if axis < 0 else axis
    return _reshape_to(node, node.inputs[0], [math.prod(shape[:axis]), math.prod(shape[axis:])])


def _squeeze(node: Node) -> Any:
    shape = shape_of(node.inputs[0])
    axes = node.ints_of("axes", 1)
    gone = {a % len(shape) for a in axes} if axes is not None else {i for i, n in enumerate(shape) if n == 1}
    return _reshape_to(node, node.inputs[0], [n for i, n in enumerate(shape) if i not in gone])


def _unsqueeze(node: Node) -> Any:
    shape = shape_of(node.inputs[0])
    axes = node.ints_of("axes", 1) or []
    rank = len(shape) + len(axes)
    new, old = {a % rank for a in axes}, iter(shape)
    return _reshape_to(node, node.inputs[0], [1 if i in new else next(old) for i in range(rank)])


def _expand(node: Node) -> Any:
    x = node.inputs[0]
    shape = list(np.broadcast_shapes(shape_of(x), tuple(node.ints(1) or [])))
    return x if list(shape_of(x)) == shape else node.emit(op.broadcast_to(x, shape))


def _concat(node: Node) -> Any:
    axis = int(node.attrs["axis"]) % len(shape_of(node.inputs[0]))
    parts = [x for x in node.inputs if shape_of(x)[axis] > 0] or list(node.inputs[:1])
    return parts[0] if len(parts) == 1 else node.emit(op.concat(parts, axis))


def take_range(node: Node, x: Any, axis: int, begin: int, end: int, step: int = 1) -> Any:
    """Emit the elements begin, begin + step, ... before `end` along `axis`."""
    if (begin, end, step) == (0, shape_of(x)[axis], 1):
        return x
    return node.emit(op.strided_slice(x, [axis], [begin], [end], [step]))


def _split(node: Node) -> Any:
    x = node.inputs[0]
    axis = int(node.attrs.get("axis", 0)) % len(shape_of(x))
    extent = shape_of(x)[axis]
    sizes = node.ints_of("split", 1)
    if sizes is None:
        part = -(-extent // node.outputs)
        sizes = [min(part, extent - i * part) for i in range(node.outputs)]
    ends = np.cumsum(sizes)
    return [take_range(node, x, axis, int(e - n), int(e)) for n, e in zip(sizes, ends, strict=True)]


def _slice(node: Node) -> Any:
    x = node.inputs[0]
    shape = shape_of(x)
    starts, ends = node.ints_of("starts", 1) or [], node.ints_of("ends", 2) or []
    axes = node.ints_of("axes", 3)
    axes = list(range(len(starts))) if axes is None else axes
    steps = node.ints(4) or [1] * len(starts)
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        axis %= len(shape)
        places = range(*slice(start, _open_end(end, step), step).indices(shape[axis]))
        if step > 0:
            x = take_range(node, x, axis, places.start, max(places.stop, places.start), step)
            continue
        x = node.emit(op.flip(x, axis))
        last = shape[axis] - 1
        stop = last - places[-1] + 1 if len(places) else last - places.start
        x = take_range(node, x, axis, last - places.start, stop, -step)
    return x


def _open_end(end: int, step: int) -> int | None:
    """Return the end of a Python slice; far below zero means beyond the first element."""
    return None if step < 0 and end < -(2**31) + 1 else end


def _gather(node: Node) -> Any:
    """Emit a slice if the indices are constants in arithmetic progression, else a take."""
    x = node.inputs[0]
    shape = shape_of(x)
    axis = int(node.attrs.get("axis", 0)) % len(shape)
    value = node.value(1)
    if value is None:
        return node.emit(op.take(x, node.inputs[1], axis=axis, mode="wrap"))
    value = np.where(value < 0, value + shape[axis], value).astype(np.int64)
    result_shape = [*shape[:axis], *value.shape, *shape[axis + 1 :]]
    flat = value.reshape(-1)
    step = int(flat[1] - flat[0]) if flat.size > 1 else 1
    if flat.size and step > 0 and np.all(np.diff(flat) == step):
        part = take_range(node, x, axis, int(flat[0]), int(flat[-1]) + 1, step)
        return _reshape_to(node, part, result_shape)
    part = node.emit(op.take(x, relax.const(flat), axis=axis, mode="wrap"))
    return _reshape_to(node, part, result_shape)


def _pad(node: Node) -> Any:
    x = node.inputs[0]
    rank = len(shape_of(x))
    pads = node.ints_of("pads", 1) or [0] * 2 * rank
    axes = node.ints(3)
    begins, ends = [0] * rank, [0] * rank
    for i, axis in enumerate(range(rank) if axes is None else axes):
        begins[axis], ends[axis] = pads[i], pads[len(pads) // 2 + i]
    value = node.value(2)
    if node.has(2) and value is None:
        raise node.error("a value to pad with that is computed")
    fill = float(node.attrs.get("value", 0.0)) if value is None else float(value.reshape(-1)[0])
    for axis in range(rank):
        begin, end = max(0, -begins[axis]), shape_of(x)[axis] - max(0, -ends[axis])
        x = take_range(node, x, axis, begin, end)
    widths = [max(0, n) for pair in zip(begins, ends, strict=True) for n in pair]
    mode = node.text("mode", "constant")
    if not any(widths):
        return x
    if mode == "constant":
        return node.emit(op.nn.pad(x, widths, pad_value=fill))
    return _pad_by_copies(node, x, widths, mode)


def _pad_by_copies(node: Node, x: Any, widths: list[int], mode: str) -> Any:
    """Emit reflect, edge or wrap padding as concatenations of parts of the input, back to front or repeated."""
    if mode not in ("reflect", "edge", "wrap"):
        raise node.error(f"mode {mode}")
    for axis in range(len(widths) // 2):
        before, after = widths[2 * axis], widths[2 * axis + 1]
        extent = shape_of(x)[axis]
        places = np.pad(np.arange(extent), (before, after), mode=mode)  # type: ignore[call-overload]
        edges = [[_places(node, x, axis, r) for r in _runs(p)] for p in (places[:before], places[before + extent :])]
        parts = [*edges[0], x, *edges[1]]
        x = node.emit(op.concat(parts, axis)) if len(parts) > 1 else x
    return x


def _runs(places: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
    """Split places into runs that ascend by one, descend by one or repeat."""
    runs, begin = [], 0
    while begin < len(places):
        end, step = begin + 1, None
        while end < len(places) and (step is None or places[end] - places[end - 1] == step):
            if step is None and abs(int(places[end] - places[begin])) > 1:
                break
            step = int(places[end] - places[end - 1])
            end += 1
        if end < len(places) and end - begin == 2 and int(places[end] - places[end - 1]) == 1 and step != 1:
            end -= 1  # the second place belongs to the run after it
        runs.append(places[begin:end])
        begin = end
    return runs


def _places(node: Node, x: Any, axis: int, places: npt.NDArray[Any]) -> Any:
    """Emit the elements of a run of places along `axis`."""
    low, high, count = int(places.min()), int(places.max()), len(places)
    part = take_range(node, x, axis, low, high + 1)
    if count == 1 or places[0] < places[1]:
        return part
    if places[0] > places[1]:
        return node.emit(op.flip(part, axis))
    shape = list(shape_of(part))
    shape[axis] = count
    return node.emit(op.broadcast_to(part, shape))


def _tile(node: Node) -> Any:
    x, repeats = node.inputs[0], node.ints(1) or []
    shape = shape_of(x)
    split = [n for pair in zip([1] * len(shape), shape, strict=True) for n in pair]
    wide = [n for pair in zip(repeats, shape, strict=True) for n in pair]
    if all(n == 1 for n in repeats):
        return x
    y = node.emit(op.broadcast_to(node.emit(op.reshape(x, split)), wide))
    return node.emit(op.reshape(y, [n * r for n, r in zip(shape, repeats, strict=True)]))


def _depth_to_space(node: Node) -> Any:
    n, c, h, w = shape_of(node.inputs[0])
    b = int(node.attrs["blocksize"])
    if node.text("mode", "DCR") == "CRD":
        split, axes = [n, c // b // b, b, b, h, w], [0, 1, 4, 2, 5, 3]
    else:
        split, axes = [n, b, b, c // b // b, h, w], [0, 3, 4, 1, 5, 2]
    x = node.emit(op.permute_dims(node.emit(op.reshape(node.inputs[0], split)), axes))
    return node.emit(op.reshape(x, [n, c // b // b, h * b, w * b]))


def _space_to_depth(node: Node) -> Any:
    n, c, h, w = shape_of(node.inputs[0])
    b = int(node.attrs["blocksize"])
    x = node.emit(op.reshape(node.inputs[0], [n, c, h // b, b, w // b, b]))
    order = [0, 1, 3, 5, 2, 4] if node.text("mode", "DCR") == "CRD" else [0, 3, 5, 1, 2, 4]
    x = node.emit(op.permute_dims(x, order))
    return node.emit(op.reshape(x, [n, c * b * b, h // b, w // b]))


def _scatter_nd(node: Node) -> Any:
    """Emit concatenations where the indices are constants and name a box of the data, in order."""
    x, updates = node.inputs[0], node.inputs[2]
    indices = node.value(1)
    if indices is None or node.text("reduction", "none") != "none":
        raise node.error("scattering to computed places, or with a reduction")
    shape = shape_of(x)
    ranges = index_box(indices, shape)
    if ranges is None:
        raise node.error("scattering to places that are no box")
    box = [end - begin for begin, end in ranges]
    value = _reshape_to(node, updates, [*box, *shape[len(box) :]])
    for axis in reversed(range(len(ranges))):
        outer = x
        for before, (begin, end) in enumerate(ranges[:axis]):
            outer = take_range(node, outer, before, begin, end)
        begin, end = ranges[axis]
        edges = [take_range(node, outer, axis, *r) if r[0] < r[1] else None for r in ((0, begin), (end, shape[axis]))]
        parts = [p for p in (edges[0], value, edges[1]) if p is not None]
        value = node.emit(op.concat(parts, axis)) if len(parts) > 1 else value
    return value


def index_box(indices: npt.NDArray[Any], shape: tuple[int, ...]) -> list[tuple[int, int]] | None:
    """Return the range of each axis that constant indices (..., k) walk through in row-major order, else None."""
    flat = indices.reshape(-1, indices.shape[-1]).astype(np.int64)
    extents = np.asarray(shape[: flat.shape[1]], np.int64)
    flat = np.where(flat < 0, flat + extents, flat)
    if not flat.size or np.any(flat < 0) or np.any(flat >= extents):
        return None
    ranges = [(int(column.min()), int(column.max()) + 1) for column in flat.T]
    grid = np.stack(np.meshgrid(*(np.arange(b, e) for b, e in ranges), indexing="ij"), axis=-1)
    return ranges if np.array_equal(grid.reshape(-1, len(ranges)), flat) else None


def movement_converters() -> dict[str, Converter]:
    """Return the converters of data movement."""
    return {
        "Concat": _concat, "DepthToSpace": _depth_to_space, "Dropout": lambda node: node.inputs[0],
        "Expand": _expand, "Flatten": _flatten, "Gather": _gather, "Identity": lambda node: node.inputs[0],
        "Pad": _pad, "Reshape": _reshape, "ScatterND": _scatter_nd, "Slice": _slice, "SpaceToDepth": _space_to_depth,
        "Split": _split, "Squeeze": _squeeze, "Tile": _tile, "Transpose": _transpose, "Unsqueeze": _unsqueeze,
    }  # fmt: skip
