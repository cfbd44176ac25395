"""Convolutions and matrix products of a graph as problems for the matrix kernel."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from tvm import tirx

from dsa_compiler.errors import Infeasible, InternalError
from dsa_compiler.graph.layers import Layer, LayerGraph
from dsa_compiler.graph.views import View
from dsa_compiler.isa.dtypes import item_bytes
from dsa_compiler.lower.binding import (
    LoweredKernel,
    Parameter,
    Reach,
    constant_parameter,
    materialize,
    reach,
    varying,
)
from dsa_compiler.lower.chain import chain_after
from dsa_compiler.lower.expression import NARROW_FLOATS
from dsa_compiler.lower.lines import LineConvolution, line_convolution, takes_lines
from dsa_compiler.lower.matrix_kernel import MatrixKernel
from dsa_compiler.lower.matrix_problem import Extra, MatrixOperands, MatrixProblem, MatrixTiling, Point
from dsa_compiler.lower.matrix_tiling import MatrixTraffic, choose_matrix_tiling
from dsa_compiler.lower.tir import Expr, integer
from dsa_compiler.lower.weights import chunk_bias, chunk_weights
from dsa_compiler.target import Target

INTEGER_FACTORS = frozenset({"int8", "uint8"})


@dataclass(frozen=True)
class _Form:
    """A layer as a problem: where a point lies in the output's view, and how the operands are indexed."""

    problem: MatrixProblem
    a: View
    a_at: Callable[[Expr, Expr, Expr, Expr, Expr], list[Expr]]
    out_at: Callable[[Point], list[Expr]]
    out_axes: tuple[tuple[str, ...], ...]
    weights: np.ndarray | None
    b: View | None = None
    b_at: Callable[[Expr, Expr, Expr], list[Expr]] | None = None
    a_transposed: bool = False
    b_transposed: bool = False
    joined: bool = False

    def seen(self, view: View) -> View:
        """A view of the output's shape as this form indexes it: with one row dimension if rows are joined."""
        flat = join_rows(view) if self.joined else view
        if flat is None:
            raise InternalError(f"{view} does not join", where="lower.matrix_layer")
        return flat


def lower_matrix_layer(
    layer: Layer, graph: LayerGraph, target: Target, *, rank: int = 0, tiling: MatrixTiling | None = None
) -> LoweredKernel:
    """The kernel of a conv2d or matmul layer, with the tiling of that rank unless one is given.

    Raises `Infeasible` if no tiling fits.
    """
    if layer.kind == "depthwise":
        form = _diagonal_form(layer, graph, target)
    else:
        form = _conv_form(layer, graph, target) if layer.kind == "conv2d" else _product_form(layer, graph)
        form = replace(form, problem=_typed(form.problem, layer, graph))
    problem = form.problem
    bias, start = _bias(layer, graph, form)
    chain = chain_after(layer, start)
    out_dtype = graph.tensors[layer.output.tensor].dtype
    extras = [form.seen(layer.inputs[i]) for i in chain.inputs]
    large = sum(1 for v in extras if math.prod(v.shape[d] for d in varying(v)) * 4 > math.prod(v.shape))
    vectors = sum(1 for v in extras if varying(v) == {len(v.shape) - 1})
    traffic = MatrixTraffic(
        out_dtype, large, max(1, chain.operations) + chain.slow_first, form.weights is not None, bias is not None,
        form.a_transposed, form.b_transposed, chain.transcendental, vectors,
    )  # fmt: skip
    chosen = tiling or choose_matrix_tiling(problem, traffic, target, rank=rank)
    return _build(layer, graph, target, form, problem, chosen, bias, chain, extras)


def _typed(problem: MatrixProblem, layer: Layer, graph: LayerGraph) -> MatrixProblem:
    """The problem with the dtypes of its operands, and the zero points of integer ones."""
    call = layer.calls[layer.master]
    left, right = (graph.tensors[layer.inputs[int(v)].tensor].dtype for _, v in call.args)
    accumulator = "int32" if left in INTEGER_FACTORS else "float32"
    return replace(
        problem, dtype=left, right_dtype=right if right != left else "", accumulator=accumulator,
        pad_value=int(call.attrs.get("pad_value", 0)), zero_b=int(call.attrs.get("zero_b", 0)),
    )  # fmt: skip


