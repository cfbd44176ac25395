"""Hoist: elementwise operators move before reshapes and concatenations, to where they can join an anchor.

Before: `relu(reshape(concat(conv a, conv b)))`. After: `reshape(concat(relu(conv a), relu(conv b)))`.
An operator moves if its other operands are constants of one element, or vary along an axis that the data movement
leaves alone, and if the moved data has no other use. Before a reshape that only adds or drops axes of extent 1 it
moves with any operand: `add(reshape(matmul), y)` becomes `reshape(add(matmul, reshape(y)))`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tvm
from tvm import relax

from dsa_compiler.graph.calls import constant_of, is_constant, make_constant, op_name, plain, shape_of
from dsa_compiler.graph.rewriter import Rewriter
from dsa_compiler.operators.table import is_elementwise

op = relax.op
ANCHORS = frozenset({"nn.conv2d", "matmul"})


def hoist(mod: tvm.IRModule) -> tvm.IRModule:
    """Return `mod` with elementwise operators moved towards the anchors."""
    return _Hoist(mod).run()


class _Hoist(Rewriter):
    def rewrite(self, call: relax.Call, old: Any) -> Any:
        if not is_elementwise(op_name(call)):
            return call
        moved = self._moved(call, old)
        return call if moved is None else moved

    def _moved(self, call: relax.Call, old: Any) -> Any:
        tensors = [i for i, a in enumerate(call.args) if isinstance(a, relax.Var)]
        if len(tensors) == 2:
            return self._with_tensor(call, tensors, old)
        constants = [a for a in call.args if is_constant(a)]
        if len(tensors) != 1 or shape_of(call.args[tensors[0]]) != shape_of(old):
            return None
        place = tensors[0]
        inner = self.sole_producer(call.args[place])
        if not self._reaches_anchor(call.args[place]):
            return None
        if op_name(inner) == "reshape":
            return self._before_reshape(call, place, inner, constants, old)
        if op_name(inner) == "concat":
            return self._before_concat(call, place, inner, constants, old)
        return None

    def _with_tensor(self, call: relax.Call, tensors: list[int], old: Any) -> Any:
        """Move before a reshape of unit axes that one of two tensor operands of full shape went through."""
        if len(call.args) != 2 or any(shape_of(a) != shape_of(old) for a in call.args):
            return None
        for place in reversed(tensors):
            inner = self.sole_producer(call.args[place])
            if op_name(inner) != "reshape" or not self._reaches_anchor(call.args[place]):
                continue
            source = shape_of(inner.args[0])
            if [n for n in source if n != 1] != [n for n in shape_of(old) if n != 1]:
                continue
            other = self.emit(op.reshape(call.args[1 - place], list(source)))
            args = [inner.args[0] if i == place else other for i in range(2)]
            moved = self.emit(relax.Call(call.op, args, call.attrs, call.ty_args))
            return op.reshape(moved, list(shape_of(old)))
        return None

    def _reaches_anchor(self, expr: Any) -> bool:
        """Whether data movements and elementwise operators of one use each lead back to anchors alone."""
        if is_constant(expr):
            return True
        call = self.sole_producer(expr)
        name = op_name(call)
        if name in ANCHORS:
            return True
        if name == "reshape" or is_elementwise(name):
            return self._reaches_anchor(call.args[0])
        return name == "concat" and all(self._reaches_anchor(f) for f in call.args[0].fields)

    def _apply(self, call: relax.Call, place: int, x: Any, constants: list[Any] | None) -> Any:
        """Return `call` on `x` in place of its operand, with new constants in order."""
        given = iter(constants or ())
        args = [
            x if i == place else next(given) if constants is not None and is_constant(a) else a
            for i, a in enumerate(call.args)
        ]
        new = relax.Call(call.op, args, call.attrs, call.ty_args)
        var = self.emit(new)
        deeper = self._moved(new, var)
        return var if deeper is None else self.emit(deeper)

    def _before_reshape(self, call: relax.Call, place: int, inner: Any, constants: list[Any], old: Any) -> Any:
        source, shape = shape_of(inner.args[0]), shape_of(old)
        moved = [_before_reshape(constant_of(c), shape, source) for c in constants]
        if any(m is None for m in moved):
            return None
        x = self._apply(call, place, inner.args[0], [make_constant(m) for m in moved if m is not None])
        return op.reshape(x, list(shape))

    def _before_concat(self, call: relax.Call, place: int, inner: Any, constants: list[Any], old: Any) -> Any:
        axis, rank = plain(inner.attrs.axis) % len(shape_of(old)), len(shape_of(old))
        if any(not is_constant(f) and self.use_count(f) > 1 for f in inner.args[0].fields):
            return None
        for c in constants:
            lead = rank - len(shape_of(c))
            if lead < 0 or (axis >= lead and shape_of(c)[axis - lead] != 1):
                return None
        parts = [self._applied_part(call, place, f) for f in inner.args[0].fields]
        return op.concat(parts, axis)

    def _applied_part(self, call: relax.Call, place: int, part: Any) -> Any:
        if is_constant(part):
            from dsa_compiler.graph.fold import fold_call

            args = [part if i == place else a for i, a in enumerate(call.args)]
            new = self.bb.normalize(relax.Call(call.op, args, call.attrs, call.ty_args))
            return fold_call(new, str(new.ty.dtype))
        return self._apply(call, place, part, None)


def _before_reshape(value: Any, shape: tuple[int, ...], source: tuple[int, ...]) -> Any:
    """Return the constant that broadcasts to `source` as `value` does to `shape`; None if there is none."""
    if value.size == 1:
        return value.reshape(())
    if value.ndim > len(shape):
        return None
    wide = value.reshape((1,) * (len(shape) - value.ndim) + value.shape)
    axes = [i for i, n in enumerate(wide.shape) if n > 1]
    if len(axes) != 1:
        return None
    before = int(np.prod(shape[: axes[0]]))
    for axis, extent in enumerate(source):
        if extent == wide.size and int(np.prod(source[:axis])) == before:
            return wide.reshape([extent if i == axis else 1 for i in range(len(source))])
    return None
