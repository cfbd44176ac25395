"""Integer products as layers have them: padding of a value of its own, 8-bit weights with a zero point."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import tvm
from tvm import relax

from dsa_compiler.graph.calls import constant_of, describe, dtype_of, make_constant, op_name, shape_of
from dsa_compiler.graph.rewriter import bindings_of, operands

CONV = "nn.conv2d"


def paddings(mod: tvm.IRModule) -> dict[Any, relax.Call]:
    """Return the paddings of 8-bit images [n, h, w, c] that convolutions alone read, by variable of `main`.

    Such a padding is no layer: the convolutions that read it pad by themselves (`padded_attributes`).
    """
    found: dict[Any, relax.Call] = {}
    for binding in bindings_of(mod["main"]):
        if op_name(binding.value) == "nn.pad" and dtype_of(binding.var) in ("int8", "uint8"):
            a = describe(binding.value).attrs
            widths = a["pad_width"]
            if len(widths) == 8 and a["pad_mode"] == "constant" and not any((*widths[:2], *widths[6:])):
                found[binding.var] = binding.value
            continue
        for place, operand in enumerate(operands(binding.value)):
            if isinstance(operand, relax.Var) and operand in found and not _convolves(mod, binding.value, place):
                del found[operand]
    for operand in operands(mod["main"].body.body):
        found.pop(operand, None)
    return found


def _convolves(mod: tvm.IRModule, call: Any, place: int) -> bool:
    """Whether argument `place` of a layer's call is the unpadded image of its convolution, and nothing else."""
    if not isinstance(call, relax.Call) or not isinstance(call.op, tvm.ir.GlobalVar):
        return False
    function = mod[call.op]
    param = function.params[place]
    uses = [b.value for b in bindings_of(function) if any(o.same_as(param) for o in operands(b.value))]
    if len(uses) != 1 or op_name(uses[0]) != CONV or not uses[0].args[0].same_as(param):
        return False
    return not any(describe(uses[0]).attrs["padding"]) and not uses[0].args[1].same_as(param)


def padded_attributes(attrs: Mapping[str, Any], pad: relax.Call) -> dict[str, Any]:
    """Return the attributes of a convolution that pads its image as `pad` does, by `pad_value`."""
    a = describe(pad).attrs
    _, _, top, bottom, left, right, _, _ = a["pad_width"]
    return {**attrs, "padding": (top, left, bottom, right), "pad_value": int(a["pad_value"])}


def with_zero_point(call: relax.Call, weights: Any) -> tuple[Any, int] | None:
    """Return (8-bit weights, zero point) for constant weights of 9 bits in a product; None for others.

    Depthwise convolutions keep them: no matrix product multiplies them.
    """
    value = constant_of(weights)
    if value is None or value.dtype != np.int16:
        return None
    if op_name(call) == CONV:
        groups, channels = int(call.attrs.groups), shape_of(call.args[0])[-1]
        if groups > 1 and groups == channels:
            return None
    low, high = int(value.min()), int(value.max())
    if low > 0 or high - low > 255:
        return None
    return make_constant((value - low).astype(np.uint8)), -low
