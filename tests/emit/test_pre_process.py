from math import prod

import tvm_ffi
from tvm.script import tirx as T
from tvm.tirx import AllocBuffer

from dsa_compiler.emit.pipeline import emit_kernel
from dsa_compiler.emit.pre_process import PreProcess
from tests.emit.checks import assert_emitted, assert_equal_results, assert_same, assert_unchanged


def allocations(func):
    """The buffers that a function allocates."""
    found = []
    tvm_ffi.structural_walk(func.body, [(AllocBuffer, lambda a: found.append(a.buffer))])
    return found


@T.prim_func(s_tir=True)
def chain(
    a: T.Buffer((4, 32), "float16", scope="global.l1"),
    b: T.Buffer((4, 32), "float16", scope="global.l1"),
    y: T.Buffer((4, 32), "float16", scope="global.l1"),
):
    for i, j in T.grid(4, 32):
        y[i, j] = T.Cast(
            "float16",
            T.max(T.Cast("float32", a[i, j]) + T.Cast("float32", b[i, j]), T.float32(0)) * T.float32(0.5),
        )


@T.prim_func(s_tir=True)
def chain_in_place(
    a: T.Buffer((4, 32), "float16", scope="global.l1"),
    b: T.Buffer((4, 32), "float16", scope="global.l1"),
    y: T.Buffer((4, 32), "float16", scope="global.l1"),
):
    for i, j in T.grid(4, 32):
        y[i, j] = T.Cast("float16", T.Cast("float32", a[i, j]) + T.Cast("float32", b[i, j]))
    for i, j in T.grid(4, 32):
        y[i, j] = T.Cast("float16", T.max(T.Cast("float32", y[i, j]), T.float32(0)))
    for i, j in T.grid(4, 32):
        y[i, j] = T.Cast("float16", T.Cast("float32", y[i, j]) * T.float32(0.5))


def test_a_chain_of_simple_operations_goes_through_the_destination(v1):
    got = PreProcess(v1)(chain)
    assert_same(got, chain_in_place)
    assert_equal_results(chain, got, rtol=1e-3)


@T.prim_func(s_tir=True)
def chain_exact(
    a: T.Buffer((4, 32), "float16", scope="global.l1"),
    b: T.Buffer((4, 32), "float16", scope="global.l1"),
    y: T.Buffer((4, 32), "float16", scope="global.l1"),
):
    t0 = T.alloc_buffer((4, 32), "float32", scope="global.l1")
    for i, j in T.grid(4, 32):
        t0[i, j] = T.Cast("float32", a[i, j]) + T.Cast("float32", b[i, j])
    for i, j in T.grid(4, 32):
        t0[i, j] = T.max(t0[i, j], T.float32(0))
    for i, j in T.grid(4, 32):
        y[i, j] = T.Cast("float16", t0[i, j] * T.float32(0.5))


def test_without_round_each_intermediate_results_are_exact(v1):
    got = PreProcess(v1, round_each=False)(chain)
    expected = PreProcess(v1, round_each=False)(chain_exact)
    assert len(got.body.seq) == len(expected.body.seq) == 4
    assert_equal_results(chain, got)


def test_results_of_functions_stay_in_float32(v1):
    @T.prim_func(s_tir=True)
    def function(a: T.Buffer((64,), "float16", scope="global.l1"), y: T.Buffer((64,), "float16", scope="global.l1")):
        for i in range(64):
            y[i] = T.Cast("float16", T.exp(T.Cast("float32", a[i]) - T.float32(2)) + T.float32(1))

    got = PreProcess(v1)(function)
    assert str(got.body.seq[0].buffer.dtype) == "float32"
    assert_equal_results(function, got)


def test_a_value_used_twice_is_computed_once(v1):
    @T.prim_func(s_tir=True)
    def twice(a: T.Buffer((64,), "float32", scope="global.l1"), y: T.Buffer((64,), "float32", scope="global.l1")):
        for i in range(64):
            y[i] = T.exp(a[i]) * (T.exp(a[i]) + T.float32(1))

    got = PreProcess(v1)(twice)
    assert got.script().count("T.exp") == 1
    assert_equal_results(twice, got, rtol=1e-6)