def _build(layer, graph, target, form, problem, tiling, bias, chain, extras) -> LoweredKernel:  # type: ignore[no-untyped-def]
    a = reach("a", form.a, graph, target)
    out = reach("out", form.seen(layer.output), graph, target)
    parameters = [Parameter(a.buffer, form.a.tensor)]
    operands = MatrixOperands(
        a.buffer, lambda *at: a.index(form.a_at(*at)), None, None, out.buffer, lambda p: out.index(form.out_at(p)),
        a_transposed=form.a_transposed, b_transposed=form.b_transposed,
    )  # fmt: skip
    plan = MatrixKernel(problem, tiling, operands, target)
    if form.weights is not None:
        weights = constant_parameter("b", chunk_weights(form.weights, plan), problem.b_dtype)
        parameters.append(weights)
        operands = replace(operands, b=weights.buffer)
        if problem.diagonal:
            parameters.append(constant_parameter("mask", np.eye(problem.diagonal, dtype=np.bool_), "bool"))
            operands = replace(operands, mask=parameters[-1].buffer)
    else:
        b = reach("b", form.b, graph, target)
        parameters.append(Parameter(b.buffer, form.b.tensor))
        operands = replace(operands, b=b.buffer, b_index=lambda *at: b.index(form.b_at(*at)))
    if bias is not None:
        values = constant_parameter("bias", chunk_bias(bias, plan), problem.accumulator)
        parameters.append(values)
        operands = replace(operands, bias=values.buffer)
    operands = replace(operands, extras=tuple(_extras(extras, form, graph, target, parameters)))
    if not chain.identity:
        narrow = str(out.buffer.dtype) in NARROW_FLOATS and problem.accumulator == "float32"
        operands = replace(
            operands, epilogue=lambda acc, values: chain.value(acc, values), round_first=narrow and chain.slow_first
        )
    parameters.append(Parameter(out.buffer, layer.output.tensor, written=True))
    kernel = MatrixKernel(problem, tiling, operands, target)
    func = kernel.build(layer.name, [p.buffer for p in parameters])
    return LoweredKernel(layer.name, func, tuple(parameters), str(tiling))


def _extras(
    views: Sequence[View], form: _Form, graph: LayerGraph, target: Target, parameters: list[Parameter]
) -> list[Extra]:
    """The operands of the epilogue, each a parameter."""
    result = []
    for number, view in enumerate(views):
        place = reach(f"extra{number}", view, graph, target)
        tensor = graph.tensors[view.tensor]
        value = np.ascontiguousarray(tensor.value) if tensor.value is not None else None
        if value is not None:
            place_buffer = place.buffer
            value = value.reshape([int(s) for s in place_buffer.shape])
            parameters.append(Parameter(place_buffer, value=value))
        else:
            parameters.append(Parameter(place.buffer, view.tensor))
        varies = frozenset(c for d in varying(view) for c in form.out_axes[d])
        result.append(Extra(place.buffer, _at_point(place, form), varies))
    return result


def _at_point(place: Reach, form: _Form) -> Callable[[Point], list[Expr]]:
    """The index of an operand of the epilogue at a point of the output."""
    return lambda point: place.index(form.out_at(point))


