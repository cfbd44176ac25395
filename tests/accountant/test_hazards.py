"""Races and unwritten reads in small programs of which it is plain whether they have one."""

import time

import numpy as np
import pytest

from dsa_compiler.program.assembler import parse_program
from dsa_compiler.program.listing import listing
from tests.accountant.account import account

INPUT = ".input x ddr[0] u8 65536\n"


def hazards(text, target="npu-v1"):
    return account(listing(parse_program(f".target {target}\n{INPUT}{text}"))).hazards


def kinds(text, target="npu-v1"):
    return [(h.kind, h.earlier, h.later) for h in hazards(text, target)]


LOAD = "c0.0 load: load dst=l1[{at}] f16 64 src={source}[0] f16 64 {tail}\n"
RELU = "c0.0 vector: relu dst=l1[{to}] f16 64 src=l1[{at}] f16 64 {tail}\n"


def load(at=0, tail="", source="ddr"):
    return LOAD.format(at=at, tail=tail, source=source)


def relu(at=0, to=4096, tail=""):
    return RELU.format(at=at, to=to, tail=tail)


def test_a_flag_orders_a_read_after_its_write():
    assert kinds(load(tail="set core:load>vector:0") + relu(tail="wait core:load>vector:0")) == []


def test_without_it_there_is_a_race():
    found = hazards(
        load() + "c0.0 scalar: s_branch control=900 set core:scalar>vector:0\n" + relu(tail="wait core:scalar>vector:0")
    )
    assert [(h.kind, h.earlier, h.later) for h in found] == [("read after write", 0, 2)]
    assert str(found[0]) == "race: read after write of entry 2 against entry 0 in l1 0 0"


def test_reading_what_nothing_wrote():
    found = hazards(relu())
    assert [(h.kind, h.later) for h in found] == [("unwritten", 0)]
    assert str(found[0]) == "unwritten read: entry 0 in l1 0 0"
    assert kinds("c0.0 load: load dst=l1[0] f16 64 src=ddr[65504] f16 64\n") == [("unwritten", -1, 0)]


def test_an_output_that_nothing_writes():
    assert kinds(".output y ddr[131072] u8 4\n" + load()) == [("unwritten", -1, -2)]


def test_constants_are_there_before_the_program():
    constant = ".const ddr[131072] AAAAAAAA\n"
    assert kinds(constant + "c0.0 load: load dst=l1[0] u8 6 src=ddr[131072] u8 6\n") == []
    assert kinds(constant + "c0.0 load: load dst=l1[0] u8 7 src=ddr[131072] u8 7\n") == [("unwritten", -1, 0)]


def test_writing_over_what_is_still_read():
    first = load(tail="set core:load>vector:0") + relu(tail="wait core:load>vector:0 set core:vector>load:0")
    assert kinds(first + load(tail="wait core:vector>load:0")) == []
    late = "c0.0 scalar: s_branch control=900 set core:scalar>load:0\n"
    assert kinds(first + late + load(tail="wait core:scalar>load:0")) == [("write after read", 1, 3)]


def test_bytes_between_strided_rows_are_not_touched():
    """Rows of 64 bytes, 128 apart, in both halves of the same range."""
    one = "c0.0 load: load dst=l1[0] u8 8x64 :128 src=ddr[0] u8 8x64 {}\n"
    two = "c0.0 vector: fill dst=l1[{}] u8 8x64 :128 value=0 {}\n"
    assert kinds(one.format("") + two.format(64, "")) == []
    assert kinds(one.format("") + two.format(32, ""))[0][0] == "write after write"


def test_a_flag_proves_no_slower_transfer_before_it():
    text = load(source="ddr") + load(at=128, source="llb", tail="set core:load>vector:0")
    fill = "c0 prefetch: prefetch_fill dst=llb[0] f16 64 value=0 set cluster:0\n"
    late = "c0.0 scalar: s_branch control=9999 set core:scalar>load:0 wait cluster:0\n"
    waits = text.replace("src=ddr", "src=ddr", 1).replace("f16 64 \n", "f16 64 wait core:scalar>load:0\n", 1)
    assert kinds(fill + late + waits + relu(at=128, tail="wait core:load>vector:0")) == []
    assert kinds(fill + late + waits + relu(at=0, tail="wait core:load>vector:0")) == [("read after write", 2, 4)]


def test_a_flag_proves_faster_and_equal_transfers_before_it():
    text = load(at=0) + load(at=128) + load(at=256, tail="set core:load>vector:0")
    assert kinds(text + relu(at=0, tail="wait core:load>vector:0") + relu(at=128) + relu(at=256)) == []


