"""The semantics table against TVM, which compiles each operator independently."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import tvm
from tvm import relax

from dsa_compiler.graph.calls import describe
from dsa_compiler.operators.elementwise import erf, sigmoid, softplus
from dsa_compiler.operators.table import OPERATORS, is_elementwise

op = relax.op
RNG = np.random.default_rng(0)


def real(*shape):
    return RNG.uniform(0.1, 0.9, shape).astype(np.float32)


def signed(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


CASES = {
    **{n: (getattr(op, n), [real(3, 4)]) for n in (
        "abs", "acos", "asin", "asinh", "atan", "atanh", "ceil", "cos", "cosh", "erf", "exp", "floor", "isnan", "log",
        "negative", "round", "rsqrt", "sigmoid", "sign", "sin", "sinh", "sqrt", "square", "tan", "tanh", "trunc")},
    **{n: (getattr(op, n), [signed(3, 4), signed(4)]) for n in (
        "add", "atan2", "divide", "equal", "floor_divide", "floor_mod", "greater", "greater_equal", "less",
        "less_equal",
        "maximum", "minimum", "multiply", "not_equal", "subtract")},
    "power": (op.power, [real(3, 4), signed(3, 4)]),
    **{n: (getattr(op.nn, n.removeprefix("nn.")), [signed(3, 4)])
       for n in ("nn.gelu", "nn.gelu_tanh", "nn.relu", "nn.silu", "nn.softplus")},
    "nn.leakyrelu": (lambda x: op.nn.leakyrelu(x, 0.2), [signed(3, 4)]),
    "nn.prelu": (lambda x, a: op.nn.prelu(x, a, axis=1), [signed(3, 4), real(4)]),
    "clip": (lambda x: op.clip(x, -0.5, 0.5), [signed(3, 4)]),
    "where": (lambda c, a, b: op.where(c, a, b), [signed(3, 4) > 0, signed(3, 4), signed(3, 4)]),
    "astype": (lambda x: op.astype(x, "int32"), [signed(3, 4) * 5]),
    "matmul": (op.matmul, [signed(2, 3, 4), signed(4, 5)]),
    **{n: (partial(getattr(op, n), axis=[1], keepdims=True), [signed(2, 3, 4)])
       for n in ("sum", "mean", "max", "min", "prod", "variance", "std")},
    "argmax": (lambda x: op.argmax(x, 1), [signed(2, 5)]), "argmin": (lambda x: op.argmin(x, 1), [signed(2, 5)]),
    "cumsum": (lambda x: op.cumsum(x, 1), [signed(2, 5)]), "cumprod": (lambda x: op.cumprod(x, 1), [signed(2, 5)]),
    "nn.softmax": (lambda x: op.nn.softmax(x, 1), [signed(2, 3, 4)]),
    "nn.log_softmax": (lambda x: op.nn.log_softmax(x, -1), [signed(2, 3, 4)]),
    "nn.layer_norm": (lambda x, g, b: op.nn.layer_norm(x, g, b, axes=[1, 2]),
                      [signed(2, 3, 4), signed(3, 4), signed(3, 4)]),
    "nn.instance_norm": (lambda x, g, b: op.nn.instance_norm(x, g, b, channel_axis=2, axes=[1]),
                         [signed(2, 3, 4), signed(4), signed(4)]),
    "nn.rms_norm": (lambda x, g: op.nn.rms_norm(x, g, axes=[-1]), [signed(2, 3, 4), signed(4)]),
    "reshape": (lambda x: op.reshape(x, (6, 4)), [signed(2, 3, 4)]),
    "permute_dims": (lambda x: op.permute_dims(x, [2, 0, 1]), [signed(2, 3, 4)]),
    "broadcast_to": (lambda x: op.broadcast_to(x, (2, 3, 4)), [signed(3, 1)]),
    "strided_slice": (lambda x: op.strided_slice(x, [1], [1], [7], [2]), [signed(2, 9)]),
    "concat": (lambda a, b: op.concat([a, b], 1), [signed(2, 3), signed(2, 4)]),
    "flip": (lambda x: op.flip(x, 1), [signed(2, 3)]),
    "nn.pad": (lambda x: op.nn.pad(x, [0, 1, 2, 0], pad_value=3.0), [signed(2, 3)]),
    "take": (lambda x, i: op.take(x, i, axis=1, mode="wrap"), [signed(2, 5), np.array([3, 0, 3])]),
    "nn.conv2d": (lambda x, w: op.nn.conv2d(x, w, strides=(2, 1), padding=(1, 0, 2, 1), dilation=(1, 2),
                                            data_layout="NHWC", kernel_layout="HWIO"),
                  [signed(2, 7, 8, 4), signed(3, 3, 4, 6)]),
    "nn.max_pool2d": (lambda x: op.nn.max_pool2d(x, (3, 2), (2, 1), (1, 0, 1, 1), layout="NHWC"), [signed(2, 7, 8, 3)]),
    "nn.avg_pool2d": (lambda x: op.nn.avg_pool2d(x, (3, 2), (2, 1), (1, 0, 1, 1), layout="NHWC"), [signed(2, 7, 8, 3)]),
}  # fmt: skip


def compiled(fn, arrays):
    """Return what TVM computes, and the call as the table sees it."""
    params = [relax.Var(f"p{i}", relax.TensorType(a.shape, str(a.dtype))) for i, a in enumerate(arrays)]
    bb = relax.BlockBuilder()
    with bb.function("main", params):
        call = bb.normalize(fn(*params))
        bb.emit_func_output(bb.emit(call))
    machine = relax.VirtualMachine(tvm.compile(bb.get(), target="llvm"), tvm.cpu())
    return machine["main"](*[tvm.runtime.tensor(a) for a in arrays]).numpy(), describe(call)


@pytest.mark.parametrize("name", CASES)
def test_operator_agrees_with_tvm(name):
    fn, arrays = CASES[name]
    expected, description = compiled(fn, arrays)
    assert description.op == name
    actual = OPERATORS[name].evaluate(arrays, description.attrs)
    np.testing.assert_allclose(actual, expected, rtol=2e-4, atol=2e-6)


@pytest.mark.parametrize("groups", [2, 4])
def test_grouped_convolution(groups):
    x, w = signed(2, 5, 5, 4), signed(3, 3, 4 // groups, 8)
    attrs = {"strides": (1, 1), "padding": (1, 1, 1, 1), "dilation": (1, 1), "groups": groups}
    parts = [
        OPERATORS["nn.conv2d"].evaluate(
            [x[..., g * 4 // groups : (g + 1) * 4 // groups], w[..., g * 8 // groups : (g + 1) * 8 // groups]],
            {**attrs, "groups": 1},
        )
        for g in range(groups)
    ]
    actual = OPERATORS["nn.conv2d"].evaluate([x, w], attrs)
    np.testing.assert_allclose(actual, np.concatenate(parts, -1), rtol=1e-4, atol=1e-5)


def test_average_of_padded_windows_counts_as_asked():
    x = np.ones((1, 3, 3, 1), np.float32)
    attrs = {"pool_size": (3, 3), "strides": (1, 1), "padding": (1, 1, 1, 1), "dilation": (1, 1)}
    pool = OPERATORS["nn.avg_pool2d"].evaluate
    assert pool([x], {**attrs, "count_include_pad": False}).min() == 1
    assert pool([x], {**attrs, "count_include_pad": True})[0, 0, 0, 0] == pytest.approx(4 / 9)


def test_stable_where_a_naive_formula_overflows():
    x = np.array([-1e4, -100.0, 0.0, 100.0, 1e4], np.float32)
    np.testing.assert_allclose(sigmoid(x), [0, 0, 0.5, 1, 1], atol=1e-7)
    np.testing.assert_allclose(softplus(x), [0, 0, np.log(2), 100, 1e4], rtol=1e-6, atol=1e-30)
    assert erf(np.float32([0.0]))[0] == 0


def test_categories():
    assert is_elementwise("add") and not is_elementwise("matmul") and not is_elementwise("no such")
    assert {o.category for o in OPERATORS.values()} == {
        "elementwise", "reduction", "convolution", "matmul", "pooling", "softmax", "normalization", "movement", "gather"
    }  # fmt: skip


def test_sigmoid_keeps_its_digits_far_from_zero():
    x = np.array([-15.0, -60.0], np.float32)
    np.testing.assert_allclose(sigmoid(x), np.exp(x.astype(np.float64)), rtol=1e-6)


@pytest.mark.parametrize("op", ["nn.instance_norm", "nn.rms_norm", "sum", "mean", "variance"])
def test_long_sums_along_an_outer_axis_are_exact(op: str) -> None:
    """NumPy alone would add 90000 float32 one by one, and lose four digits."""
    x = (np.random.default_rng(0).standard_normal((1, 300, 300, 4)) + 30).astype(np.float32)
    ones, zeros = np.ones(4, np.float32), np.zeros(4, np.float32)
    attrs = {"axes": (1, 2), "axis": (1, 2), "channel_axis": 3, "epsilon": 1e-5}
    args = {"nn.instance_norm": [x, ones, zeros], "nn.rms_norm": [x, ones]}.get(op, [x])
    wide = [a.astype(np.float64) for a in args]
    got, want = (OPERATORS[op].evaluate(a, attrs) for a in (args, wide))
    assert np.abs(got - want).max() <= 2e-5 * np.abs(want).max()
