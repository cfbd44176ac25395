"""NumpyFold: calls on constants alone become constants, without compiling a kernel.

Before: `y = add(const a, const b); z = multiply(x, y)`. After: `z = multiply(x, const a+b)`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tvm
from tvm import relax

from dsa_compiler.graph.calls import constant_of, describe, dtype_of, is_constant, make_constant
from dsa_compiler.graph.rewriter import Rewriter
from dsa_compiler.operators.table import OPERATORS


def fold(mod: tvm.IRModule) -> tvm.IRModule:
    """Return `mod` with constant calls evaluated."""
    return _Fold(mod).run()


def fold_call(call: relax.Call, dtype: str) -> Any:
    """Return the value of `call` as a constant if its operands are constants, else None."""
    description = describe(call)
    operator = OPERATORS.get(description.op)
    if operator is None or not description.inputs or not all(is_constant(x) for x in description.inputs):
        return None
    values = [constant_of(x) for x in description.inputs]
    with np.errstate(all="ignore"):
        result = operator.evaluate([v for v in values if v is not None], description.attrs)
    return make_constant(np.asarray(result).astype(np.dtype(dtype)))


class _Fold(Rewriter):
    def rewrite(self, call: relax.Call, old: Any) -> Any:
        if not isinstance(old.ty, relax.TensorType):
            return call
        folded = fold_call(call, dtype_of(old))
        return call if folded is None else folded
