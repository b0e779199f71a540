"""A bounded part of the long tests that is another one every day, so that all have their turn.

`pytest -m slow --rotation-s 480` shuffles by a seed that is printed, takes one case of every test
before a second of any, and starts no more when the seconds are over; what is left says so. A test
that by its own limit may take over `LONGEST_S` is no part of anything bounded: it is left to
the whole. The seed is the day's and the commit's; `--rotation-seed` gives an earlier one again.
"""

import random
import subprocess
import time
import zlib
from collections import defaultdict
from collections.abc import Sequence
from itertools import zip_longest

import pytest

from tests.rooms import ROOT

LONGEST_S = 600.0


def choose_seed() -> int:
    """A number of today and of the commit; of today alone outside a clone."""
    said = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return zlib.crc32(f"{time.strftime('%Y-%m-%d')} {said.stdout.strip()}".encode())


def rotate(items: Sequence[pytest.Item], seed: int) -> list[pytest.Item]:
    """Items in the seed's order: a case of every test, then a second of each that has more."""
    cases: dict[str, list[pytest.Item]] = defaultdict(list)
    for item in sorted(items, key=lambda item: item.nodeid):
        cases[item.nodeid.partition("[")[0]].append(item)
    chance = random.Random(seed)
    tests = list(cases.values())
    chance.shuffle(tests)
    for same in tests:
        chance.shuffle(same)
    return [item for turn in zip_longest(*tests) for item in turn if item is not None]


def is_bounded(item: pytest.Item) -> bool:
    """Whether a test is let take no longer than `LONGEST_S`."""
    limit = item.get_closest_marker("timeout")
    return limit is None or float(limit.args[0]) <= LONGEST_S


class Rotation:
    """The plugin: orders what was collected, and skips what the time does not reach."""

    def __init__(self, budget_s: float, seed: int) -> None:
        self._budget_s, self._seed = budget_s, seed
        self._started_s = time.monotonic()
        self._left = 0

    def pytest_report_header(self) -> str:
        """The line that says how to have the same order again."""
        return f"rotation: {self._budget_s:g} s, --rotation-seed {self._seed}"

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Put the items that are bounded into the seed's order."""
        bounded = [item for item in items if is_bounded(item)]
        self._left = len(items) - len(bounded)
        items[:] = rotate(bounded, self._seed)
        self._started_s = time.monotonic()

    def pytest_report_collectionfinish(self) -> str:
        """How many tests are no part of any rotation."""
        return f"rotation: {self._left} that may take over {LONGEST_S:g} s are left to the whole"

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self) -> None:
        """Start nothing after the budget."""
        if time.monotonic() - self._started_s > self._budget_s:
            pytest.skip(f"not reached in {self._budget_s:g} s of the rotation {self._seed}")
