"""Places in ddr: tensors that live together never share bytes; equal constants share all of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsa_compiler.assemble.memory import Lifetime, check_ddr, place_tensors
from dsa_compiler.errors import UserError
from tests.lower.drawing import drawn
from tests.lower.parts import changed, part

EDGE = part("npu-edge")
UNIT = EDGE.memory["ddr"].alignment


def test_places_are_used_again() -> None:
    lives = [Lifetime("a", 1000, 0, 1), Lifetime("b", 1000, 1, 2), Lifetime("c", 1000, 2, 3)]
    plan = place_tensors(lives, EDGE)
    assert plan.address == {"a": 0, "b": 1024, "c": 0} and plan.size == 2048


def test_the_lowest_gap_is_taken() -> None:
    lives = [
        Lifetime("big", 4096, 0, 9),
        Lifetime("early", 2048, 0, 3),
        Lifetime("late", 1024, 5, 9),
        Lifetime("later", 512, 5, 9),
    ]
    assert place_tensors(lives, EDGE).address == {"big": 0, "early": 4096, "late": 4096, "later": 5120}


def test_nothing() -> None:
    assert place_tensors([], EDGE).size == 0


@drawn(150)
@given(st.lists(st.tuples(st.integers(1, 5000), st.integers(0, 12), st.integers(0, 6)), max_size=14))
def test_no_two_that_live_together_overlap(drawn_lives: list[tuple[int, int, int]]) -> None:
    lives = [Lifetime(f"t{i}", size, first, first + length) for i, (size, first, length) in enumerate(drawn_lives)]
    plan = place_tensors(lives, EDGE)
    assert set(plan.address) == {life.name for life in lives}
    for i, a in enumerate(lives):
        start = plan.address[a.name]
        assert start % UNIT == 0 and start + a.bytes <= plan.size
        for b in lives[i + 1 :]:
            other = plan.address[b.name]
            together = a.first <= b.last and b.first <= a.last
            assert not together or start + a.bytes <= other or other + b.bytes <= start


@drawn(50)
@given(st.lists(st.tuples(st.integers(1, 40), st.integers(0, 12), st.integers(0, 6)), max_size=10))
def test_no_more_than_everything_at_once(drawn_lives: list[tuple[int, int, int]]) -> None:
    lives = [
        Lifetime(f"t{i}", size * UNIT, first, first + length) for i, (size, first, length) in enumerate(drawn_lives)
    ]
    plan = place_tensors(lives, EDGE)
    by_step = [sum(t.bytes for t in lives if t.first <= s <= t.last) for s in range(20)]
    assert max(by_step) <= plan.size <= sum(t.bytes for t in lives)


def test_constants_follow_and_are_shared() -> None:
    plan = place_tensors([Lifetime("a", 100, 0, 1)], EDGE)
    ones, zeros = np.ones((3, 5), np.float16), np.zeros(15, np.float16)
    first = plan.add_constant(ones, UNIT)
    assert first == 128 and plan.size == 128 + 30
    assert plan.add_constant(ones.reshape(15), UNIT) == first
    second = plan.add_constant(zeros, UNIT)
    assert second == 192 and plan.size == 192 + 30
    assert [c.address for c in plan.constants] == [first, second]
    assert np.array_equal(plan.constants[0].data.view(np.float16), ones.reshape(-1))


def test_constants_of_other_lengths_are_others() -> None:
    plan = place_tensors([], EDGE)
    assert plan.add_constant(np.zeros(4, np.uint8), UNIT) != plan.add_constant(np.zeros(5, np.uint8), UNIT)


def test_strided_constants_are_stored_in_order() -> None:
    plan = place_tensors([], EDGE)
    plan.add_constant(np.arange(6, dtype=np.int32).reshape(2, 3).T, UNIT)
    assert plan.constants[0].data.view(np.int32).tolist() == [0, 3, 1, 4, 2, 5]


def test_too_large_for_the_part() -> None:
    small = changed(EDGE, **{"memory.ddr.size": 4096})
    text = (
        r"^\[assemble.memory\] the model needs 8192 bytes of ddr, npu-edge has 4096; "
        r"use a smaller batch, a smaller model or float16$"
    )
    with pytest.raises(UserError, match=text):
        place_tensors([Lifetime("a", 4096, 0, 1), Lifetime("b", 4096, 1, 2)], small)
    with pytest.raises(UserError, match=r"needs 5000 bytes of ddr"):
        check_ddr(5000, small)
    check_ddr(4096, small)
