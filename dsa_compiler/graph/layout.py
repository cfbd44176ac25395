"""Layout: convolutions, pools and what lies between them work on channel-last data.

Every value is carried as (expression, order): axis i of the expression is axis order[i] of the original value.
Convolutions and pools ask for (n, h, w, c), matrix products and the results of the model for the original order;
elementwise operators, concatenations, slices, reductions and reshapes that keep axes together take what is there.
A permutation of the model therefore costs nothing by itself; `permute_dims` appears only where two demands meet.
A flattening of (c, h, w) before a product with constant weights permutes the weights instead of the data.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
import tvm
from tvm import relax

from dsa_compiler.graph.axes import blocks, reshaped_orders
from dsa_compiler.graph.calls import (
    accumulator_of,
    constant_of,
    describe,
    dtype_of,
    is_constant,
    make_constant,
    op_name,
    plain,
    shape_of,
)
from dsa_compiler.graph.rewriter import Rewriter
from dsa_compiler.operators.table import is_elementwise

op = relax.op
Order = tuple[int, ...]
CHANNEL_LAST: Order = (0, 2, 3, 1)


class Laid(NamedTuple):
    """A value whose expression has its axes in `order`.

    `flat` is set on the value of a flattening whose rows stand in another order than the model's: the extents
    of the flattened axes in the model's order, and the order in which they lie in the expression.
    """

    expr: Any
    order: Order
    flat: tuple[tuple[int, ...], Order] | None = None


def set_layout(mod: tvm.IRModule) -> tvm.IRModule:
    """Return `mod` with channel-last convolutions and pools."""
    return _SetLayout(mod).run()


class _SetLayout(Rewriter):
    def __init__(self, mod: tvm.IRModule) -> None:
        super().__init__(mod)
        self._laid: dict[Any, Laid] = {}
        self._permutations: dict[tuple[Any, tuple[int, ...]], Any] = {}

    def _visit(self, binding: Any) -> None:
        """Rewrite one binding; `_laid` takes the place of the base class's table."""
        var, value = binding.var, binding.value
        self._node = str(self._old_nodes.get(var.name, ""))
        if not isinstance(value, relax.Call):
            resolved = self.resolve(value)
            if isinstance(value, relax.Var):
                self._laid[var] = self._laid_of(value)
            self._set(var, resolved)
            return
        rule = self.RULES.get(op_name(value))
        if rule is None:
            rule = _SetLayout._elementwise if is_elementwise(op_name(value)) else _SetLayout._plain
        laid = rule(self, value, var)
        laid = laid._replace(expr=self.emit(laid.expr, name=var.name))
        self._laid[var] = laid
        self._set(var, laid.expr)

    def resolve(self, expr: Any) -> Any:
        """Return the expression of an old value in its original order."""
        if isinstance(expr, relax.Var) and isinstance(expr.ty, relax.TensorType):
            return self._want(expr, None)
        return super().resolve(expr)

    def _laid_of(self, old: Any) -> Laid:
        if old in self._laid:
            return self._laid[old]
        expr = self._env[old] if isinstance(old, relax.Var) else old
        return Laid(expr, tuple(range(len(shape_of(old)))))

    def _want(self, old: Any, order: Order | None) -> Any:
        """Return the expression of `old` in `order` (the original one if None), permuting it if need be."""
        laid = self._laid_of(old)
        order = order or tuple(range(len(laid.order)))
        return self._permuted(laid, order)

    def _permuted(self, laid: Laid, order: Order) -> Any:
        if laid.order == order:
            return laid.expr
        axes = [laid.order.index(a) for a in order]
        value = constant_of(laid.expr)
        if value is not None:
            return make_constant(value.transpose(axes))
        key = (laid.expr, tuple(axes))
        if key not in self._permutations:
            shape = shape_of(laid.expr)
            only_units = _moves_only_units(shape, axes)
            moved = op.reshape(laid.expr, [shape[a] for a in axes]) if only_units else op.permute_dims(laid.expr, axes)
            self._permutations[key] = self.emit(moved)
        return self._permutations[key]

    def _plain(self, call: relax.Call, old: Any) -> Laid:
        """Rebuild a call on operands in their original order."""
        args = [self._in_order(a) for a in call.args]
        rank = len(shape_of(old)) if isinstance(old.ty, relax.TensorType) else 0
        return Laid(relax.Call(call.op, args, call.attrs, call.ty_args), tuple(range(rank)))

    def _in_order(self, arg: Any) -> Any:
        if isinstance(arg, relax.Tuple):
            return relax.Tuple([self._in_order(f) for f in arg.fields])
        return self._want(arg, None) if isinstance(arg, relax.Var) else arg

    def _elementwise(self, call: relax.Call, old: Any) -> Laid:
        shape = shape_of(old)
        tensors = [a for a in call.args if isinstance(getattr(a, "ty", None), relax.TensorType)]
        if all(is_constant(a) or len(shape_of(a)) < len(shape) for a in tensors):
            return self._plain(call, old)
        order = self._common_order(tensors, shape)
        args = [self._broadcastable(a, order) if a in tensors else a for a in call.args]
        return Laid(relax.Call(call.op, args, call.attrs, call.ty_args), order)

    def _common_order(self, operands: Sequence[Any], shape: tuple[int, ...]) -> Order:
        """Return the order that most of the operands of full rank have; the largest operands count most."""
        votes: Counter[Order] = Counter()
        for operand in operands:
            if not is_constant(operand) and len(shape_of(operand)) == len(shape):
                votes[self._laid_of(operand).order] += int(np.prod(shape_of(operand)))
        identity = tuple(range(len(shape)))
        return max(votes, key=lambda o: (votes[o], o != identity), default=identity)

    def _broadcastable(self, operand: Any, order: Order) -> Any:
        """Return an operand of at most the rank of `order` so that it broadcasts to a value in that order."""
        shape = shape_of(operand)
        if not shape or (int(np.prod(shape)) == 1 and is_constant(operand)):
            value = constant_of(operand)
            return self._want(operand, None) if value is None else make_constant(value.reshape(()))
        if len(shape) == len(order):
            return self._want(operand, order)
        wide = (1,) * (len(order) - len(shape)) + shape
        value = constant_of(operand)
        if value is not None:
            permuted = value.reshape(wide).transpose(order)
            while permuted.ndim > 1 and permuted.shape[0] == 1:
                permuted = permuted[0]
            return make_constant(permuted)
        if order == tuple(range(len(order))):
            return self._want(operand, None)
        expr = self.emit(op.reshape(self._want(operand, None), list(wide)))
        return self._permuted(Laid(expr, tuple(range(len(wide)))), order)

    def _conv(self, call: relax.Call, old: Any) -> Laid:
        a = describe(call).attrs
        weights = constant_of(call.args[1])
        if weights is None:
            kernel = self.emit(op.permute_dims(self._want(call.args[1], None), [2, 3, 1, 0]))
        else:
            kernel = make_constant(weights.transpose(2, 3, 1, 0))
        x = self._want(call.args[0], CHANNEL_LAST)
        y = op.nn.conv2d(x, kernel, strides=a["strides"], padding=a["padding"], dilation=a["dilation"],
                         groups=a["groups"], data_layout="NHWC", kernel_layout="HWIO",
                         out_dtype=accumulator_of(call))  # fmt: skip
        return Laid(y, CHANNEL_LAST)

    def _pool(self, call: relax.Call, old: Any) -> Laid:
        a = describe(call).attrs
        fn = op.nn.max_pool2d if op_name(call) == "nn.max_pool2d" else op.nn.avg_pool2d
        y = fn(self._want(call.args[0], CHANNEL_LAST), pool_size=a["pool_size"], strides=a["strides"],
               dilation=a["dilation"], padding=a["padding"], count_include_pad=a["count_include_pad"],
               layout="NHWC")  # fmt: skip
        return Laid(y, CHANNEL_LAST)

    def _matmul(self, call: relax.Call, old: Any) -> Laid:
        a, b = call.args
        laid, weights = self._laid_of(a), constant_of(b)
        if laid.flat is not None and weights is not None and weights.ndim == 2:
            extents, order = laid.flat
            permuted = weights.reshape(*extents, -1).transpose(*order, len(order)).reshape(weights.shape)
            product = op.matmul(laid.expr, make_constant(permuted), out_dtype=accumulator_of(call))
            return Laid(product, tuple(range(len(shape_of(old)))))
        return self._plain(call, old)

    def _permute_dims(self, call: relax.Call, old: Any) -> Laid:
        laid = self._laid_of(call.args[0])
        axes = list(plain(call.attrs.axes) or reversed(range(len(laid.order))))
        return Laid(laid.expr, tuple(axes.index(a) for a in laid.order))

    def _reduce(self, call: relax.Call, old: Any) -> Laid:
        laid, a = self._laid_of(call.args[0]), describe(call).attrs
        rank = len(laid.order)
        given = a["axis"]
        every = range(rank) if given is None else [given] if isinstance(given, int) else given
        axes = sorted(x % rank for x in every)
        places = sorted(laid.order.index(x) for x in axes)
        fn = getattr(op, op_name(call))
        y = fn(laid.expr, axis=places[0] if isinstance(given, int) else places, keepdims=a["keepdims"])
        kept = laid.order if a["keepdims"] else _renumbered([x for x in laid.order if x not in axes])
        return Laid(y, kept)

    def _scan(self, call: relax.Call, old: Any) -> Laid:
        laid, axis = self._laid_of(call.args[0]), plain(call.attrs.axis)
        if axis is None:
            return self._plain(call, old)
        place = laid.order.index(axis % len(laid.order))
        return Laid(getattr(op, op_name(call))(laid.expr, axis=place), laid.order)

    def _softmax(self, call: relax.Call, old: Any) -> Laid:
        """Run along the innermost axis."""
        laid = self._laid_of(call.args[0])
        axis = plain(call.attrs.axis) % len(laid.order)
        order = (*(x for x in laid.order if x != axis), axis)
        fn = getattr(op.nn, op_name(call).removeprefix("nn."))
        return Laid(fn(self._permuted(laid, order), axis=-1), order)

    def _instance_norm(self, call: relax.Call, old: Any) -> Laid:
        """Normalise with the channels innermost, as convolutions leave them (one channel may lie anywhere)."""
        a = describe(call).attrs
        rank, axes = len(shape_of(old)), a["axes"]
        channel = a["channel_axis"] % rank
        laid = self._laid_of(call.args[0])
        kept = laid.order[-1] == channel or shape_of(old)[channel] == 1
        order = laid.order if kept else (*(x for x in range(rank) if x != channel), channel)
        places = [order.index(x % rank) for x in axes]
        params = [self._want(p, None) if isinstance(p, relax.Var) else p for p in call.args[1:]]
        y = op.nn.instance_norm(self._permuted(laid, order), *params, channel_axis=order.index(channel),
                                axes=places,
                                epsilon=a["epsilon"])  # fmt: skip
        return Laid(y, order)

    def _concat(self, call: relax.Call, old: Any) -> Laid:
        fields = list(call.args[0].fields)
        order = self._common_order(fields, shape_of(old))
        axis = order.index(plain(call.attrs.axis) % len(order))
        return Laid(op.concat([self._want(f, order) for f in fields], axis), order)

    def _slice(self, call: relax.Call, old: Any) -> Laid:
        laid, a = self._laid_of(call.args[0]), describe(call).attrs
        axes = [laid.order.index(x % len(laid.order)) for x in a["axes"]]
        strides = a.get("strides") or (1,) * len(axes)
        return Laid(op.strided_slice(laid.expr, axes, list(a["begin"]), list(a["end"]), list(strides)), laid.order)

    def _flip(self, call: relax.Call, old: Any) -> Laid:
        laid = self._laid_of(call.args[0])
        return Laid(op.flip(laid.expr, laid.order.index(plain(call.attrs.axis) % len(laid.order))), laid.order)

    def _take(self, call: relax.Call, old: Any) -> Laid:
        """Take along an axis of any place if the indices are a vector."""
        laid, axis = self._laid_of(call.args[0]), plain(call.attrs.axis)
        if axis is None or len(shape_of(call.args[1])) != 1 or not isinstance(call.args[0], relax.Var):
            return self._plain(call, old)
        place = laid.order.index(axis % len(laid.order))
        return Laid(op.take(laid.expr, self._in_order(call.args[1]), axis=place, mode="wrap"), laid.order)

    def _pad(self, call: relax.Call, old: Any) -> Laid:
        laid, a = self._laid_of(call.args[0]), describe(call).attrs
        if len(laid.order) == 4 and dtype_of(old) in ("int8", "uint8"):  # convolutions of integers take it in
            laid = Laid(self._permuted(laid, CHANNEL_LAST), CHANNEL_LAST)
        widths = [a["pad_width"][2 * x + side] for x in laid.order for side in (0, 1)]
        return Laid(op.nn.pad(laid.expr, widths, pad_value=a["pad_value"], pad_mode=str(a["pad_mode"])), laid.order)

    def _broadcast(self, call: relax.Call, old: Any) -> Laid:
        laid, shape = self._laid_of(call.args[0]), shape_of(old)
        if len(laid.order) != len(shape):
            return self._plain(call, old)
        return Laid(op.broadcast_to(laid.expr, [shape[x] for x in laid.order]), laid.order)

    def _reshape(self, call: relax.Call, old: Any) -> Laid:
        laid, old_shape, new_shape = self._laid_of(call.args[0]), shape_of(call.args[0]), shape_of(old)
        if not isinstance(call.args[0], relax.Var):
            return self._plain(call, old)
        flat = self._flattening(laid, old_shape, new_shape, old)
        if flat is not None:
            return flat
        before, after = reshaped_orders(blocks(old_shape, new_shape), old_shape, new_shape, laid.order)
        expr = self._permuted(laid, before)
        return Laid(op.reshape(expr, [new_shape[x] for x in after]), after)

    def _flattening(self, laid: Laid, old_shape: tuple[int, ...], new_shape: tuple[int, ...], old: Any) -> Laid | None:
        """Return a flattening without a permutation if products with constant weights alone use it."""
        if len(new_shape) != 2 or len(old_shape) < 3 or laid.order == tuple(range(len(old_shape))):
            return None
        users = self.users.get(old, [])
        if new_shape[0] != old_shape[0] or laid.order[0] != 0 or not users or self.uses[old] != len(users):
            return None
        if not all(_multiplies_constant(u.value, old) for u in users):
            return None
        expr = op.reshape(laid.expr, list(new_shape))
        return Laid(expr, (0, 1), (old_shape[1:], tuple(x - 1 for x in laid.order[1:])))

    RULES: ClassVar[Mapping[str, Callable[[Any, Any, Any], Laid]]] = {
        "nn.conv2d": _conv, "nn.max_pool2d": _pool, "nn.avg_pool2d": _pool, "matmul": _matmul,
        "permute_dims": _permute_dims, "nn.softmax": _softmax, "nn.log_softmax": _softmax, "concat": _concat,
        "strided_slice": _slice, "flip": _flip, "take": _take, "nn.pad": _pad, "broadcast_to": _broadcast,
        "reshape": _reshape, "nn.instance_norm": _instance_norm,
        **dict.fromkeys(("sum", "mean", "max", "min", "prod", "variance", "std", "argmax", "argmin"), _reduce),
        "cumsum": _scan, "cumprod": _scan,
    }  # fmt: skip


def _multiplies_constant(value: Any, var: Any) -> bool:
    if op_name(value) != "matmul" or not value.args[0].same_as(var):
        return False
    return is_constant(value.args[1]) and len(shape_of(value.args[1])) == 2


def _moves_only_units(shape: tuple[int, ...], axes: Sequence[int]) -> bool:
    wide = [a for a in axes if shape[a] != 1]
    return wide == sorted(wide)


def _renumbered(order: Sequence[int]) -> Order:
    ranks = sorted(order)
    return tuple(ranks.index(a) for a in order)
