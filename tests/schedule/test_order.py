"""The order of instances: depth first, every image once, nothing before what it reads."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dsa_compiler.schedule.layer_schedule import CHIP, Group, Instance, even_shares
from dsa_compiler.schedule.order import order_instances
from tests.lower.drawing import drawn


def letters(images: list[int], needs: list[set[int]], count: int) -> str:
    groups = [Group(n, n, i) for n, i in enumerate(images)]
    return " ".join("abcdef"[i.group] for i in order_instances(groups, [frozenset(n) for n in needs], count))


def test_halving_stages() -> None:
    """Four stages of one, two, four and eight images: the order of the paper (section 4.3)."""
    assert letters([1, 2, 4], [set(), {0}, {1}], 4) == "a a b a a b c"
    half = "a a b a a b c"
    assert letters([1, 2, 4, 8], [set(), {0}, {1}, {2}], 8) == f"{half} {half} d"


def test_stages_of_equal_images_follow_each_other() -> None:
    assert letters([2, 2], [set(), {0}], 6) == "a b a b a b"


def test_an_earlier_group_of_more_images_is_emptied_first() -> None:
    assert letters([4, 1], [set(), {0}], 4) == "a b b b b"


def test_sizes_that_do_not_divide() -> None:
    """Five images by two and three: the last instances are smaller; images of b that a has not made wait."""
    groups = (Group(0, 0, 2), Group(1, 1, 3))
    order = order_instances(groups, [frozenset(), frozenset({0})], 5)
    assert order == (
        Instance(0, 0, 2), Instance(0, 2, 4), Instance(1, 0, 3), Instance(0, 4, 5), Instance(1, 3, 5),
    )  # fmt: skip


def test_a_group_of_the_chip_takes_all_images() -> None:
    assert letters([1, CHIP, 2], [set(), {0}, {1}], 4) == "a a a a b c c"


def test_groups_that_need_nothing_come_from_behind() -> None:
    assert letters([2, 2, 2], [set(), set(), {0, 1}], 2) == "b a c"


@drawn(100)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=6), st.integers(1, 9), st.data())
def test_every_image_once_and_after_what_it_reads(images: list[int], count: int, data: st.DataObject) -> None:
    needs = [data.draw(st.frozensets(st.integers(0, n - 1))) if n else frozenset() for n in range(len(images))]
    groups = [Group(n, n, i) for n, i in enumerate(images)]
    done = [0] * len(groups)
    for instance in order_instances(groups, needs, count):
        assert instance.low == done[instance.group] < instance.high
        wanted = groups[instance.group].images
        assert instance.high == (count if wanted == CHIP else min(count, instance.low + wanted))
        assert all(done[g] >= instance.high for g in needs[instance.group])
        done[instance.group] = instance.high
    assert done == [count] * len(groups)


def test_shares_are_even() -> None:
    assert even_shares(8, 4) == (2, 2, 2, 2)
    assert even_shares(7, 4) == (2, 2, 2, 1)
    assert even_shares(5, 2) == (3, 2)
    assert even_shares(3, 4) == (1, 1, 1)
