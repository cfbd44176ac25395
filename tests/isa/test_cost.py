"""Every cost class against cycles and bytes worked out by hand from the manual."""

from __future__ import annotations

import numpy as np
import pytest

from dsa_compiler.errors import UserError
from dsa_compiler.isa.cost import COST, Cost, CostRules, entry_costs, instruction_cost
from dsa_compiler.isa.table import OPCODES, TABLE
from dsa_compiler.program.builder import Flag, Operand, ProgramBuilder
from dsa_compiler.target import load_target, target_from_dict

V1, V2 = load_target("npu-v1"), load_target("npu-v2")
RULES = {"npu-v1": CostRules(V1), "npu-v2": CostRules(V2)}


def at(role, place, dtype, extents, strides=None):
    """An operand written short: `ddr+64`."""
    scope, _, address = place.partition("+")
    return Operand(role, scope, int(address or 0), dtype, extents, strides)


def cost(op, *operands, part="npu-v1", **attrs):
    return RULES[part].instruction(op, operands, attrs)


def moved(op, *operands, part="npu-v1", **attrs):
    return cost(op, *operands, part=part, **attrs).work


# DMA: bytes


@pytest.mark.parametrize(
    ("src", "dst", "expected"),
    [
        # one dense run of 1024 bytes
        (("ddr", (8, 64), (128, 2)), ("l1", (8, 64), (128, 2)), 1024),
        # 8 rows of 112 bytes at 6 + 224 i: 2 and 3 bursts of 64 by turns
        (("ddr+6", (8, 56), (224, 2)), ("l1", (8, 56), (128, 2)), 20 * 64),
        # contiguous at the source, rows apart in l1: eight runs of 112 bytes at 112 i: 2, 3, 3, 2 bursts
        (("ddr", (8, 56), (112, 2)), ("l1", (8, 56), (128, 2)), 20 * 64),
        # the same from llb, whose burst is 32 (as l1's; the nearer to ddr counts): 4, 5, 4, 5, ..: see 112 i mod 32
        (("llb", (8, 56), (112, 2)), ("l1", (8, 56), (128, 2)), 32 * 32),
        # a repeated row is a run each time
        (("ddr", (4, 32), (0, 2)), ("l1", (4, 32), (64, 2)), 4 * 64),
        # three dimensions that merge into one run of 960 bytes, at 32: from 32 to 992 is 16 bursts
        (("ddr+32", (2, 3, 80), (480, 160, 2)), ("l1", (480,), (2,)), 16 * 64),
        # planes of 480 contiguous bytes 512 apart: two runs of 8 bursts
        (("ddr", (2, 3, 80), (512, 160, 2)), ("l1", (480,), (2,)), 2 * 8 * 64),
        # other views: four rows of 48 bytes into one row
        (("ddr", (4, 24), (64, 2)), ("l1", (96,), (2,)), 4 * 64),
        # rows of 6 elements into rows of 8: pieces of 6, 2, 4, 4, 2, 6 elements, a burst each
        (("ddr", (4, 6), (64, 2)), ("l1", (3, 8), (32, 2)), 6 * 64),
        # single elements, 128 apart
        (("ddr", (5, 1), (128, 2)), ("l1", (5, 1), (32, 2)), 5 * 64),
        # two extents of one between contiguous rows
        (("ddr", (4, 1, 32), (64, 9999, 2)), ("l1", (4, 1, 32), (64, 0, 2)), 256),
    ],
)
def test_load_bytes(src, dst, expected):
    result = cost("load", at("dst", dst[0], "float16", *dst[1:]), at("src", src[0], "float16", *src[1:]))
    assert (result.startup, result.work, result.rate) == (16, expected, 64)


def test_a_store_counts_where_it_writes():
    """8 runs of 112 bytes at 112 i in ddr: 2, 3, 3, 2 bursts of 64."""
    src = at("src", "l1", "float16", (8, 56), (128, 2))
    assert moved("store", at("dst", "ddr", "float16", (8, 56), (112, 2)), src) == 1280
    assert moved("store", at("dst", "ddr", "float16", (8, 56), (128, 2)), src) == 8 * 128


