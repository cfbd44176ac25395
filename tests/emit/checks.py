"""What tests of emission assert: equal TIR, and equal results before and after."""

from __future__ import annotations

import numpy as np
import tvm
from tvm.tirx import PrimFunc

from dsa_compiler.emit.pipeline import EmitOptions, EmitResult, emit_kernel
from dsa_compiler.isa.dtypes import numpy_dtype
from dsa_compiler.target import Target
from tests.emit.interpreter import Machine, run_tvm


def assert_same(got: PrimFunc, expected: PrimFunc) -> None:
    """Equal bodies up to the names of variables."""
    if str(got.attrs["global_symbol"]) != str(expected.attrs["global_symbol"]):
        got = got.with_attr("global_symbol", str(expected.attrs["global_symbol"]))
    tvm.ir.assert_structural_equal(got, expected, map_free_vars=True)


def assert_unchanged(step: object, func: PrimFunc) -> None:
    """The pass leaves the function as it is: the very same object."""
    assert step(func).same_as(func)


def random_arrays(func: PrimFunc, seed: int = 0) -> list[np.ndarray]:
    """An array for each parameter."""
    rng = np.random.default_rng(seed)
    return [_random(rng, tuple(int(e) for e in b.shape), str(b.dtype)) for b in func.params]


def _random(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    kind = numpy_dtype(dtype)
    if "float" in dtype:
        return rng.standard_normal(shape).astype(kind)
    low = 0 if kind.kind in "ub" else -100
    return rng.integers(low, 2 if kind.kind == "b" else 100, shape).astype(kind)


def assert_equal_results(before: PrimFunc, after: PrimFunc, rtol: float = 0.0) -> None:
    """Both give the same arrays when TVM runs them on the CPU."""
    a = random_arrays(before)
    b = [x.copy() for x in a]
    run_tvm(before, a)
    run_tvm(after, b)
    for x, y in zip(a, b, strict=True):
        np.testing.assert_allclose(y.astype(np.float64), x.astype(np.float64), rtol=rtol, atol=rtol)


def assert_emitted(func: PrimFunc, target: Target, rtol: float = 0.0, options: EmitOptions | None = None) -> Machine:
    """Everything is emitted, and the instructions give what TVM gives; the machine that ran them, with its counts."""
    result = emit_kernel(func, target, options)
    assert not result.leftovers, [l.reason for l in result.leftovers]
    a = random_arrays(func)
    b = [x.copy() for x in a]
    run_tvm(func, a)
    machine = Machine()
    machine.run(result.func, b)
    for x, y in zip(a, b, strict=True):
        np.testing.assert_allclose(y.astype(np.float64), x.astype(np.float64), rtol=rtol, atol=rtol)
    return machine


def reasons(func: PrimFunc, target: Target, options: EmitOptions | None = None) -> list[str]:
    """Why nests were left over."""
    result: EmitResult = emit_kernel(func, target, options)
    return [l.reason for l in result.leftovers]
