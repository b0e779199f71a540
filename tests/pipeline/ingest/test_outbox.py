"""A live stream whose store is killed, set back, taken away or full: kept on disk, stored once."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import redis

from pipeline.ingest.sink import StoreSinkFactory
from pipeline.store import StoreConfig, open_store
from pipeline.store.arrow import encode_clip
from pipeline.store.embedded import start_embedded, stop_embedded
from pipeline.store.retention import RetentionRules
from pipeline.store.spool import SpoolRules, measure
from pipeline.values.errors import LeaseLost, StoreRefused
from tests.pipeline.ingest.test_outage import INFO, kill, set_back
from tests.pipeline.ingest.test_sink import clip
from tests.pipeline.support import digests
from tests.waits import wait_until
from workers.errors import SinkFull
from workers.seams import SessionReport
from workers.types import StreamGap

ROOT = Path(__file__).parents[3]


@pytest.fixture
def server(tmp_path):
    folder = tmp_path / "store"
    start_embedded(folder)
    yield folder
    stop_embedded(folder)


@pytest.fixture
def config(server):
    """At the server's socket: nobody starts it again but the test."""
    with open_store(StoreConfig(f"embedded://{server}", appendfsync="always")) as store:
        return replace(store.config, timeout_s=2.0, outage_s=30.0)


@pytest.fixture
def rules(tmp_path):
    return SpoolRules(str(tmp_path / "spool"), 1_000_000)


@pytest.fixture
def open_sink(config, rules):
    sinks = []

    def make(**fields):
        given = {"spool": rules, "lease_s": 5.0, **fields}
        sinks.append(StoreSinkFactory(config, INFO, **given).open())
        return sinks[-1]

    yield make
    for sink in sinks:
        sink.close()


def indices(store):
    return [span.index for span in store.list_spans("lobby")]


def spooled(rules) -> int:
    return measure(Path(rules.folder))


def test_clips_of_an_outage_are_kept_at_once_and_stored_in_order(open_sink, config, server, rules):
    sink = open_sink()
    sink.put(clip(0))
    kill(server)
    began_s = time.monotonic()
    for index in range(1, 9):
        sink.put(clip(index))
        sink.put_open(clip(index + 1))
    sink.put_gap(StreamGap("lobby", 0, 18.0, 30.0, "disconnected"))
    assert time.monotonic() - began_s < 20  # one try of the store, then none waits for it
    assert sink.spooled_bytes > 0
    start_embedded(server)
    with open_store(config) as store:
        wait_until(lambda: store.list_gaps("lobby"))
        assert indices(store) == list(range(9))
        disturbed = digests(store, "lobby")
        sink.finish(SessionReport("stopped"))
        sink.close()
        assert store.get_info("lobby").status == "paused"
        assert spooled(rules) == 0

        store.delete_stream("lobby")
        sink = open_sink(spool=None)
        for index in range(9):
            sink.put(clip(index))
        assert digests(store, "lobby") == disturbed
        assert store.verify("lobby").ok