def test_two_writes_of_one_queue_with_other_latencies():
    fill = "c0 prefetch: prefetch_fill dst=llb[0] f16 64 value=0 set cluster:0\n"
    assert kinds(fill + load(tail="wait cluster:0") + load(source="llb")) == [("write after write", 1, 2)]
    assert kinds(fill + load(tail="wait cluster:0", source="llb") + load()) == []


def test_a_queue_that_reads_back_its_own_slow_write():
    text = "c0 prefetch: prefetch dst=llb[0] f16 64 src=ddr[0] f16 64 {}\n"
    back = "c0 prefetch: prefetch dst=ddr[131072] f16 64 src=llb[0] f16 64 {}\n"
    assert kinds(text.format("") + back.format("")) == [("read after write", 0, 1)]
    assert kinds(text.format("set cluster:0") + back.format("wait cluster:0")) == []


def test_counting_a_flag_of_mixed_latencies_proves_little():
    """Two sets of one flag, the later from llb: the first take may be the second set's."""
    fill = "c0 prefetch: prefetch_fill dst=llb[0] f16 64 value=0 set cluster:0\n"
    loads = load(at=0, tail="wait cluster:0 set core:load>vector:0") + load(
        at=128, source="llb", tail="set core:load>vector:0"
    )
    first = relu(at=0, tail="wait core:load>vector:0")
    assert kinds(fill + loads + first + relu(at=128, tail="wait core:load>vector:0")) == [("read after write", 1, 3)]
    both = "c0.0 vector: wait wait core:load>vector:0,core:load>vector:0\n"
    assert kinds(fill + loads + both + relu(at=0) + relu(at=128)) == []


def test_several_setters_of_one_flag_are_proven_by_their_count():
    def store(k, tail):
        return f"c0.{k} store: store dst=llb[{k * 128}] u8 128 src=l1[0] u8 128 {tail}\n"

    text = "".join(
        f"c0.{k} load: load dst=l1[0] u8 128 src=ddr[0] u8 128 set core:load>store:0\n"
        + store(k, "wait core:load>store:0 set cluster:5")
        for k in range(3)
    )
    read = "c0.4 load: load dst=l1[0] u8 384 src=llb[0] u8 384 wait {}\n"
    assert kinds(text + read.format("cluster:5,cluster:5,cluster:5")) == []
    assert len(kinds(text + read.format("cluster:5,cluster:5"))) == 3


def test_a_credit_loop_over_a_flag_that_several_set():
    """Each round two cores write llb and one reads; the reader gives them leave for the next round."""
    text = ""
    for turn in range(4):
        for k in (0, 1):
            leave = f"cluster:{k}" if turn else "core:load>store:0"
            text += f"c0.{k} store: store dst=llb[{k * 64}] u8 64 src=l1[0] u8 64 wait {leave} set cluster:5\n"
        text += "c0.2 load: load dst=l1[0] u8 128 src=llb[0] u8 128 wait cluster:5,cluster:5 set cluster:0,cluster:1\n"
    first = "".join(f"c0.{k} load: load dst=l1[0] u8 64 src=ddr[0] u8 64 set core:load>store:0\n" for k in (0, 1))
    assert kinds(first + text) == []
    without = text.replace("set cluster:0,cluster:1", "set cluster:0").replace("wait cluster:1", "")
    assert kinds(first + without) != []


def test_a_flag_that_two_take_proves_one_each():
    """Either taker may have the first set, so neither can be sure of more than one of two."""
    sets = "".join(f"c0.{k} load: load dst=l1[0] u8 64 src=ddr[0] u8 64 set core:load>store:0\n" for k in (0, 1))
    stores = "".join(
        f"c0.{k} store: store dst=llb[{k * 64}] u8 64 src=l1[0] u8 64 wait core:load>store:0 set cluster:5\n"
        for k in (0, 1)
    )
    reads = "".join(f"c0.{k} load: load dst=l1[0] u8 64 src=llb[{(k - 2) * 64}] u8 64 wait cluster:5\n" for k in (2, 3))
    assert len(kinds(sets + stores + reads)) == 2


def test_a_multicast_knows_what_every_receiver_knows():
    wait = "c0.1 store: store_fill dst=llb[0] u8 64 value=0 set cluster:0\n"
    cast = (
        "c0.0 load: load_multicast dst=l1[0] u8 64 src=llb[0] u8 64 @group=1 wait cluster:0\n"
        "c0.2 load: load_multicast dst=l1[0] u8 64 src=llb[0] u8 64 @group=1\n"
    )
    assert kinds(wait + cast) == []
    assert len(kinds(wait.replace("set cluster:0", "") + cast.replace("wait cluster:0", ""))) == 2


