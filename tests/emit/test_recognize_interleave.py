from tvm.script import tirx as T

from tests.emit.checks import assert_emitted, reasons


def test_two_planes_become_pairs(part):
    @T.prim_func(s_tir=True)
    def pairs(
        a: T.Buffer((4, 64), "float16", scope="global.l1"),
        b: T.Buffer((4, 64), "float16", scope="global.l1"),
        y: T.Buffer((4, 128), "float16", scope="global.l1"),
    ):
        for i, j, p in T.grid(4, 50, 2):
            y[i, j * 2 + p] = T.if_then_else(p == 0, a[i, j], b[i, j])

    assert assert_emitted(pairs, part).counts == {"interleave": 1}


def test_a_row_doubled(part):
    @T.prim_func(s_tir=True)
    def doubled(a: T.Buffer((64,), "float32", scope="global.l1"), y: T.Buffer((128,), "float32", scope="global.l1")):
        for j in range(64):
            y[j * 2] = a[j]
        for j in range(64):
            y[j * 2 + 1] = a[j]

    assert assert_emitted(doubled, part).counts == {"interleave": 1}


def test_copies_with_another_gap_are_left(v1):
    @T.prim_func(s_tir=True)
    def gaps(a: T.Buffer((64,), "float32", scope="global.l1"), y: T.Buffer((136,), "float32", scope="global.l1")):
        for j in range(64):
            y[j * 2] = a[j]
        for j in range(64):
            y[j * 2 + 3] = a[j]

    assert len(reasons(gaps, v1)) == 2


def test_values_that_are_no_copies_are_left(v1):
    @T.prim_func(s_tir=True)
    def sums(a: T.Buffer((64,), "float32", scope="global.l1"), y: T.Buffer((128,), "float32", scope="global.l1")):
        for j in range(64):
            y[j * 2] = a[j]
        for j in range(64):
            y[j * 2 + 1] = a[j] + T.float32(1)

    assert len(reasons(sums, v1)) == 2
