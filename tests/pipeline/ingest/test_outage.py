"""The store while a stream is written: killed, stalled, set back, its lease ended."""

import itertools
import os
import shutil
import signal
import threading
import time
import uuid
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.ingest.lease import holder_text
from pipeline.ingest.request import IngestRequest
from pipeline.ingest.run import ingest
from pipeline.ingest.sink import StoreSinkFactory
from pipeline.settings import load_settings
from pipeline.store import StoreConfig, open_store
from pipeline.store.embedded import start_embedded, stop_embedded
from pipeline.values.errors import LeaseLost, StoreUnavailable
from pipeline.values.types import StreamInfo
from tests.pipeline.conftest import CLIPS, FPS
from tests.pipeline.ingest.test_sink import clip
from tests.pipeline.support import digests
from workers.errors import SinkWentBack
from workers.seams import SessionReport
from workers.types import VideoSource

INFO = StreamInfo("lobby", "/videos/a.mp4", "tiny", "f1")


@pytest.fixture
def server(tmp_path):
    """A folder whose embedded server is this test's own, to be killed."""
    folder = tmp_path / "store"
    start_embedded(folder)
    yield folder
    stop_embedded(folder)


@pytest.fixture
def config(server):
    return StoreConfig(f"embedded://{server}", outage_s=60.0, appendfsync="always")


def open_sink(config, **fields):
    with open_store(config) as store:
        shared = store.config
    return StoreSinkFactory(shared, INFO, heal=config, **fields).open()


def pid_of(folder) -> int:
    pid = start_embedded(folder).pid
    assert pid is not None
    return pid


def kill(folder) -> None:
    pid = pid_of(folder)
    os.kill(pid, signal.SIGKILL)
    until_s = time.monotonic() + 20
    while os.path.exists(f"/proc/{pid}/stat") and time.monotonic() < until_s:
        if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX":
            return
        time.sleep(0.01)


def test_a_server_that_was_killed_is_started_again_and_no_clip_is_lost(config, server):
    sink = open_sink(config)
    for index in range(6):
        if index == 3:
            kill(server)
        sink.put(clip(index))
    sink.finish(SessionReport("complete"))
    sink.close()
    with open_store(config) as store:
        assert [span.index for span in store.list_spans("lobby")] == list(range(6))
        assert store.list_gaps("lobby") == []
        assert store.get_info("lobby").status == "complete"
        assert store.verify("lobby").ok


def test_a_server_that_stalls_longer_than_an_answer_may_take_is_waited_for(config, server):
    sink = open_sink(replace(config, timeout_s=0.5))
    sink.put(clip(0))
    pid = pid_of(server)
    os.kill(pid, signal.SIGSTOP)
    timer = threading.Timer(2.5, os.kill, (pid, signal.SIGCONT))
    timer.start()
    sink._stream._heal = None  # it is there, and must not be started beside itself
    sink.put(clip(1))
    timer.join()
    sink.close()
    with open_store(config) as store:
        assert len(store.list_spans("lobby")) == 2


def test_a_store_that_does_not_come_back_is_said_after_the_limit(config, server):
    sink = open_sink(replace(config, outage_s=0.5))
    sink._stream._heal = None
    kill(server)
    started_s = time.monotonic()
    with pytest.raises(StoreUnavailable):
        sink.put(clip(0))
    assert time.monotonic() - started_s < 30
    sink.close()


def test_a_lease_that_merely_ended_is_taken_again(config):
    sink = open_sink(config, lease_s=0.5)
    sink.put(clip(0))
    sink._stream._closed.set()  # as a laptop that sleeps renews nothing
    time.sleep(0.8)
    with open_store(config) as store:
        assert store.get_lease("lobby") is None
        sink.put(clip(1))
        assert store.get_lease("lobby").token == 2
        assert len(store.list_spans("lobby")) == 2
    sink.close()


def lose_lease(sink, store):
    """The lease ends while the writer sleeps."""
    sink._stream._closed.set()
    store.release_lease(sink._stream.lease)


def test_a_stream_that_somebody_else_wrote_meanwhile_is_not_taken_again(config):
    sink = open_sink(config)
    sink.put(clip(0))
    with open_store(config) as store:
        lose_lease(sink, store)
        store.release_lease(store.acquire_lease("lobby", "other"))
        with pytest.raises(LeaseLost):
            sink.put(clip(1))
        assert store.get_lease("lobby") is None
        other = store.acquire_lease("lobby", holder_text("other"))
        with pytest.raises(LeaseLost):
            sink.put(clip(1))
        assert store.get_lease("lobby") == other


@pytest.mark.parametrize("again", [False, True])
def test_a_stream_that_was_removed_meanwhile_does_not_come_back(config, again):
    sink = open_sink(config)
    sink.put(clip(0))
    with open_store(config) as store:
        store.delete_stream("lobby")
        if again:
            store.put_info(replace(INFO, created_at_s=5.0))
        with pytest.raises(LeaseLost):
            sink.put(clip(1))
        assert store.list_streams() == (["lobby"] if again else [])
        assert store.get_position("lobby") is None
    sink.close()


def set_back(config, server, put, at: int):
    """Kill the server after `put` and have it start with what it had after clip `at`."""
    saved = server.with_name("saved")

    def after(index: int) -> None:
        if index == at:
            shutil.copytree(server, saved, ignore=shutil.ignore_patterns("*.sock", "*.pid"))

    put(after)
    kill(server)
    for path in saved.rglob("*"):
        if path.is_file() and "appendonly" in str(path):
            shutil.copy(path, server / path.relative_to(saved))
    start_embedded(server)