def test_the_larger_burst_counts():
    """l0c's burst is its alignment, 64; llb's is 32: rows of 32 bytes cost 64 on the l0c side."""
    src = at("src", "l0c", "float32", (16, 8), (64, 4))
    assert moved("store", at("dst", "llb", "float32", (16, 8), (32, 4)), src) == 16 * 64
    assert moved("store", at("dst", "ddr", "float32", (16, 8), (32, 4)), src) == 16 * 64


def test_rounding_store_moves_the_greater_side():
    """16 rows of 24: in l0c 96 bytes, two bursts; in ddr 48 bytes at 48 i: 1, 2, 2, 1 bursts."""
    src = at("src", "l0c", "float32", (16, 24), (128, 4))
    assert moved("store_round", at("dst", "ddr", "float16", (16, 24), (48, 2)), src) == 16 * 128
    # rows of 8, 2 bytes each, at 4096 i + 56: two bursts in ddr against one of l0c
    src = at("src", "l0c", "float32", (4, 8), (64, 4))
    assert moved("store_round", at("dst", "ddr+56", "float16", (4, 8), (4096, 2)), src) == 4 * 128


def test_padded_load_moves_the_greater_of_bursts_and_result():
    # 6 rows of 16 bytes at 16 i, apart in l1: a burst each
    narrow = (at("dst", "l1", "float16", (8, 8), (32, 2)), at("src", "ddr", "float16", (6, 8), (16, 2)))
    assert moved("load_pad", *narrow, pad=[[1, 1], [0, 0]], value=0) == 6 * 64
    # 256 bytes read, 64 rows of 128 bytes written
    wide = (at("dst", "l1", "float32", (64, 32), (128, 4)), at("src", "ddr", "float32", (2, 32), (128, 4)))
    assert moved("load_pad", *wide, pad=[[30, 32], [0, 0]], value=0) == 8192
    # padding of rows alone leaves the rows between contiguous: one run of 4 * 128 = 512, result 6 * 128
    rows = (at("dst", "l1", "float32", (6, 32), (128, 4)), at("src", "ddr+60", "float32", (4, 32), (128, 4)))
    assert moved("load_pad", *rows, pad=[[1, 1], [0, 0]], value=0) == 768
    # padding within rows breaks them: 4 runs of 128 at 60 + 128 i, three bursts each
    inner = (at("dst", "l1", "float32", (4, 40), (160, 4)), at("src", "ddr+60", "float32", (4, 32), (128, 4)))
    assert moved("load_pad", *inner, pad=[[0, 0], [8, 0]], value=0) == 4 * 3 * 64
    assert moved("load_pad_multicast", *inner, pad=[[0, 0], [8, 0]], value=0) == 4 * 3 * 64


def test_padded_store_and_prefetch_pay_whole_bursts_of_the_result():
    src = at("src", "l1", "float16", (2, 8), (32, 2))
    assert (
        moved("store_pad", at("dst", "ddr+56", "float16", (3, 8), (100, 2)), src, pad=[[1, 0], [0, 0]], value=0) == 256
    )
    src = at("src", "ddr", "float16", (2, 16), (32, 2))
    assert (
        moved("prefetch_pad", at("dst", "llb", "float16", (4, 16), (32, 2)), src, pad=[[1, 1], [0, 0]], value=0) == 128
    )


def test_transposing_load_counts_the_source_at_its_own_rate():
    dst = at("dst", "l1", "float16", (8, 32), (64, 2))
    dense = cost("load_transpose", dst, at("src", "ddr", "float16", (32, 8), (16, 2)), transpose=True)
    assert (dense.work, dense.rate, dense.startup) == (512, 16, 16)
    assert moved("load_transpose", dst, at("src", "ddr", "float16", (32, 8), (64, 2)), transpose=True) == 32 * 64


