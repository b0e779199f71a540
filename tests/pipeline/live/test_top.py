"""`aot streams top`: what it shows of streams, and of what they did between two looks."""

from dataclasses import replace

import pytest

from pipeline.cli.top import HEADERS, StreamLook, look_at_streams, rate
from pipeline.ingest.sink import StoreSinkFactory
from tests.pipeline.ingest.test_sink import INFO, clip

LOOK = StreamLook("front", "running", 3.0, 120.0, 15, 6000, 1_200_000, 0.99, 2)


def test_rates_are_of_what_came_between_two_looks():
    later = replace(LOOK, clips=18, tokens=6600, bytes=1_500_000, end_s=140.0)
    rates = rate(later, LOOK, 20.0)
    assert (rates.clips_per_min, rates.tokens_per_s, rates.bytes_per_hour) == (9.0, 30.0, 54e6)


def test_the_first_look_has_the_averages_of_all_and_an_empty_stream_none():
    rates = rate(LOOK, None, 0.0)
    assert (rates.clips_per_min, rates.tokens_per_s, rates.bytes_per_hour) == (7.5, 50.0, 36e6)
    empty = replace(LOOK, end_s=0.0, clips=0, tokens=0, bytes=0)
    assert rate(empty, None, 0.0).tokens_per_s == 0.0


def test_what_retention_removed_is_no_negative_rate():
    assert rate(replace(LOOK, bytes=0), LOOK, 10.0).bytes_per_hour == 0.0


def test_a_stream_that_runs_lags_behind_the_wall_clock(environment, opened):
    sink = StoreSinkFactory(environment, replace(INFO, wall_start_s=1000.0)).open()
    sink.put(clip(0))
    try:
        assert look_at_streams(opened, 1005.0)["lobby"].lag_s == pytest.approx(3.0)
    finally:
        sink.close()
    assert look_at_streams(opened, 1005.0)["lobby"].lag_s is None


def test_one_look_is_a_table_or_json(run, opened, environment):
    StoreSinkFactory(environment, INFO).open().close()
    ran = run("streams", "top", "--once")
    assert ran.code == 0
    assert ran.out.split()[0] == HEADERS[0]
    assert "lobby" in ran.out
    [stream] = run("streams", "top", "--once", "--json").json["streams"]
    assert (stream["stream_id"], stream["clips_per_min"]) == ("lobby", 0.0)
