"""Elementwise operators as TIR against the operator table's NumPy, on vectors, by TVM's LLVM."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import tvm

from dsa_compiler.errors import Infeasible
from dsa_compiler.graph.layers import OpCall
from dsa_compiler.lower.expression import BINARY, UNARY, apply, computation_dtype, supports
from dsa_compiler.lower.tir import buffer, cast, constant, function, nest, sequence, store
from dsa_compiler.operators.table import OPERATORS

Case = tuple[OpCall, list[np.ndarray]]
EXTREMES = [0.0, 1.0, -1.0, 0.5, -0.5, 1.5, 2.5, -1.5, 3.0, -3.0, 20.0, -20.0]
COMPARISONS = {"greater", "greater_equal", "less", "less_equal", "equal", "not_equal"}
LOGIC = {"logical_and", "logical_or", "logical_not", "logical_xor"}
TRUTHS = {"isnan", "isinf", "isfinite", *COMPARISONS, *LOGIC}
BITS = {"bitwise_and", "bitwise_or", "bitwise_xor", "bitwise_not", "left_shift", "right_shift"}
RANGES: Mapping[str, tuple[float, float]] = {
    "log": (0.01, 50),
    "sqrt": (0, 50),
    "rsqrt": (0.01, 50),
    "asin": (-1, 1),
    "acos": (-1, 1),
    "atanh": (-0.99, 0.99),
    "acosh": (1, 50),
    "tan": (-1.5, 1.5),
    "power": (0.1, 4),
    "sinh": (-5, 5),
    "cosh": (-5, 5),
}


def values(op: str, seed: int, dtype: str = "float32") -> np.ndarray:
    rng = np.random.default_rng(seed)
    if op in LOGIC:
        return rng.random(64) < 0.5
    if dtype == "int32":
        made = rng.integers(-20, 20, 64)
        return np.where(made == 0, 7, made).astype(dtype)
    if op in RANGES:
        return rng.uniform(*RANGES[op], 64).astype(dtype)
    made = rng.uniform(-4, 4, 64)
    made[: len(EXTREMES)] = np.roll(EXTREMES, seed)
    return made.astype(dtype)


def op_call(op: str, count: int, dtype: str, **attrs: Any) -> OpCall:
    return OpCall(op, tuple(("input", i) for i in range(count)), attrs, (64,), dtype, "node")


def run(cases: Sequence[Case]) -> list[np.ndarray]:
    """All cases in one function: element i of each result from elements i of its arguments."""
    parameters, bodies, tensors, results = [], [], [], []
    for number, (made, args) in enumerate(cases):
        sources = [buffer(f"a{number}_{i}", (64,), str(a.dtype)) for i, a in enumerate(args)]
        dtype = computation_dtype(made.dtype)
        out = buffer(f"y{number}", (64,), dtype)
        parameters += [*sources, out]

        def element(
            i: Any, made: OpCall = made, sources: list[Any] = sources, out: Any = out, dtype: str = dtype
        ) -> Any:
            return store(out, [i], cast(apply(made, [s[i] for s in sources]), dtype))

        bodies.append(nest([("i", 64)], element))
        tensors += [tvm.runtime.tensor(a) for a in args]
        results.append(tvm.runtime.tensor(np.zeros(64, dtype)))
        tensors.append(results[-1])
    library = tvm.compile(
        tvm.IRModule({"main": function("main", parameters, sequence(*bodies))}), target={"kind": "llvm", "opt-level": 0}
    )
    library["main"](*tensors)
    return [r.numpy() for r in results]


def require_equal(cases: Sequence[Case], tolerance: float = 2e-6) -> None:
    for (made, args), actual in zip(cases, run(cases), strict=True):
        with np.errstate(all="ignore"):
            expected = np.asarray(OPERATORS[made.op].evaluate(args, made.attrs)).astype(actual.dtype)
        if actual.dtype.kind == "f":
            assert np.allclose(actual, expected, rtol=tolerance, atol=tolerance, equal_nan=True), made.op
        else:
            assert np.array_equal(actual, expected), made.op


def test_every_unary_operator() -> None:
    cases = []
    for op in sorted(UNARY.keys() - BITS):
        dtype = "bool" if op in TRUTHS else "float32"
        attrs = {"alpha": 0.2} if op == "nn.leakyrelu" else {}
        cases.append((op_call(op, 1, dtype, **attrs), [values(op, 1)]))
    require_equal(cases, 5e-6)


def test_every_binary_operator() -> None:
    cases = [
        (op_call(op, 2, "bool" if op in TRUTHS else "float32"), [values(op, 1), values(op, 2)])
        for op in sorted(BINARY.keys() - BITS)
    ]
    require_equal(cases, 5e-6)


def test_integers() -> None:
    names = (
        "add",
        "subtract",
        "multiply",
        "divide",
        "maximum",
        "minimum",
        "floor_divide",
        "floor_mod",
        "mod",
        "bitwise_and",
        "bitwise_or",
        "bitwise_xor",
        *sorted(COMPARISONS),
    )
    cases = [
        (op_call(op, 2, "bool" if op in TRUTHS else "int32"), [values(op, 1, "int32"), values(op, 2, "int32")])
        for op in names
    ]
    single = ("negative", "square", "sign", "nn.relu", "abs", "bitwise_not")
    cases += [(op_call(op, 1, "int32"), [values(op, 3, "int32")]) for op in single]
    shifts = np.arange(64, dtype=np.int32) % 9
    cases += [(op_call(op, 2, "int32"), [values(op, 3, "int32"), shifts]) for op in ("left_shift", "right_shift")]
    require_equal(cases)


def test_bits_of_truths_and_sums_of_products() -> None:
    a, b = values("logical_or", 1), values("logical_or", 2)
    cases = [(op_call(op, 2, "bool"), [a, b]) for op in ("bitwise_and", "bitwise_or", "bitwise_xor")]
    cases.append((op_call("bitwise_not", 1, "bool"), [a]))
    cases.append((op_call("ewise_fma", 3, "float32"), [values("add", n) for n in (1, 2, 3)]))
    require_equal(cases)


def test_clip_select_and_slopes() -> None:
    x, y = values("add", 1), values("add", 2)
    infinite = float("inf")
    cases = [
        (op_call("clip", 1, "float32", min=-1.0, max=2.0), [x]),
        (op_call("clip", 1, "float32", min=0.0, max=infinite), [x]),
        (op_call("clip", 1, "float32", min=-infinite, max=1.0), [x]),
        (op_call("where", 3, "float32"), [values("logical_not", 4), x, y]),
    ]
    require_equal(cases)
    slopes = op_call("nn.prelu", 2, "float32")
    assert np.allclose(run([(slopes, [x, y])])[0], np.where(x >= 0, x, x * y), atol=1e-6)


def test_bounds_of_a_clip_as_operands() -> None:
    x = values("add", 1)
    made = op_call("clip", 3, "float32")
    low, high = np.full(64, -1, np.float32), np.full(64, 2, np.float32)
    assert np.array_equal(run([(made, [x, low, high])])[0], np.clip(x, -1, 2))


@pytest.mark.parametrize(
    ("dtype", "wide"),
    [
        ("float16", "float32"),
        ("bfloat16", "float32"),
        ("float8_e4m3fn", "float32"),
        ("float32", "float32"),
        ("int8", "int8"),
        ("bool", "bool"),
    ],
)
def test_narrow_floats_are_computed_in_float32(dtype: str, wide: str) -> None:
    assert computation_dtype(dtype) == wide


def test_casts() -> None:
    x = values("add", 1)
    (rounded,) = run([(op_call("astype", 1, "int32"), [x])])
    assert np.array_equal(rounded, np.trunc(x).astype(np.int32))
    (same,) = run([(op_call("astype", 1, "float16"), [x])])
    assert same.dtype == np.float32 and np.array_equal(same, x)


def test_mixed_operands_take_the_dtype_of_the_first() -> None:
    made = apply(op_call("add", 2, "float32"), [constant(1.0, "float32"), constant(2, "int32")])
    assert str(made.ty.dtype) == "float32"


def test_what_is_supported() -> None:
    assert all(supports(op) for op in (*UNARY, *BINARY, "clip", "where", "astype", "nn.prelu"))
    assert not supports("conv2d")
    elementwise = {name for name, op in OPERATORS.items() if op.category == "elementwise"}
    assert {*UNARY, *BINARY} <= elementwise
    assert {name for name in elementwise if not supports(name)} == set()


def test_unknown_operators_are_refused() -> None:
    with pytest.raises(Infeasible, match=r"^\[lower.expression\] operator mystery: 1 needed, 0 available$"):
        apply(op_call("mystery", 1, "float32"), [constant(1.0, "float32")])