def test_gathered_rows_cost_their_worst_alignment():
    index = at("index", "l1+4096", "int32", (10,))
    dst = at("dst", "l1", "float16", (10, 50), (128, 2))
    # rows of 100 bytes, 100 apart: multiples of 4, worst at 60: three bursts
    assert moved("load_gather", dst, at("src", "ddr", "float16", (30, 50), (100, 2)), index) == 10 * 3 * 64
    # aligned to 64: two bursts
    assert moved("load_gather", dst, at("src", "ddr+64", "float16", (30, 50), (128, 2)), index) == 10 * 2 * 64
    # the base decides: 128 apart from 32 on, worst 32: 132 bytes, three bursts
    assert moved("load_gather", dst, at("src", "ddr+32", "float16", (30, 50), (128, 2)), index) == 10 * 3 * 64
    # planes of 30 rows, 6004 apart: multiples of 4 again
    assert moved("load_gather", dst, at("src", "ddr", "float16", (2, 30, 50), (6004, 128, 2)), index) == 10 * 3 * 64
    # scatter: rows of 64 bytes at multiples of 32, two bursts
    src = at("src", "l1", "float16", (10, 32), (64, 2))
    assert moved("store_scatter", at("dst", "ddr+32", "float16", (30, 32), (64, 2)), src, index) == 10 * 2 * 64


def test_gather_into_the_larger_burst():
    """A part whose l1 has a burst of 64, its llb of 32: rows of 32 bytes count in l1."""
    data = dict(V1.source)
    data["memory"] = {**data["memory"], "l1": {**data["memory"]["l1"], "alignment": 64}}
    operands = (at("dst", "l1", "float16", (10, 16), (64, 2)), at("src", "llb", "float16", (30, 16), (32, 2)),
                at("index", "l1+4096", "int32", (10,)))  # fmt: skip
    assert instruction_cost(target_from_dict(data), "load_gather", operands).work == 10 * 64
    assert moved("load_gather", *operands) == 10 * 32


@pytest.mark.parametrize(("op", "place", "flow", "latency", "rate"), [
    ("load_fill", "l1", 0, 0, 64), ("store_fill", "ddr+2", 1, 200, 64), ("prefetch_fill", "llb", 1, 40, 128),
])  # fmt: skip
def test_fill_moves_the_bytes_of_the_result(op, place, flow, latency, rate):
    result = cost(op, at("dst", place, "float16", (3, 5), (64, 2)), value=0)
    assert (result.work, result.flow, result.latency, result.rate) == (30, flow, latency, rate)


def test_memories_and_latency():
    l1, llb, ddr = ("l1", "float16", (64,)), ("llb", "float16", (64,)), ("ddr", "float16", (64,))
    load = cost("load", at("dst", *l1), at("src", *ddr))
    assert (load.flow, load.ddr, load.llb, load.latency, load.banks) == (1, 1, 0, 200, 1)
    near = cost("load_multicast", at("dst", *l1), at("src", *llb))
    assert (near.flow, near.ddr, near.llb, near.latency) == (1, 0, 1, 40)
    store = cost("store", at("dst", *llb), at("src", *l1))
    assert (store.flow, store.ddr, store.llb, store.latency) == (1, 0, 1, 40)
    for one, other in ((llb, ddr), (ddr, llb)):
        both = cost("prefetch", at("dst", *one), at("src", *other))
        assert (both.flow, both.ddr, both.llb, both.latency, both.rate, both.banks) == (1, 1, 1, 200, 128, 0)
    move = cost("move_a", at("dst", "l0a", "float16", (64,)), at("src", *l1))
    assert (move.flow, move.ddr, move.llb, move.latency, move.rate, move.startup) == (0, 0, 0, 0, 256, 8)


def test_alone_and_uncontended():
    """6400 bytes: 16 + 100 at the port; prefetch from ddr at 119.4 bytes a cycle, 16 + 53.6."""
    load = cost("load", at("dst", "l1", "uint8", (6400,)), at("src", "ddr", "uint8", (6400,)))
    assert load.cycles == load.alone(V1) == 116
    prefetch = cost("prefetch", at("dst", "llb", "uint8", (6400,)), at("src", "ddr", "uint8", (6400,)))
    assert prefetch.cycles == 16 + 50
    assert prefetch.alone(V1) == pytest.approx(16 + 6400 / 119.4)


