import pytest
from tvm.script import tirx as T

from tests.emit.checks import assert_emitted


def test_quantize_by_a_row_of_scales(part):
    @T.prim_func(s_tir=True)
    def quantize(
        x: T.Buffer((4, 64), "float32", scope="global.l1"),
        s: T.Buffer((64,), "float32", scope="global.l1"),
        y: T.Buffer((4, 64), "uint8", scope="global.l1"),
    ):
        for i, j in T.grid(4, 64):
            y[i, j] = T.Cast(
                "uint8",
                T.min(T.max(T.nearbyint(x[i, j] / s[j]) + T.float32(128), T.float32(0)), T.float32(255)),
            )

    assert assert_emitted(quantize, part).counts == {"quantize": 1}


def test_dequantize_by_a_row_of_scales(part):
    @T.prim_func(s_tir=True)
    def dequantize(
        x: T.Buffer((4, 64), "int8", scope="global.l1"),
        s: T.Buffer((64,), "float32", scope="global.l1"),
        y: T.Buffer((4, 64), "float32", scope="global.l1"),
    ):
        for i, j in T.grid(4, 64):
            y[i, j] = (T.Cast("float32", x[i, j]) - T.float32(3)) * s[j]

    assert assert_emitted(dequantize, part).counts == {"dequantize": 1}


@pytest.mark.parametrize("zero", [0, -5])
def test_requantize_accumulators(zero, part):
    point = float(zero)

    @T.prim_func(s_tir=True)
    def requantize(
        a: T.Buffer((4, 64), "int32", scope="global.l0c"),
        s: T.Buffer((64,), "float32", scope="global.l1"),
        y: T.Buffer((4, 64), "int8", scope="global.l1"),
    ):
        for i, j in T.grid(4, 64):
            y[i, j] = T.Cast(
                "int8",
                T.min(
                    T.max(T.nearbyint(T.Cast("float32", a[i, j]) * s[j]) + T.float32(point), T.float32(-128)),
                    T.float32(127),
                ),
            )

    assert assert_emitted(requantize, part).counts == {"requantize": 1}


def test_one_scale_for_all(part):
    @T.prim_func(s_tir=True)
    def by_one(a: T.Buffer((4, 64), "int32", scope="global.l0c"), y: T.Buffer((4, 64), "int8", scope="global.l1")):
        for i, j in T.grid(4, 64):
            y[i, j] = T.Cast(
                "int8",
                T.min(
                    T.max(T.nearbyint(T.Cast("float32", a[i, j]) * T.float32(0.25)), T.float32(-128)), T.float32(127)
                ),
            )

    machine = assert_emitted(by_one, part)
    assert machine.counts == {"mul_scalar": 1, "round": 1, "cast_saturate": 1}


def test_whole_operands_of_float_operations_need_no_cast(part):
    @T.prim_func(s_tir=True)
    def mixed(
        a: T.Buffer((4, 64), "int32", scope="global.l0c"),
        b: T.Buffer((64,), "float32", scope="global.l1"),
        y: T.Buffer((4, 64), "float32", scope="global.l1"),
    ):
        for i, j in T.grid(4, 64):
            y[i, j] = T.Cast("float32", a[i, j]) + b[j]

    assert assert_emitted(mixed, part).counts == {"add": 1}


def test_a_quotient_of_integers_as_floats_keeps_its_casts(part):
    @T.prim_func(s_tir=True)
    def quotient(
        a: T.Buffer((4, 64), "int32", scope="global.l1"),
        b: T.Buffer((4, 64), "uint8", scope="global.l1"),
        y: T.Buffer((4, 64), "float32", scope="global.l1"),
    ):
        for i, j in T.grid(4, 64):
            y[i, j] = T.Cast("float32", a[i, j]) / (T.Cast("float32", b[i, j]) + T.float32(1))

    assert assert_emitted(quotient, part, rtol=1e-6).counts == {"add_scalar": 1, "div": 1}


