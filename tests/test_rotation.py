"""The rotation: the same for a seed, another for another, every test before a second case."""

from dataclasses import dataclass

import pytest

from tests.rotation import LONGEST_S, is_bounded, rotate


@dataclass(frozen=True)
class Item:
    nodeid: str


ITEMS = [Item("a.py::one"), *(Item(f"a.py::many[{n}]") for n in range(9)), Item("b.py::two")]


def test_a_seed_gives_one_order_whatever_was_collected_first():
    assert rotate(ITEMS, 3) == rotate(ITEMS[::-1], 3)


def test_another_seed_gives_another_order():
    assert len({tuple(rotate(ITEMS, seed)) for seed in range(8)}) > 4


def test_nothing_is_lost():
    assert set(rotate(ITEMS, 1)) == set(ITEMS)


def test_every_test_has_a_case_before_one_has_a_second():
    first = {item.nodeid.partition("[")[0] for item in rotate(ITEMS, 5)[:3]}
    assert first == {"a.py::one", "a.py::many", "b.py::two"}


@pytest.mark.parametrize(("limit_s", "bounded"), [(LONGEST_S, True), (LONGEST_S + 1, False)])
def test_what_may_take_longer_than_ten_minutes_is_left_to_the_whole(request, limit_s, bounded):
    request.node.add_marker(pytest.mark.timeout(limit_s))
    assert is_bounded(request.node) is bounded
