import numpy as np
from tvm.script import tirx as T

from dsa_compiler.emit.pipeline import emit_kernel
from tests.emit.checks import reasons
from tests.emit.interpreter import Machine, run_tvm


def same(func, target, arrays, counts):
    """The emitted kernel gives what TVM gives, by these instructions."""
    result = emit_kernel(func, target)
    assert not result.leftovers, [l.reason for l in result.leftovers]
    a, b = [x.copy() for x in arrays], [x.copy() for x in arrays]
    run_tvm(func, a)
    machine = Machine()
    machine.run(result.func, b)
    for x, y in zip(a, b, strict=True):
        np.testing.assert_array_equal(x, y)
    assert machine.counts == counts


def random(*shape):
    return np.random.default_rng(3).standard_normal(shape).astype("float16")


INDEX = np.array([3, 1, 1, 7, 0, 5, 2, 6], "int32")


def test_rows_of_a_table_in_ddr(part):
    @T.prim_func(s_tir=True)
    def embed(t: T.Buffer((8, 50), "float16"), n: T.Buffer((8,), "int32"), y: T.Buffer((8, 50), "float16")):
        i1 = T.alloc_buffer((16,), "int32", scope="global.l1")
        y1 = T.alloc_buffer((8, 64), "float16", scope="global.l1")
        for i in range(8):
            i1[i] = n[i]
        for i, c in T.grid(8, 50):
            y1[i, c] = t[i1[i], c]
        for i, c in T.grid(8, 50):
            y[i, c] = y1[i, c]

    arrays = [random(8, 50), INDEX, random(8, 50)]
    same(embed, part, arrays, {"load": 1, "load_gather": 1, "store": 1})


def test_rows_of_a_table_in_l1_scaled(part):
    @T.prim_func(s_tir=True)
    def scaled(
        t: T.Buffer((8, 64), "float16", scope="global.l1"),
        n: T.Buffer((16,), "int32", scope="global.l1"),
        y: T.Buffer((8, 64), "float16", scope="global.l1"),
    ):
        for i, c in T.grid(8, 64):
            y[i, c] = T.Cast("float16", T.Cast("float32", t[n[i], c]) * T.float32(2))

    arrays = [random(8, 64), np.resize(INDEX, 16), random(8, 64)]
    same(scaled, part, arrays, {"gather": 1, "mul_scalar": 1})


def test_rows_scattered_to_ddr(part):
    @T.prim_func(s_tir=True)
    def scatter(
        x: T.Buffer((8, 64), "float16", scope="global.l1"),
        n: T.Buffer((16,), "int32", scope="global.l1"),
        y: T.Buffer((9, 50), "float16"),
    ):
        for i, c in T.grid(8, 50):
            y[n[i], c] = x[i, c]

    index = np.array([3, 1, 8, 7, 0, 5, 2, 6] * 2, "int32")
    x, y = random(8, 64), random(9, 50)
    result = emit_kernel(scatter, part)
    assert not result.leftovers
    assert 'T.npu.store_scatter("dst", T.address_of(y[0, 0]), 2, 9, 50, 50, 1, "src"' in result.func.script()
    expected = y.copy()
    expected[index[:8]] = x[:, :50]
    run = [x.copy(), index, y.copy()]
    run_tvm(scatter, run)
    np.testing.assert_array_equal(run[2], expected)


def test_an_index_in_ddr_is_left(v1):
    @T.prim_func(s_tir=True)
    def far(
        t: T.Buffer((8, 64), "float16"), n: T.Buffer((8,), "int32"), y: T.Buffer((8, 64), "float16", scope="global.l1")
    ):
        for i, c in T.grid(8, 64):
            y[i, c] = t[n[i], c]

    assert "load_gather does not take int32 in ddr as index" in reasons(far, v1)[0]


def test_a_shifted_window_slides(part):
    @T.prim_func(s_tir=True)
    def slides(x: T.Buffer((4, 64), "float16", scope="global.l1"), y: T.Buffer((4, 64), "float16", scope="global.l1")):
        for i, j in T.grid(4, 40):
            y[i, j] = x[i, j + 3]

    same(slides, part, [random(4, 64), random(4, 64)], {"slide": 1})


def test_an_operand_that_is_not_aligned_slides_first(part):
    @T.prim_func(s_tir=True)
    def shifted(x: T.Buffer((4, 64), "float32", scope="global.l1"), y: T.Buffer((4, 64), "float32", scope="global.l1")):
        for i, j in T.grid(4, 40):
            y[i, j] = x[i, j] + x[i, j + 1]

    arrays = [random(4, 64).astype("float32"), random(4, 64).astype("float32")]
    same(shifted, part, arrays, {"slide": 1, "add": 1})