def test_int4_takes_half_a_byte():
    """v2: 200 elements are 100 bytes, two bursts of 64; a vector of 256 bytes holds 512."""
    assert moved("load", at("dst", "l1", "int4", (200,)), at("src", "ddr", "int4", (200,)), part="npu-v2") == 128
    rows = (at("dst", "l1", "int4", (2, 128), (64, 1)), at("src", "ddr+4", "int4", (2, 128), (100, 1)))
    assert moved("load", *rows, part="npu-v2") == 2 * 2 * 64
    wide = (at("dst", "l1", "int8", (3, 600), (640, 1)), at("src", "l1+8192", "int4", (3, 600), (320, 1)))
    assert cost("cast", *wide, part="npu-v2").work == 3 * (1 + 3)
    narrow = (at("dst", "l1", "int4", (3, 600), (320, 1)), at("src", "l1+8192", "int4", (3, 600), (320, 1)))
    assert cost("copy", *narrow, part="npu-v2").work == 3 * (1 + 2)


# move


def test_moves():
    src = at("src", "l1", "float16", (64, 144), (288, 2))
    assert moved("move_a", at("dst", "l0a", "float16", (64, 144), (288, 2)), src) == 64 * 288
    assert moved("move_a", at("dst", "l0a", "float16", (64, 144), (320, 2)), src) == 64 * 288
    # rows of 80 bytes cost 96
    src = at("src", "l1", "float16", (16, 40), (96, 2))
    result = cost("move_b_transpose", at("dst", "l0b", "float16", (40, 16), (32, 2)), src, transpose=True)
    assert (result.work, result.rate) == (16 * 96, 256)
    assert moved("move_a_transpose", at("dst", "l0a", "float16", (40, 16), (32, 2)), src, transpose=True) == 16 * 96


WINDOW = {"stride": [1, 1], "dilation": [1, 1], "pad": [0, 0, 0, 0], "zero_point": 0}


@pytest.mark.parametrize(
    ("src", "dst", "attrs", "expected"),
    [
        # 64 outputs, three rows of taps of 96 aligned bytes
        (((8, 8, 16), (256, 32, 2)), ((64, 144), (288, 2)), {"kernel": [3, 3], "pad": [1, 1, 1, 1]}, 64 * 3 * 96),
        # pixels of 24 bytes: runs of 72 at 24 (x - 1) mod 32 = 8, 0, 24, 16: three bursts of 32 each
        (((8, 8, 12), (192, 24, 2)), ((64, 108), (224, 2)), {"kernel": [3, 3], "pad": [1, 1, 1, 1]}, 64 * 3 * 96),
        # every other pixel of 32 bytes
        (((8, 8, 16), (256, 32, 2)), ((16, 16), (32, 2)), {"kernel": [1, 1], "stride": [2, 2]}, 16 * 32),
        # dilated taps are apart: three runs of 32 bytes for each of 4 x 4 outputs
        (((4, 8, 16), (256, 32, 2)), ((16, 48), (96, 2)), {"kernel": [1, 3], "dilation": [1, 2]}, 16 * 3 * 32),
        # a slice of 8 of 16 channels: taps of 16 bytes apart, a burst of 32 each, 6 x 6 outputs, 9 taps
        (((8, 8, 8), (256, 32, 2)), ((36, 72), (160, 2)), {"kernel": [3, 3]}, 36 * 9 * 32),
        # 8 bytes a pixel, 2 x 2 taps: runs of 16 at 8 x mod 32 = 0, 8, 16, 24: 1, 1, 1, 2 bursts, x = 0 .. 6:
        # 8 bursts a row, 7 rows, twice; less than the padded rows of 32 bytes? 112 * 32 against 49 * 32
        (((8, 8, 4), (64, 8, 2)), ((49, 16), (32, 2)), {"kernel": [2, 2]}, 7 * 2 * 8 * 32),
        # the padded rows are the least: a pixel of 8 bytes at 0 and 16, l0a rows of 32
        (((1, 4, 4), (32, 8, 2)), ((2, 4), (32, 2)), {"kernel": [1, 1], "stride": [1, 2]}, 2 * 32),
    ],
)
def test_img2col(src, dst, attrs, expected):
    operands = (at("dst", "l0a", "float16", *dst), at("src", "l1", "float16", *src))
    assert moved("img2col", *operands, **{**WINDOW, **attrs}) == expected