def test_a_value_on_fewer_axes_gets_a_temporary_on_those(v1):
    @T.prim_func(s_tir=True)
    def row(
        a: T.Buffer((8, 32), "float32", scope="global.l1"),
        b: T.Buffer((32,), "float32", scope="global.l1"),
        y: T.Buffer((8, 32), "float32", scope="global.l1"),
    ):
        for i, j in T.grid(8, 32):
            y[i, j] = a[i, j] * T.exp(b[j])

    got = PreProcess(v1)(row)
    assert [int(e) for e in got.body.seq[0].buffer.shape] == [32]
    assert_equal_results(row, got, rtol=1e-6)


def test_a_destination_that_is_read_elsewhere_holds_no_intermediate_result(v1):
    @T.prim_func(s_tir=True)
    def shifted(a: T.Buffer((64,), "float32", scope="global.l1"), y: T.Buffer((72,), "float32", scope="global.l1")):
        for i in range(64):
            y[i] = (a[i] + T.float32(1)) * y[i + 8]

    got = PreProcess(v1)(shifted)
    assert type(got.body.seq[0]).__name__ == "AllocBuffer"
    assert_equal_results(shifted, got)


def test_a_destination_read_in_place_is_kept_until_it_is_read(v1):
    @T.prim_func(s_tir=True)
    def residual(a: T.Buffer((64,), "float32", scope="global.l1"), y: T.Buffer((64,), "float32", scope="global.l1")):
        for i in range(64):
            y[i] = T.exp(a[i] * T.float32(2)) - y[i]

    got = PreProcess(v1)(residual)
    assert_equal_results(residual, got, rtol=1e-6)


def test_operands_in_ddr_are_staged(part):
    @T.prim_func(s_tir=True)
    def direct(a: T.Buffer((8, 64), "float32"), b: T.Buffer((8, 64), "float32"), y: T.Buffer((8, 64), "float32")):
        for i, j in T.grid(8, 64):
            y[i, j] = T.max(a[i, j] + b[i, j], T.float32(0))

    machine = assert_emitted(direct, part)
    assert machine.counts == {"load": 2, "add": 1, "relu": 1, "store": 1}


def test_a_select_of_constants_gets_constant_operands(part):
    @T.prim_func(s_tir=True)
    def constants(a: T.Buffer((64,), "float32", scope="global.l1"), y: T.Buffer((64,), "float32", scope="global.l1")):
        for i in range(64):
            y[i] = T.Select(a[i] > T.float32(0.5), T.float32(3), a[i])

    machine = assert_emitted(constants, part)
    assert {"gt_scalar", "select"} <= set(machine.counts)


def test_the_sum_of_an_expression_is_a_temporary_and_a_sum(part):
    @T.prim_func(s_tir=True)
    def total(x: T.Buffer((8, 64), "float32", scope="global.l1"), s: T.Buffer((8, 16), "float32", scope="global.l1")):
        for i in range(8):
            s[i, 0] = T.float32(0)
            for j in range(64):
                s[i, 0] = s[i, 0] + T.exp(x[i, j])

    machine = assert_emitted(total, part, rtol=1e-5)
    assert machine.counts == {"exp": 1, "reduce_sum": 1}


def test_a_reduction_over_two_axes_takes_two_steps(part):
    @T.prim_func(s_tir=True)
    def mean(x: T.Buffer((3, 16), "float32", scope="global.l1"), s: T.Buffer((1, 16), "float32", scope="global.l1")):
        s[0, 0] = T.float32(0)
        for i, j in T.grid(3, 8):
            s[0, 0] = s[0, 0] + x[i, j]

    machine = assert_emitted(mean, part, rtol=1e-5)
    assert machine.counts == {"reduce_sum": 2}


def test_every_other_element_is_deinterleaved(part):
    @T.prim_func(s_tir=True)
    def odd(x: T.Buffer((8, 64), "float16"), y: T.Buffer((8, 32), "float16", scope="global.l1")):
        for i, j in T.grid(8, 32):
            y[i, j] = x[i, j * 2 + 1]

    machine = assert_emitted(odd, part)
    assert machine.counts == {"load": 1, "deinterleave": 1}


