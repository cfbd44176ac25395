import numpy as np
import pytest

from ci.handwritten.__main__ import measure
from ci.handwritten.program import Handwritten, own_bound
from ci.handwritten.programs import PROGRAMS
from dsa_compiler.program.assembler import parse_program, print_program
from dsa_compiler.program.listing import listing
from dsa_compiler.simulator.timing import time_program
from tests.accountant.account import account

SLOW = ("matrix product", "3x3 convolution", "1x1 convolution", "depthwise convolution")
"""Programs whose values take long; `python -m ci.handwritten` computes them."""


def test_there_are_ten():
    assert len({p.name for p in PROGRAMS}) == 10


@pytest.mark.parametrize("written", PROGRAMS, ids=lambda p: p.name)
def test_it_is_right_ordered_and_near_its_bound(written):
    """Values twice, the second time in race mode."""
    outcome = measure(written, values=written.name not in SLOW, seeds=1)
    assert outcome.fault == ""
    assert outcome.share >= written.share


@pytest.mark.parametrize("written", PROGRAMS, ids=lambda p: p.name)
def test_the_accountant_gives_the_same_cycles_and_finds_no_race(written):
    program = parse_program(written.text(), written.name)
    result = account(listing(program))
    assert result.hazards == []
    assert result.cycles == pytest.approx(time_program(program).cycles, rel=1e-6)


def test_the_text_prints_and_reads_back():
    text = next(p for p in PROGRAMS if p.name == "reduction").text()
    printed = print_program(parse_program(text))
    assert print_program(parse_program(printed)) == printed


def tiny(share=0.0, factor=1.0, wait="wait core:load>store:0"):
    lines = (
        ".target npu-v1\n.input x ddr[0] f16 640\n.output y ddr[4096] f16 640\n"
        "c0.0 load: load dst=l1[0] f16 640 src=ddr[0] f16 640 set core:load>store:0\n"
        f"c0.0 store: store dst=ddr[4096] f16 640 src=l1[0] f16 640 {wait}\n"
    )
    return Handwritten(
        "tiny", share, lambda: lines, lambda rng: {"x": rng.standard_normal(640).astype(np.float16)},
        lambda arrays: {"y": arrays["x"].astype(np.float64) * factor},
    )  # fmt: skip


def test_each_fault_is_told():
    assert measure(tiny(), True, 1).fault == ""
    assert "of its bound, and 0.9 is wanted" in measure(tiny(share=0.9), False, 0).fault
    assert "is wrong by" in measure(tiny(factor=2.0), True, 0).fault
    assert measure(tiny(wait=""), True, 0).fault != ""


def test_the_bound_is_that_of_the_busiest():
    """1,280 bytes at 64 a cycle after 16 and a flag, against 2,560 bytes over ddr."""
    program = parse_program(tiny().text())
    bound = own_bound(program, time_program(program))
    assert (bound.name, bound.cycles) == ("load", 16 + 1 + 20)