def test_img2col_least_and_larger_burst_in_l0a():
    """With l0a aligned to 128: rows of 16 bytes are padded to 128, and runs count in l0a."""
    data = dict(V1.source)
    data["memory"] = {**data["memory"], "l0a": {**data["memory"]["l0a"], "alignment": 128}}
    target = target_from_dict(data)
    operands = [at("dst", "l0a", "float16", (8, 8), (128, 2)), at("src", "l1", "float16", (2, 4, 8), (64, 16, 2))]
    assert instruction_cost(target, "img2col", operands, {**WINDOW, "kernel": [1, 1]}).work == 8 * 128
    # two rows of taps of 32 bytes at 0 and 32 of each l0a row: a burst of 128 each, 3 outputs
    operands[0] = at("dst", "l0a", "float16", (3, 32), (128, 2))
    assert instruction_cost(target, "img2col", operands, {**WINDOW, "kernel": [2, 2]}).work == 3 * 2 * 128
    # taps apart: four runs of 16 bytes
    operands[1] = at("src", "l1", "float16", (2, 4, 8), (128, 32, 2))
    assert instruction_cost(target, "img2col", operands, {**WINDOW, "kernel": [2, 2]}).work == 3 * 4 * 128


# matrix


@pytest.mark.parametrize(
    ("part", "dtype", "m", "n", "k", "expected"),
    [
        ("npu-v1", "float16", 64, 64, 144, 4 * 4 * 18),
        ("npu-v1", "float16", 17, 33, 9, 2 * 3 * 2),
        ("npu-v1", "float16", 1, 1, 1, 1),
        ("npu-v1", "int8", 64, 64, 144, 4 * 4 * 9),
        ("npu-v1", "float32", 64, 64, 144, 8 * 8 * 18),
        ("npu-v2", "int4", 16, 16, 130, 3),
        ("npu-v2", "float8_e4m3fn", 32, 16, 33, 2 * 2),
    ],
)
def test_matrix(part, dtype, m, n, k, expected):
    result = "int32" if "int" in dtype else "float32"
    operands = (at("dst", "l0c", result, (m, n)), at("lhs", "l0a", dtype, (m, k)), at("rhs", "l0b", dtype, (k, n)))
    found = cost("matmul", *operands, part=part)
    assert (found.startup, found.work, found.rate, found.flow, found.latency, found.banks) == (16, expected, 1, 0, 0, 0)


def test_sparse_matrix():
    """v2, unit 16 x 16 x 16: k of 128 halved takes 4 steps, of 100 takes 4 (50 / 16)."""
    for k, steps in ((128, 4), (100, 4), (96, 3)):
        operands = (at("acc", "l0c", "float32", (64, 64)), at("lhs", "l0a", "float16", (64, k)),
                    at("rhs", "l0b", "float16", (k // 2, 64)), at("index", "l0b+32768", "uint8", (k // 4,
                     64)))  # fmt: skip
        assert cost("matmul_sparse_acc", *operands, part="npu-v2", sparse=True).work == 4 * 4 * steps


def test_matrix_in_a_dtype_without_a_unit():
    operands = (at("dst", "l0c", "int32", (8, 8)), at("lhs", "l0a", "int4", (8, 8)), at("rhs", "l0b", "int4", (8, 8)))
    with pytest.raises(UserError, match=r"\[isa.cost\] entry 0 \(matmul\): the matrix engine of npu-v1 has no unit"):
        cost("matmul", *operands)


# vector


