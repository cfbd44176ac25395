"""The graph passes in order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import tvm

from dsa_compiler.graph.canonicalize import canonicalize
from dsa_compiler.graph.decompose import decompose
from dsa_compiler.graph.fold import fold
from dsa_compiler.graph.fold_scale import fold_scale
from dsa_compiler.graph.fuse import fuse
from dsa_compiler.graph.hoist import hoist
from dsa_compiler.graph.integer import integer_products
from dsa_compiler.graph.layout import set_layout
from dsa_compiler.graph.precision import Precision, set_precision
from dsa_compiler.graph.recognize import recognize
from dsa_compiler.graph.requantize import join_quantization
from dsa_compiler.graph.sink import sink_dequantize
from dsa_compiler.graph.subpixel import rewrite_transposed_convolutions

Pass = Callable[[tvm.IRModule], tvm.IRModule]

BEFORE_PRECISION: Final[tuple[Pass, ...]] = (
    decompose,
    canonicalize,
    sink_dequantize,
    integer_products,
    fold,
    canonicalize,  # the scales that products and quantisations put side by side
    join_quantization,
    recognize,
    rewrite_transposed_convolutions,
    hoist,
    fold_scale,
    canonicalize,  # biases that scales have changed meet the next addend
)
AFTER_PRECISION: Final[tuple[Pass, ...]] = (
    set_layout,
    canonicalize,  # reshapes and permutations that the layout put side by side
    hoist,  # residual additions behind reshapes that the layout left
    fold,
    fuse,
)


def optimize(mod: tvm.IRModule, precision: Precision | None = None) -> tvm.IRModule:
    """Return level 1: `mod`, as imported, in `precision` (None: as the model is) and fused into layers."""
    for step in BEFORE_PRECISION:
        mod = step(mod)
    if precision is not None:
        mod = set_precision(mod, precision)
    for step in AFTER_PRECISION:
        mod = step(mod)
    return mod
