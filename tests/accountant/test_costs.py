"""Costs of single entries by hand, from the manual alone."""

import pytest

from dsa_compiler.program.assembler import parse_program
from dsa_compiler.program.listing import listing
from tests.accountant.costs import Costs


def work(line, target="npu-v1"):
    top = listing(parse_program(f".target {target}\n{line}\n"))
    return Costs(top["target"]).of(top["instructions"][0]).work


@pytest.mark.parametrize(
    ("operands", "moved"),
    [
        ("dst=l1[0] u8 100 src=ddr[0] u8 100", 128),
        ("dst=l1[0] u8 100 src=ddr[60] u8 100", 192),
        ("dst=l1[0] u8 4x64 src=ddr[0] u8 4x64 :128", 256),
        ("dst=l1[0] u8 4x64 src=ddr[32] u8 4x64", 320),
        ("dst=l1[0] u8 4x64 :128 src=ddr[32] u8 4x64", 512),
        ("dst=l1[0] u8 4x64 src=ddr[0] u8 4x64 :0", 256),
        ("dst=l1[0] u8 2x96 src=ddr[0] u8 192", 192),
        ("dst=l1[0] u8 2x96 :128 src=ddr[0] u8 192", 256),
        ("dst=l1[0] u8 2x3x32 :128,32 src=ddr[0] u8 2x3x32", 256),
        ("dst=l1[0] u8 40 src=llb[16] u8 40", 64),
    ],
)
def test_loads_move_whole_bursts_of_runs(operands, moved):
    assert work(f"c0.0 load: load {operands}") == moved


def test_padding_moves_the_greater_of_source_bursts_and_destination_bytes():
    line = "c0.0 load: load_pad dst=l1[0] u8 6x96 src=ddr[0] u8 4x32 pad=[[1,1],[32,32]] value=0"
    assert work(line) == 576
    line = "c0.0 load: load_pad dst=l1[0] u8 6x34 :64 src=ddr[0] u8 4x32 pad=[[1,1],[1,1]] value=0"
    assert work(line) == 256


def test_a_rounding_store_moves_the_greater_side():
    assert work("c0.0 store: store_round dst=ddr[0] f16 4x16 :64 src=l0c[0] f32 4x16") == 256
    assert work("c0.0 store: store_round dst=ddr[0] f16 64x64 src=l0c[0] f32 64x64") == 64 * 256


def test_gathered_rows_pay_their_worst_alignment():
    line = "c0.0 load: load_gather dst=l1[0] u8 5x96 src=ddr[0] u8 100x96 index=l1[1024] i32 5"
    assert work(line) == 5 * 128
    line = "c0.0 load: load_gather dst=l1[0] u8 5x96 src=ddr[4] u8 100x96 index=l1[1024] i32 5"
    assert work(line) == 5 * 192


