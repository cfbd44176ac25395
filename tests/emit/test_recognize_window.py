import pytest
from tvm.script import tirx as T

from tests.emit.checks import assert_emitted


def test_the_greatest_of_windows(part):
    @T.prim_func(s_tir=True)
    def pool(
        x: T.Buffer((9, 11, 32), "float16", scope="global.l1"), y: T.Buffer((4, 5, 32), "float16", scope="global.l1")
    ):
        for r, w, c in T.grid(4, 5, 32):
            y[r, w, c] = T.float16(-65504)
        for r, w, c, kh, kw in T.grid(4, 5, 32, 3, 3):
            y[r, w, c] = T.max(y[r, w, c], x[r * 2 + kh, w * 2 + kw, c])

    assert assert_emitted(pool, part).counts == {"pool_max": 1}


@pytest.mark.parametrize("padding", ["select", "guard"])
def test_sums_of_padded_windows(padding, part):
    @T.prim_func(s_tir=True)
    def by_select(
        x: T.Buffer((6, 8, 32), "float16", scope="global.l1"), y: T.Buffer((6, 8, 32), "float32", scope="global.l1")
    ):
        for r, w, c in T.grid(6, 8, 32):
            y[r, w, c] = T.float32(0)
            for kh, kw in T.grid(3, 3):
                y[r, w, c] = y[r, w, c] + T.Cast(
                    "float32",
                    T.if_then_else(
                        r + kh >= 1 and r + kh < 7 and w + kw >= 1 and w + kw < 9,
                        x[r + kh - 1, w + kw - 1, c],
                        T.float16(0),
                    ),
                )

    @T.prim_func(s_tir=True)
    def by_guard(
        x: T.Buffer((6, 8, 32), "float16", scope="global.l1"), y: T.Buffer((6, 8, 32), "float32", scope="global.l1")
    ):
        for r, w, c in T.grid(6, 8, 32):
            y[r, w, c] = T.float32(0)
        for r, w, c, kh, kw in T.grid(6, 8, 32, 3, 3):
            if r + kh >= 1 and r + kh < 7 and w + kw >= 1 and w + kw < 9:
                y[r, w, c] = y[r, w, c] + T.Cast("float32", x[r + kh - 1, w + kw - 1, c])

    machine = assert_emitted(by_select if padding == "select" else by_guard, part, rtol=1e-4)
    assert machine.counts == {"pool_sum": 1}


def test_depthwise_products_of_tiles(part):
    @T.prim_func(s_tir=True)
    def depthwise(
        x: T.Buffer((12, 10, 32), "float16", scope="global.l1"),
        k: T.Buffer((3, 3, 32), "float16", scope="global.l1"),
        y: T.Buffer((10, 8, 32), "float32", scope="global.l1"),
    ):
        for t in T.serial(3, annotations={"dsac.tile": 1}):
            for r, w, c in T.grid(4, 8, 32):
                if t * 4 + r < 10:
                    y[t * 4 + r, w, c] = T.float32(0)
            for r, w, c, kh, kw in T.grid(4, 8, 32, 3, 3):
                if t * 4 + r < 10:
                    y[t * 4 + r, w, c] = y[t * 4 + r, w, c] + T.Cast("float32", x[t * 4 + r + kh, w + kw, c]) * T.Cast(
                        "float32", k[kh, kw, c]
                    )

    assert assert_emitted(depthwise, part, rtol=1e-4).counts == {"depthwise": 3}


def test_depthwise_products_added_to_what_is_there(part):
    @T.prim_func(s_tir=True)
    def added(
        x: T.Buffer((6, 10, 32), "float32", scope="global.l1"),
        k: T.Buffer((3, 3, 32), "float32", scope="global.l1"),
        y: T.Buffer((4, 8, 32), "float32", scope="global.l1"),
    ):
        for r, w, c, kh, kw in T.grid(4, 8, 32, 3, 3):
            y[r, w, c] = y[r, w, c] + k[kh, kw, c] * x[r + kh, w + kw, c]

    assert assert_emitted(added, part, rtol=1e-4).counts == {"depthwise_acc": 1}


def test_windows_of_several_images_are_a_loop(part):
    @T.prim_func(s_tir=True)
    def images(
        x: T.Buffer((2, 6, 8, 32), "float16", scope="global.l1"),
        y: T.Buffer((2, 3, 4, 32), "float16", scope="global.l1"),
    ):
        for n, r, w, c in T.grid(2, 3, 4, 32):
            y[n, r, w, c] = T.float16(-65504)
        for n, r, w, c, kh, kw in T.grid(2, 3, 4, 32, 2, 2):
            y[n, r, w, c] = T.max(y[n, r, w, c], x[n, r * 2 + kh, w * 2 + kw, c])

    assert assert_emitted(images, part).counts == {"pool_max": 2}


def test_a_window_that_starts_with_another_value_takes_other_instructions(part):
    @T.prim_func(s_tir=True)
    def other(
        x: T.Buffer((1, 8, 32), "float32", scope="global.l1"), y: T.Buffer((1, 7, 32), "float32", scope="global.l1")
    ):
        for w, c in T.grid(7, 32):
            y[0, w, c] = T.float32(0)
        for w, c, kw in T.grid(7, 32, 2):
            y[0, w, c] = T.max(y[0, w, c], x[0, w + kw, c])

    machine = assert_emitted(other, part)
    assert "pool_max" not in machine.counts