def test_a_store_that_lost_acknowledged_clips_is_noticed_at_the_next_write(config, server):
    sink = open_sink(config)

    def put(after):
        for index in range(6):
            sink.put(clip(index))
            after(index)

    set_back(config, server, put, at=2)
    with pytest.raises(SinkWentBack, match="clip 5 of epoch 0 was stored, now the last one is"):
        sink.put(clip(6))
    assert sink.position().index == 2
    for index in range(3, 7):
        sink.put(clip(index))
    sink.close()
    with open_store(config) as store:
        assert [span.index for span in store.list_spans("lobby")] == list(range(7))


@pytest.fixture
def alone(environment, config, monkeypatch):
    """Settings of a store that is this test's own."""
    monkeypatch.setenv("AOT_STORE__URL", config.url)
    monkeypatch.setenv("AOT_STORE__NAMESPACE", f"t-{uuid.uuid4().hex[:8]}")
    monkeypatch.setenv("AOT_STORE__APPENDFSYNC", "always")
    return load_settings()


def test_a_session_outlives_the_death_of_its_server(alone, server, video):
    request = IngestRequest(VideoSource(str(video), "walk", FPS))
    last = None
    for last in ingest(alone, [request]):
        if last.clips in (3, 6):
            kill(server)
    assert last is not None
    assert (last.state, last.clips) == ("complete", CLIPS)
    with open_store(alone.store_config()) as store:
        assert len(digests(store, "walk")) == CLIPS
        assert store.list_gaps("walk") == []
        assert (store.get_info("walk").status, store.get_info("walk").error) == ("complete", None)


def test_a_session_goes_back_to_where_a_restored_store_stands(alone, config, server, video):
    request = IngestRequest(VideoSource(str(video), "walk", FPS))
    progress = ingest(alone, [request])

    def put(after):
        for value in progress:
            after(value.clips)
            if value.clips == 6:
                return

    set_back(config, server, put, at=3)
    counted = [value.clips for value in progress]
    assert counted[-1] == CLIPS
    assert min(counted) == 4
    with open_store(alone.store_config()) as store:
        assert [span.index for span in store.list_spans("walk")] == list(range(CLIPS))
        assert store.list_gaps("walk") == []


def test_what_cannot_be_read_again_is_recorded_as_lost(alone, config, server, video, tmp_path):
    path = tmp_path / "walk.mp4"
    path.write_bytes(video.read_bytes())
    progress = ingest(alone, [IngestRequest(VideoSource(str(path), "walk", FPS))])

    def put(after):
        for value in progress:
            after(value.clips)
            if value.clips == 6:
                return

    set_back(config, server, put, at=3)
    path.unlink()
    with pytest.raises(Exception, match=r"walk\.mp4"):
        list(progress)
    with open_store(alone.store_config()) as store:
        [gap] = store.list_gaps("walk")
        assert (gap.start_s, gap.end_s, gap.reason) == (6.0, 12.0, "store")
        assert store.get_info("walk").status == "failed"
        path.write_bytes(video.read_bytes())
        list(ingest(alone, [IngestRequest(VideoSource(str(path), "walk", FPS))]))
        assert len(store.list_spans("walk")) == CLIPS
        assert store.list_gaps("walk") == []


def test_a_clip_that_failed_is_tried_again_in_a_later_run(opened, settings, video, monkeypatch):
    from workers.compress import CompressWorker
    from workers.types import FailedClip

    real, request = CompressWorker.compress, IngestRequest(VideoSource(str(video), "walk", FPS))

    def fail(self, clips):
        if clips[0].index in (2, 3):
            return [FailedClip.of(clips[0], "out of memory")]
        return real(self, clips)

    monkeypatch.setattr(CompressWorker, "compress", fail)
    *_, last = ingest(settings, [request])
    assert (last.state, last.failed_clips) == ("complete", 2)
    whole = [index for index in range(CLIPS) if index not in (2, 3)]
    assert [span.index for span in opened.list_spans("walk")] == whole
    assert [gap.reason for gap in opened.list_gaps("walk")] == ["failed", "failed"]

    list(ingest(settings, [request]))  # it fails again: nothing is lost, nothing doubled
    assert [span.index for span in opened.list_spans("walk")] == whole
    assert [gap.reason for gap in opened.list_gaps("walk")] == ["failed", "failed"]

    monkeypatch.undo()
    list(ingest(settings, [request]))
    assert [span.index for span in opened.list_spans("walk")] == list(range(CLIPS))
    assert opened.list_gaps("walk") == []
    assert opened.get_position("walk").index == CLIPS - 1
    *_, last = ingest(settings, [request])
    assert (last.state, last.clips) == ("complete", 0)


def test_clips_that_failed_at_the_end_leave_no_gap_once_they_succeed(
    opened, settings, video, monkeypatch
):
    from workers.compress import CompressWorker
    from workers.types import FailedClip

    real, request = CompressWorker.compress, IngestRequest(VideoSource(str(video), "walk", FPS))
    calls = itertools.count()

    def fail(self, clips):
        if next(calls) >= 5:
            return [FailedClip.of(clips[0], "out of memory")]
        return real(self, clips)

    monkeypatch.setattr(CompressWorker, "compress", fail)
    with pytest.raises(Exception, match="3 clips in a row"):
        list(ingest(settings, [request]))
    assert len(opened.list_gaps("walk")) == 3
    monkeypatch.undo()
    list(ingest(settings, [request]))
    assert len(opened.list_spans("walk")) == CLIPS
    assert opened.list_gaps("walk") == []
