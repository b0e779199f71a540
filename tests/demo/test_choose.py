"""Constants are chosen by what they reach, one at a time for the own reducer."""

import pytest

from demo.quality import choose
from demo.quality.contestants import CONTESTANTS
from demo.quality.evaluate import choose_seeds, report_seeds


@pytest.fixture
def tried(monkeypatch):
    """Accuracy made up from the constants, and the constants in the order they were tried."""
    seen = []

    def judge(model, scenes, name, constants):
        seen.append(dict(constants))
        value = 0.5 - abs(constants.get("threshold", 0.35) - 0.15)
        value += 0.2 * constants.get("advance", 0.25) + constants.get("contextual_share", 0)
        return choose.Choice(constants, (value,) * 4)

    monkeypatch.setattr(choose, "try_constants", judge)
    return seen


def test_the_best_candidate_of_a_peer_is_taken(tried):
    chosen = choose.choose_peer("model", [], "visionzip")
    assert chosen.constants == {"contextual_share": 0.3}
    assert len(tried) == len(choose.CANDIDATES["visionzip"])


def test_the_own_reducer_keeps_each_improvement(tried):
    chosen = choose.improve_own("model", [], {})
    assert chosen.constants["threshold"] == 0.15
    assert chosen.constants["advance"] == max(choose.STEPS["advance"])


def test_nothing_worse_than_the_start_is_chosen(tried):
    start = {"threshold": 0.15, "advance": 1.0}
    assert choose.improve_own("model", [], start).constants == start


def test_candidates_are_of_contestants():
    assert set(choose.CANDIDATES) < set(CONTESTANTS)


def test_choosing_and_reporting_share_no_scene():
    assert not set(choose_seeds(1000)) & set(report_seeds(1000))