# ---- bias ----------------------------------------------------------------------------------------------------
def _bias(layer: Layer, graph: LayerGraph, form: _Form) -> tuple[np.ndarray | None, int]:
    """The constant that the call after the anchor adds to each output channel, and the call to go on from."""
    following = layer.master + 1
    if following >= len(layer.calls) or layer.calls[following].op != "add":
        return None, layer.master
    users = [c for c in layer.calls[following:] if ("call", layer.master) in c.args]
    if len(users) != 1 or sorted(k for k, _ in layer.calls[following].args) != ["call", "input"]:
        return None, layer.master
    number = next(int(v) for k, v in layer.calls[following].args if k == "input")
    view = layer.inputs[number]
    tensor = graph.tensors[view.tensor]
    last = len(view.shape) - 1
    if tensor.value is None or not varying(view) <= {last} or (form.problem.batches > 1 and form.weights is None):
        return None, layer.master
    if form.problem.accumulator == "int32" and layer.calls[following].dtype != "int32":
        return None, layer.master
    row = materialize(replace(view, shape=(view.shape[-1],), strides=view.strides[-1:]), tensor)
    row = row.astype(np.dtype(form.problem.accumulator))
    groups = form.problem.batches if form.problem.lines is None else 1
    if layer.kind == "matmul":  # every batch has the same bias
        return np.repeat(row.reshape(1, -1), groups, axis=0), following
    return row.reshape(groups, -1), following


