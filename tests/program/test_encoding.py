import json
import time

import numpy as np
import pytest

from dsa_compiler.errors import UserError
from dsa_compiler.isa.table import OPCODES
from dsa_compiler.program.assembler import parse_program
from dsa_compiler.program.encoding import check_program_size, decode, encode, program_bytes
from dsa_compiler.program.tables import ENTRY
from dsa_compiler.target import load_target, target_from_dict
from tests.program.conftest import random_program


def rows(program):
    """Every entry with all that a stream carries, by queue."""
    result = {}
    for e in program.entries:
        operands = program.operands[e["operand"] : e["operand"] + e["operands"]]
        waits = program.flags[e["wait"] : e["wait"] + e["waits"]]
        sets = program.flags[e["set"] : e["set"] + e["sets"]]
        row = (
            int(e["opcode"]), int(e["group"]), int(e["segment"]), json.dumps(program.attrs[e["attrs"]], sort_keys=True),
            operands.tolist(), waits.tolist(), sets.tolist(),
        )  # fmt: skip
        result.setdefault((int(e["cluster"]), int(e["core"]), int(e["engine"])), []).append(
            json.dumps(row, default=np.ndarray.tolist)
        )
    return result


@pytest.mark.parametrize("seed", range(5))
def test_decoding_gives_back_what_was_encoded(seed):
    program = random_program(seed)
    streams = encode(program)
    assert rows(decode(program.target, streams)) == rows(program)
    assert {s: len(data) for s, data in streams.items()} == program_bytes(program)


def test_a_load_encodes_to_these_bytes():
    text = (
        ".target npu-v1\nc1.2 load: load dst=l1[4096] f16 8x56 :128 src=ddr[68719476800] f16 448 "
        "wait core:move>load:3 set cluster:5 @group=7\n"
    )
    streams = encode(parse_program(text))
    expected = (
        "0100" "2600" "00" "11" "02" "01"     # load, 38 bytes, engine 0, one wait and set, 2 operands, group
        "07000000"
        "a0" "12" "00100000" "08003800" "8000"            # slot 0 rank 2 near, l1 float16, address, extents, stride
        "11" "10" "400000001000" "c001"                   # slot 1 rank 1, ddr float16: too far to be near
        "0310" "0540"                                     # core move>load 3; cluster 5
    )  # fmt: skip
    assert streams == {(1, 2): bytes.fromhex(expected)}
    assert OPCODES["load"].code == 1


def test_an_empty_program_has_no_streams():
    program = parse_program(".target npu-v1\n")
    assert encode(program) == {}
    assert decode(program.target, {}).entries.dtype == ENTRY


def small():
    return encode(parse_program(".target npu-v1\nc0.0 load: load_fill dst=l1[0] f16 8 value=1.5\n"))[0, 0]


def broken(change):
    data = bytearray(small())
    change(data)
    return bytes(data)


def put(place, value):
    def change(data):
        data[place] = value

    return change


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (small()[:-1], "the stream ends within an entry"),
        (small()[:5], "the stream ends within an entry"),
        (broken(put(2, 3)), "the stream ends within an entry"),
        (broken(put(1, 0xFF)), "opcode 65287 is not known"),
        (broken(put(8, 0x80)), "an operand has rank 0"),
        (broken(put(8, 0x9F)), "an operand's slot is not one of its instruction's"),
        (broken(put(9, 0xF2)), "an operand has a dtype that is not known"),
        (broken(put(6, 15)), "an operand has rank 0|longer than it says|slot"),
        (broken(put(5, 0xFF)), "entry 0 is longer than it says"),
        (broken(put(16, 0x80)), "the attributes of a load_fill cannot be read"),
    ],
)
def test_a_damaged_stream_is_refused(data, message):
    with pytest.raises(UserError, match=message):
        decode(load_target("npu-v1"), {(0, 0): data})


def test_random_damage_never_ends_in_another_error():
    program = random_program(3, 150)
    rng = np.random.default_rng(0)
    streams = encode(program)
    for _ in range(200):
        stream = list(streams)[rng.integers(len(streams))]
        data = bytearray(streams[stream])
        data[rng.integers(len(data))] ^= 1 << rng.integers(8)
        try:
            decode(program.target, {stream: bytes(data)})
        except UserError as error:
            assert str(error)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("load dst=l1[0] f16 65536 src=ddr[0] f16 65536", "entry 0: extent 65536 is more than the encoding's 65535"),
        ("load dst=l1[0] f16 2x8 :4294967296 src=ddr[0] f16 16", "entry 0: stride 4294967296 is more than"),
        ("load dst=l1[0] f16 8 taps=l1[0] f16 8", "entry 0: load has no operand taps"),
        ("load dst=l1[0] f16 8 src=ddr[0] f16 8 wait cluster:300", "entry 0: flag number 300 is more than"),
        ("load dst=l1[0] f16 8 src=ddr[0] f16 8 wheel=1", "load has no attribute wheel"),
        ("load_fill dst=l1[0] f16 8 value=[1]", r"load_fill: attribute value is \[1\], not float"),
        ("load_pad dst=l1[0] f16 8 src=ddr[0] f16 8 value=0.0 pad=3", "load_pad: attribute pad is 3, not pads"),
    ],
)
def test_what_an_encoding_cannot_hold_is_refused(words, message):
    with pytest.raises(UserError, match=message):
        encode(parse_program(f".target npu-v1\nc0.0 load: {words}\n"))


def test_a_program_larger_than_the_memory_is_refused():
    source = dict(load_target("npu-v1").source)
    source["program"] = {"size": 40}
    line = "c0.1 load: load_fill dst=l1[0] f16 8 value=1.5\n"
    check_program_size(parse_program(line, target=target_from_dict(source)))
    with pytest.raises(UserError, match="core 1 of cluster 0 needs 54 bytes of program, and npu-v1 has 40"):
        check_program_size(parse_program(line * 2, target=target_from_dict(source)))


def test_a_large_program_is_encoded_in_bulk():
    program = random_program(6, 30000)
    begin = time.process_time()
    streams = encode(program)
    assert time.process_time() - begin < 30
    assert sum(len(data) for data in streams.values()) == sum(program_bytes(program).values())


@pytest.mark.parametrize(
    ("operand", "near"),
    [
        ("ddr[4294967288] f16 4x4 :64", True), ("ddr[4294967296] f16 4x4 :64", False),
        ("ddr[0] f16 4x4 :65534", True), ("ddr[0] f16 4x4 :65536", False),
    ],
)  # fmt: skip
def test_far_addresses_and_strides_take_the_longer_form(operand, near):
    program = parse_program(f".target npu-v1\nc0.0 load: load dst=l1[0] f16 4x4 :64 src={operand}\n")
    streams = encode(program)
    assert len(streams[0, 0]) == 8 + 12 + (12 if near else 16)
    decoded = decode(program.target, streams).operands
    assert decoded["address"].tolist() == program.operands["address"].tolist()
    assert decoded["strides"].tolist() == program.operands["strides"].tolist()
