import numpy as np
import pytest

from dsa_compiler.errors import UserError
from dsa_compiler.program.assembler import parse_program, print_program
from dsa_compiler.target import load_target
from tests.program.conftest import random_program


@pytest.mark.parametrize("seed", range(5))
def test_text_reads_back_as_the_same_program(seed):
    program = random_program(seed)
    again = parse_program(print_program(program))
    for field in ("opcode", "cluster", "core", "engine", "group", "segment", "operands", "waits", "sets", "instance"):
        assert (again.entries[field] == program.entries[field]).all(), field
    assert (again.operands == program.operands).all()
    assert (again.flags == program.flags).all()
    for entry, other in zip(program.entries, again.entries, strict=True):
        assert dict(program.attrs[entry["attrs"]]) == dict(again.attrs[other["attrs"]])
        for names, field in (("nodes", "node"), ("kernels", "kernel")):
            one, two = entry[field], other[field]
            assert (one < 0 and two < 0) or getattr(program, names)[one] == getattr(again, names)[two]
    assert again.inputs == program.inputs and again.outputs == program.outputs
    assert again.host_steps == program.host_steps
    assert (again.ddr_bytes, again.macs, again.info) == (program.ddr_bytes, program.macs, program.info)
    assert again.target == program.target
    for one, two in zip(program.constants, again.constants, strict=True):
        assert one.address == two.address and (one.data == two.data).all()
    assert print_program(again) == print_program(program)


LINE = (
    "c0.3 load: load dst=l1[4096] f16 8x56 :128 src=ddr[0x40] f16 8x56 wait core:move>load:3,cluster:2 "
    "set core:load>move:3 @group=4 @node=Conv_12  # a comment"
)


def test_a_line_says_what_the_manual_says():
    program = parse_program(f"# text\n.target npu-v1\n\n{LINE}\n")
    entry = program.entries[0]
    assert (entry["cluster"], entry["core"], entry["engine"], entry["group"]) == (0, 3, 0, 4)
    dst, src = program.operands
    assert (dst["address"], dst["extents"].tolist(), dst["strides"].tolist()) == (4096, [8, 56, 1], [128, 2, 0])
    assert (src["address"], src["strides"].tolist()) == (64, [112, 2, 0])
    assert program.flags["number"].tolist() == [3, 2, 3]
    assert program.nodes == ("Conv_12",)


def test_printed_line_is_readable():
    text = print_program(parse_program(f".target npu-v1\n{LINE}\n")).splitlines()[-1]
    assert text == (
        "c0.3 load: load dst=l1[4096] f16 8x56 :128 src=ddr[64] f16 8x56 wait core:move>load:3,cluster:2 "
        "set core:load>move:3 @group=4 @node=Conv_12"
    )


def test_int4_rows_are_half_a_byte_an_element():
    operand = parse_program(".target npu-v2\nc0.0 move: move_b dst=l0b[0] i4 4x64 src=l1[0] i4 4x64\n").operands[0]
    assert operand["strides"].tolist()[:2] == [32, 1]


def test_the_prefetch_queue_has_no_core():
    program = parse_program(".target npu-v1\nc2 prefetch: prefetch dst=llb[0] u8 64 src=ddr[0] u8 64\n")
    assert (program.entries["cluster"][0], program.entries["core"][0]) == (2, -1)


def test_a_target_given_overrides_the_text():
    edge = load_target("npu-edge")
    assert parse_program(".target npu-v1\n", target=edge).target == edge


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (".wibble 3", "no directive is called .wibble"),
        (".macs x", "'x' is no whole number"),
        (".ddr -1", "'-1' is negative"),
        (".info 3", "'3' is no JSON object"),
        (".info {", "'{' is no JSON value"),
        (".target npu-v9", "no part is called 'npu-v9'"),
        (".input x ddr[0] f16", "a binding is a name, a place in ddr, a dtype and a shape"),
        (".input x l1[0] f16 8", "'l1[0]' is not in ddr"),
        (".input x ddr0 f16 8", "'ddr0' is no place"),
        ('.input "x ddr[0] f16 8', "a binding is a name, a place in ddr, a dtype and a shape"),
        (".const ddr[0] !!", "'!!' is no base64"),
        ('.host {"segment": 0}', "the host step is not well formed: 'op'"),
        ("c0.0 load", "an entry is a queue, an engine with a colon, and an instruction"),
        ("x load: load", "'x' is no queue"),
        ("c0.0 wheel: load", "no engine is called 'wheel'"),
        ("c0 load: load", "'c0' has no load engine"),
        ("c0.0 prefetch: prefetch", "'c0.0' has no prefetch engine"),
        ("c0.0 load: softmax", "no instruction is called softmax"),
        ("c0.0 load: store", "store belongs to the store engine, not to load"),
        ("c0.0 load: load dst=l1[0]", "operand 'dst=l1[0]' has no dtype and extents"),
        ("c0.0 load: load dst=l3[0] f16 8", "'l3[0]' is no place"),
        ("c0.0 load: load dst=l1[0] f17 8", "'f17' is no dtype"),
        ("c0.0 load: load dst=l1[0] f16 8xq", "'q' is no whole number"),
        ("c0.0 load: load dst=l1[0] f16 0x8", "operand 'dst=l1[0]' has an extent of 0"),
        ("c0.0 load: load dst=l1[0] f16 1x1x1x1", "operand 'dst=l1[0]' has 4 extents"),
        ("c0.0 load: load dst=l1[0] f16 8x8 :1,2,3", "operand 'dst=l1[0]' has 2 extents and strides ':1,2,3'"),
        ("c0.0 load: load wait", "wait names no flag"),
        ("c0.0 load: load wait cluster", "'cluster' is no flag"),
        ("c0.0 load: load wait core:load>wheel:1", "flag 'core:load>wheel:1': a core has no engine 'wheel'"),
        ("c0.0 load: load value=x", "'x' is no JSON value"),
        ("c0.0 load: load f16", "'f16' is neither an operand, an attribute, wait nor set"),
        ("c0.0 load: load @group=a", "'a' is no whole number"),
    ],
)
def test_an_error_names_its_line(line, message):
    with pytest.raises(UserError) as caught:
        parse_program(f".target npu-v1\n# two\n{line}\n", "my.s")
    assert message in str(caught.value)
    if "no part" not in message:
        assert str(caught.value).startswith("[my.s:3] ")


def test_a_target_comes_first():
    with pytest.raises(UserError, match=r"\[assembler:1\] no \.target yet; begin with a \.target line"):
        parse_program("c0.0 load: load")


def test_a_name_that_is_no_text():
    with pytest.raises(UserError, match="is no JSON value"):
        parse_program('.target npu-v1\nc0.0 scalar: halt @node="a"b\n')


def test_constants_come_back_as_bytes():
    program = parse_program(".target npu-v1\n.const ddr[64] AAECAw==\n")
    assert program.constants[0].data.tolist() == [0, 1, 2, 3]
    assert program.constants[0].data.dtype == np.uint8
