import numpy as np
import pytest
import tvm
from tvm import tirx
from tvm.tirx import BufferStore, For, ForKind, IntImm, PrimFunc, Var

from dsa_compiler.emit.expression import UNARY_SPELLING
from tests.emit.checks import assert_emitted, reasons


def in_l1(name, shape, dtype):
    return tirx.decl_buffer(shape, dtype, name, scope="global.l1", layout=None)


def elementwise(value, dtype="float32", sources=1, result=None, shape=(6, 40), pitch=64):
    """A kernel `y[i, j] = value(sources)` in L1."""
    buffers = [in_l1(f"x{n}", (shape[0], pitch), dtype) for n in range(sources)]
    y = in_l1("y", (shape[0], pitch), result or dtype)
    i, j = Var("i", "int32"), Var("j", "int32")
    stored = value(*(b[i, j] for b in buffers))
    body = BufferStore(y, stored, [i, j])
    for var, extent in ((j, shape[1]), (i, shape[0])):
        body = For(var, IntImm("int32", 0), IntImm("int32", extent), ForKind.SERIAL, body)
    return PrimFunc([*buffers, y], body).with_attrs({"global_symbol": "main", "s_tir": True})


def f32(value):
    return tirx.const(value, "float32")


def cubic(x):
    """The argument of the tanh form of gelu."""
    return f32(0.7978845608) * (x + f32(0.044715) * tirx.pow(x, f32(3)))


def widened(function):
    """The function computed in float32 on a smaller float and rounded."""
    return lambda *xs: tirx.Cast(str(xs[0].ty.dtype), function(*(tirx.Cast("float32", x) for x in xs)))


RANGE = {"acos": 0.3, "asin": 0.3, "atanh": 0.3}
POSITIVE = {"log", "log2", "sqrt", "rsqrt", "log1p", "acosh"}
NOT_RUN = {"is_inf", "is_finite", "is_nan"}


def argument(name, x):
    if name in POSITIVE:
        return x * x + f32(1.5)
    return tirx.min(tirx.max(x, f32(-0.9)), f32(0.9)) if name in RANGE else x


@pytest.mark.parametrize("name", sorted(set(UNARY_SPELLING) - NOT_RUN))
def test_functions(name, v1):
    func = elementwise(lambda x: UNARY_SPELLING[name](argument(name, x)))
    machine = assert_emitted(func, v1, rtol=2e-4)
    assert name in machine.counts


