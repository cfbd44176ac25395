import pytest
from tvm.script import tirx as T

from tests.emit.checks import assert_emitted


def test_along_rows(part):
    @T.prim_func(s_tir=True)
    def rows(x: T.Buffer((6, 64), "float16", scope="global.l1"), s: T.Buffer((6, 16), "float32", scope="global.l1")):
        for i in range(6):
            s[i, 0] = T.float32(-3.4028234663852886e38)
            for j in range(50):
                s[i, 0] = T.max(s[i, 0], T.Cast("float32", x[i, j]))

    assert assert_emitted(rows, part).counts == {"reduce_max": 1}


@pytest.mark.parametrize("order", ["inner", "outer"])
def test_across_rows(order, part):
    @T.prim_func(s_tir=True)
    def inner(x: T.Buffer((6, 64), "float16", scope="global.l1"), s: T.Buffer((1, 64), "float32", scope="global.l1")):
        for j in range(50):
            s[0, j] = T.float32(0)
            for i in range(6):
                s[0, j] = s[0, j] + T.Cast("float32", x[i, j])

    @T.prim_func(s_tir=True)
    def outer(x: T.Buffer((6, 64), "float16", scope="global.l1"), s: T.Buffer((1, 64), "float32", scope="global.l1")):
        for j in range(50):
            s[0, j] = T.float32(0)
        for i, j in T.grid(6, 50):
            s[0, j] = s[0, j] + T.Cast("float32", x[i, j])

    machine = assert_emitted(inner if order == "inner" else outer, part, rtol=1e-4)
    assert machine.counts == {"reduce_sum": 1}


def test_across_rows_of_each_plane(part):
    @T.prim_func(s_tir=True)
    def planes(
        x: T.Buffer((3, 6, 64), "float32", scope="global.l1"), s: T.Buffer((3, 64), "float32", scope="global.l1")
    ):
        for p, j in T.grid(3, 50):
            s[p, j] = T.float32(3.4028234663852886e38)
        for p, i, j in T.grid(3, 6, 50):
            s[p, j] = T.min(s[p, j], x[p, i, j])

    assert assert_emitted(planes, part).counts == {"reduce_min": 1}


def test_squares_and_magnitudes_are_reduced_with_the_reduction(part):
    @T.prim_func(s_tir=True)
    def both(
        x: T.Buffer((6, 64), "float32", scope="global.l1"),
        s: T.Buffer((6, 16), "float32", scope="global.l1"),
        m: T.Buffer((6, 16), "float32", scope="global.l1"),
    ):
        for i in range(6):
            s[i, 0] = T.float32(0)
            for j in range(64):
                s[i, 0] = s[i, 0] + x[i, j] * x[i, j]
        for i in range(6):
            m[i, 0] = T.float32(-3.4028234663852886e38)
            for j in range(64):
                m[i, 0] = T.max(m[i, 0], T.fabs(x[i, j]))

    assert assert_emitted(both, part, rtol=1e-4).counts == {"reduce_sumsq": 1, "reduce_absmax": 1}


def test_a_softmax(part):
    @T.prim_func(s_tir=True)
    def softmax(x: T.Buffer((8, 64), "float16"), y: T.Buffer((8, 64), "float16")):
        a = T.alloc_buffer((8, 64), "float16", scope="global.l1")
        m = T.alloc_buffer((8, 16), "float32", scope="global.l1")
        e = T.alloc_buffer((8, 64), "float32", scope="global.l1")
        s = T.alloc_buffer((8, 16), "float32", scope="global.l1")
        o = T.alloc_buffer((8, 64), "float16", scope="global.l1")
        for i, j in T.grid(8, 64):
            a[i, j] = x[i, j]
        for i in range(8):
            m[i, 0] = T.float32(-3.4028234663852886e38)
            for j in range(64):
                m[i, 0] = T.max(m[i, 0], T.Cast("float32", a[i, j]))
        for i, j in T.grid(8, 64):
            e[i, j] = T.exp(T.Cast("float32", a[i, j]) - m[i, 0])
        for i in range(8):
            s[i, 0] = T.float32(0)
            for j in range(64):
                s[i, 0] = s[i, 0] + e[i, j]
        for i, j in T.grid(8, 64):
            o[i, j] = T.Cast("float16", e[i, j] / s[i, 0])
        for i, j in T.grid(8, 64):
            y[i, j] = o[i, j]

    machine = assert_emitted(softmax, part, rtol=1e-3)
    assert machine.counts == {"load": 1, "reduce_max": 1, "sub": 1, "exp": 1, "reduce_sum": 1, "div": 1, "store": 1}


