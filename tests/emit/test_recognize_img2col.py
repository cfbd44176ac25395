from tvm.script import tirx as T

from tests.emit.checks import assert_emitted, reasons


def test_a_strided_window_becomes_one_move(part):
    @T.prim_func(s_tir=True)
    def window(
        x: T.Buffer((9, 11, 16), "float16", scope="global.l1"), a: T.Buffer((20, 160), "float16", scope="global.l0a")
    ):
        for oh, ow, kh, kw, c in T.grid(4, 5, 3, 3, 16):
            a[oh * 5 + ow, (kh * 3 + kw) * 16 + c] = x[oh * 2 + kh, ow * 2 + kw, c]

    assert assert_emitted(window, part).counts == {"img2col": 1}


def test_padding_is_that_of_the_move(part):
    @T.prim_func(s_tir=True)
    def padded(
        x: T.Buffer((7, 9, 16), "float16", scope="global.l1"), a: T.Buffer((64, 160), "float16", scope="global.l0a")
    ):
        for oh, ow, kh, kw, c in T.grid(7, 9, 3, 3, 16):
            a[oh * 9 + ow, (kh * 3 + kw) * 16 + c] = T.if_then_else(
                oh + kh >= 1 and oh + kh < 8 and ow + kw >= 1 and ow + kw < 10,
                x[oh + kh - 1, ow + kw - 1, c],
                T.float16(0),
            )

    assert assert_emitted(padded, part).counts == {"img2col": 1}


def test_padding_of_a_tile_and_of_a_part_of_the_kernel(part):
    @T.prim_func(s_tir=True)
    def tiles(x: T.Buffer((12, 10, 16), "float16", scope="global.l1"), y: T.Buffer((3, 3, 4, 9, 3, 16), "float16")):
        for t in T.serial(3, annotations={"dsac.tile": 1}):
            for kh in T.serial(3, annotations={"dsac.tile": 1}):
                a = T.alloc_buffer((36, 64), "float16", scope="global.l0a")
                for oh, ow, kw, c in T.grid(4, 9, 3, 16):
                    a[oh * 9 + ow, kw * 16 + c] = T.if_then_else(
                        t * 4 + oh + kh >= 1 and t * 4 + oh + kh < 13 and ow + kw >= 1 and ow + kw < 10,
                        x[t * 4 + oh + kh - 1, ow + kw - 1, c],
                        T.float16(0),
                    )

    assert assert_emitted(tiles, part).counts == {"img2col": 9}


def test_dilation_and_a_slice_of_channels(part):
    @T.prim_func(s_tir=True)
    def dilated(
        x: T.Buffer((8, 10, 64), "float16", scope="global.l1"), a: T.Buffer((24, 128), "float16", scope="global.l0a")
    ):
        for oh, ow, kh, kw, c in T.grid(4, 6, 2, 2, 32):
            a[oh * 6 + ow, (kh * 2 + kw) * 32 + c] = x[oh + kh * 3, ow + kw * 3, c + 32]

    assert assert_emitted(dilated, part).counts == {"img2col": 1}


def test_a_row_of_the_image_at_a_time_where_rows_have_gaps(part):
    @T.prim_func(s_tir=True)
    def gaps(
        x: T.Buffer((6, 12, 16), "float16", scope="global.l1"), a: T.Buffer((32, 32), "float16", scope="global.l0a")
    ):
        for oh, ow, kh, kw, c in T.grid(4, 5, 2, 2, 8):
            a[oh * 8 + ow, (kh * 2 + kw) * 8 + c] = x[oh + kh, ow * 2 + kw, c]

    assert assert_emitted(gaps, part).counts == {"img2col": 4}


def test_columns_with_gaps_are_left(v1):
    @T.prim_func(s_tir=True)
    def loose(
        x: T.Buffer((6, 11, 16), "float16", scope="global.l1"), a: T.Buffer((32, 96), "float16", scope="global.l0a")
    ):
        for oh, ow, kw, c in T.grid(4, 5, 3, 16):
            a[oh * 5 + ow, kw * 24 + c] = x[oh, ow * 2 + kw, c]

    assert "a starts" in reasons(loose, v1)[0] or "rows of a" in reasons(loose, v1)[0]


def test_a_pixel_that_is_no_multiple_of_8_bytes_is_left(v1):
    @T.prim_func(s_tir=True)
    def narrow(
        x: T.Buffer((6, 11, 16), "float16", scope="global.l1"), a: T.Buffer((32, 32), "float16", scope="global.l0a")
    ):
        for oh, ow, kw, c in T.grid(4, 5, 3, 3):
            a[oh * 5 + ow, kw * 3 + c] = x[oh, ow * 2 + kw, c]

    assert len(reasons(narrow, v1)) == 1