def rows(role, dtype, extents, place="l1"):
    """Rows padded to 128 bytes."""
    item = {"float32": 4, "int32": 4, "float16": 2}.get(dtype, 1)
    pitch = -(-extents[-1] * item // 128) * 128
    strides = {1: (item,), 2: (pitch, item), 3: (extents[-2] * pitch if len(extents) > 2 else 0, pitch, item)}
    return at(role, place, dtype, extents, strides[len(extents)])


@pytest.mark.parametrize(
    ("op", "src", "dst", "expected"),
    [
        ("relu", "float16", "float16", 10 * (1 + 2)),  # 200 bytes, two vectors
        ("relu", "float16", "float32", 10 * (1 + 4)),  # the widest operand counts
        ("relu", "float32", "float16", 10 * (1 + 4)),
        ("reciprocal", "float16", "float16", 10 * (1 + 2 * 4)),
        ("exp", "float16", "float16", 10 * (1 + 2 * 4)),
        ("cast", "int8", "float16", 10 * (1 + 2)),
        ("reverse", "float16", "float16", 10 * (1 + 2 * 8)),
        ("slide", "float16", "float16", 10 * (1 + 2 * 2)),
        ("copy", "int8", "int8", 10 * (1 + 1)),
    ],
)
def test_vector_classes(op, src, dst, expected):
    found = cost(op, rows("dst", dst, (10, 100)), rows("src", src, (10, 100)))
    assert (found.startup, found.work, found.rate, found.flow) == (8, expected, 1, 0)


def test_slide_is_not_rounded():
    """npu-bench: gather 8 / 4 = 2; a part with gather 6: 1.5 a vector."""
    data = dict(V1.source)
    engine = data["engine"]
    data["engine"] = {**engine, "vector": {**engine["vector"], "cost": {**engine["vector"]["cost"], "gather": 6}}}
    operands = (rows("dst", "float16", (10, 100)), rows("src", "float16", (10, 100)))
    assert instruction_cost(target_from_dict(data), "slide", operands).work == 10 * (1 + 2 * 1.5)


def test_rows_are_those_written():
    """Not merged: 3 x 4 rows of 16 halves; as one row of 192 (384 bytes) it is three vectors; broadcasts count."""
    assert cost("neg", rows("dst", "float16", (3, 4, 16)), rows("src", "float16", (3, 4, 16))).work == 12 * 2
    assert cost("neg", rows("dst", "float16", (192,)), rows("src", "float16", (192,))).work == 1 + 3
    same = at("src2", "l1+8192", "float32", (10, 100), (0, 0))
    assert cost("add", rows("dst", "float16", (10, 100)), rows("src", "float16", (10, 100)), same).work == 10 * (1 + 4)


def test_reductions():
    src = rows("src", "float16", (64, 100))
    row, column = (
        at("dst", "l1+65536", "float32", (64, 1), (32, 4)),
        at("dst", "l1+65536", "float32", (1, 100), (512, 4)),
    )
    # 64 * (1 + 2), and log2(64 lanes) for each row
    assert cost("reduce_sum", row, src, reduce="row").work == 192 + 64 * 6
    assert cost("reduce_sum", column, src, reduce="column").work == 192
    wide = rows("src", "float32", (64, 100))
    assert cost("reduce_max", row, wide, reduce="row").work == 64 * (1 + 4) + 64 * 5
    planes = rows("src", "int8", (4, 8, 100))
    total = at("dst", "l1+65536", "int32", (1, 8, 100), (4096, 512, 4))
    assert cost("reduce_sum", total, planes, reduce="plane").work == 32 * 2
    # the destination counts where it is the widest: 8 rows of 400 bytes against 8 of 100
    one = rows("src", "int8", (1, 8, 100))
    assert cost("reduce_sum", total, one, reduce="plane").work == 8 * (1 + 4)


def test_scans_cost_log2_of_the_lanes_for_each_vector():
    for axis in (0, 1):
        assert cost(
            "cumsum", rows("dst", "float16", (10, 100)), rows("src", "float16", (10, 100)), axis=axis
        ).work == 10 * (1 + 2 * 6)
    assert cost("cummax", rows("dst", "int32", (10, 100)), rows("src", "int8", (10, 100)), axis=1).work == 10 * (
        1 + 4 * 7
    )


POOL = {"kernel": [3, 3], "stride": [1, 1], "dilation": [1, 1], "pad": [1, 1, 1, 1], "taps": 9}


@pytest.mark.parametrize(
    ("src", "dst", "extents", "strides", "expected"),
    [
        ("float16", "float16", (8, 8, 16), (256, 32, 2), 9 * (1 + 16)),  # one run of 2048 bytes
        ("float16", "float16", (8, 8, 24), (512, 64, 2), 9 * 64 * (1 + 1)),  # 64 runs of 48 bytes
        ("float16", "float16", (8, 8, 16), (512, 32, 2), 9 * 8 * (1 + 2)),  # eight runs of 256 bytes
        ("float32", "float16", (8, 8, 16), (256, 32, 2), 9 * (1 + 32)),  # the widest dtype
        ("int8", "int32", (8, 8, 16), (512, 64, 4), 9 * (1 + 32)),
    ],
)
def test_windows(src, dst, extents, strides, expected):
    operands = [at("dst", "l1", dst, extents, strides), rows("src", src, extents, "l1+65536")]
    assert cost("pool_max", *operands, **POOL).work == expected
    taps = at("taps", "l1+131072", "float32", (3, 3, extents[2]))
    assert cost("depthwise", *operands, taps, macs=True, **POOL).work == expected
    operands[0] = at("acc", "l1", dst, extents, strides)
    assert cost("depthwise_acc", *operands, taps, macs=True, **POOL).work == expected


def test_layout():
    # 100 rows of 32 bytes against 16 of 200: the greater sum
    narrow, wide = rows("dst", "float16", (100, 16)), rows("src", "float16", (16, 100))
    assert cost("transpose", narrow, wide).work == max(100 * (1 + 8), 16 * (1 + 16)) == 900
    half, full = rows("src", "float16", (100,)), rows("dst", "float16", (200,))
    assert cost("interleave", full, half, rows("src2", "float16", (100,))).work == 1 + 4 * 8
    assert (
        cost("deinterleave", rows("dst", "float16", (100,)), rows("src", "float16", (200,)), phase=0).work == 1 + 4 * 8
    )
    assert cost("fill", rows("dst", "float32", (10, 100)), value=0).work == 10 * (1 + 4)
    assert cost("iota", rows("dst", "float32", (10, 100)), start=0, step=1).work == 10 * (1 + 4)
    index = at("index", "l1+65536", "int32", (10,))
    assert cost("gather", rows("dst", "float16", (10, 64)), rows("src", "float16", (20, 64)), index).work == 20 * (
        1 + 8
    )
    table = at("table", "l1+65536", "float32", (256,))
    assert cost("lookup", rows("dst", "int8", (4, 128)), rows("src", "uint8", (4, 128)), table).work == 4 * (1 + 8)


def test_sorting():
    src, src2 = rows("src", "float32", (64,)), rows("src2", "float32", (64,))
    assert cost("sort_stage", rows("dst", "float32", (64,)), src, distance=1, direction=2).work == 1 + 2 * 2
    # 2 * log2(32) for each of four vectors, one row
    assert cost("topk_merge", rows("dst", "float32", (64,)), src, src2, descending=True).work == 1 + 4 * 10
    pair, pair2 = rows("src", "float32", (2, 40)), rows("src2", "float32", (2, 8))
    assert (
        cost("topk_merge", rows("dst", "float32", (2, 8)), pair, pair2, descending=True, payload=True).work
        == 2 + 6 * 10
    )


# scalar, control, flags


def test_scalar():
    operands = [at(r, "l1", "int32", (3,)) for r in ("dst", "src", "src2")]
    found = cost("s_add", *operands, ops=10, control=4)
    assert (found.startup, found.work, found.rate, found.banks) == (0, 10 * 4 + 4, 1, 1)
    assert cost("s_branch", control=7).work == 7


def test_flags_and_control():
    builder = ProgramBuilder(V1)
    core, cluster, chip = Flag("core", 1, "load", "move"), Flag("cluster", 2), Flag("chip", 3)
    operands = [at("dst", "l1", "int8", (64,)), at("src", "ddr", "int8", (64,))]
    builder.add("load", operands, waits=[cluster, chip], sets=[core, core, cluster])
    builder.add("set", engine="load", sets=[core, chip])
    builder.add("wait", engine="scalar", waits=[cluster])
    builder.add("halt", engine="scalar")
    builder.add("halt", engine="vector")
    builder.add("barrier", engine="matrix", attrs={"scope": "chip", "queues": []}, group=0)
    builder.add("barrier", engine="scalar", attrs={"scope": "chip", "queues": []}, group=0)
    costs = entry_costs(builder.build())
    assert costs["startup"].tolist() == [16 + 20 + 100 + 1 + 1 + 20, 101, 21, 1, 0, 0, 1]
    assert costs["work"].tolist() == [64, 0, 0, 0, 0, 0, 0]
    assert np.all(costs["rate"] > 0)


def test_empty_program():
    costs = entry_costs(ProgramBuilder(V1).build())
    assert costs.dtype == COST
    assert len(costs) == 0


def test_a_scratchpad_with_a_bandwidth_limits_a_transfer():
    data = dict(V1.source)
    data["memory"] = {**data["memory"], "l1": {**data["memory"]["l1"], "bandwidth": 48.0}}
    target = target_from_dict(data)
    operands = [at("dst", "l1", "int8", (64,)), at("src", "ddr", "int8", (64,))]
    assert instruction_cost(target, "load", operands).rate == 48
    move = [at("dst", "l0a", "int8", (64,)), at("src", "l1", "int8", (64,))]
    assert instruction_cost(target, "move_a", move).rate == 48


def test_transposing_load_without_a_rate_of_its_own():
    """A part without transpose_rate (and so without the feature) is limited by its port alone."""
    dst, src = at("dst", "l1", "float16", (8, 32), (64, 2)), at("src", "ddr", "float16", (32, 8), (64, 2))
    assert cost("load_transpose", dst, src, part="npu-v2", transpose=True).rate == 128


# banks: npu-v1 has ten of 131072 bytes

BANK = 131072


@pytest.mark.parametrize(
    ("address", "extents", "strides", "banks"),
    [
        (0, (64,), (2,), {0}),
        (BANK - 32, (32,), (2,), {0, 1}),
        (BANK - 32, (16,), (2,), {0}),
        (0, (4, 16), (2 * BANK, 2), {0, 2, 4, 6}),
        (BANK - 32, (2, 2, 32), (4 * BANK, 2 * BANK, 2), {0, 1, 2, 3, 4, 5, 6, 7}),
        (BANK, (5, 16), (BANK // 2, 2), {1, 2, 3}),
        (0, (3, 3, 16), (3 * BANK, BANK // 2, 2), {0, 1, 3, 4, 6, 7}),
        (BANK * 9, (4, 16), (0, 2), {9}),
        (0, (1, 16), (5 * BANK, 2), {0}),
    ],
)
def test_banks(address, extents, strides, banks):
    src = Operand("src", "l1", address, "float16", extents, strides)
    dst = Operand("dst", "l0a", 0, "float16", extents)
    assert cost("move_a", dst, src).banks == sum(1 << b for b in banks)


def test_banks_of_all_operands():
    operands = (at("dst", f"l1+{3 * BANK}", "float32", (8, 8, 16)), at("src", f"l1+{5 * BANK}", "float32", (8, 8, 16)),
                at("taps", f"l1+{7 * BANK}", "float32", (3, 3, 16)))  # fmt: skip
    assert cost("depthwise", *operands, macs=True, **POOL).banks == 1 << 3 | 1 << 5 | 1 << 7


def test_more_banks_than_a_mask_holds():
    data = dict(V1.source)
    data["memory"] = {**data["memory"], "l1": {"size": 1310720, "banks": 80, "alignment": 32}}
    with pytest.raises(UserError, match=r"\[target\] memory.l1.banks is 80, at most 64 are accounted; use fewer"):
        CostRules(target_from_dict(data))


def test_cost_is_what_entry_costs_gives(isa):
    """One instruction of each opcode that has operands in its simplest form: both faces agree."""
    assert issubclass(Cost, tuple)
    assert Cost._fields == COST.names
    classes = {d.cost for d in TABLE}
    assert classes == {"dma", "img2col", "matrix", "simple", "divide", "transcendental", "gather", "slide", "stage",
     "scan",
                       "windowed", "merge", "scalar", "control"}  # fmt: skip
    builder = ProgramBuilder(V1)
    operands = [rows("dst", "float16", (10, 100)), rows("src", "float16", (10, 100))]
    names = [
        d.name for d in TABLE if {o.role for o in d.operands} == {"dst", "src"} and d.engine == "vector" and not d.attrs
    ]
    for name in names:
        builder.add(name, operands)
    costs = entry_costs(builder.build())
    factor = {"simple": 1, "divide": 4, "transcendental": 4, "gather": 8, "slide": 2}
    assert costs["work"].tolist() == [10 * (1 + 2 * factor[OPCODES[n].cost]) for n in names]
    assert [cost(n, *operands).work for n in names] == costs["work"].tolist()
