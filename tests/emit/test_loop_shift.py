from tvm.script import tirx as T

from dsa_compiler.emit.loop_shift import LoopShift
from tests.emit.checks import assert_equal_results, assert_same, assert_unchanged


@T.prim_func(s_tir=True)
def shifted(x: T.Buffer((16,), "float32"), y: T.Buffer((16,), "float32")):
    for t in T.serial(2, annotations={"dsac.tile": 1}):
        for i in range(t * 8 + 3, t * 8 + 8):
            y[i] = x[i - 3]


@T.prim_func(s_tir=True)
def from_zero(x: T.Buffer((16,), "float32"), y: T.Buffer((16,), "float32")):
    for t in T.serial(2, annotations={"dsac.tile": 1}):
        for i in range(5):
            y[i + (t * 8 + 3)] = x[i + (t * 8 + 3) - 3]


def test_a_lower_bound_moves_into_the_indices():
    got = LoopShift()(shifted)
    assert_same(got, from_zero)
    assert_equal_results(shifted, got)


@T.prim_func(s_tir=True)
def one_iteration(x: T.Buffer((4, 8), "float32"), y: T.Buffer((4, 8), "float32")):
    for i in range(2, 3):
        for j in range(8):
            y[i, j] = x[i, j]


@T.prim_func(s_tir=True)
def without_it(x: T.Buffer((4, 8), "float32"), y: T.Buffer((4, 8), "float32")):
    for j in range(8):
        y[2, j] = x[2, j]


def test_a_loop_of_one_iteration_disappears():
    got = LoopShift()(one_iteration)
    assert_same(got, without_it)
    assert_equal_results(one_iteration, got)


@T.prim_func(s_tir=True)
def guarded(x: T.Buffer((8,), "float32"), y: T.Buffer((8,), "float32")):
    for i in range(1, 8):
        if i < 6:
            y[i] = x[i]
        else:
            y[i] = T.float32(0)


@T.prim_func(s_tir=True)
def guarded_from_zero(x: T.Buffer((8,), "float32"), y: T.Buffer((8,), "float32")):
    for i in range(7):
        if i + 1 < 6:
            y[i + 1] = x[i + 1]
        else:
            y[i + 1] = T.float32(0)


def test_conditions_and_sequences_are_rewritten_with_the_loop():
    got = LoopShift()(guarded)
    assert_same(got, guarded_from_zero)
    assert_equal_results(guarded, got)


def test_loops_that_start_at_zero_are_left_unchanged():
    assert_unchanged(LoopShift(), from_zero)


def test_compile_time_loops_are_left_unchanged():
    @T.prim_func(s_tir=True)
    def tiles(x: T.Buffer((16,), "float32"), y: T.Buffer((16,), "float32")):
        for t in T.serial(1, 2, annotations={"dsac.tile": 1}):
            for i in range(8):
                y[t * 8 + i] = x[t * 8 + i]

    assert_unchanged(LoopShift(), tiles)


def test_parallel_loops_are_left_unchanged():
    @T.prim_func(s_tir=True)
    def parallel(x: T.Buffer((16,), "float32"), y: T.Buffer((16,), "float32")):
        for i in T.parallel(3, 16):
            y[i] = x[i]

    assert_unchanged(LoopShift(), parallel)
