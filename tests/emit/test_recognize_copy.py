from tvm.script import tirx as T

from tests.emit.checks import assert_emitted, reasons


def test_tiles_of_an_image_are_loaded_with_their_padding(part):
    @T.prim_func(s_tir=True)
    def tile(x: T.Buffer((14, 14, 64), "float16"), y: T.Buffer((4, 6, 16, 64), "float16")):
        for t in T.serial(4, annotations={"dsac.tile": 1}):
            a = T.alloc_buffer((6, 16, 64), "float16", scope="global.l1")
            for i, j, c in T.grid(6, 16, 64):
                a[i, j, c] = T.if_then_else(
                    t * 4 + i >= 1 and t * 4 + i < 15 and j >= 1 and j < 15, x[t * 4 + i - 1, j - 1, c], T.float16(2)
                )
            for i, j, c in T.grid(6, 16, 64):
                y[t, i, j, c] = a[i, j, c]

    machine = assert_emitted(tile, part)
    assert machine.counts == {"load_pad": 4, "store": 4}


def test_a_tile_that_is_all_padding_is_filled(part):
    @T.prim_func(s_tir=True)
    def beyond(x: T.Buffer((10, 64), "float16"), y: T.Buffer((3, 8, 64), "float16")):
        for t in T.serial(3, annotations={"dsac.tile": 1}):
            a = T.alloc_buffer((8, 64), "float16", scope="global.l1")
            for i, c in T.grid(8, 64):
                a[i, c] = T.if_then_else(t * 8 + i < 10, x[t * 8 + i, c], T.float16(-1))
            for i, c in T.grid(8, 64):
                y[t, i, c] = a[i, c]

    machine = assert_emitted(beyond, part)
    assert machine.counts["load_fill"] == 1


def test_channels_beyond_those_of_the_source_are_padded(part):
    @T.prim_func(s_tir=True)
    def channels(x: T.Buffer((9, 9), "float16"), y: T.Buffer((9, 9, 4), "float16")):
        a = T.alloc_buffer((9, 9, 32), "float16", scope="global.l1")
        for i, j, c in T.grid(9, 9, 4):
            a[i, j, c] = T.if_then_else(c < 1, x[i, j], T.float16(0))
        for i, j, c in T.grid(9, 9, 4):
            y[i, j, c] = a[i, j, c]

    assert_emitted(channels, part)


def test_rows_beyond_those_of_the_tensor_are_not_loaded(part):
    @T.prim_func(s_tir=True)
    def ragged(x: T.Buffer((21, 64), "float16"), y: T.Buffer((21, 64), "float16")):
        for core in T.serial(2, annotations={"dsac.core": 1}):
            for t in T.serial(2, annotations={"dsac.tile": 1}):
                a = T.alloc_buffer((8, 64), "float16", scope="global.l1")
                for i, c in T.grid(8, 64):
                    if (core * 2 + t) * 8 + i < 21:
                        a[i, c] = x[(core * 2 + t) * 8 + i, c]
                for i, c in T.grid(8, 64):
                    if (core * 2 + t) * 8 + i < 21:
                        y[(core * 2 + t) * 8 + i, c] = a[i, c]

    machine = assert_emitted(ragged, part)
    assert machine.counts == {"load": 3, "store": 3}


def test_accumulators_are_rounded_on_the_way_out(part):
    @T.prim_func(s_tir=True)
    def rounded(x: T.Buffer((16, 64), "float32", scope="global.l0c"), y: T.Buffer((16, 64), "float16")):
        for i, j in T.grid(16, 64):
            y[i, j] = T.Cast("float16", x[i, j])

    machine = assert_emitted(rounded, part)
    assert machine.counts == {"store_round": 1}


def test_matrix_operands_are_moved(part):
    @T.prim_func(s_tir=True)
    def moves(
        x: T.Buffer((16, 64), "float16", scope="global.l1"),
        a: T.Buffer((16, 64), "float16", scope="global.l0a"),
        b: T.Buffer((16, 64), "float16", scope="global.l0b"),
    ):
        for i, j in T.grid(16, 64):
            a[i, j] = x[i, j]
        for i, j in T.grid(16, 64):
            b[i, j] = x[i, j]

    machine = assert_emitted(moves, part)
    assert machine.counts == {"move_a": 1, "move_b": 1}


def test_ddr_and_llb_exchange_by_prefetch(v1):
    @T.prim_func(s_tir=True)
    def prefetch(x: T.Buffer((16, 60), "float16"), y: T.Buffer((16, 64), "float16", scope="global.llb")):
        for i, j in T.grid(16, 64):
            y[i, j] = T.if_then_else(j < 60, x[i, j], T.float16(0))

    machine = assert_emitted(prefetch, v1)
    assert machine.counts == {"prefetch_pad": 1}


