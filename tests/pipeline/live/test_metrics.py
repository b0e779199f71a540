"""Metrics: values in, a page that Prometheus reads out; bounded, and without a secret."""

import urllib.error
import urllib.request
from dataclasses import fields, replace
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from pipeline.ingest.metrics import Metrics, parse_address, serve
from pipeline.ingest.on_ray import look_at_hosts
from pipeline.values.errors import InvalidSettings
from workers.cluster.gauges import Shown, show_tally
from workers.live.session import LiveProgress
from workers.live.source import SourceTally
from workers.live.tally import PushTally

FRONT = LiveProgress(
    "front",
    state="running",
    frames=100,
    encoded=60,
    held=30,
    clips=7,
    tokens_in=1000,
    tokens_out=100,
    stored_bytes=5000,
    failed=1,
    gaps={"disconnected": 2, "held": 3},
    source=SourceTally(connections=2, failures=5, shed=9),
    rung="half-rate",
    position_s=98.5,
    freshness_s=0.25,
)


def read(page: bytes) -> dict[tuple[str, tuple[str, ...]], float]:
    """Samples by name and label values, the stream's id first."""
    return {
        (sample.name, tuple(value for _, value in sorted(sample.labels.items(), key=_order))): (
            sample.value
        )
        for family in text_string_to_metric_families(page.decode())
        for sample in family.samples
    }


def _order(label: tuple[str, str]) -> bool:
    return label[0] != "stream"


def test_a_stream_is_told_in_every_respect():
    metrics = Metrics()
    metrics.watch_spool("front", lambda: 77)
    metrics.see(FRONT)
    samples = read(metrics.render())
    assert {name: value for (name, labels), value in samples.items() if labels == ("front",)} == {
        "aot_stream_up": 1.0,
        "aot_stream_lag_seconds": 0.25,
        "aot_stream_position_seconds": 98.5,
        "aot_stream_retention_ratio": 0.1,
        "aot_stream_clips_total": 7.0,
        "aot_stream_stored_bytes_total": 5000.0,
        "aot_stream_connections_total": 2.0,
        "aot_stream_connection_failures_total": 5.0,
        "aot_stream_spooled_bytes": 77.0,
    }
    frames = ("in", 100), ("encoded", 60), ("held", 30), ("failed", 1), ("shed", 9)
    for fate, count in frames:
        assert samples["aot_stream_frames_total", ("front", fate)] == count
    assert samples["aot_stream_gaps_total", ("front", "disconnected")] == 2
    assert samples["aot_stream_tokens_total", ("front", "in")] == 1000
    assert samples["aot_stream_rung", ("front", "half-rate")] == 1


def test_a_source_that_is_away_is_down_and_its_words_are_not_told():
    metrics = Metrics()
    metrics.see(replace(FRONT, outage="rtsp://admin:hunter2@camera/live: no answer"))
    page = metrics.render()
    assert read(page)["aot_stream_up", ("front",)] == 0
    assert b"hunter2" not in page
    assert b"camera" not in page


def test_what_has_no_value_yet_is_left_out():
    metrics = Metrics()
    metrics.see(LiveProgress("new"))
    names = {name for name, labels in read(metrics.render()) if labels == ("new",)}
    assert not names & {"aot_stream_lag_seconds", "aot_stream_retention_ratio"}


def test_a_worker_is_told_and_asked_with_every_page():
    metrics, tally = Metrics(), PushTally(3, 24, 8, 1.5, 1.0, 0.25, 2)
    metrics.watch_worker("0", lambda: tally)
    assert {
        name: value for (name, _), value in read(metrics.render()).items() if "worker" in name
    } == {
        "aot_worker_batches_total": 3.0,
        "aot_worker_frames_total": 24.0,
        "aot_worker_batch_frames": 8.0,
        "aot_worker_busy_seconds_total": 1.5,
        "aot_worker_encode_seconds_total": 1.0,
        "aot_worker_reduce_seconds_total": 0.25,
        "aot_worker_queue_frames": 2.0,
    }
    tally = replace(tally, batches=4)
    assert read(metrics.render())["aot_worker_batches_total", ("0",)] == 4