def test_a_column_is_loaded_by_rows_of_one_element(part):
    @T.prim_func(s_tir=True)
    def column(x: T.Buffer((64, 5), "float16"), y: T.Buffer((64,), "float16", scope="global.l1")):
        for i in range(64):
            y[i] = x[i, 3]

    assert_emitted(column, part)


def test_a_store_to_a_column_goes_by_rows_of_one_element(part):
    @T.prim_func(s_tir=True)
    def column(x: T.Buffer((64,), "float16", scope="global.l1"), y: T.Buffer((64, 5), "float16")):
        for i in range(64):
            y[i, 3] = x[i]

    machine = assert_emitted(column, part)
    assert machine.counts == {"transpose": 1, "store": 1}


def test_one_value_for_a_row_is_spread(part):
    @T.prim_func(s_tir=True)
    def spread(x: T.Buffer((8,), "float16"), y: T.Buffer((8, 32), "float16", scope="global.l1")):
        for i, j in T.grid(8, 32):
            y[i, j] = x[i]

    machine = assert_emitted(spread, part)
    transposed = part.features.transpose_load
    assert machine.counts == ({"load_transpose": 1} if transposed else {"load": 1, "copy": 1})


@T.prim_func(s_tir=True)
def single(a: T.Buffer((64,), "float16", scope="global.l1"), y: T.Buffer((64,), "float16", scope="global.l1")):
    for i in range(64):
        y[i] = T.Cast("float16", T.sigmoid(T.Cast("float32", a[i])) * T.Cast("float32", a[i]))


def test_a_spelling_that_one_opcode_carries_is_left_unchanged(v1):
    assert_unchanged(PreProcess(v1), single)


def test_a_copy_is_left_unchanged(v1):
    @T.prim_func(s_tir=True)
    def copy(a: T.Buffer((64,), "float32", scope="global.l0c"), y: T.Buffer((64,), "float16")):
        for i in range(64):
            y[i] = T.Cast("float16", a[i])

    assert_unchanged(PreProcess(v1), copy)


def test_an_operation_that_is_none_of_the_tables_is_left_unchanged(v1):
    @T.prim_func(s_tir=True)
    def unknown(a: T.Buffer((64,), "float32", scope="global.l1"), y: T.Buffer((64,), "float32", scope="global.l1")):
        for i in range(64):
            y[i] = T.hypot(a[i], a[i]) + T.float32(1)

    assert_unchanged(PreProcess(v1), unknown)


def test_a_product_for_the_matrix_engine_is_left_unchanged(v1):
    @T.prim_func(s_tir=True)
    def product(
        a: T.Buffer((16, 64), "float16", scope="global.l0a"),
        b: T.Buffer((64, 32), "float16", scope="global.l0b"),
        c: T.Buffer((16, 32), "float32", scope="global.l0c"),
    ):
        for i, j, k in T.grid(16, 32, 64):
            c[i, j] = c[i, j] + T.Cast("float32", a[i, k]) * T.Cast("float32", b[k, j])

    assert_unchanged(PreProcess(v1), product)


def test_a_guarded_nest_is_left_unchanged(v1):
    @T.prim_func(s_tir=True)
    def guarded(a: T.Buffer((64,), "float32", scope="global.l1"), y: T.Buffer((64,), "float32", scope="global.l1")):
        for i in range(64):
            if i % 2 == 0:
                y[i] = (a[i] + T.float32(1)) * T.float32(2)

    assert_unchanged(PreProcess(v1), guarded)


def test_what_is_staged_takes_a_share_of_l1(part):
    @T.prim_func(s_tir=True)
    def large(x: T.Buffer((40, 50, 33), "int8"), y: T.Buffer((40, 64), "int8", scope="global.l1")):
        for i, j in T.grid(40, 50):
            y[i, j] = x[i, j, 2]

    result = emit_kernel(large, part)
    staged = [b for b in allocations(result.func) if b.name == "staged"]
    assert staged and all(prod(int(e) for e in b.shape) <= part.memory["l1"].size // 8 for b in staged)
    assert_emitted(large, part)
