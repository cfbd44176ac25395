"""ONNX reductions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm import relax

from dsa_compiler.frontend.node import Converter, Node, dtype_of, shape_of

op = relax.op


def _axes(node: Node) -> list[int] | None:
    """Return the axes to reduce; None means that there are none and the input is the result."""
    rank = len(shape_of(node.inputs[0]))
    axes = node.ints_of("axes", 1)
    if not axes:
        return None if node.attrs.get("noop_with_empty_axes") else list(range(rank))
    return sorted(axis % rank for axis in axes)


def _reduction(
    fn: Callable[..., Any],
    before: Callable[[Any], Any] | None = None,
    after: Callable[[Any], Any] | None = None,
) -> Converter:
    def convert(node: Node) -> Any:
        x, axes = node.inputs[0], _axes(node)
        x = node.emit(before(x)) if before else x
        if axes is not None:
            x = node.emit(fn(x, axis=axes, keepdims=bool(node.attrs.get("keepdims", 1))))
        return node.emit(after(x)) if after else x

    return convert


def _log_sum_exp(node: Node) -> Any:
    """Emit max + log(sum(exp(x - max)))."""
    x, axes = node.inputs[0], _axes(node)
    if axes is None:
        return x
    keep = bool(node.attrs.get("keepdims", 1))
    top = node.emit(op.max(x, axis=axes, keepdims=True))
    e = node.emit(op.exp(node.emit(op.subtract(x, top))))
    result = node.emit(op.add(node.emit(op.log(node.emit(op.sum(e, axis=axes, keepdims=True)))), top))
    return result if keep else node.emit(op.squeeze(result, axes))


def _arg(fn: Callable[..., Any]) -> Converter:
    def convert(node: Node) -> Any:
        x = node.inputs[0]
        axis = int(node.attrs.get("axis", 0)) % len(shape_of(x))
        keep = bool(node.attrs.get("keepdims", 1))
        if node.attrs.get("select_last_index", 0):
            last = node.emit(fn(node.emit(op.flip(x, axis)), axis=axis, keepdims=keep))
            place = node.emit(op.astype(last, "int32"))
            found = node.emit(op.subtract(relax.const(shape_of(x)[axis] - 1, "int32"), place))
            return node.emit(op.astype(found, dtype_of(last)))
        return node.emit(fn(x, axis=axis, keepdims=keep))

    return convert


def reduction_converters() -> dict[str, Converter]:
    """Return the converters of reductions."""
    return {
        "ArgMax": _arg(op.argmax), "ArgMin": _arg(op.argmin), "ReduceL1": _reduction(op.sum, before=op.abs),
        "ReduceL2": _reduction(op.sum, before=op.square, after=op.sqrt),
        "ReduceLogSum": _reduction(op.sum, after=op.log), "ReduceLogSumExp": _log_sum_exp,
        "ReduceMax": _reduction(op.max), "ReduceMean": _reduction(op.mean), "ReduceMin": _reduction(op.min),
        "ReduceProd": _reduction(op.prod), "ReduceSum": _reduction(op.sum),
        "ReduceSumSquare": _reduction(op.sum, before=op.square),
    }  # fmt: skip
