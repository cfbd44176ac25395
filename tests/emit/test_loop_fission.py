from tvm.script import tirx as T

from dsa_compiler.emit.loop_fission import LoopFission
from tests.emit.checks import assert_equal_results, assert_same, assert_unchanged


@T.prim_func(s_tir=True)
def two_stores(x: T.Buffer((4, 8), "float32"), a: T.Buffer((4, 8), "float32"), b: T.Buffer((4, 8), "float32")):
    for i, j in T.grid(4, 8):
        a[i, j] = x[i, j] + T.float32(1)
        b[i, j] = a[i, j] * T.float32(2)


@T.prim_func(s_tir=True)
def one_store_each(x: T.Buffer((4, 8), "float32"), a: T.Buffer((4, 8), "float32"), b: T.Buffer((4, 8), "float32")):
    for i, j in T.grid(4, 8):
        a[i, j] = x[i, j] + T.float32(1)
    for i, j in T.grid(4, 8):
        b[i, j] = a[i, j] * T.float32(2)


def test_two_stores_become_two_nests():
    got = LoopFission()(two_stores)
    assert_same(got, one_store_each)
    assert_equal_results(two_stores, got)


@T.prim_func(s_tir=True)
def init_and_update(a: T.Buffer((8, 16), "float32"), b: T.Buffer((16, 8), "float32"), c: T.Buffer((8, 8), "float32")):
    for t in T.serial(2, annotations={"dsac.tile": 1}):
        for i, j in T.grid(8, 8):
            if t == 0:
                c[i, j] = T.float32(0)
            for k in range(8):
                c[i, j] = c[i, j] + a[i, t * 8 + k] * b[t * 8 + k, j]


@T.prim_func(s_tir=True)
def init_then_update(a: T.Buffer((8, 16), "float32"), b: T.Buffer((16, 8), "float32"), c: T.Buffer((8, 8), "float32")):
    for t in T.serial(2, annotations={"dsac.tile": 1}):
        for i, j in T.grid(8, 8):
            if t == 0:
                c[i, j] = T.float32(0)
        for i, j in T.grid(8, 8):
            for k in range(8):
                c[i, j] = c[i, j] + a[i, t * 8 + k] * b[t * 8 + k, j]


def test_the_initialisation_of_a_reduction_gets_a_nest_of_its_own():
    got = LoopFission()(init_and_update)
    assert_same(got, init_then_update)
    assert_equal_results(init_and_update, got, rtol=1e-5)


@T.prim_func(s_tir=True)
def branch(x: T.Buffer((8,), "float32"), y: T.Buffer((8,), "float32")):
    for i in range(8):
        if i < 3:
            y[i] = x[i]
        else:
            y[i] = T.float32(0)


@T.prim_func(s_tir=True)
def two_guards(x: T.Buffer((8,), "float32"), y: T.Buffer((8,), "float32")):
    for i in range(8):
        if i < 3:
            y[i] = x[i]
    for i in range(8):
        if i >= 3:
            y[i] = T.float32(0)


def test_a_branch_becomes_two_guards():
    got = LoopFission()(branch)
    assert_same(got, two_guards)
    assert_equal_results(branch, got)


@T.prim_func(s_tir=True)
def split_axis(x: T.Buffer((32,), "float32"), a: T.Buffer((32,), "float32"), b: T.Buffer((32,), "float32")):
    for io in range(4):
        for ii in range(8):
            a[io * 8 + ii] = x[io * 8 + ii]
        for ji in range(8):
            b[io * 8 + ji] = a[io * 8 + ji]


def test_blocks_that_an_iteration_owns_are_independent():
    got = LoopFission()(split_axis)
    assert len(got.body.seq) == 2
    assert_equal_results(split_axis, got)


def test_a_value_carried_between_iterations_is_left_unchanged():
    @T.prim_func(s_tir=True)
    def carried(x: T.Buffer((9,), "float32"), a: T.Buffer((9,), "float32"), b: T.Buffer((9,), "float32")):
        for i in range(8):
            a[i] = x[i] + b[i]
            b[i + 1] = a[i] + T.float32(1)

    assert_unchanged(LoopFission(), carried)


def test_a_scalar_shared_by_all_iterations_is_left_unchanged():
    @T.prim_func(s_tir=True)
    def shared(x: T.Buffer((8,), "float32"), s: T.Buffer((1,), "float32"), y: T.Buffer((8,), "float32")):
        for i in range(8):
            s[0] = x[i] * T.float32(2)
            y[i] = s[0]

    assert_unchanged(LoopFission(), shared)


def test_overlapping_blocks_are_left_unchanged():
    @T.prim_func(s_tir=True)
    def overlapping(x: T.Buffer((40,), "float32"), a: T.Buffer((40,), "float32"), b: T.Buffer((40,), "float32")):
        for io in range(4):
            for ii in range(12):
                a[io * 8 + ii] = x[io * 8 + ii]
            for ji in range(12):
                b[io * 8 + ji] = a[io * 8 + ji]

    assert_unchanged(LoopFission(), overlapping)


def test_a_condition_that_reads_memory_is_left_unchanged():
    @T.prim_func(s_tir=True)
    def dependent(x: T.Buffer((8,), "float32"), y: T.Buffer((8,), "float32")):
        for i in range(8):
            if x[i] > T.float32(0):
                y[i] = x[i]
            else:
                y[i] = T.float32(0)

    assert_unchanged(LoopFission(), dependent)


def test_one_store_is_left_unchanged():
    assert_unchanged(LoopFission(), one_store_each)


def test_only_the_statements_that_depend_on_each_other_stay_together():
    @T.prim_func(s_tir=True)
    def partly(
        x: T.Buffer((8,), "float32"),
        s: T.Buffer((1,), "float32"),
        y: T.Buffer((8,), "float32"),
        z: T.Buffer((8,), "float32"),
    ):
        for i in range(8):
            s[0] = x[i] * T.float32(2)
            y[i] = s[0]
            z[i] = x[i] + y[i]

    got = LoopFission()(partly)
    assert len(got.body.seq) == 2
    assert len(got.body.seq[0].body.seq) == 2
    assert_equal_results(partly, got)