@pytest.mark.parametrize(("first", "opcode"), [(0, "matmul_zp"), (1, "matmul_acc_zp")])
def test_products_of_integers_less_their_zero_points(first, opcode, part):
    @T.prim_func(s_tir=True)
    def start(
        a: T.Buffer((16, 64), "uint8", scope="global.l0a"),
        b: T.Buffer((64, 64), "int8", scope="global.l0b"),
        c: T.Buffer((16, 64), "int32", scope="global.l0c"),
    ):
        for i, j in T.grid(16, 64):
            c[i, j] = 0
            for k in range(64):
                c[i, j] = c[i, j] + (T.Cast("int32", a[i, k]) - 128) * (T.Cast("int32", b[k, j]) - 3)

    @T.prim_func(s_tir=True)
    def go_on(
        a: T.Buffer((16, 64), "uint8", scope="global.l0a"),
        b: T.Buffer((64, 64), "int8", scope="global.l0b"),
        c: T.Buffer((16, 64), "int32", scope="global.l0c"),
    ):
        for i, j, k in T.grid(16, 64, 64):
            c[i, j] = c[i, j] + (T.Cast("int32", a[i, k]) - 128) * T.Cast("int32", b[k, j])

    assert assert_emitted(go_on if first else start, part).counts == {opcode: 1}


@pytest.mark.parametrize(
    ("low", "high", "zero", "counts"),
    [
        (3.0, 255.0, 3.0, {"requantize": 1, "max_scalar": 1}),
        (0.0, 200.0, 0.0, {"requantize": 1, "min_scalar": 1}),
        (10.0, 200.0, 17.0, {"requantize": 1, "clip": 1}),
    ],
)
def test_requantize_between_bounds(low, high, zero, counts, part):
    @T.prim_func(s_tir=True)
    def bounded(
        a: T.Buffer((4, 64), "int32", scope="global.l0c"),
        s: T.Buffer((64,), "float32", scope="global.l1"),
        y: T.Buffer((4, 64), "uint8", scope="global.l1"),
    ):
        for i, j in T.grid(4, 64):
            y[i, j] = T.Cast(
                "uint8",
                T.min(
                    T.max(T.nearbyint(T.Cast("float32", a[i, j]) * s[j]) + T.float32(zero), T.float32(low)),
                    T.float32(high),
                ),
            )

    assert assert_emitted(bounded, part).counts == counts


@pytest.mark.parametrize(("zero", "counts"), [(0.0, {"cast": 1, "requantize": 1}),
                                              (7.0, {"sub_scalar": 1, "requantize": 1})])  # fmt: skip
def test_requantize_bytes(zero, counts, part):
    @T.prim_func(s_tir=True)
    def again(
        a: T.Buffer((4, 64), "uint8", scope="global.l1"),
        s: T.Buffer((8,), "float32", scope="global.l1"),
        y: T.Buffer((4, 64), "int8", scope="global.l1"),
    ):
        for i, j in T.grid(4, 64):
            y[i, j] = T.Cast(
                "int8",
                T.min(
                    T.max(
                        T.nearbyint((T.Cast("float32", a[i, j]) - T.float32(zero)) * s[0]) + T.float32(5),
                        T.float32(-128),
                    ),
                    T.float32(127),
                ),
            )

    assert assert_emitted(again, part).counts == counts


def test_bounds_that_are_no_whole_numbers_stay_apart(part):
    @T.prim_func(s_tir=True)
    def fraction(
        a: T.Buffer((4, 64), "int32", scope="global.l0c"),
        s: T.Buffer((64,), "float32", scope="global.l1"),
        y: T.Buffer((4, 64), "uint8", scope="global.l1"),
    ):
        for i, j in T.grid(4, 64):
            y[i, j] = T.Cast(
                "uint8",
                T.min(T.max(T.nearbyint(T.Cast("float32", a[i, j]) * s[j]), T.float32(0.5)), T.float32(255)),
            )

    assert "requantize" not in assert_emitted(fraction, part).counts


def test_small_integers_are_widened_as_they_are_read(part):
    @T.prim_func(s_tir=True)
    def difference(
        a: T.Buffer((4, 64), "uint8", scope="global.l1"),
        b: T.Buffer((4, 64), "int8", scope="global.l1"),
        y: T.Buffer((4, 64), "int32", scope="global.l1"),
    ):
        for i, j in T.grid(4, 64):
            y[i, j] = T.Cast("int32", a[i, j]) * T.Cast("int32", b[i, j])

    assert assert_emitted(difference, part).counts == {"mul": 1}
