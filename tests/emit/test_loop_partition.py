from tvm.script import tirx as T

from dsa_compiler.emit.if_promotion import IfPromotion
from dsa_compiler.emit.loop_partition import LoopPartition
from dsa_compiler.emit.loop_shift import LoopShift
from tests.emit.checks import assert_equal_results, assert_same, assert_unchanged


@T.prim_func(s_tir=True)
def concat(a: T.Buffer((8, 16), "float32"), b: T.Buffer((8, 32), "float32"), y: T.Buffer((8, 48), "float32")):
    for i, c in T.grid(8, 48):
        y[i, c] = T.if_then_else(c < 16, a[i, c], b[i, c - 16])


@T.prim_func(s_tir=True)
def two_copies(a: T.Buffer((8, 16), "float32"), b: T.Buffer((8, 32), "float32"), y: T.Buffer((8, 48), "float32")):
    for i in range(8):
        for c in range(16):
            y[i, c] = a[i, c]
    for i in range(8):
        for c in range(16, 48):
            y[i, c] = b[i, c - 16]


def test_concatenation_becomes_two_copies():
    got = LoopPartition()(concat)
    assert_same(got, two_copies)
    assert_equal_results(concat, got)


def test_nested_choices_become_three_copies():
    @T.prim_func(s_tir=True)
    def three(a: T.Buffer((16,), "float32"), b: T.Buffer((8,), "float32"), y: T.Buffer((40,), "float32")):
        for c in range(40):
            y[c] = T.if_then_else(c < 16, a[c], T.if_then_else(c < 24, b[c - 16], a[c - 24]))

    got = LoopPartition()(three)
    assert [int(s.extent) for s in got.body.seq] == [16, 8, 16]
    assert_equal_results(three, got)


def test_a_threshold_may_depend_on_a_tile():
    @T.prim_func(s_tir=True)
    def tiles(a: T.Buffer((20,), "float32"), b: T.Buffer((28,), "float32"), y: T.Buffer((48,), "float32")):
        for t in T.serial(3, annotations={"dsac.tile": 1}):
            for i in range(16):
                y[t * 16 + i] = T.if_then_else(t * 16 + i < 20, a[t * 16 + i], b[t * 16 + i - 20])

    got = LoopPartition()(tiles)
    assert len(got.body.body.seq) == 2
    assert_equal_results(tiles, got)


def test_reflected_borders_become_pieces():
    @T.prim_func(s_tir=True)
    def reflect(x: T.Buffer((10,), "float32"), y: T.Buffer((14,), "float32")):
        for i in range(14):
            y[i] = T.if_then_else(i < 2, x[2 - i], T.if_then_else(i < 12, x[i - 2], x[20 - i]))

    got = LoopPartition()(reflect)
    assert [int(s.extent) for s in got.body.seq] == [2, 10, 2]
    assert_equal_results(reflect, got)


@T.prim_func(s_tir=True)
def two_axes(x: T.Buffer((7, 8), "float32"), y: T.Buffer((7, 8), "float32")):
    for io, ii in T.grid(7, 8):
        if io * 8 + ii < 53:
            y[io, ii] = x[io, ii]


@T.prim_func(s_tir=True)
def whole_and_tail(x: T.Buffer((7, 8), "float32"), y: T.Buffer((7, 8), "float32")):
    for io, ii in T.grid(6, 8):
        y[io, ii] = x[io, ii]
    for ii in range(5):
        y[6, ii] = x[6, ii]


def test_a_guard_on_two_axes_becomes_whole_rows_and_a_tail():
    got = LoopShift()(IfPromotion()(LoopPartition()(two_axes)))
    assert_same(got, whole_and_tail)
    assert_equal_results(two_axes, got)


def test_padding_in_a_computation_is_cut():
    @T.prim_func(s_tir=True)
    def compute(x: T.Buffer((10,), "float32"), y: T.Buffer((12,), "float32")):
        for i in range(12):
            y[i] = T.if_then_else(i >= 1 and i < 11, x[i - 1], T.float32(0)) * T.float32(2)

    got = LoopPartition()(compute)
    assert [int(s.extent) for s in got.body.seq] == [1, 10, 1]
    assert_equal_results(compute, got)


def test_an_inequality_is_cut_at_its_place():
    @T.prim_func(s_tir=True)
    def hole(x: T.Buffer((10,), "float32"), y: T.Buffer((10,), "float32")):
        for i in range(10):
            if i != 4:
                y[i] = x[i]

    got = LoopPartition()(hole)
    assert [int(s.extent) for s in got.body.seq] == [4, 5]
    assert_equal_results(hole, got)


def test_a_condition_that_never_holds_leaves_nothing():
    @T.prim_func(s_tir=True)
    def never(x: T.Buffer((10,), "float32"), y: T.Buffer((10,), "float32")):
        for i in range(10):
            y[i] = T.if_then_else(i < 0, x[i], T.if_then_else(i < 10, x[i + 0], T.float32(0)))

    got = LoopPartition()(never)
    assert int(got.body.extent) == 10
    assert_equal_results(never, got)


def test_the_padding_of_a_copy_is_left_unchanged():
    @T.prim_func(s_tir=True)
    def copy(x: T.Buffer((10,), "float32"), y: T.Buffer((16,), "float32", scope="global.l1")):
        for i in range(16):
            y[i] = T.if_then_else(i >= 1 and i < 11, x[i - 1], T.float32(0))

    assert_same(LoopPartition()(copy), copy)


def test_the_padding_of_a_window_is_left_unchanged():
    @T.prim_func(s_tir=True)
    def window(x: T.Buffer((10, 8), "float32", scope="global.l1"), y: T.Buffer((10, 8), "float32", scope="global.l1")):
        for i, c, k in T.grid(10, 8, 3):
            y[i, c] = y[i, c] + T.if_then_else(i + k >= 1 and i + k < 11, x[i + k - 1, c], T.float32(0))

    assert_same(LoopPartition()(window), window)


def test_a_condition_that_reads_memory_is_left_unchanged():
    @T.prim_func(s_tir=True)
    def data(x: T.Buffer((8,), "float32"), y: T.Buffer((8,), "float32")):
        for i in range(8):
            y[i] = T.if_then_else(x[i] > T.float32(0), x[i], T.float32(0))

    assert_same(LoopPartition()(data), data)


def test_a_condition_that_is_not_linear_is_left_unchanged():
    @T.prim_func(s_tir=True)
    def odd(x: T.Buffer((8,), "float32"), y: T.Buffer((8,), "float32")):
        for i in range(8):
            if i % 2 == 1:
                y[i] = x[i]

    assert_same(LoopPartition()(odd), odd)


def test_too_many_pieces_are_left_unchanged():
    @T.prim_func(s_tir=True)
    def triangle(x: T.Buffer((40, 40), "float32"), y: T.Buffer((40, 40), "float32")):
        for i, j in T.grid(40, 40):
            if i + j < 40:
                y[i, j] = x[i, j]

    assert_same(LoopPartition(max_pieces=4)(triangle), triangle)


def test_a_nest_without_conditions_is_left_unchanged():
    assert_unchanged(LoopPartition(), two_copies)


def test_a_guard_on_one_axis_is_left_unchanged():
    @T.prim_func(s_tir=True)
    def tail(x: T.Buffer((8,), "float32"), y: T.Buffer((8,), "float32")):
        for i in range(8):
            if i < 5:
                y[i] = x[i]

    assert_same(LoopPartition()(tail), tail)