# ---- convolutions --------------------------------------------------------------------------------------------
def _conv_form(layer: Layer, graph: LayerGraph, target: Target) -> _Form:
    call = layer.calls[layer.master]
    data, kernel = (layer.inputs[int(v)] for _, v in call.args)
    images, height, width, channels = data.shape
    _, out_height, out_width, outputs = call.shape
    kh, kw = kernel.shape[:2]
    groups = int(call.attrs["groups"])
    top, left, bottom, right = call.attrs["padding"]
    per_group, out_group = channels // groups, outputs // groups
    values, zero_b = materialize(kernel, graph.tensors[kernel.tensor]), int(call.attrs.get("zero_b", 0))
    if takes_lines(layer, data, graph.tensors[data.tensor], target):
        return _line_form(line_convolution(layer, graph, data, values, zero_b))
    weights = values.reshape(kh, kw, per_group, groups, out_group).transpose(3, 0, 1, 2, 4)
    problem = MatrixProblem(
        groups, images, height, width, per_group, out_height, out_width, out_group, (kh, kw),
        tuple(call.attrs["strides"]), tuple(call.attrs["dilation"]), (top, left),
    )  # fmt: skip
    plain = (kh, kw) == (1, 1) and not any((top, left, bottom, right))
    others = [v for i, v in enumerate(layer.inputs) if ("input", i) not in call.args]
    if plain:
        data = _sampled(data, out_height, out_width, problem.stride)
        problem = replace(problem, height=out_height, width=out_width, stride=(1, 1))
    pixels = join_rows(data)
    if plain and pixels is not None and all(join_rows(v) is not None for v in [layer.output, *others]):
        rows = images * out_height * out_width
        flat = replace(problem, images=1, height=rows, width=1, out_height=rows, out_width=1)
        return _row_form(flat, pixels, weights)
    unit = max(1, 8 // item_bytes(graph.tensors[data.tensor].dtype))
    missing = -per_group % unit
    if missing:
        problem = replace(problem, channels=per_group + missing, source_channels=per_group)
        absent = np.full((*weights.shape[:3], missing, out_group), zero_b, weights.dtype)
        weights = np.concatenate([weights, absent], 3)

    def a_at(b: Expr, image: Expr, y: Expr, x: Expr, c: Expr) -> list[Expr]:
        return [image, y, x, c + b * per_group if groups > 1 else c]

    def out_at(p: Point) -> list[Expr]:
        return [p.image, p.y, p.x, p.n + p.b * out_group if groups > 1 else p.n]

    axes = (("image",), ("y",), ("x",), ("b", "n") if groups > 1 else ("n",))
    return _Form(problem, data, a_at, out_at, axes, weights)


def _sampled(data: View, height: int, width: int, stride: tuple[int, int]) -> View:
    """The pixels that a 1x1 window of that stride reads: the others need no load."""
    images, _, _, channels = data.shape
    (by_image, by_row, by_column, by_channel), (down, across) = data.strides, stride
    strides = (
        by_image, (by_row[0] * down, by_row[1] * down), (by_column[0] * across, by_column[1] * across), by_channel,
    )  # fmt: skip
    return replace(data, shape=(images, height, width, channels), strides=strides)


def takes_diagonals(layer: Layer, graph: LayerGraph, target: Target) -> bool:
    """Whether a depthwise layer of integers becomes products with diagonal blocks on the matrix engine.

    Sums of many taps in int32 take the vector engine longer than the matrix engine takes for the zeros of the blocks.
    """
    data, taps = (layer.inputs[int(v)] for _, v in layer.calls[layer.master].args)
    whole = graph.tensors[data.tensor].dtype in INTEGER_FACTORS and layer.calls[layer.master].dtype == "int32"
    if layer.kind != "depthwise" or not whole or not target.features.img2col_move or taps.shape[2] != 1:
        return False
    values = materialize(taps, graph.tensors[taps.tensor]).astype(np.int64)
    return data.shape[3] == taps.shape[3] and int(values.max() - values.min()) <= 255


def _diagonal_form(layer: Layer, graph: LayerGraph, target: Target) -> _Form:
    """A depthwise convolution as products with diagonal blocks, which fill a row of L1."""
    call = layer.calls[layer.master]
    data, taps = (layer.inputs[int(v)] for _, v in call.args)
    images, height, width, channels = data.shape
    values = materialize(taps, graph.tensors[taps.tensor]).astype(np.int64) - int(call.attrs.get("zero_b", 0))
    zero = 0 if values.min() >= -128 and values.max() <= 127 else max(0, -int(values.min()))
    stored = "int8" if not zero and values.min() < 0 else "uint8"
    dtype = graph.tensors[data.tensor].dtype
    block = max(target.memory[scope].alignment for scope in ("l1", "l0a", "l0b"))
    padded = -(-channels // block) * block
    top, left, _, _ = call.attrs["padding"]
    problem = MatrixProblem(
        1, images, height, width, padded, call.shape[1], call.shape[2], channels,
        (taps.shape[0], taps.shape[1]), tuple(call.attrs["strides"]), tuple(call.attrs["dilation"]), (top, left),
        dtype, "int32",
        channels if padded != channels else 0, right_dtype=stored if stored != dtype else "",
        pad_value=int(call.attrs.get("pad_value", 0)), zero_b=zero, diagonal=block,
    )  # fmt: skip
    weights = (values + zero).astype(stored).reshape(1, *taps.shape[:2], 1, channels)
    return _Form(
        problem, data, lambda _b, image, y, x, c: [image, y, x, c], lambda p: [p.image, p.y, p.x, p.n],
        (("image",), ("y",), ("x",), ("n",)), weights,
    )  # fmt: skip


def _line_form(c: LineConvolution) -> _Form:
    """A convolution over lines: the batch is the phase, an operand of the epilogue moves with it along x."""
    phases, one_plane = c.problem.batches, c.view.shape[2] == 1

    def out_at(p: Point) -> list[Expr]:
        return [p.image, p.y, p.x * phases + p.b if phases > 1 else p.x, p.n]

    return _Form(
        c.problem, c.view, lambda _b, image, y, x, plane: [image, y, integer(0) if one_plane else plane, x], out_at,
        (("image",), ("y",), ("b", "x"), ("n",)), c.weights,
    )  # fmt: skip


def join_rows(view: View) -> View | None:
    """The view with all dimensions but the last as one, None where they do not count one sequence of rows."""
    step: tuple[int, int] | None = None
    inner = (0, 0)
    for extent, stride in zip(reversed(view.shape[:-1]), reversed(view.strides[:-1]), strict=True):
        if extent == 1:
            continue
        if step is None:
            inner = stride
        elif stride != step:
            return None
        step = (stride[0] * extent, stride[1] * extent)
    rows = math.prod(view.shape[:-1])
    return replace(view, shape=(rows, view.shape[-1]), strides=(inner, view.strides[-1]))


def _row_form(problem: MatrixProblem, rows: View, weights: np.ndarray | None, right: View | None = None) -> _Form:
    """A product of rows (m, k): 1x1 convolutions, and batches that share the right operand."""
    groups, per_group, out_group = problem.batches, problem.channels, problem.out_channels
    return _Form(
        problem, rows, lambda b, _i, y, _x, c: [y, c + b * per_group if groups > 1 else c],
        lambda p: [p.y, p.n + p.b * out_group if groups > 1 else p.n], (("y",), ("b", "n") if groups > 1 else ("n",)),
        weights, right, lambda _b, k, n: [k, n],
        b_transposed=right is not None and not right.contiguous(1), joined=True,
    )  # fmt: skip


# ---- products ------------------------------------------------------------------------------------------------
def _product_form(layer: Layer, graph: LayerGraph) -> _Form:
    call = layer.calls[layer.master]
    if any(k != "input" for k, _ in call.args):
        raise Infeasible("operands of a product that are computed", 1, 0, where="lower.matrix_layer")
    left, right = (layer.inputs[int(v)] for _, v in call.args)
    out_shape = call.shape
    left, right = with_batches(left, out_shape), with_batches(right, out_shape)
    rows, columns, k = out_shape[-2], out_shape[-1], left.shape[-1]
    batch_dims = out_shape[:-2]
    shared = all(n == 1 or s == (0, 0) for n, s in zip(batch_dims, right.strides[:-2], strict=True))
    constant = graph.tensors[right.tensor].value is not None
    a_transposed = not left.contiguous(len(left.shape) - 1)
    extras = [v for i, v in enumerate(layer.inputs) if i not in {int(v) for _, v in call.args}]
    joined = join_rows(left)
    if (
        shared
        and not a_transposed
        and joined is not None
        and all(join_rows(v) is not None for v in [layer.output, *extras])
    ):
        problem = MatrixProblem(1, 1, joined.shape[0], 1, k, joined.shape[0], 1, columns)
        one = replace(right, shape=(k, columns), strides=right.strides[-2:])
        if not constant:
            return _row_form(problem, joined, None, one)
        return _row_form(problem, joined, materialize(one, graph.tensors[right.tensor]).reshape(1, 1, 1, k, columns))
    batches = math.prod(batch_dims)

    def split(b: Expr) -> list[Expr]:
        return unflatten(b, batch_dims)

    problem = MatrixProblem(batches, 1, rows, 1, k, rows, 1, columns)
    weights = None
    if constant:
        values = np.broadcast_to(materialize(right, graph.tensors[right.tensor]), (*batch_dims, k, columns))
        weights = values.reshape(batches, 1, 1, k, columns)
    return _Form(
        problem, left, lambda b, _i, y, _x, c: [*split(b), y, c], lambda p: [*split(p.b), p.y, p.n],
        (*(("b",) for _ in batch_dims), ("y",), ("n",)), weights, right, lambda b, kk, n: [*split(b), kk, n],
        a_transposed, not right.contiguous(len(right.shape) - 1),
    )  # fmt: skip


def with_batches(view: View, out_shape: tuple[int, ...]) -> View:
    """The view with the batch dimensions of the result, repeated where it has one or none."""
    lead = len(out_shape) - len(view.shape)
    shape = (1,) * lead + view.shape
    strides = ((0, 0),) * lead + view.strides
    wide = tuple(out_shape[d] if d < len(out_shape) - 2 else n for d, n in enumerate(shape))
    steps = tuple(
        (0, 0) if n == 1 and d < len(out_shape) - 2 else s for d, (n, s) in enumerate(zip(shape, strides, strict=True))
    )
    return replace(view, shape=wide, strides=steps)


def unflatten(number: Expr, dims: tuple[int, ...]) -> list[Expr]:
    """Indices along `dims` of a row-major number."""
    result: list[Expr] = []
    rest, outer = number, math.prod(dims)
    for n in reversed(dims):
        if n == 1:
            result.insert(0, integer(0))
            continue
        outer //= n
        result.insert(0, tirx.floormod(rest, integer(n)) if outer > 1 else rest)
        rest = tirx.floordiv(rest, integer(n)) if outer > 1 else rest
    return result
