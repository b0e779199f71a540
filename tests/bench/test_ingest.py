"""The benches run and their figures mean what they say; the figures themselves are in docs/."""

import json

import pytest

from bench.ingest import Memory, Round, run, summarise
from bench.query_answer import _summarise, measure_first_token
from bench.random_checkpoint import CheckpointSize
from workers.session import Progress


def test_overhead_is_the_pipeline_over_the_sum_of_its_parts():
    assert Round(12.0, 4.0, 5.0, 1.0, wall_s=9.0).overhead == 1.2


def test_the_figures_are_medians_over_the_rounds():
    rounds = [Round(p, 4.0, 5.0, 1.0, wall_s=p) for p in (30.0, 10.0, 12.0)]
    last = Progress("x", footage_s=24.0, tokens_in=100, tokens_out=9)
    figures = summarise(rounds, last, Memory())
    assert (figures["overhead"], figures["x_realtime"], figures["retention"]) == (1.2, 2.0, 0.09)
    assert figures["rss_growth"] is None
    json.dumps(figures)


def test_memory_that_stays_has_no_growth_and_the_warm_up_does_not_count():
    flat = [(i / 100, 100 if i < 10 else 200) for i in range(101)]
    assert Memory(flat).growth() == 0.0


def test_memory_that_rises_shows():
    rising = [(i / 100, 1000 + 10 * i) for i in range(101)]
    assert Memory(rising).growth() == pytest.approx(0.72, abs=0.05)
    assert Memory(rising).growth(since=0.5) == pytest.approx(0.30, abs=0.05)


def test_the_first_token_is_compared_by_cpu_time():
    figures = _summarise([(2.0, 1.0), (4.0, 1.0)], [(60.0, 40.0)])
    assert figures["first_token_speedup"] == 40.0
    assert figures["first_token_s"] == 3.0
    assert figures["first_token_wall_speedup"] == 20.0


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_both_benches_run_on_small_sizes():
    figures = run(seconds=8, rounds=1, hour_s=160)
    assert {"bench", "commit", "device", "overhead", "x_realtime", "retention"} <= figures.keys()
    assert 0 < figures["overhead"] < 10
    assert 0.02 < figures["retention"] < 0.3
    assert figures["rss_growth"] is None or -0.5 < figures["rss_growth"] < 1
    token = measure_first_token(size=CheckpointSize(), rounds=1, again_rounds=1)
    assert token["first_token_s"] > 0
    json.dumps(figures | token)