def test_streams_beyond_the_bound_are_counted_and_not_named():
    metrics = Metrics(max_streams=3)
    for number in range(10):
        metrics.see(replace(FRONT, stream_id=f"cam{number}"))
    samples = read(metrics.render())
    assert sum(name == "aot_stream_up" for name, _ in samples) == 3
    assert samples["aot_streams_untold", ()] == 7
    metrics.forget("cam0")
    metrics.forget("cam8")
    metrics.see(replace(FRONT, stream_id="cam9"))
    samples = read(metrics.render())
    assert samples["aot_stream_up", ("cam9",)] == 1
    assert samples["aot_streams_untold", ()] == 5


def test_a_stream_that_ended_is_forgotten_and_others_know_nothing_of_it():
    one, other = Metrics(), Metrics()
    one.see(FRONT)
    assert "front" not in other.render().decode()
    one.forget("front")
    assert "front" not in one.render().decode()


def test_the_page_is_served_where_it_is_asked_for_and_no_longer():
    metrics = Metrics()
    metrics.see(FRONT)
    with serve(metrics, "127.0.0.1:0") as port:
        url = f"http://127.0.0.1:{port}/metrics"
        with urllib.request.urlopen(url, timeout=10) as answer:
            assert answer.headers["Content-Type"].startswith("text/plain;")
            assert read(answer.read())["aot_stream_up", ("front",)] == 1
        with (
            pytest.raises(InvalidSettings, match="choose another port"),
            serve(metrics, f"127.0.0.1:{port}"),
        ):
            pass
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(url, timeout=10)


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("9464", ("127.0.0.1", 9464)),
        (":9464", ("127.0.0.1", 9464)),
        ("0.0.0.0:9464", ("0.0.0.0", 9464)),
        ("[::1]:80", ("::1", 80)),
    ],
)
def test_an_address_without_a_host_is_of_this_machine(address, expected):
    assert parse_address(address) == expected


@pytest.mark.parametrize("address", ["", "host", "host:", "host:x", "host:99999"])
def test_what_is_no_address_says_what_is_expected(address):
    with pytest.raises(InvalidSettings, match="expected HOST:PORT"):
        parse_address(address)


def test_a_worker_of_a_cluster_is_shown_by_the_names_of_a_sessions_own():
    metrics, tally = Metrics(), PushTally(3, 24, 8, 1.5, 1.0, 0.25, 2)
    metrics.watch_worker("0", lambda: tally)
    own = [Shown(*sample) for sample in metrics.samples() if "worker" in sample[2]]

    assert len(own) == len(fields(PushTally))
    assert own == list(show_tally("0", tally))


class Hosts:
    """A cluster whose hosts tell of these streams, and workers of what they did."""

    def __init__(self, *told, **workers):
        self.told, self.workers = told, workers

    def ask_hosts(self):
        return list(self.told)

    def ask_workers(self):
        return self.workers


def test_streams_of_a_cluster_are_seen_until_they_have_gone():
    metrics = Metrics()
    before: Any = Hosts(FRONT, one=PushTally(batches=1), other=PushTally(batches=2))
    after: Any = Hosts(other=PushTally(batches=3))

    known = look_at_hosts(before, metrics, set())

    assert known == {"front"}
    samples = read(metrics.render())
    assert samples["aot_stream_clips_total", ("front",)] == 7
    assert samples["aot_worker_batches_total", ("one",)] == 1
    assert look_at_hosts(after, metrics, known) == set()
    samples = read(metrics.render())
    assert ("aot_stream_clips_total", ("front",)) not in samples
    assert ("aot_worker_batches_total", ("one",)) not in samples
    assert samples["aot_worker_batches_total", ("other",)] == 3