def test_a_sum_that_goes_on_is_partial_and_added(part):
    @T.prim_func(s_tir=True)
    def tiles(
        x: T.Buffer((4, 6, 64), "float32", scope="global.l1"), s: T.Buffer((1, 64), "float32", scope="global.l1")
    ):
        for t in T.serial(4, annotations={"dsac.tile": 1}):
            for j in range(64):
                if t == 0:
                    s[0, j] = T.float32(0)
                for i in range(6):
                    s[0, j] = s[0, j] + x[t, i, j]

    assert_emitted(tiles, part, rtol=1e-4)


@pytest.mark.parametrize("op", ["min", "mul", "max", "add"])
def test_two_axes_that_are_not_one(op, part):
    @T.prim_func(s_tir=True)
    def least(
        x: T.Buffer((3, 5, 32), "float32", scope="global.l1"), y: T.Buffer((3, 1, 16), "float32", scope="global.l1")
    ):
        for i in range(3):
            y[i, 0, 0] = T.float32(3.4028234663852886e38)
        for i, j, k in T.grid(3, 5, 19):
            y[i, 0, 0] = T.min(y[i, 0, 0], x[i, j, k])

    @T.prim_func(s_tir=True)
    def product(
        x: T.Buffer((3, 5, 32), "float32", scope="global.l1"), y: T.Buffer((3, 1, 16), "float32", scope="global.l1")
    ):
        for i in range(3):
            y[i, 0, 0] = T.float32(1)
        for i, j, k in T.grid(3, 5, 19):
            y[i, 0, 0] = y[i, 0, 0] * x[i, j, k]

    @T.prim_func(s_tir=True)
    def most(
        x: T.Buffer((3, 5, 32), "float32", scope="global.l1"), y: T.Buffer((3, 1, 16), "float32", scope="global.l1")
    ):
        for i in range(3):
            y[i, 0, 0] = T.float32(-3.4028234663852886e38)
        for i, j, k in T.grid(3, 5, 19):
            y[i, 0, 0] = T.max(y[i, 0, 0], x[i, j, k])

    @T.prim_func(s_tir=True)
    def total(
        x: T.Buffer((3, 5, 32), "float32", scope="global.l1"), y: T.Buffer((3, 1, 16), "float32", scope="global.l1")
    ):
        for i in range(3):
            y[i, 0, 0] = T.float32(0)
        for i, j, k in T.grid(3, 5, 19):
            y[i, 0, 0] = y[i, 0, 0] + x[i, j, k]

    func = {"min": least, "mul": product, "max": most, "add": total}[op]
    machine = assert_emitted(func, part, rtol=1e-4)
    assert sum(machine.counts.values()) == 2


def test_three_axes_of_four(part):
    @T.prim_func(s_tir=True)
    def mean(
        x: T.Buffer((4, 16, 7, 32), "float16", scope="global.l1"),
        y: T.Buffer((1, 16, 1, 16), "float32", scope="global.l1"),
    ):
        for c in range(16):
            y[0, c, 0, 0] = T.float32(0)
        for c, n, h, w in T.grid(16, 4, 7, 7):
            y[0, c, 0, 0] = y[0, c, 0, 0] + T.Cast("float32", x[n, c, h, w])

    machine = assert_emitted(mean, part, rtol=1e-3)
    assert machine.counts == {"reduce_sum": 3}
