"""Pooling and depthwise convolution: windows over a channel-last tensor on the vector engine."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from dsa_compiler.emit.accumulation import accumulation, reduced_axes
from dsa_compiler.emit.context import Context
from dsa_compiler.emit.expression import Apply, Const, Load, Node, Unmatched, Unsuited
from dsa_compiler.emit.nest import Access, Nest
from dsa_compiler.emit.neutral import is_neutral
from dsa_compiler.emit.plan import Placed, Plan
from dsa_compiler.emit.windows import (
    Count,
    Window,
    as_expr,
    count_of,
    image_windows,
    is_still,
    require_on_image,
    source_of,
    span_of,
    window_attrs,
)

POOLS = {"max": "pool_max", "add": "pool_sum"}


def windows(init: Nest, update: Nest, context: Context) -> Iterator[Plan]:
    """Plans of a neutral first value and an accumulation over a window."""
    yield window_plan(init, update, context)


def added_windows(nest: Nest, context: Context) -> Iterator[Plan]:
    """Plans of a depthwise product that adds to its accumulator."""
    if accumulation(nest.value, nest.store, nest.loads) is not None and reduced_axes(nest.store):
        yield window_plan(None, nest, context)


def window_plan(init: Nest | None, update: Nest, context: Context) -> Plan:
    """The windowed instruction of an accumulation over a window.

    `init` is the nest that gives the accumulator its first value; without it only a depthwise product may add to
    what is there. Raises `Unmatched` where the nests are of another form.
    """
    added = accumulation(update.value, update.store, update.loads)
    taps = reduced_axes(update.store)
    if added is None or not taps:
        raise Unmatched("the nest is no accumulation over a window")
    opcode, source, weights = _operation(added.op, added.rest, update, init)
    channel = _channel(update, source)
    kept = [n for n in range(len(update.axes)) if n not in taps and n != channel]
    outer = [n for n in kept if not _on_image(source, n)]
    outputs = [n for n in kept if n not in outer]
    update = _with_guards_as_predicate(update, added.op)
    windows = image_windows(update, source, outputs, taps)
    require_on_image(update, update.predicate, windows)
    if weights is not None:
        _require_taps(update, weights, windows, channel)
    return _plan(opcode, update, source, weights, windows, channel, outer, context)


def _operation(op: str, rest: Node, update: Nest, init: Nest | None) -> tuple[str, Access, Access | None]:
    """(opcode, the tensor under the window, the tap weights)."""
    rest = _uncast(rest)
    if isinstance(rest, Load):
        if op not in POOLS or init is None or not _starts_with_neutral(op, init):
            raise Unmatched("the accumulator of the window does not start with the neutral element")
        return POOLS[op], update.loads[rest.slot], None
    if op == "add" and isinstance(rest, Apply) and rest.op == "mul":
        first, second = (_uncast(a) for a in rest.args)
        if isinstance(first, Load) and isinstance(second, Load):
            return _depthwise(update, init, first, second)
    raise Unmatched("the window accumulates an expression")


def _depthwise(update: Nest, init: Nest | None, first: Load, second: Load) -> tuple[str, Access, Access | None]:
    source, weights = update.loads[first.slot], update.loads[second.slot]
    taps = reduced_axes(update.store)
    kept = [n for n in range(len(update.axes)) if n not in taps]
    if all(_still(source, n) or source.strides[n] == 1 for n in kept) and not all(
        _still(weights, n) or weights.strides[n] == 1 for n in kept
    ):
        source, weights = weights, source
    fresh = init is not None and _starts_with_neutral("add", init)
    return ("depthwise" if fresh else "depthwise_acc"), source, weights


def _uncast(node: Node) -> Node:
    return node.args[0] if isinstance(node, Apply) and node.op == "cast" else node


def _still(access: Access, axis: int) -> bool:
    return access.strides[axis] == 0 and isinstance(access.strides[axis], int)


def _starts_with_neutral(op: str, init: Nest) -> bool:
    return isinstance(init.value, Const) and is_neutral(op, init.value.value, init.store.dtype)


def _channel(nest: Nest, source: Access) -> int:
    """The axis of channels: contiguous in the tensor and in the result; -1 where there is one channel."""
    found = [n for n in range(len(nest.axes)) if source.strides[n] == 1 and nest.store.strides[n] == 1]
    return found[0] if found else -1


def _on_image(source: Access, axis: int) -> bool:
    """Whether an axis walks the rows or columns of the image."""
    dims = range(max(0, len(source.slopes) - 3), len(source.slopes) - 1)
    return any(not is_still(source.slopes[d][axis]) for d in dims)


def _with_guards_as_predicate(nest: Nest, op: str) -> Nest:
    """The nest with one predicate for the taps that take part.

    Raises `Unmatched` where a tap that is padding takes part with a value of its own.
    """
    if nest.predicate and not is_neutral(op, float(nest.otherwise or 0), nest.loads[nest.padded].dtype):
        raise Unmatched(f"a window is padded with {nest.otherwise}, which takes part in the result")
    return replace(nest, predicate=(*nest.predicate, *nest.guards), guards=())


def _require_taps(nest: Nest, weights: Access, windows: tuple[Window, Window], channel: int) -> None:
    used = {windows[0].kernel, windows[1].kernel, channel}
    for n, stride in enumerate(weights.strides):
        if not (isinstance(stride, int) and stride == 0) and n not in used:
            raise Unmatched("the tap weights vary over the image")
    if channel >= 0 and weights.strides[channel] != 1:
        raise Unmatched("the tap weights are not contiguous in channels")


def _plan(
    opcode: str, nest: Nest, source: Access, weights: Access | None, windows: tuple[Window, Window], channel: int,
    outer: list[int], context: Context,
) -> Plan:  # fmt: skip
    simplify = context.scope.simplify
    spans = (span_of(nest, source, windows[0], simplify), span_of(nest, source, windows[1], simplify))
    channels = count_of(nest, channel)
    src = source_of(source, windows, spans, channels)
    result = _result(opcode, nest, windows, channels, context)
    operands = [result, src]
    kernel = [count_of(nest, w.kernel) for w in windows]
    attrs = {**window_attrs(nest, windows, spans), "taps": _taps(kernel)}
    if weights is not None:
        operands.append(_weights(weights, windows, kernel, channels, context.engine.unit_elements(weights)))
        attrs["macs"] = True
    for operand in operands:
        _require_legal(opcode, operand, outer, context)
    return Plan(opcode, tuple(operands), attrs, tuple(outer), tuple(as_expr(s.extent) for s in spans))


def _taps(kernel: list[Count]) -> object:
    high, wide = kernel
    if isinstance(high.extent, int) and isinstance(wide.extent, int):
        return high.extent * wide.extent
    return as_expr(high.extent) * wide.extent


def _result(opcode: str, nest: Nest, windows: tuple[Window, Window], channels: Count, context: Context) -> Placed:
    store = nest.store
    counts = [count_of(nest, w.output) for w in windows]
    pitch = context.engine.unit_elements(store)
    strides = []
    for window in windows:
        stride = store.strides[window.output] if window.output >= 0 else pitch
        if not isinstance(stride, int):
            raise Unmatched("rows of the result are at a distance that depends on a tile")
        strides.append(stride)
    role = "acc" if opcode == "depthwise_acc" else "dst"
    return Placed(
        role, store, store.base, (counts[0].extent, counts[1].extent, channels.extent),
        (counts[0].bound, counts[1].bound, channels.bound), (*strides, 1),
    )  # fmt: skip


def _weights(
    weights: Access, windows: tuple[Window, Window], kernel: list[Count], channels: Count, unit: int
) -> Placed:
    """The tap weights [kernel high, kernel wide, channels]; a dimension of one tap has rows of `unit` elements."""
    strides = []
    for window in windows:
        stride = weights.strides[window.kernel] if window.kernel >= 0 else unit
        if not isinstance(stride, int):
            raise Unmatched("rows of the tap weights are at a distance that depends on a tile")
        strides.append(stride)
    return Placed(
        "taps", weights, weights.base, (kernel[0].extent, kernel[1].extent, channels.extent),
        (kernel[0].bound, kernel[1].bound, channels.bound), (*strides, 1),
    )  # fmt: skip


def _require_legal(opcode: str, operand: Placed, outer: list[int], context: Context) -> None:
    access = operand.access
    if context.part(opcode, operand.role, access) is None:
        raise Unsuited(f"{opcode} does not take {access.dtype} in {access.scope} as {operand.role}")
    unit = context.engine.unit_elements(access)
    context.engine.require_aligned_base(replace(access, base=operand.base))
    walked = [s for s, b in zip(operand.strides[:-1], operand.bounds, strict=False) if b > 1]
    walked += [access.strides[n] for n in outer]
    if any(not isinstance(s, int) or s % unit for s in walked):
        raise Unmatched(f"pixels or rows of {access.buffer.name} are not aligned")
    if max(operand.bounds) > context.target.limits.extent:
        raise Unmatched(f"an extent of {max(operand.bounds)} is beyond the limit of {context.target.limits.extent}")
