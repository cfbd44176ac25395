from tvm.script import tirx as T

from dsa_compiler.emit.loop_collapse import LoopCollapse
from tests.emit.checks import assert_equal_results, assert_unchanged


@T.prim_func(s_tir=True)
def split(x: T.Buffer((53, 16), "float32"), y: T.Buffer((53, 16), "float32")):
    for io, c, ii in T.grid(7, 16, 8):
        if io * 8 + ii < 53:
            y[io * 8 + ii, c] = x[io * 8 + ii, c]


def test_the_parts_of_a_split_axis_become_one():
    got = LoopCollapse()(split)
    loops = got.body
    assert [int(loops.extent), int(loops.body.extent)] == [16, 56]
    assert_equal_results(split, got)


@T.prim_func(s_tir=True)
def three_parts(x: T.Buffer((64,), "float32"), y: T.Buffer((64,), "float32")):
    for a, b, c in T.grid(4, 4, 4):
        y[a * 16 + b * 4 + c] = x[a * 16 + b * 4 + c]


def test_an_axis_split_twice_becomes_one():
    got = LoopCollapse()(three_parts)
    assert int(got.body.extent) == 64
    assert type(got.body.body).__name__ == "BufferStore"
    assert_equal_results(three_parts, got)


def test_padding_conditions_take_part():
    @T.prim_func(s_tir=True)
    def padded(x: T.Buffer((50,), "float32"), y: T.Buffer((56,), "float32")):
        for io, ii in T.grid(7, 8):
            y[io * 8 + ii] = T.if_then_else(io * 8 + ii < 50, x[io * 8 + ii], T.float32(0))

    got = LoopCollapse()(padded)
    assert int(got.body.extent) == 56
    assert_equal_results(padded, got)


def test_axes_that_one_access_walks_apart_are_left_unchanged():
    @T.prim_func(s_tir=True)
    def apart(x: T.Buffer((7, 8), "float32"), y: T.Buffer((56,), "float32")):
        for io, ii in T.grid(7, 8):
            y[io * 8 + ii] = x[io, ii]

    assert_unchanged(LoopCollapse(), apart)


def test_axes_with_gaps_are_left_unchanged():
    @T.prim_func(s_tir=True)
    def gaps(x: T.Buffer((80,), "float32"), y: T.Buffer((80,), "float32")):
        for io, ii in T.grid(7, 8):
            y[io * 10 + ii] = x[io * 10 + ii]

    assert_unchanged(LoopCollapse(), gaps)


def test_a_variable_used_as_data_is_left_unchanged():
    @T.prim_func(s_tir=True)
    def data(y: T.Buffer((56,), "float32")):
        for io, ii in T.grid(7, 8):
            y[io * 8 + ii] = T.Cast("float32", ii)

    assert_unchanged(LoopCollapse(), data)


def test_an_extent_that_depends_on_the_other_axis_is_left_unchanged():
    @T.prim_func(s_tir=True)
    def triangle(x: T.Buffer((56,), "float32"), y: T.Buffer((56,), "float32")):
        for io in range(7):
            for ii in range(T.min(8, io)):
                y[io * 8 + ii] = x[io * 8 + ii]

    assert_unchanged(LoopCollapse(), triangle)


def test_several_stores_are_left_unchanged():
    @T.prim_func(s_tir=True)
    def several(x: T.Buffer((56,), "float32"), y: T.Buffer((56,), "float32")):
        for io, ii in T.grid(7, 8):
            y[io * 8 + ii] = x[io * 8 + ii]
            y[io * 8 + ii] = y[io * 8 + ii] + T.float32(1)

    assert_unchanged(LoopCollapse(), several)


def test_a_conflicting_condition_is_left_unchanged():
    @T.prim_func(s_tir=True)
    def conflict(x: T.Buffer((56,), "float32"), y: T.Buffer((56,), "float32")):
        for io, ii in T.grid(7, 8):
            if ii < 5:
                y[io * 8 + ii] = x[io * 8 + ii]

    assert_unchanged(LoopCollapse(), conflict)
