"""Times by hand, from the manual alone, on npu-v1: startup 16 of DMA, 8 of move and vector, ddr 119.4 bytes a cycle
with latency 200 and bursts of 64, llb 256 and 40 and 32, ports 64 and 128 (prefetch)."""

import pytest

from dsa_compiler.program.assembler import parse_program
from dsa_compiler.program.listing import listing
from tests.accountant.account import account
from tests.accountant.clock import AccountError


def run(text, target="npu-v1"):
    return account(listing(parse_program(f".target {target}\n{text}")), hazards=False)


def load(core, address=0, n=6400, tail="", source="ddr", at=0):
    return f"c0.{core} load: load dst=l1[{at}] u8 {n} src={source}[{address}] u8 {n} {tail}\n"


def test_a_load_alone_runs_at_its_port_and_completes_a_latency_later():
    result = run(load(0))
    assert result.end == [16 + 100]
    assert result.cycles == 16 + 100 + 200


def test_two_loads_share_ddr():
    """2 * 64 > 119.4: each gets 59.7."""
    result = run(load(0) + load(1))
    assert result.end == pytest.approx([16 + 6400 / 59.7] * 2)


def test_one_prefetch_against_eight_stores_has_a_ninth_of_the_memory():
    stores = "".join(f"c0.{k} store: store dst=ddr[{k * 8192}] u8 8192 src=l1[0] u8 8192\n" for k in range(8))
    prefetch = "c0 prefetch: prefetch dst=llb[0] u8 8192 src=ddr[1048576] u8 8192\n"
    result = run(stores + prefetch)
    assert result.end == pytest.approx([16 + 8192 * 9 / 119.4] * 9)


def test_what_a_slow_port_leaves_goes_to_the_others():
    """A transposing load moves 16 bytes a cycle; the other two share 103.4."""
    slow = "c0.0 load: load_transpose dst=l1[0] f16 64x100 :224 src=ddr[0] f16 100x64 transpose=true\n"
    result = run(slow + load(1, n=51700) + load(2, n=51700))
    assert result.end[0] == pytest.approx(16 + 12800 / 16)
    first = 51.7 * 800
    rest = 51712 - first
    assert result.end[1] == pytest.approx(16 + 800 + rest / 59.7)


def test_rates_change_when_a_flow_joins_and_when_one_ends():
    """Alone at 64 from 16; from 116 on, when the second joins, both at 59.7; the first ends, the second runs at 64."""
    text = load(0, n=12800) + "c0.1 scalar: s_branch control=99 set core:scalar>load:0\n"
    result = run(text + load(1, n=12800, tail="wait core:scalar>load:0"))
    join = 99 + 1 + 16 + 1
    left = 12800 - (join - 16) * 64
    end = join + left / 59.7
    assert result.end[0] == pytest.approx(end)
    assert result.end[2] == pytest.approx(end + (12800 - left) / 64)


def test_a_copy_between_ddr_and_llb_uses_both():
    """Four loads from llb at 64 leave it no room: 256 / 5 each."""
    loads = "".join(load(k, n=25600, source="llb") for k in range(4))
    result = run(loads + "c0 prefetch: prefetch dst=llb[1048576] u8 25600 src=ddr[0] u8 25600\n")
    assert result.end == pytest.approx([16 + 25600 / 51.2] * 5)


def test_a_multicast_uses_its_source_once():
    cast = "".join(
        f"c{k // 8}.{k % 8} load: load_multicast dst=l1[0] u8 6400 src=ddr[0] u8 6400 @group=1\n" for k in range(16)
    )
    assert run(cast).cycles == 16 + 100 + 200
    assert run(cast).bytes["ddr", "read"] == 6400


def test_a_multicast_starts_when_all_are_there_with_the_longest_startup():
    text = (
        load(0, n=640) + "c0.0 load: load_multicast dst=l1[65536] u8 6400 src=ddr[0] u8 6400 @group=1\n"
        "c0.1 load: load_multicast dst=l1[0] u8 6400 src=ddr[0] u8 6400 @group=1 "
        "set core:load>move:0,core:load>vector:0\n"
    )
    result = run(text)
    assert result.start[1:] == [26, 26]
    assert result.end[1:] == [26 + 18 + 100] * 2


def test_flags_cost_and_take_place_at_completion():
    text = load(0, n=640, tail="set core:load>vector:0")
    text += "c0.0 vector: relu dst=l1[131072] f16 320 src=l1[0] f16 320 wait core:load>vector:0\n"
    result = run(text)
    assert result.end[0] == 16 + 1 + 10
    assert result.start[1] == 16 + 1 + 10 + 200
    assert result.end[1] == result.start[1] + 8 + 1 + 1 + 5


