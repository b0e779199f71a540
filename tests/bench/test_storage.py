"""The bench runs on a few clips and gives its figures; no timing is judged here."""

import json

from bench.storage import Retrieval, run, summarise


def test_it_gives_figures_of_every_size_and_of_both_tiers():
    result = run(sizes=(200,), times=3, num_clips=8, num_tokens=3, rounds=1)
    assert result["index"].keys() == {"200"}
    assert {"window_ms", "latest_ms", "put_ms", "summary_ms", "streams_ms"} < result["index"][
        "200"
    ].keys()
    assert (result["moved_clips"], result["moved_files"]) == (8, 1)
    assert {"window_ratio", "spread_ratio"} < result.keys()
    json.dumps(result)


def test_the_ratio_is_cold_seconds_over_hot_seconds():
    turns = [
        Retrieval(1.0, 3.0, 0.5, 1.0),
        Retrieval(2.0, 2.0, 1.0, 1.0),
        Retrieval(1.0, 2.0, 1.0, 1.5),
    ]
    result = summarise("window", turns)
    assert result["window_ratio"] == 2.0
    assert result["window_cpu_ratio"] == 1.5
    assert result["window_ratio_rounds"] == [3.0, 1.0, 2.0]
