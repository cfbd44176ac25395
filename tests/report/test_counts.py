"""Work counted from operands, against figures worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from dsa_compiler.isa.table import OPCODES
from dsa_compiler.program.assembler import parse_program
from dsa_compiler.report.bytes_moved import entry_bytes, peak_bytes
from dsa_compiler.report.counts import FUSED, entry_macs, entry_operations, operand_rows

LINES = (
    # (assembler line, multiply-accumulates, element operations)
    ("c0.0 matrix: matmul dst=l0c[0] f32 8x16 lhs=l0a[0] f16 8x32 rhs=l0b[0] f16 32x16", 8 * 16 * 32, 0),
    ("c0.0 matrix: matmul_acc acc=l0c[0] f32 8x16 lhs=l0a[0] f16 8x32 rhs=l0b[0] f16 32x16", 8 * 16 * 32, 0),
    ("c0.0 matrix: matmul_bias dst=l0c[0] f32 8x16 lhs=l0a[0] f16 8x32 rhs=l0b[0] f16 32x16 "
     "bias=l0b[1024] f32 1x16", 8 * 16 * 32, 8 * 16),
    ("c0.0 vector: relu dst=l1[0] f16 4x64 src=l1[4096] f16 4x64", 0, 256),
    ("c0.0 vector: fma dst=l1[0] f32 4x64 src=l1[4096] f32 4x64 src2=l1[8192] f32 4x64 src3=l1[16384] f32 4x64",
     0, 512),
    ("c0.0 vector: copy dst=l1[0] f16 4x64 src=l1[4096] f16 4x64", 0, 0),
    ("c0.0 vector: fill dst=l1[0] f16 4x64 value=0.0", 0, 0),
    ('c0.0 vector: reduce_sum dst=l1[0] f32 4x1 src=l1[4096] f32 4x64 reduce="row"', 0, 256),
    ('c0.0 vector: reduce_sumsq dst=l1[0] f32 4x1 src=l1[4096] f32 4x64 reduce="row"', 0, 512),
    ("c0.0 vector: pool_max dst=l1[0] f16 2x3x16 src=l1[4096] f16 4x6x16 kernel=[2,2] stride=[2,2] dilation=[1,1] "
     "pad=[0,0,0,0] taps=4", 0, 2 * 3 * 16 * 4),
    ("c0.0 vector: depthwise dst=l1[0] f16 2x4x16 src=l1[4096] f16 4x6x16 taps=l1[8192] f16 3x3x16 kernel=[3,3] "
     "stride=[1,1] dilation=[1,1] pad=[0,0,0,0] taps=9 macs=true", 2 * 4 * 16 * 9, 0),
    ("c0.0 load: load dst=l1[0] f16 4x64 src=ddr[0] f16 4x64", 0, 0),
    ("c0.0 store: set", 0, 0),
)  # fmt: skip


@pytest.mark.parametrize(("line", "macs", "operations"), LINES, ids=[line.split()[2] for line, _, _ in LINES])
def test_work_of_an_entry(line: str, macs: int, operations: int) -> None:
    program = parse_program(f".target npu-v1\n{line}\n")
    assert entry_macs(program).tolist() == [macs]
    assert entry_operations(program).tolist() == [operations]


def test_work_of_many_entries_at_once() -> None:
    program = parse_program(".target npu-v1\n" + "\n".join(line for line, _, _ in LINES))
    assert entry_macs(program).tolist() == [macs for _, macs, _ in LINES]
    assert entry_operations(program).tolist() == [operations for _, _, operations in LINES]


def test_no_entries() -> None:
    program = parse_program(".target npu-v1\n")
    assert len(entry_macs(program)) == len(entry_operations(program)) == len(operand_rows(program, "dst")) == 0
    assert peak_bytes(program, "l1") == 0


def test_fused_operations_are_opcodes() -> None:
    assert set(FUSED) <= set(OPCODES)


def bytes_of(text: str) -> dict[tuple[str, str], list[float]]:
    from dsa_compiler.isa.cost import entry_costs

    program = parse_program(".target npu-v1\n" + text)
    return {key: values.tolist() for key, values in entry_bytes(program, entry_costs(program)).items()}


def test_bytes_by_memory_and_direction() -> None:
    moved = bytes_of(
        "c0.0 load: load dst=l1[0] u8 640 src=ddr[0] u8 640\n"
        "c0.0 store: store dst=llb[0] u8 128 src=l1[0] u8 128\n"
        "c0.0 store: store dst=ddr[1024] u8 64 src=l1[0] u8 64\n"
        "c0.0 move: move_a dst=l0a[0] f16 4x32 src=l1[0] f16 4x32\n"
    )
    assert moved["ddr", "read"] == [640, 0, 0, 0] and moved["ddr", "written"] == [0, 0, 64, 0]
    assert moved["llb", "written"] == [0, 128, 0, 0] and moved["llb", "read"] == [0, 0, 0, 0]


def test_a_multicast_is_read_once() -> None:
    lines = [f"c0.{n} load: load_multicast dst=l1[0] u8 640 src=ddr[0] u8 640 @group=1" for n in range(3)]
    assert bytes_of("\n".join(lines))["ddr", "read"] == [640, 0, 0]


def test_peak_counts_overlapping_operands_once() -> None:
    program = parse_program(
        ".target npu-v1\n"
        "c0.0 load: load dst=l1[0] u8 640 src=ddr[0] u8 640 @kernel=a\n"
        "c0.0 vector: relu dst=l1[320] u8 640 src=l1[0] u8 640 @kernel=a\n"
        "c0.1 load: load dst=l1[0] u8 64 src=ddr[0] u8 64 @kernel=a\n"
        "c0.0 load: load dst=l1[4096] u8 128 src=ddr[0] u8 128 @kernel=b\n"
        "c0.0 store: store dst=llb[0] u8 96 src=l1[4096] u8 96 @kernel=b\n"
    )
    assert peak_bytes(program, "l1") == 960
    assert peak_bytes(program, "llb") == 96


def test_tensors_in_llb_lie_beside_each_other() -> None:
    """Each kernel touches 96 bytes of the llb of cluster 0; together, with what waits, they have 160."""
    program = parse_program(
        ".target npu-v1\n"
        "c0.0 store: store dst=llb[0] u8 96 src=l1[0] u8 96 @kernel=a\n"
        "c0.1 load: load dst=l1[0] u8 96 src=llb[64] u8 96 @kernel=b\n"
        "c1.0 load: load dst=l1[0] u8 96 src=llb[512] u8 96 @kernel=b\n"
    )
    assert peak_bytes(program, "llb") == 160
    assert peak_bytes(program, "l1") == 96


def test_peak_of_strided_operands_is_what_they_span() -> None:
    program = parse_program(".target npu-v1\nc0.0 load: load dst=l1[0] u8 2x32 :128 src=ddr[0] u8 2x32 @kernel=a\n")
    assert peak_bytes(program, "l1") == 160


def test_counts_are_whole_numbers() -> None:
    program = parse_program(".target npu-v1\n" + LINES[0][0])
    assert entry_macs(program).dtype == entry_operations(program).dtype == np.int64