def test_cluster_and_chip_flags_cost_more():
    text = "c0.0 vector: relu dst=l1[0] f16 64 src=l1[1024] f16 64 set cluster:0,chip:0\n"
    assert run(text).cycles == 8 + 20 + 100 + 2


def test_latencies_overlap_and_complete_out_of_order():
    """A load from llb overtakes an earlier one from ddr; the flag of the later is there first."""
    result = run(load(0, n=640) + load(0, n=640, source="llb", at=65536))
    assert result.done == [16 + 10 + 200, 26 + 16 + 10 + 40]


def test_a_set_that_stands_alone_waits_for_all_before_it_and_holds_nothing_up():
    text = load(0, n=640) + "c0.0 load: set set core:load>vector:0\n" + load(0, n=640, source="llb", at=65536)
    result = run(text)
    assert result.end[1] == 27 and result.done[1] == 226
    assert result.done[2] == 27 + 26 + 40


def test_a_barrier_stalls_until_every_queue_is_there_and_complete():
    text = load(0, n=640) + 'c0.0 load: barrier scope="cluster" queues=[] @group=1\n'
    text += 'c0.1 vector: barrier scope="cluster" queues=[] @group=1\n'
    result = run(text)
    assert result.start[1:] == [226, 226]
    assert result.end[1:] == [276, 276]
    assert result.busy["vector"] == 0


def test_two_engines_in_one_bank_go_at_half_their_rate():
    """64 rows of 128 bytes take the vector engine 64 * 2; the move's 12800 bytes take 50 at its port."""
    vector = "c0.0 vector: relu dst=l1[0] f16 64x64 src=l1[0] f16 64x64\n"
    move = "c0.0 move: move_a dst=l0a[0] u8 12800 src=l1[65536] u8 12800\n"
    result = run(vector + move)
    assert result.end[1] == 8 + 100
    assert result.end[0] == 108 + (128 - 50)
    assert result.conflict_cycles == pytest.approx(100)


def test_disjoint_banks_do_not_touch():
    vector = "c0.0 vector: relu dst=l1[0] f16 64x64 src=l1[0] f16 64x64\n"
    move = "c0.0 move: move_a dst=l0a[0] u8 12800 src=l1[131072] u8 12800\n"
    assert run(vector + move).end == [136, 58]


def test_a_bank_slows_a_port_not_a_memory_share():
    """Four loads share ddr at 29.85, less than half a port, so the bank's second engine costs them nothing."""
    loads = "".join(load(k, n=12800) for k in range(4))
    vector = "c0.0 vector: relu dst=l1[65536] f16 64x64 src=l1[65536] f16 64x64\n"
    result = run(loads + vector)
    assert result.end[:4] == pytest.approx([16 + 12800 / 29.85] * 4)
    assert result.end[4] == 8 + 256


def test_a_host_step_waits_for_every_entry_and_keeps_the_flags():
    step = (
        '.host {"segment":1,"op":"Sort","node":"s","operations":1600,"reason":"","model":"",'
        '"inputs":["a ddr[0] u8 320"],"outputs":["b ddr[512] u8 160"]}\n'
    )
    text = step + load(0, n=640, tail="set core:load>vector:0")
    text += "c0.0 vector: relu dst=l1[131072] f16 64 src=l1[0] f16 64 wait core:load>vector:0 @segment=1\n"
    result = run(text)
    assert result.start[1] == 227 + 10000 + 30 + 100
    assert result.host_cycles == 10130


def test_matrix_scalar_and_halt():
    text = "c0.0 matrix: matmul dst=l0c[0] f32 17x16 lhs=l0a[0] f16 17x9 rhs=l0b[0] f16 9x16\n"
    text += "c0.0 scalar: s_branch control=3\nc0.0 scalar: halt\nc0.1 vector: halt\n"
    result = run(text)
    assert result.end == [16 + 2 * 2, 3, 4, 0]


def test_a_wait_that_nobody_ends_is_a_deadlock():
    with pytest.raises(AccountError, match=r"deadlock: c0\.0 load at entry 0, waiting for core:move>load:0"):
        run(load(0, tail="wait core:move>load:0"))


def test_a_flag_beyond_fifteen():
    sets = "".join("c0.0 vector: set set core:vector>move:0\n" for _ in range(16))
    with pytest.raises(AccountError, match="entry 15 sets core:vector>move:0, which is at 15"):
        run(sets)


def test_a_flag_goes_to_the_queue_that_came_first():
    text = "c0.1 vector: s\n".replace("s\n", "wait wait cluster:0\n") + "c0.0 scalar: s_branch control=5\n"
    text += "c0.0 scalar: wait wait cluster:0\nc0.2 scalar: s_branch control=50 set cluster:0\n"
    text += "c0.2 scalar: s_branch control=50 set cluster:0\n"
    result = run(text)
    assert (result.start[0], result.start[2]) == (70, 140)
