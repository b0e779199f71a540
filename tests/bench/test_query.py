"""The bench runs on a small hour and gives the contract's keys; no timing is judged here."""

import json

import pytest

from bench.query import ReadFigures, run, summarise
from bench.query_crowd import RANGES, measure_crowd
from bench.query_kept import LARGE, WHOLE, expected_ratios, measure_kept_prompt, measure_windows
from bench.query_range import measure_ranges
from bench.random_checkpoint import CheckpointSize
from pipeline.values.types import ClipSpan


def test_it_gives_every_key_of_the_contract():
    said = []
    result = run(num_clips=6, num_tokens=3, rounds=2, on_progress=said.append)
    assert result["bench"] == "query"
    assert {"commit", "device", "index_ms", "get_ratio"} <= result.keys()
    assert result["clips"] == 6
    assert result["first_token_s"] is None
    assert len(said) == 4
    json.dumps(result)


def test_the_first_token_is_measured_by_whoever_has_a_model():
    given = {"first_token_s": 0.25, "first_token_speedup": 21.0}
    assert (
        run(num_clips=1, num_tokens=1, rounds=1, first_token=lambda: given).items() >= given.items()
    )


def test_the_ratio_is_plain_seconds_over_verified_seconds():
    figures = [ReadFigures(1.0, 2.0, 0.1, 0.2), ReadFigures(3.0, 2.0, 0.1, 0.2)]
    result = summarise(figures, [ClipSpan("hour", 0, 0, 0.0, 4.0, 1, 4_000_000)])
    assert result["get_ratio_rounds"] == [0.5, 1.5]
    assert result["get_ratio"] == 1.0
    assert result["verified_mb_s"] == 2.0


def test_a_kept_prompt_is_measured_beside_a_text_alone():
    figures = measure_kept_prompt(size=CheckpointSize(), clips=3, rounds=1)
    assert figures["kept_first_token_s"] > 0
    assert figures["kept_over_text"] > 0
    assert figures["kept_window_s"] == 24.0


def test_several_windows_are_measured_in_turns_beside_what_is_expected():
    figures = measure_windows(size=CheckpointSize(vocab_size=300), windows=(1, 3), rounds=1)
    first, second = figures["windows"]
    assert (first["tokens"], second["tokens"]) == (160, 480)
    assert first["kept_over_text"] > 0
    assert 1 < first["expected_arithmetic"] < second["expected_arithmetic"]


def test_what_a_kept_window_costs_is_keys_over_weights():
    assert expected_ratios(WHOLE, 0, 30) == {"arithmetic": 1.0, "traffic": 1.0}
    # 24 layers of 14.9 M weights and 4 x 12,900 x 896 operations a word; 158 of 988 MB.
    assert expected_ratios(WHOLE, 12_900, 30) == {"arithmetic": 2.53, "traffic": 1.16}
    assert expected_ratios(LARGE, 12_900, 30) == {"arithmetic": 1.4, "traffic": 1.05}


@pytest.mark.slow
def test_a_crowd_is_answered_while_cameras_come_in():
    result = measure_crowd(seconds=1.0, clients=(1, 2), day_s=120.0)
    assert [(one["clients"], one["together"], one["windows"]) for one in result["crowd"]] == [
        (1, 2, "own"),
        (2, 2, "own"),
        (2, 1, "own"),
        (2, 2, "same"),
    ]
    for one in result["crowd"]:
        assert one["questions"] >= one["clients"]
        assert {f"{of}_retrieval_ms_p99" for of in RANGES} <= one.keys()
    assert result["crowd_lost"]["frames"] > 0


def test_ranges_are_measured_by_one_budget():
    result = measure_ranges(day_s=240.0, rounds=1, budget=20)
    assert result["range_24h_clips"] > 20
    assert result["range_levels"] > 4
    assert result["range_24h_over_10m_whole"] > 0