@pytest.mark.parametrize("name", ["add", "sub", "mul", "div", "max", "min"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_pairs(name, dtype, part):
    node = {"add": tirx.Add, "sub": tirx.Sub, "mul": tirx.Mul, "div": tirx.Div, "max": tirx.Max, "min": tirx.Min}[name]
    value = node if dtype == "float32" else widened(node)
    machine = assert_emitted(elementwise(value, dtype, 2), part, rtol=1e-3 if dtype == "float16" else 1e-6)
    assert machine.counts == {name: 1}


@pytest.mark.parametrize(
    ("opcode", "value"),
    [
        ("add_scalar", lambda x: x + f32(2)),
        ("add_scalar", lambda x: x - f32(2)),
        ("rsub_scalar", lambda x: f32(2) - x),
        ("mul_scalar", lambda x: x * f32(3)),
        ("mul_scalar", lambda x: x / f32(4)),
        ("rdiv_scalar", lambda x: f32(3) / (x * x + f32(1))),
        ("reciprocal", lambda x: f32(1) / (x * x + f32(1))),
        ("max_scalar", lambda x: tirx.max(x, f32(0.5))),
        ("min_scalar", lambda x: tirx.min(x, f32(0.5))),
        ("clip", lambda x: tirx.min(tirx.max(x, f32(0)), f32(6))),
        ("clip", lambda x: tirx.max(tirx.min(x, f32(1)), f32(-1))),
        ("relu", lambda x: tirx.max(x, f32(0))),
        ("neg", lambda x: f32(0) - x),
        ("neg", lambda x: x * f32(-1)),
        ("square", lambda x: x * x),
        ("leaky_relu", lambda x: tirx.max(x, x * f32(0.1))),
        ("leaky_relu", lambda x: tirx.Select(x > f32(0), x, x * f32(2))),
        ("silu", lambda x: x * tirx.sigmoid(x)),
        ("silu", lambda x: x / (tirx.exp(f32(0) - x) + f32(1))),
        ("sigmoid", lambda x: f32(1) / (f32(1) + tirx.exp(f32(0) - x))),
        ("gelu", lambda x: x * (f32(0.5) + f32(0.5) * tirx.erf(x * f32(0.70710678)))),
        ("gelu", lambda x: f32(0.5) * x * (f32(1) + tirx.erf(x / f32(1.41421356)))),
        ("gelu", lambda x: f32(0.5) * (x * (tirx.erf(x * f32(0.70710678)) + f32(1)))),
        ("gelu_tanh", lambda x: f32(0.5) * x * (f32(1) + tirx.tanh(cubic(x)))),
        ("softplus", lambda x: tirx.log(f32(1) + tirx.exp(x))),
        ("softsign", lambda x: x / (f32(1) + tirx.abs(x))),
        ("mish", lambda x: x * tirx.tanh(tirx.log(f32(1) + tirx.exp(x)))),
        ("elu", lambda x: tirx.Select(x > f32(0), x, f32(0.7) * (tirx.exp(x) - f32(1)))),
        ("expm1", lambda x: tirx.exp(x) - f32(1)),
        ("sqrt", lambda x: tirx.pow(x * x + f32(1), f32(0.5))),
        ("rsqrt", lambda x: f32(1) / tirx.sqrt(x * x + f32(1))),
        ("pow_scalar", lambda x: tirx.pow(x * x + f32(1), f32(1.7))),
        ("sign", lambda x: tirx.Select(x > f32(0), f32(1), tirx.Select(x < f32(0), f32(-1), f32(0)))),
    ],
)  # fmt: skip
def test_spellings_that_one_opcode_carries(opcode, value, v1):
    machine = assert_emitted(elementwise(value), v1, rtol=2e-4)
    assert machine.counts.get(opcode) == 1
    assert sum(machine.counts.values()) <= 3


@pytest.mark.parametrize(
    ("opcode", "value", "sources"),
    [
        ("fma", lambda a, b, c: a * b + c, 3),
        ("axpy", lambda a, b: a * f32(3) + b, 2),
        ("axpy", lambda a, b: a - b * f32(0.5), 2),
        ("prelu", lambda a, b: tirx.Select(a > f32(0), a, a * b), 2),
        ("prelu", lambda a, b: tirx.max(a, f32(0)) + b * tirx.min(a, f32(0)), 2),
        ("pow", lambda a, b: tirx.pow(a * a + f32(1), b), 2),
        ("atan2", tirx.atan2, 2),
    ],
)
def test_several_sources(opcode, value, sources, v1):
    machine = assert_emitted(elementwise(value, sources=sources), v1, rtol=2e-4)
    assert machine.counts.get(opcode) == 1


@pytest.mark.parametrize("node", [tirx.LT, tirx.LE, tirx.GT, tirx.GE, tirx.EQ, tirx.NE])
def test_comparisons_give_truth_values(node, part):
    machine = assert_emitted(elementwise(node, sources=2, result="bool"), part)
    assert list(machine.counts.values()) == [1]


def test_a_select_by_a_comparison_takes_two_instructions(part):
    func = elementwise(lambda a, b, c: tirx.Select(a < b, c, a), sources=3)
    assert assert_emitted(func, part).counts == {"lt": 1, "select": 1}


@pytest.mark.parametrize("name", ["bitwise_and", "bitwise_or", "bitwise_xor", "add", "sub", "mul", "max", "min"])
def test_integers(name, part):
    node = {
        "bitwise_and": tirx.bitwise_and, "bitwise_or": tirx.bitwise_or, "bitwise_xor": tirx.bitwise_xor,
        "add": tirx.Add, "sub": tirx.Sub, "mul": tirx.Mul, "max": tirx.Max, "min": tirx.Min,
    }[name]  # fmt: skip
    assert assert_emitted(elementwise(node, "int32", 2), part).counts == {name: 1}


CASTS = [("float32", "float16"), ("int8", "float32"), ("float16", "int32"), ("uint8", "int32")]


@pytest.mark.parametrize(("source", "result"), CASTS)
def test_casts(source, result, v1):
    assert_emitted(elementwise(lambda x: tirx.Cast(result, x), source, result=result), v1)


def test_a_cast_through_a_dtype_that_holds_every_value_is_one(part):
    func = elementwise(lambda x: tirx.Cast("float16", tirx.Cast("float32", x)), "uint8", result="float16")
    assert assert_emitted(func, part).counts == {"cast": 1}


def test_a_cast_through_a_dtype_that_does_not_is_two(part):
    func = elementwise(lambda x: tirx.Cast("float32", tirx.Cast("float16", x)))
    assert assert_emitted(func, part).counts == {"cast": 2}


def test_operands_have_their_own_dtypes(part):
    a = tirx.decl_buffer((6, 64), "float16", "a", scope="global.l1", layout=None)
    b = tirx.decl_buffer((6, 64), "float32", "b", scope="global.l0c", layout=None)
    y = tirx.decl_buffer((6, 64), "float16", "y", scope="global.l1", layout=None)
    i, j = Var("i", "int32"), Var("j", "int32")
    body = BufferStore(y, tirx.Cast("float16", tirx.Cast("float32", a[i, j]) + b[i, j]), [i, j])
    for var, extent in ((j, 64), (i, 6)):
        body = For(var, IntImm("int32", 0), IntImm("int32", extent), ForKind.SERIAL, body)
    func = PrimFunc([a, b, y], body).with_attrs({"global_symbol": "main", "s_tir": True})
    assert assert_emitted(func, part, rtol=1e-3).counts == {"add": 1}


def test_an_operation_without_an_opcode_is_left(v1):
    func = elementwise(lambda x: tvm.tirx.hypot(x, x))
    assert reasons(func, v1) == ["no operation is a call of tirx.hypot"]


def test_a_loop_variable_as_data_is_left(v1):
    y = tirx.decl_buffer((64,), "float32", "y", scope="global.l1", layout=None)
    i = Var("i", "int32")
    store = BufferStore(y, tirx.Cast("float32", i * i), [i])
    body = For(i, IntImm("int32", 0), IntImm("int32", 64), ForKind.SERIAL, store)
    func = PrimFunc([y], body).with_attrs({"global_symbol": "main", "s_tir": True})
    assert reasons(func, v1) == ["the value of loop variable i is used as data"]


def test_numpy_agrees_on_one_example(v1):
    """The interpreter itself: an example worked out by NumPy."""
    from dsa_compiler.emit.pipeline import emit_kernel
    from tests.emit.interpreter import Machine

    func = elementwise(lambda a, b: tirx.max(a + b, f32(0)), sources=2)
    rng = np.random.default_rng(1)
    a, b, y = (rng.standard_normal((6, 64)).astype(np.float32) for _ in range(3))
    expected = y.copy()
    expected[:, :40] = np.maximum(a + b, 0)[:, :40]
    Machine().run(emit_kernel(func, v1).func, [a, b, y])
    np.testing.assert_array_equal(y, expected)