def test_img2col_reads_rows_of_taps_and_writes_padded_rows():
    attrs = "kernel=[3,3] stride=[1,1] dilation=[1,1] pad=[1,1,1,1] zero_point=0"
    # rows of 3 taps of 32 channels are 192 bytes, aligned: 16 pixels * 3 * 192
    line = f"c0.0 move: img2col dst=l0a[0] f16 16x288 src=l1[0] f16 4x4x32 {attrs}"
    assert work(line) == 16 * 3 * 192 / 256
    # 4 channels: 24 bytes of taps touch 1 or 2 bursts of 32; the padded rows of 96 bytes are the least
    line = f"c0.0 move: img2col dst=l0a[0] f16 16x36 :96 src=l1[0] f16 4x4x4 {attrs}"
    reads = sum(-(-(x * 8 + 24 - 8) // 32) * 32 - (x * 8 - 8) // 32 * 32 for x in range(4)) * 4 * 3
    assert work(line) == max(reads, 16 * 96) / 256


def test_matrix_units_and_sparsity():
    line = "dst=l0c[0] f32 17x33 lhs=l0a[0] f16 17x64 rhs=l0b[0] f16"
    assert work(f"c0.0 matrix: matmul {line} 64x33") == 2 * 3 * 8
    sparse = f"c0.0 matrix: matmul_sparse {line} 32x33 index=l0b[16384] u8 32x9 :64"
    assert work(sparse.replace(":64", ""), "npu-v2") == 2 * 3 * 2


@pytest.mark.parametrize(
    ("line", "cycles"),
    [
        ("relu dst=l1[0] f16 4x100 :256 src=l1[4096] f16 4x100 :256", 4 * (1 + 2)),
        ("cast dst=l1[0] f32 4x100 :512 src=l1[4096] f16 4x100 :256", 4 * (1 + 4)),
        ("add dst=l1[0] f16 400 src=l1[4096] f16 400 src2=l1[8192] f16 4x100 :256", 4 * (1 + 2)),
        ("exp dst=l1[0] f16 400 src=l1[4096] f16 400", 1 + 7 * 4),
        ("div dst=l1[0] f16 400 src=l1[4096] f16 400 src2=l1[8192] f16 400", 1 + 7 * 4),
        ("reduce_sum dst=l1[0] f32 4x1 :32 src=l1[4096] f16 4x100 :256 reduce=\"row\"", 4 * (1 + 2 + 6)),
        ("reduce_sum dst=l1[0] f32 1x100 src=l1[4096] f16 4x100 :256 reduce=\"column\"", 4 * (1 + 2)),
        ("cumsum dst=l1[0] f16 4x100 :256 src=l1[4096] f16 4x100 :256 axis=1", 4 * (1 + 2 * 6)),
        ("slide dst=l1[0] f16 400 src=l1[4098] f16 400", 1 + 7 * 2),
        ("transpose dst=l1[0] f16 8x16 :32 src=l1[4096] f16 16x8 :32", 16 * (1 + 8)),
        ("pool_max dst=l1[0] f16 4x4x32 src=l1[4096] f16 6x6x32 kernel=[3,3] stride=[1,1] dilation=[1,1] "
         "pad=[0,0,0,0] taps=9", 9 * (1 + 8)),
        ("pool_max dst=l1[0] f16 4x4x32 :512,64 src=l1[4096] f16 6x6x32 kernel=[3,3] stride=[1,1] dilation=[1,1] "
         "pad=[0,0,0,0] taps=9", 9 * 4 * (1 + 2)),
        ("depthwise dst=l1[0] f32 4x4x32 src=l1[4096] f16 6x6x32 taps=l1[16384] f32 3x3x32 kernel=[3,3] stride=[1,1] "
         "dilation=[1,1] pad=[0,0,0,0] taps=9 macs=true", 9 * (1 + 16)),
        ("topk_merge dst=l1[0] f16 128 src=l1[1024] f16 128 src2=l1[2048] f16 64 descending=true", 1 + 3 * 2 * 6),
    ],
)  # fmt: skip
def test_vector_rows_and_classes(line, cycles):
    assert work(f"c0.0 vector: {line}") == cycles


def test_int4_takes_half_a_byte():
    assert work("c0.0 load: load dst=l1[0] i4 4x256 src=ddr[0] i4 4x256", "npu-v2") == 512


def test_scalar_operations_and_control():
    assert work("c0.0 scalar: s_add dst=l1[0] i32 8 src=l1[64] i32 8 src2=l1[128] i32 8 ops=8 control=4") == 8 * 4 + 4


def test_a_broadcast_row_holds_one_element():
    """The last of 32 elements, 32 bytes apart, is the last unit before the end of the first bank."""
    line = "c0.0 vector: add dst=l1[262144] f32 32x64 src=l1[262144] f32 32x64 src2=l1[130048] f32 32x64 :32,0"
    top = listing(parse_program(f".target npu-v1\n{line}\n"))
    assert Costs(top["target"]).of(top["instructions"][0]).banks == 0b101
