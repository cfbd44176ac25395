"""FoldScale: a constant scale after a convolution or matrix product moves into its weights (batch normalisation).

Before: `multiply(add(conv2d(x, w), b), s)`. After: `add(conv2d(x, w*s), b*s)`.
Left unchanged: weights that are no constants, a scale that varies along other axes, other uses of the product.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import tvm
from tvm import relax

from dsa_compiler.graph.calls import constant_of, make_constant, op_name, shape_of
from dsa_compiler.graph.rewriter import Rewriter

op = relax.op


def fold_scale(mod: tvm.IRModule) -> tvm.IRModule:
    """Return `mod` with scales folded into weights."""
    return _FoldScale(mod).run()


class _FoldScale(Rewriter):
    def rewrite(self, call: relax.Call, old: Any) -> Any:
        if op_name(call) != "multiply":
            return call
        scale = constant_of(call.args[1])
        if scale is None or scale.dtype.kind != "f":
            return call
        inner = self.sole_producer(call.args[0])
        if op_name(inner) == "add":
            bias = constant_of(inner.args[1])
            product = self._scaled(inner.args[0], scale) if bias is not None else None
            if product is None or shape_of(inner.args[0]) != shape_of(old):
                return call
            origin = self.node_of(inner.args[0])
            return op.add(self.emit(product, origin), make_constant((bias * scale).astype(scale.dtype)))
        product = self._scaled(call.args[0], scale)
        return call if product is None else product

    def _scaled(self, var: Any, scale: npt.NDArray[Any]) -> Any:
        """Return the product bound to `var` with weights times `scale`, or None if that cannot be."""
        product = self.sole_producer(var)
        weights = constant_of(product.args[1]) if op_name(product) in ("nn.conv2d", "matmul") else None
        if weights is None:
            return None
        if op_name(product) == "nn.conv2d":
            factor = channel_vector(scale, shape_of(var), 1)
            factor = None if factor is None else factor.reshape(-1, 1, 1, 1)
        else:
            factor = channel_vector(scale, shape_of(var), len(shape_of(var)) - 1)
        if factor is None:
            return None
        scaled = make_constant((weights * factor).astype(weights.dtype))
        return relax.Call(product.op, [product.args[0], scaled], product.attrs, product.ty_args)


def channel_vector(value: npt.NDArray[Any], shape: tuple[int, ...], axis: int) -> npt.NDArray[Any] | None:
    """Return `value`, which is broadcast to `shape`, as a vector along `axis`; None if it varies along others."""
    if value.ndim > len(shape):
        return None
    wide = value.reshape((1,) * (len(shape) - value.ndim) + value.shape)
    if any(n != 1 for i, n in enumerate(wide.shape) if i != axis):
        return None
    return np.broadcast_to(wide.reshape(-1), (shape[axis],)) if wide.size == 1 else wide.reshape(-1)
