from tvm.script import tirx as T

from dsa_compiler.emit.if_promotion import IfPromotion
from tests.emit.checks import assert_equal_results, assert_same, assert_unchanged


@T.prim_func(s_tir=True)
def tail(x: T.Buffer((20,), "float32"), y: T.Buffer((20,), "float32")):
    for t in T.serial(3, annotations={"dsac.tile": 1}):
        for i in range(8):
            if t * 8 + i < 20:
                y[t * 8 + i] = x[t * 8 + i]


@T.prim_func(s_tir=True)
def tail_in_bounds(x: T.Buffer((20,), "float32"), y: T.Buffer((20,), "float32")):
    for t in T.serial(3, annotations={"dsac.tile": 1}):
        for i in range(T.min(8, 20 - t * 8)):
            y[t * 8 + i] = x[t * 8 + i]


def test_a_guard_on_an_axis_becomes_its_bound():
    got = IfPromotion()(tail)
    assert_same(got, tail_in_bounds)
    assert_equal_results(tail, got)


@T.prim_func(s_tir=True)
def both_sides(x: T.Buffer((20,), "float32"), y: T.Buffer((20,), "float32")):
    for i in range(20):
        if i >= 3 and 2 * i < 25 and i < 17:
            y[i] = x[i]


@T.prim_func(s_tir=True)
def from_3_to_13(x: T.Buffer((20,), "float32"), y: T.Buffer((20,), "float32")):
    for i in range(3, 13):
        y[i] = x[i]


def test_several_guards_bound_both_sides():
    got = IfPromotion()(both_sides)
    assert_same(got, from_3_to_13)
    assert_equal_results(both_sides, got)


@T.prim_func(s_tir=True)
def one_place(x: T.Buffer((20,), "float32"), y: T.Buffer((20,), "float32")):
    for i, j in T.grid(4, 5):
        if i == 2:
            y[i * 5 + j] = x[i * 5 + j]


@T.prim_func(s_tir=True)
def at_that_place(x: T.Buffer((20,), "float32"), y: T.Buffer((20,), "float32")):
    for i in range(2, 3):
        for j in range(5):
            y[i * 5 + j] = x[i * 5 + j]


def test_an_equality_leaves_one_iteration():
    got = IfPromotion()(one_place)
    assert_same(got, at_that_place)
    assert_equal_results(one_place, got)


@T.prim_func(s_tir=True)
def independent(x: T.Buffer((4, 8), "float32"), y: T.Buffer((4, 8), "float32")):
    for t in T.serial(4, annotations={"dsac.tile": 1}):
        for i in range(8):
            if t > 1:
                y[t, i] = x[t, i]


@T.prim_func(s_tir=True)
def hoisted(x: T.Buffer((4, 8), "float32"), y: T.Buffer((4, 8), "float32")):
    for t in T.serial(4, annotations={"dsac.tile": 1}):
        if t > 1:
            for i in range(8):
                y[t, i] = x[t, i]


def test_a_guard_on_no_axis_moves_out():
    got = IfPromotion()(independent)
    assert_same(got, hoisted)
    assert_equal_results(independent, got)


@T.prim_func(s_tir=True)
def always(x: T.Buffer((16,), "float32"), y: T.Buffer((16,), "float32")):
    for t in T.serial(2, annotations={"dsac.tile": 1}):
        for i in range(8):
            if t * 8 + i < 16:
                y[t * 8 + i] = T.if_then_else(t * 8 + i < 20, x[t * 8 + i], T.float32(0))


@T.prim_func(s_tir=True)
def without_condition(x: T.Buffer((16,), "float32"), y: T.Buffer((16,), "float32")):
    for t in T.serial(2, annotations={"dsac.tile": 1}):
        for i in range(8):
            y[t * 8 + i] = x[t * 8 + i]


def test_what_the_ranges_prove_is_dropped():
    got = IfPromotion()(always)
    assert_same(got, without_condition)


@T.prim_func(s_tir=True)
def padded(x: T.Buffer((4, 6), "float32"), y: T.Buffer((6, 8), "float32")):
    for t in T.serial(6, annotations={"dsac.tile": 1}):
        for i in range(8):
            y[t, i] = T.if_then_else(t >= 1 and t < 5 and i >= 1 and i < 7, x[t - 1, i - 1], T.float32(0))


@T.prim_func(s_tir=True)
def padded_by_branches(x: T.Buffer((4, 6), "float32"), y: T.Buffer((6, 8), "float32")):
    for t in T.serial(6, annotations={"dsac.tile": 1}):
        if t >= 1 and t < 5:
            for i in range(8):
                y[t, i] = T.if_then_else(i >= 1 and i < 7, x[t - 1, i - 1], T.float32(0))
        else:
            for i in range(8):
                y[t, i] = T.float32(0)


def test_a_padding_condition_on_no_axis_becomes_a_branch_and_the_box_stays():
    got = IfPromotion()(padded)
    assert_same(got, padded_by_branches)
    assert_equal_results(padded, got)


def test_a_select_on_no_axis_inside_an_expression_becomes_a_branch():
    @T.prim_func(s_tir=True)
    def inner(x: T.Buffer((4, 8), "float32"), y: T.Buffer((4, 8), "float32")):
        for t in T.serial(4, annotations={"dsac.tile": 1}):
            for i in range(8):
                y[t, i] = x[t, i] + T.if_then_else(t > 1, x[t - 2, i], T.float32(1))

    got = IfPromotion()(inner)
    assert type(got.body.body).__name__ == "IfThenElse"
    assert_equal_results(inner, got)


def test_a_guard_on_two_axes_is_left_unchanged():
    @T.prim_func(s_tir=True)
    def triangle(x: T.Buffer((8, 8), "float32"), y: T.Buffer((8, 8), "float32")):
        for i, j in T.grid(8, 8):
            if i + j < 8:
                y[i, j] = x[i, j]

    got = IfPromotion()(triangle)
    assert_same(got, triangle)


def test_a_guard_that_reads_memory_is_left_unchanged():
    @T.prim_func(s_tir=True)
    def data(x: T.Buffer((8,), "float32"), y: T.Buffer((8,), "float32")):
        for i in range(8):
            if x[i] > T.float32(0):
                y[i] = x[i]

    assert_same(IfPromotion()(data), data)


def test_a_guard_that_is_no_interval_is_left_unchanged():
    @T.prim_func(s_tir=True)
    def odd(x: T.Buffer((8,), "float32"), y: T.Buffer((8,), "float32")):
        for i in range(8):
            if i % 2 == 1:
                y[i] = x[i]

    assert_same(IfPromotion()(odd), odd)


def test_several_stores_are_left_unchanged():
    @T.prim_func(s_tir=True)
    def several(x: T.Buffer((8,), "float32"), y: T.Buffer((8,), "float32")):
        for i in range(8):
            if i < 5:
                y[i] = x[i]
                y[i] = y[i] + T.float32(1)

    assert_unchanged(IfPromotion(), several)


def test_a_nest_without_conditions_is_left_unchanged():
    assert_unchanged(IfPromotion(), without_condition)


def test_a_guard_that_never_holds_leaves_nothing():
    @T.prim_func(s_tir=True)
    def never(x: T.Buffer((8,), "float32"), y: T.Buffer((8,), "float32")):
        for i in range(8):
            if i < 0:
                y[i] = x[i]

    assert type(IfPromotion()(never).body).__name__ == "Evaluate"