KILLED = """
import os, signal, sys
from pathlib import Path
from pipeline.ingest.sink import StoreSinkFactory
from pipeline.store import StoreConfig
from pipeline.store.spool import SpoolRules
from tests.pipeline.ingest.test_outage import INFO, kill
from tests.pipeline.ingest.test_sink import clip
from workers.types import StreamGap

url, server, folder = sys.argv[1:]
sink = StoreSinkFactory(
    StoreConfig(url, timeout_s=2.0), INFO, spool=SpoolRules(folder, 1_000_000), lease_s=5.0
).open()
sink.put(clip(0))
kill(Path(server))
for index in range(1, 5):
    sink.put(clip(index))
sink.put_gap(StreamGap("lobby", 0, 10.0, 12.0, "stalled"))
sink.put(clip(6))
sink.put_open(clip(7))
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def killed(config, server, rules):
    """A session that was killed while its store was away; the store is back."""
    command = [sys.executable, "-c", KILLED, config.url, str(server), rules.folder]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, env=environment, timeout=100)
    assert done.returncode == -signal.SIGKILL, done.stderr
    start_embedded(server)


def test_a_killed_session_left_all_it_had_and_the_next_one_stores_it(
    killed, open_sink, config, rules
):
    with open_store(config) as store:
        assert indices(store) == [0]
        sink = open_sink()
        assert indices(store) == [0, 1, 2, 3, 4, 6]
        cursor = sink.recover_open()  # the clip that was open, too
        assert (cursor.index, cursor.end_s) == (7, 16.0)
        assert [(gap.start_s, gap.reason) for gap in store.list_gaps("lobby")] == [
            (10.0, "stalled")
        ]
        sink.put(clip(8))
        sink.close()
        before = digests(store, "lobby")
        open_sink().close()
        assert digests(store, "lobby") == before
        assert spooled(rules) == 0


@pytest.fixture
def left(open_sink, config, server):
    """The same of a session that ended by itself, which starts faster."""
    sink = open_sink()
    sink.put(clip(0))
    kill(server)
    for index in range(1, 5):
        sink.put(clip(index))
    sink.put_gap(StreamGap("lobby", 0, 10.0, 12.0, "stalled"))
    sink.put(clip(6))
    sink.close()
    start_embedded(server)
    with open_store(config) as store:
        store.release_lease(sink._stream.lease)


def test_a_torn_file_is_refused_and_its_stretch_is_a_gap(left, open_sink, config, rules):
    [path] = [p for p in Path(rules.folder).rglob("*.entry") if p.name.startswith("0000000003")]
    blob = path.read_bytes()
    path.write_bytes(blob[: len(blob) // 2])
    open_sink()
    with open_store(config) as store:
        assert indices(store) == [0, 1, 3, 4, 6]
        gaps = [(gap.start_s, gap.end_s, gap.reason) for gap in store.list_gaps("lobby")]
        assert gaps == [(4.0, 6.0, "store"), (10.0, 12.0, "stalled")]


def test_what_was_spooled_is_refused_once_somebody_else_wrote_the_stream(
    left, open_sink, config, rules, caplog
):
    other = open_sink(spool=None)
    other.put(replace(clip(1), epoch=1))
    other.close()
    with open_store(config) as store:
        written = digests(store, "lobby")
        open_sink()
        assert digests(store, "lobby") == written
    assert "6 spooled clips are refused: somebody else wrote the stream" in caplog.text
    assert spooled(rules) == 0


def test_what_was_spooled_of_a_removed_stream_does_not_come_back(left, open_sink, config, rules):
    with open_store(config) as store:
        store.delete_stream("lobby")
        open_sink()
        assert indices(store) == []
    assert spooled(rules) == 0


def test_a_writer_that_was_frozen_is_refused_and_leaves_nothing_on_disk(open_sink, config, rules):
    frozen = open_sink()
    frozen.put(clip(0))
    frozen._stream._closed.set()  # it renews no more, as in a process that was stopped
    with open_store(config) as store:
        store.release_lease(frozen._stream.lease)
        new = open_sink()
        new.put(clip(1))
        with pytest.raises(LeaseLost):
            frozen.put(replace(clip(2), end_s=7.0))
        assert indices(store) == [0, 1]
        new.close()
    frozen.close()
    assert spooled(rules) == 0


def test_what_a_full_spool_cannot_keep_is_refused_until_there_is_room(
    open_sink, config, server, rules
):
    entry_bytes = len(encode_clip(clip(0), fingerprint="f1")) + 400
    sink = open_sink(spool=replace(rules, max_bytes=5 * entry_bytes))
    sink.put(clip(0))
    kill(server)
    assert put_until_full(sink, 19) < 19
    start_embedded(server)
    wait_until(lambda: sink.spooled_bytes == 0)
    with open_store(config) as store:
        kept = indices(store)
        assert kept == list(range(len(kept)))
        assert 2 <= len(kept) < 19
        sink.put(clip(19))
        assert indices(store) == [*kept, 19]


def put_until_full(sink, count) -> int:
    """How many of clips 1 to `count` were taken."""
    for index in range(1, count + 1):
        try:
            sink.put(clip(index))
        except SinkFull:
            return index - 1
    return count


def test_a_spool_without_room_does_not_matter_while_the_store_is_there(open_sink, config, rules):
    sink = open_sink(spool=replace(rules, max_bytes=1))
    for index in range(3):
        sink.put(clip(index))
    with open_store(config) as store:
        assert indices(store) == [0, 1, 2]


def put_over_a_loss(sink, config, server):
    """Seven clips, before the last of which the store forgets the fourth to the sixth."""

    def put(after):
        for index in range(6):
            sink.put(clip(index))
            after(index)

    set_back(config, server, put, at=2)
    sink.put(clip(6))


def test_clips_that_a_store_lost_are_stored_again_from_disk(open_sink, config, server):
    put_over_a_loss(open_sink(), config, server)
    with open_store(config) as store:
        wait_until(lambda: len(indices(store)) == 7)
        assert store.list_gaps("lobby") == []


def test_clips_that_a_store_lost_and_the_disk_has_no_more_are_a_gap(
    open_sink, config, server, monkeypatch
):
    monkeypatch.setattr("pipeline.ingest.outbox.KEEP_S", 0.0)
    put_over_a_loss(open_sink(), config, server)
    with open_store(config) as store:
        wait_until(lambda: 6 in indices(store))
        assert indices(store) == [0, 1, 2, 5, 6]
        [gap] = store.list_gaps("lobby")
        assert (gap.start_s, gap.end_s, gap.reason) == (6.0, 10.0, "store")


LINE = [
    clip(0),
    clip(1),
    StreamGap("lobby", 0, 4.0, 6.0, "disconnected"),
    clip(3),
    StreamGap("lobby", 0, 8.0, 10.0, "held"),
    StreamGap("lobby", 0, 10.0, 12.0, "stalled"),
    clip(6),
    StreamGap("lobby", 0, 14.0, 16.0, "overload"),
    clip(8),
    StreamGap("lobby", 0, 18.0, 20.0, "stalled"),
]
"""What a session puts: clips, a held stretch and gaps, of which none overlap."""
ALL = range(len(LINE))


def put_part(sink, part):
    sink.put_gap(part) if isinstance(part, StreamGap) else sink.put(part)


def told_seconds(store):
    """Every stretch that a reader is told of, in order."""
    parts = [(span.start_s, span.end_s, "clip") for span in store.list_spans("lobby")]
    return sorted(parts + [(g.start_s, g.end_s, g.reason) for g in store.list_gaps("lobby")])


@pytest.mark.parametrize("end", ["clip", "finish"])
@pytest.mark.parametrize("kept", ["on disk", "forgotten", "no room"])
@pytest.mark.parametrize(
    "at", [at if at in (1, 4, 7, 8) else pytest.param(at, marks=pytest.mark.slow) for at in ALL]
)
def test_a_store_set_back_to_any_moment_of_a_session_leaves_nothing_untold_or_told_twice(
    open_sink, config, rules, server, monkeypatch, at, kept, end
):
    monkeypatch.setattr("pipeline.ingest.outbox.KEEP_S", 0.0 if kept == "forgotten" else 1000.0)
    sink = open_sink(spool=replace(rules, max_bytes=1) if kept == "no room" else rules)

    def put(after):
        for number, part in enumerate(LINE):
            put_part(sink, part)
            after(number)

    set_back(config, server, put, at)
    if end == "clip":
        sink.put(clip(10))
    else:
        sink.finish(SessionReport("stopped"))
    with open_store(config) as store:
        wait_until(lambda: sink.spooled_bytes == 0)
        told = told_seconds(store)
    assert all(one[1] == two[0] for one, two in pairwise(told)), told
    assert (told[0][0], told[-1][1]) == (0.0, 22.0 if end == "clip" else 20.0)
    wanted = {(gap.start_s, gap.end_s, gap.reason) for gap in LINE if isinstance(gap, StreamGap)}
    assert wanted <= set(told)
    if kept == "on disk":
        assert "store" not in {reason for _, _, reason in told}


def test_a_session_that_ends_while_the_store_is_away_ends_in_time(open_sink, config, server):
    sink = open_sink()
    sink.put(clip(0))
    kill(server)
    sink.put(clip(1))
    began_s = time.monotonic()
    sink.finish(SessionReport("stopped"))
    assert time.monotonic() - began_s < 30
    sink.close()
    start_embedded(server)
    sink = open_sink()
    assert sink.position().index == 1
    with open_store(config) as store:
        spans = store.list_spans("lobby")
        assert all(one.end_s == two.start_s for one, two in pairwise(spans))


def test_a_store_that_refuses_is_not_said_to_be_away(open_sink, config):
    sink = open_sink()
    sink.put(clip(0))
    with redis.Redis.from_url(config.url) as server:
        server.config_set("requirepass", "changed")
        server.client_kill_filter(_type="normal", skipme=True)
        with pytest.raises(StoreRefused):
            sink.put(clip(1))
        with pytest.raises(StoreRefused):
            sink.position()
        with pytest.raises(StoreRefused):
            sink.finish(SessionReport("stopped"))
        server.config_set("requirepass", "")
    sink.finish(SessionReport("stopped"))
    with open_store(config) as store:
        assert indices(store) == [0, 1]


def test_a_stream_that_is_removed_goes_from_the_disk_too(run, environment, rules, monkeypatch):
    monkeypatch.setenv("AOT_SPOOL__FOLDER", rules.folder)
    sink = StoreSinkFactory(environment, INFO, spool=rules).open()
    sink.put(clip(0))
    assert spooled(rules) > 0
    assert run("streams", "rm", "lobby", "--yes").code == 0
    assert spooled(rules) == 0
    sink.close()


def test_rules_of_age_and_size_are_applied_where_nothing_but_gaps_is_stored(open_sink, config):
    sink = open_sink(retention=RetentionRules(max_bytes_per_stream=1))
    sink.put(clip(0))
    sink.put(clip(1))
    sink._retention._next_s = 0.0  # a minute later
    sink.put_gap(StreamGap("lobby", 0, 4.0, 60.0, "held"))
    with open_store(config) as store:
        assert indices(store) == []
        assert {gap.reason for gap in store.list_gaps("lobby")} == {"expired", "held"}
