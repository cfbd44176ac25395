"""Refusal of networks that no order of work fits into a part's memory, before any kernel is made."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from dsa_compiler.errors import UserError
from dsa_compiler.graph.layers import LayerGraph, Tensor
from dsa_compiler.target import Target

_ACTION = "use a smaller batch, a smaller model or float16"


def check_footprint(graph: LayerGraph, target: Target) -> None:
    """Raise `UserError` if what must be in ddr at one time exceeds it.

    That is all inputs, outputs and constants, and at each layer what it reads and writes besides. The least is counted:
    no padding, no alignment.
    """
    available = target.memory["ddr"].size
    always = {n for n, t in graph.tensors.items() if t.role != "activation"}
    held = _bytes(graph.tensors[n] for n in always)
    if held > available:
        raise UserError(f"inputs, outputs and weights take {held} bytes, ddr of {target.name} has {available}",
                        where="model", action=_ACTION)  # fmt: skip
    for layer in graph.layers:
        names = {v.tensor for v in (*layer.inputs, *layer.outputs)} - always
        needed = held + _bytes(graph.tensors[n] for n in names)
        if needed > available:
            problem = f"with inputs, outputs and weights its operands take {needed} bytes"
            raise UserError(f"{problem}, ddr of {target.name} has {available}",
                            where="+".join(layer.nodes) or layer.name, action=_ACTION)  # fmt: skip


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(t.size * np.dtype(np.int8 if t.dtype == "int4" else t.dtype).itemsize for t in tensors)
