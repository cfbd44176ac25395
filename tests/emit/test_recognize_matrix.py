from tvm.script import tirx as T

from dsa_compiler.emit.pipeline import emit_kernel
from tests.emit.checks import assert_emitted, reasons


@T.prim_func(s_tir=True)
def convolution(
    x: T.Buffer((10, 12, 32), "float16"),
    w: T.Buffer((9, 32, 32), "float16"),
    b: T.Buffer((1, 32), "float32"),
    y: T.Buffer((10, 12, 32), "float16"),
):
    """3x3, padded, by tiles of four rows and one tap at a time, with a bias and an activation."""
    for ti in T.serial(3, annotations={"dsac.tile": 1}):
        x1 = T.alloc_buffer((6, 14, 32), "float16", scope="global.l1")
        b1 = T.alloc_buffer((1, 32), "float32", scope="global.l1")
        b0 = T.alloc_buffer((1, 32), "float32", scope="global.l0b")
        acc = T.alloc_buffer((4, 12, 32), "float32", scope="global.l0c")
        y1 = T.alloc_buffer((4, 12, 32), "float16", scope="global.l1")
        for i, j, c in T.grid(6, 14, 32):
            x1[i, j, c] = T.if_then_else(
                ti * 4 + i >= 1 and ti * 4 + i < 11 and j >= 1 and j < 13, x[ti * 4 + i - 1, j - 1, c], T.float16(0)
            )
        for j in range(32):
            b1[0, j] = b[0, j]
        for j in range(32):
            b0[0, j] = b1[0, j]
        for k in T.serial(9, annotations={"dsac.tile": 1}):
            w1 = T.alloc_buffer((32, 32), "float16", scope="global.l1")
            la = T.alloc_buffer((48, 32), "float16", scope="global.l0a")
            lb = T.alloc_buffer((32, 32), "float16", scope="global.l0b")
            for i, j in T.grid(32, 32):
                w1[i, j] = w[k, i, j]
            for i, j in T.grid(32, 32):
                lb[i, j] = w1[i, j]
            for oh, ow, c in T.grid(4, 12, 32):
                if ti * 4 + oh < 10:
                    la[oh * 12 + ow, c] = x1[oh + k // 3, ow + k % 3, c]
            for oh, ow, n in T.grid(4, 12, 32):
                if ti * 4 + oh < 10 and k == 0:
                    acc[oh, ow, n] = b0[0, n]
            for oh, ow, n, c in T.grid(4, 12, 32, 32):
                if ti * 4 + oh < 10:
                    acc[oh, ow, n] = acc[oh, ow, n] + T.Cast("float32", la[oh * 12 + ow, c]) * T.Cast(
                        "float32", lb[c, n]
                    )
        for oh, ow, n in T.grid(4, 12, 32):
            if ti * 4 + oh < 10:
                y1[oh, ow, n] = T.Cast("float16", T.max(acc[oh, ow, n], T.float32(0)))
        for oh, ow, n in T.grid(4, 12, 32):
            if ti * 4 + oh < 10:
                y[ti * 4 + oh, ow, n] = y1[oh, ow, n]


def test_a_convolution(part):
    machine = assert_emitted(convolution, part, rtol=2e-2)
    assert machine.counts["matmul_bias"] == 3
    assert machine.counts["matmul_acc"] == 24
    assert machine.counts["relu"] == machine.counts["store"] == 3


def test_a_product_without_bias_starts_by_writing(part):
    @T.prim_func(s_tir=True)
    def product(
        a: T.Buffer((16, 64), "float16", scope="global.l0a"),
        b: T.Buffer((64, 32), "float16", scope="global.l0b"),
        c: T.Buffer((16, 32), "float32", scope="global.l0c"),
    ):
        for i, j in T.grid(16, 32):
            c[i, j] = T.float32(0)
            for k in range(64):
                c[i, j] = c[i, j] + T.Cast("float32", a[i, k]) * T.Cast("float32", b[k, j])

    assert assert_emitted(product, part, rtol=1e-4).counts == {"matmul": 1}


def test_integers_accumulate_in_int32(part):
    @T.prim_func(s_tir=True)
    def product(
        a: T.Buffer((16, 64), "int8", scope="global.l0a"),
        b: T.Buffer((64, 64), "int8", scope="global.l0b"),
        c: T.Buffer((16, 64), "int32", scope="global.l0c"),
    ):
        for i, j in T.grid(16, 64):
            c[i, j] = 0
            for k in range(64):
                c[i, j] = c[i, j] + T.Cast("int32", b[k, j]) * T.Cast("int32", a[i, k])

    assert assert_emitted(product, part).counts == {"matmul": 1}


def test_an_accumulator_that_starts_with_another_value_is_filled_first(part):
    @T.prim_func(s_tir=True)
    def product(
        a: T.Buffer((16, 64), "float16", scope="global.l0a"),
        b: T.Buffer((64, 32), "float16", scope="global.l0b"),
        c: T.Buffer((16, 32), "float32", scope="global.l0c"),
    ):
        for i, j in T.grid(16, 32):
            c[i, j] = T.float32(1)
            for k in range(64):
                c[i, j] = c[i, j] + T.Cast("float32", a[i, k]) * T.Cast("float32", b[k, j])

    assert assert_emitted(product, part, rtol=1e-4).counts == {"fill": 1, "matmul_acc": 1}


def test_rows_apart_become_a_loop_of_products(part):
    @T.prim_func(s_tir=True)
    def rows(
        a: T.Buffer((4, 16, 64), "float16", scope="global.l0a"),
        b: T.Buffer((64, 32), "float16", scope="global.l0b"),
        c: T.Buffer((4, 16, 32), "float32", scope="global.l0c"),
    ):
        for r, i, j in T.grid(4, 10, 32):
            c[r, i, j] = T.float32(0)
            for k in range(64):
                c[r, i, j] = c[r, i, j] + T.Cast("float32", a[r, i, k]) * T.Cast("float32", b[k, j])

    assert assert_emitted(rows, part, rtol=1e-4).counts == {"matmul": 4}


def test_a_partial_width_is_one_product_where_it_happens_to_be_whole(part):
    @T.prim_func(s_tir=True)
    def width(
        a: T.Buffer((64, 64), "float16", scope="global.l0a"),
        b: T.Buffer((64, 32), "float16", scope="global.l0b"),
        c: T.Buffer((4, 16, 32), "float32", scope="global.l0c"),
    ):
        for t in T.serial(2, annotations={"dsac.tile": 1}):
            for r, i, j in T.grid(4, 16, 32):
                if t * 16 + i < 26:
                    c[r, i, j] = T.float32(0)
                for k in range(64):
                    if t * 16 + i < 26:
                        c[r, i, j] = c[r, i, j] + T.Cast("float32", a[r * 16 + i, k]) * T.Cast("float32", b[k, j])

    machine = assert_emitted(width, part, rtol=1e-4)
    assert machine.counts == {"matmul": 5}


def test_transposed_operands_are_transposed_on_the_way(part):
    @T.prim_func(s_tir=True)
    def moves(
        x: T.Buffer((64, 32), "float16", scope="global.l1"),
        a: T.Buffer((32, 64), "float16", scope="global.l0a"),
        b: T.Buffer((32, 64), "float16", scope="global.l0b"),
    ):
        for i, k in T.grid(32, 64):
            a[i, k] = x[k, i]
        for k, j in T.grid(32, 64):
            b[k, j] = x[j, k]

    assert assert_emitted(moves, part).counts == {"move_a_transpose": 1, "move_b_transpose": 1}


def test_a_product_beyond_the_limit_is_left(v2):
    @T.prim_func(s_tir=True)
    def deep(
        a: T.Buffer((16, 2048), "float16", scope="global.l0a"),
        b: T.Buffer((2048, 32), "float16", scope="global.l0b"),
        c: T.Buffer((16, 32), "float32", scope="global.l0c"),
    ):
        for i, j, k in T.grid(16, 32, 2048):
            c[i, j] = c[i, j] + T.Cast("float32", a[i, k]) * T.Cast("float32", b[k, j])

    assert reasons(deep, v2) == ["k is up to 2048, beyond the limit of 1024"]


def test_a_product_in_l1_is_split_into_vector_operations(v1):
    @T.prim_func(s_tir=True)
    def slow(
        a: T.Buffer((8, 64), "float32", scope="global.l1"),
        b: T.Buffer((64,), "float32", scope="global.l1"),
        c: T.Buffer((8, 8), "float32", scope="global.l1"),
    ):
        for i in range(8):
            c[i, 0] = T.float32(0)
            for k in range(64):
                c[i, 0] = c[i, 0] + a[i, k] * b[k]

    assert assert_emitted(slow, v1, rtol=1e-4).counts == {"mul": 1, "reduce_sum": 1}


def test_a_transposed_operand_of_the_product_is_left(v1):
    @T.prim_func(s_tir=True)
    def wrong(
        a: T.Buffer((64, 16), "float16", scope="global.l0a"),
        b: T.Buffer((64, 32), "float16", scope="global.l0b"),
        c: T.Buffer((16, 32), "float32", scope="global.l0c"),
    ):
        for i, j, k in T.grid(16, 32, 64):
            c[i, j] = c[i, j] + T.Cast("float32", a[k, i]) * T.Cast("float32", b[k, j])

    assert reasons(wrong, v1) == ["no axis of k is contiguous"]


def test_the_product_comes_out_as_in_the_contract(v1):
    func = emit_kernel(convolution, v1).func.script()
    assert 'T.npu.matmul_bias("dst", T.address_of(acc[0, 0, 0]), 2' in func
    assert "if k == 0:" in func


def test_the_bias_of_one_column_stands_over_rows_and_columns_of_the_image(part):
    @T.prim_func(s_tir=True)
    def one(
        b: T.Buffer((1, 16), "float32", scope="global.l0b"),
        a: T.Buffer((20, 64), "float16", scope="global.l0a"),
        w: T.Buffer((64, 32), "float16", scope="global.l0b"),
        c: T.Buffer((4, 5, 16), "float32", scope="global.l0c"),
    ):
        for r, i in T.grid(4, 5):
            c[r, i, 0] = b[0, 0]
        for r, i, k in T.grid(4, 5, 64):
            c[r, i, 0] = c[r, i, 0] + T.Cast("float32", a[r * 5 + i, k]) * T.Cast("float32", w[k, 0])

    assert assert_emitted(one, part, rtol=1e-4).counts == {"matmul_bias": 1}


def test_a_bias_follows_the_loops_around_the_product(part):
    @T.prim_func(s_tir=True)
    def apart(
        b: T.Buffer((1, 64), "float32", scope="global.l0b"),
        a: T.Buffer((16, 64), "float16", scope="global.l0a"),
        w: T.Buffer((64, 64), "float16", scope="global.l0b"),
        c: T.Buffer((2, 16, 32), "float32", scope="global.l0c"),
    ):
        for h, i, j in T.grid(2, 16, 32):
            c[h, i, j] = b[0, h * 32 + j]
        for k, h, i, j in T.grid(64, 2, 16, 32):
            c[h, i, j] = c[h, i, j] + T.Cast("float32", a[i, k]) * T.Cast("float32", w[k, h * 32 + j])

    assert assert_emitted(apart, part, rtol=1e-4).counts == {"matmul_bias": 2}
