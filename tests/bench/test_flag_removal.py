import numpy as np
import pytest

from ci.bench.flag_removal import caught_by, described, edges, same_bits, without
from dsa_compiler.program.assembler import parse_program
from dsa_compiler.simulator.machine import simulate

TEXT = """
.target npu-v1
.input x ddr[0] f32 8x8
.output y ddr[4096] f32 8x8
c0.0 load: load dst=l1[0] f32 8x8 src=ddr[0] f32 8x8 set core:load>vector:0
c0.0 vector: abs dst=l1[256] f32 8x8 src=l1[0] f32 8x8 wait core:load>vector:0 set core:vector>store:0
c0.0 store: store dst=ddr[4096] f32 8x8 src=l1[256] f32 8x8 wait core:vector>store:0
"""
INPUTS = {"x": np.arange(64, dtype=np.float32).reshape(8, 8) - 30}


@pytest.fixture
def program():
    return parse_program(TEXT)


def test_edges_pair_sets_and_waits_in_order(program):
    assert [(e.producer, e.consumer) for e in edges(program)] == [(0, 1), (1, 2)]


def test_the_nth_set_meets_the_nth_wait():
    load = "c0.0 load: load dst=l1[{0}] f32 8x8 src=ddr[{0}] f32 8x8 set core:load>vector:0"
    use = "c0.0 vector: abs dst=l1[{0}] f32 8x8 src=l1[{0}] f32 8x8 wait core:load>vector:0"
    lines = [load.format(0), load.format(256), use.format(0), use.format(256)]
    program = parse_program(".target npu-v1\n" + "\n".join(lines))
    assert [(e.producer, e.consumer) for e in edges(program)] == [(0, 2), (1, 3)]


def test_removal_takes_one_set_and_one_wait(program):
    for edge in edges(program):
        less = without(program, edge)
        assert [(e.producer, e.consumer) for e in edges(less)] == [
            (e.producer, e.consumer) for e in edges(program) if e != edge
        ]
        assert program.entries["sets"].sum() == 2  # the program itself is as it was


def test_a_removed_flag_is_caught(program):
    expected = simulate(program, INPUTS).outputs
    assert [caught_by(without(program, edge), INPUTS, expected, 2) for edge in edges(program)] == ["race", "race"]


def test_a_whole_program_is_not_caught(program):
    assert caught_by(program, INPUTS, simulate(program, INPUTS).outputs, 2) == ""


def test_other_bits_are_caught(program):
    assert caught_by(program, INPUTS, {"y": np.zeros((8, 8), np.float32)}, 1) == "bits"


def test_a_wait_alone_is_a_deadlock(program):
    lines = TEXT.replace(" set core:vector>store:0", "")
    assert caught_by(parse_program(lines), INPUTS, {}, 1) == "deadlock"


def test_bits_tell_zeros_apart():
    assert same_bits({"y": np.float32([0.0, np.nan])}, {"y": np.float32([0.0, np.nan])})
    assert not same_bits({"y": np.float32([0.0])}, {"y": np.float32([-0.0])})


def test_an_edge_in_words(program):
    assert described(program, edges(program)[0]) == (
        "entry 0 (load, c0.0 load, ) sets what entry 1 (abs, c0.0 vector, ) waits for"
    )