def test_constants_fill(part):
    @T.prim_func(s_tir=True)
    def fills(x: T.Buffer((16, 64), "float16", scope="global.l1"), y: T.Buffer((16, 60), "float32")):
        for i, j in T.grid(16, 64):
            x[i, j] = T.float16(1)
        for i, j in T.grid(16, 60):
            y[i, j] = T.float32(-2)

    machine = assert_emitted(fills, part)
    assert set(machine.counts) <= {"load_fill", "fill", "store_fill"}


def test_accumulators_are_filled_by_the_vector_engine(part):
    @T.prim_func(s_tir=True)
    def fill(x: T.Buffer((16, 64), "float32", scope="global.l0c")):
        for i, j in T.grid(16, 64):
            x[i, j] = T.float32(0)

    machine = assert_emitted(fill, part)
    assert machine.counts == {"fill": 1}


def test_a_copy_of_four_dimensions_is_a_loop_of_copies(part):
    @T.prim_func(s_tir=True)
    def four(x: T.Buffer((3, 4, 5, 64), "float16"), y: T.Buffer((2, 3, 4, 64), "float16", scope="global.l1")):
        for a, b, c, d in T.grid(2, 3, 4, 32):
            y[a, b, c, d] = x[a, b, c, d]

    machine = assert_emitted(four, part)
    assert machine.counts == {"load": 2}


def test_a_long_row_is_viewed_as_rows(part):
    @T.prim_func(s_tir=True)
    def long(x: T.Buffer((131072,), "float16"), y: T.Buffer((131072,), "float16", scope="global.l1")):
        for i in range(131072):
            y[i] = x[i]

    machine = assert_emitted(long, part)
    assert machine.counts == {"load": 1}


def test_a_constant_goes_into_no_matrix_operand(v1):
    @T.prim_func(s_tir=True)
    def zero(a: T.Buffer((16, 64), "float16", scope="global.l0a")):
        for i, j in T.grid(16, 64):
            a[i, j] = T.float16(0)

    assert reasons(zero, v1) == ["no instruction has this form"]


def test_an_unaligned_row_is_left(v1):
    @T.prim_func(s_tir=True)
    def unaligned(x: T.Buffer((16, 20), "float16"), y: T.Buffer((16, 20), "float16", scope="global.l1")):
        for i, j in T.grid(16, 10):
            y[i, j] = x[i, j]

    found = reasons(unaligned, v1)
    assert found[0].startswith("rows of y in l1 are 20 elements of float16 apart, which is not aligned")


def test_an_unaligned_start_is_left(v1):
    @T.prim_func(s_tir=True)
    def start(x: T.Buffer((64,), "float16"), y: T.Buffer((64,), "float16", scope="global.l1")):
        for i in range(32):
            y[i + 3] = x[i]

    assert reasons(start, v1) == ["y in l1 starts at element 3, which is not aligned"]


def test_an_index_that_is_not_linear_is_left(v1):
    @T.prim_func(s_tir=True)
    def modular(x: T.Buffer((64,), "float16"), y: T.Buffer((64,), "float16", scope="global.l1")):
        for i in range(64):
            y[i] = x[i % 7]

    assert reasons(modular, v1) == ["an index of x is not linear in the loop variables"]


def test_a_backward_move_is_left(v1):
    @T.prim_func(s_tir=True)
    def backward(
        x: T.Buffer((16, 64), "float16", scope="global.l1"), y: T.Buffer((16, 64), "float16", scope="global.l0a")
    ):
        for i, j in T.grid(16, 64):
            y[i, j] = x[i, 63 - j]

    assert "x is walked backwards" in reasons(backward, v1)[0]


def test_no_instruction_rounds_and_pads(v1):
    @T.prim_func(s_tir=True)
    def both(x: T.Buffer((16, 64), "float32", scope="global.l0c"), y: T.Buffer((18, 64), "float16")):
        for i, j in T.grid(18, 64):
            y[i, j] = T.Cast("float16", T.if_then_else(i >= 1 and i < 17, x[i - 1, j], T.float32(0)))

    machine = assert_emitted(both, v1)
    assert machine.counts == {"store_fill": 2, "store_round": 1}


def test_rows_in_reverse_order_are_a_loop(part):
    @T.prim_func(s_tir=True)
    def flipped(x: T.Buffer((5, 3, 64), "float16"), y: T.Buffer((5, 3, 64), "float16", scope="global.l1")):
        for i, j, c in T.grid(5, 3, 64):
            y[i, j, c] = x[4 - i, j, c]

    assert assert_emitted(flipped, part).counts == {"load": 5}


def test_rows_back_to_front_are_reversed_in_l1(part):
    @T.prim_func(s_tir=True)
    def mirrored(x: T.Buffer((5, 60), "float16"), y: T.Buffer((5, 64), "float16", scope="global.l1")):
        for i, c in T.grid(5, 60):
            y[i, c] = x[i, 59 - c]

    assert assert_emitted(mirrored, part).counts == {"load": 1, "reverse": 1}