def test_a_barrier_orders_everything_before_it():
    text = load() + 'c0.0 load: barrier queues=["load"] scope="cluster" @group=1\n'
    text += 'c0.0 vector: barrier queues=["vector"] scope="cluster" @group=1\n'
    assert kinds(text + relu()) == []


def test_a_set_that_stands_alone_proves_all_before_it():
    fill = "c0 prefetch: prefetch_fill dst=llb[0] f16 64 value=0 set cluster:0\n"
    text = fill + load(tail="wait cluster:0") + load(at=128, source="llb") + "c0.0 load: set set core:load>vector:0\n"
    assert kinds(text + relu(at=0, tail="wait core:load>vector:0") + relu(at=128)) == []


def test_a_host_step_orders_and_writes():
    step = (
        '.host {"segment":1,"op":"Sort","node":"s","operations":1,"reason":"","model":"",'
        '"inputs":["a ddr[131072] f16 64"],"outputs":["b ddr[262144] f16 64"]}\n'
    )
    text = step + load(tail="set core:load>store:0")
    text += "c0.0 store: store dst=ddr[131072] f16 64 src=l1[0] f16 64 wait core:load>store:0\n"
    text += "c0.0 load: load dst=l1[0] f16 64 src=ddr[262144] f16 64 @segment=1\n"
    assert kinds(text) == []
    assert kinds(
        text.replace("ddr[131072] f16 64 src", "ddr[131072] f16 32 src").replace(
            "l1[0] f16 64 wait", "l1[0] f16 32 wait"
        )
    ) == [("unwritten", -1, -2)]


def test_in_place_and_accumulation_are_no_races():
    text = "c0.0 vector: fill dst=l0c[0] f32 16x16 value=0 set core:vector>matrix:0\n"
    text += "c0.0 vector: fill dst=l1[0] f16 16x16 value=0 set core:vector>move:0\n"
    text += "c0.0 move: move_a dst=l0a[0] f16 16x16 src=l1[0] f16 16x16 wait core:vector>move:0\n"
    text += "c0.0 move: move_b dst=l0b[0] f16 16x16 src=l1[0] f16 16x16 set core:move>matrix:0\n"
    product = "c0.0 matrix: matmul_acc acc=l0c[0] f32 16x16 lhs=l0a[0] f16 16x16 rhs=l0b[0] f16 16x16 "
    text += product + "wait core:vector>matrix:0,core:move>matrix:0\n" + product + "\n"
    assert kinds(text) == []


def big(count):
    """A double-buffered pipeline of `count` rounds on eight cores: 3 entries a round and core."""
    lines = []
    for turn in range(count):
        for core in range(8):
            half, leave = turn % 2 * 4096, f" wait core:vector>load:{turn % 2}" if turn > 1 else ""
            free = f",core:store>vector:{turn % 2}" if turn > 1 else ""
            lines.append(
                f"c0.{core} load: load dst=l1[{half}] f16 32x64 src=ddr[0] f16 32x64 :128{leave} "
                f"set core:load>vector:{turn % 2}\n"
                f"c0.{core} vector: relu dst=l1[{half + 65536}] f16 32x64 src=l1[{half}] f16 32x64 "
                f"wait core:load>vector:{turn % 2}{free} set core:vector>load:{turn % 2},core:vector>store:{turn % 2}\n"
                f"c0.{core} store: store dst=ddr[{1048576 + (turn * 8 + core) * 4096}] f16 32x64 "
                f"src=l1[{half + 65536}] f16 32x64 wait core:vector>store:{turn % 2} set core:store>vector:{turn % 2}\n"
            )
    return "".join(lines)


def test_a_long_pipeline_is_clean_and_one_lost_flag_is_found():
    text = big(40)
    assert kinds(text) == []
    lines = text.splitlines(keepends=True)
    rng = np.random.default_rng(5)
    found = 0
    for _ in range(20):
        broken = list(lines)
        at = int(rng.integers(len(lines)))
        broken[at] = broken[at].replace(" wait core:load>vector", " wait core:move>vector", 1)
        if broken[at] == lines[at]:
            continue
        top = listing(parse_program(f".target npu-v1\n{INPUT}{''.join(broken)}"))
        for entry in top["instructions"]:
            entry["waits"] = [f for f in entry.get("waits", ()) if "move" not in f]
        found += bool(account(top).races)
        assert account(top).races
    assert found


@pytest.mark.parametrize("count", [400])
def test_ten_thousand_entries_take_seconds(count):
    top = listing(parse_program(f".target npu-v1\n{INPUT}{big(count)}"))
    account(top)
    begin = time.process_time()
    assert account(top).hazards == []
    assert time.process_time() - begin < 30
