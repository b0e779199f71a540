"""What speaks against a video is said before a model is loaded or a cluster started."""

import os
import socket
import subprocess
from dataclasses import replace

import pytest

from pipeline.ask.run import Question, ask
from pipeline.errors import Conflict, LeaseHeld, NoFootage
from pipeline.ingest.admission import admit
from pipeline.ingest.run import IngestRequest, detach, ingest
from pipeline.settings import load_settings
from pipeline.store import StoreConfig
from pipeline.store.memory import MemoryStore
from pipeline.types import StreamInfo
from tests.pipeline.conftest import CLIPS, FPS
from tests.pipeline.ingest.test_sink import clip
from workers.errors import ModelNotFound, NoVideoStream, SourceError, SourceUnreachable
from workers.models import open_language_model
from workers.types import VideoSource

INFO = StreamInfo("lobby", "/videos/a.mp4", "some/model", "", settings={"fps": 1.0})
LIVING = f"other@{socket.gethostname()}:{os.getpid()}"


@pytest.fixture
def store():
    with MemoryStore(StoreConfig("memory://")) as opened:
        yield opened


@pytest.fixture
def known(store):
    """The stream with one clip, paused."""
    info = replace(INFO, model_id="tiny", fingerprint="f1", status="paused", created_at_s=5.0)
    store.put_info(info)
    lease = store.acquire_lease("lobby", "test")
    store.put_clip(clip(0), lease, fingerprint="f1")
    store.release_lease(lease)
    return info


def good() -> None:
    """The file can be read."""


def bad() -> None:
    raise SourceUnreachable("a.mp4: No such file or directory; check the path")


def untouchable() -> None:
    raise AssertionError("the file was looked at")


# --- one request -----------------------------------------------------------------------------


def test_a_good_file_of_a_new_stream_leaves_no_trace(store):
    admit(store, INFO, good)
    assert store.list_streams() == []
    assert store.get_lease("lobby") is None


def test_a_refused_file_is_kept_as_the_streams_failure(store):
    with pytest.raises(SourceUnreachable):
        admit(store, INFO, bad)
    failed = store.get_info("lobby")
    assert (failed.status, failed.error) == (
        "failed",
        "SourceUnreachable: a.mp4: No such file or directory; check the path",
    )
    assert (failed.model_id, failed.fingerprint, failed.settings) == ("some/model", "", {"fps": 1})
    assert failed.created_at_s == failed.updated_at_s > 0
    assert store.get_lease("lobby") is None


def test_a_stream_with_clips_stays_what_it_is_but_for_its_status(store, known):
    with pytest.raises(SourceUnreachable):
        admit(store, INFO, bad)
    failed = store.get_info("lobby")
    assert failed == replace(
        known, status="failed", error=failed.error, updated_at_s=failed.updated_at_s
    )
    assert len(store.list_spans("lobby")) == 1


def test_a_complete_stream_needs_its_file_no_more(store, known):
    store.put_info(replace(known, status="complete"))
    admit(store, INFO, untouchable)
    assert store.get_info("lobby").status == "complete"


def test_a_stream_that_is_being_written_is_refused_before_its_file_is_looked_at(store):
    store.acquire_lease("lobby", LIVING)
    with pytest.raises(LeaseHeld, match=LIVING):
        admit(store, INFO, untouchable)


def test_the_lease_of_a_dead_process_hinders_nobody(store):
    store.acquire_lease("lobby", f"other@{socket.gethostname()}:{2**22 + 1}")
    admit(store, INFO, good)
    with pytest.raises(SourceUnreachable):
        admit(store, INFO, bad)
    assert store.get_info("lobby").status == "failed"


@pytest.fixture
def orphan():
    """`orphan(seconds)`: a holder that lives so long under a Ray worker's name, without a Ray."""
    started = []

    def start(seconds: float) -> str:
        process = subprocess.Popen(["ray::SessionActor", str(seconds)], executable="/bin/sleep")
        started.append(process)
        return f"other@{socket.gethostname()}:{process.pid}"

    yield start
    for process in started:
        process.kill()
        process.wait(timeout=10)


def test_a_session_whose_cluster_was_killed_is_given_time_to_end(store, orphan):
    looks: list[str] = []
    store.acquire_lease("lobby", orphan(0.5))
    admit(store, INFO, lambda: looks.append("after it ended"))
    assert looks


def test_a_session_that_does_not_end_without_its_cluster_is_named(store, orphan, monkeypatch):
    monkeypatch.setattr("pipeline.ingest.sink.ORPHAN_S", 0.3)
    holder = orphan(60)
    store.acquire_lease("lobby", holder)
    with pytest.raises(LeaseHeld, match=holder):
        admit(store, INFO, untouchable)


@pytest.mark.parametrize("change", [{"source": "/videos/b.mp4"}, {"wall_start_s": 7.0}])
def test_a_begun_stream_goes_on_with_its_own_source_only(store, known, change):
    with pytest.raises(Conflict, match="lobby"):
        admit(store, replace(INFO, **change), untouchable)
    assert store.get_info("lobby") == known


def test_a_moved_file_is_accepted_where_it_is_said_to_be_moved(store, known):
    looks: list[str] = []
    admit(store, replace(INFO, source="/videos/b.mp4"), lambda: looks.append("b"), moved=True)
    assert looks == ["b"]


def test_a_store_that_cannot_record_the_failure_does_not_hide_it(store, monkeypatch):
    def held(*_, **__):
        raise LeaseHeld("taken meanwhile")

    monkeypatch.setattr(store, "acquire_lease", held)
    with pytest.raises(SourceUnreachable) as caught:
        admit(store, INFO, bad)
    assert "taken meanwhile" in caught.value.__notes__[0]


# --- the whole of it -------------------------------------------------------------------------


@pytest.fixture
def missing(tmp_path):
    return IngestRequest(VideoSource(str(tmp_path / "none.mp4"), "none"))


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.mp4"
    path.write_text("no video")
    return IngestRequest(VideoSource(str(path), "text"))


@pytest.fixture
def walk(video):
    return IngestRequest(VideoSource(str(video), "walk", FPS))


def without_model(**ray):
    """Settings with which every load of a model fails, and no Ray is found."""
    given = {"enabled": False, **ray}
    return load_settings(None, {"model": {"id": "/no/such/folder"}, "ray": given})


@pytest.mark.parametrize("ray", [False, True])
def test_a_bad_file_is_named_before_a_model_is_loaded_or_ray_started(
    opened, missing, text, monkeypatch, ray
):
    monkeypatch.setattr("pipeline.ingest.run.open_cluster", untouchable)
    settings = without_model(enabled=ray)
    for request, error in ((missing, SourceUnreachable), (text, NoVideoStream)):
        with pytest.raises(error, match=request.source.url):
            list(ingest(settings, [request]))
        assert opened.get_info(request.source.stream_id).error.startswith(error.__name__)


def test_a_taken_stream_is_named_before_a_model_is_loaded(opened, walk):
    lease = opened.acquire_lease("walk", LIVING)
    with pytest.raises(LeaseHeld, match=LIVING):
        list(ingest(without_model(), [walk]))
    opened.release_lease(lease)


def test_a_good_file_comes_to_the_model(opened, walk):
    with pytest.raises(ModelNotFound):
        list(ingest(without_model(), [walk]))
    assert opened.list_streams() == []


def test_where_no_file_is_good_no_model_is_loaded(opened, missing, text):
    seen = list(ingest(without_model(), [missing, text], keep_going=True))
    assert [(p.stream_id, p.state, type(p.error)) for p in seen] == [
        ("none", "failed", SourceUnreachable),
        ("text", "failed", NoVideoStream),
    ]


def test_bad_files_before_and_behind_stop_no_good_one(opened, settings, missing, text, walk):
    seen = list(ingest(settings, [missing, walk, text], keep_going=True))
    last = {progress.stream_id: progress for progress in seen}
    assert {name: value.state for name, value in last.items()} == {
        "none": "failed",
        "walk": "complete",
        "text": "failed",
    }
    assert last["walk"].clips == CLIPS


def test_a_file_that_is_gone_hinders_no_stream_that_is_complete(opened, settings, walk, tmp_path):
    list(ingest(settings, [walk]))
    gone = replace(walk.source, url=str(tmp_path / "gone.mp4"))
    [last] = ingest(settings, [IngestRequest(gone, resume=True)])
    assert (last.state, last.clips) == ("complete", 0)


def test_files_outside_the_allowed_folders_are_refused_beforehand(opened, walk, tmp_path):
    given = {"model": {"id": "/no/such/folder"}, "ingest": {"roots": [str(tmp_path)]}}
    with pytest.raises(SourceError, match="outside the allowed folders"):
        list(ingest(load_settings(None, given), [walk]))


def test_a_bad_file_is_not_detached(opened, missing, text, monkeypatch):
    monkeypatch.setattr("pipeline.ingest.run.start_local_cluster", untouchable)
    with pytest.raises(SourceUnreachable):
        detach(without_model(enabled=True), [missing])
    assert detach(without_model(enabled=True), [missing, text], keep_going=True) == []
    assert opened.get_info("text").error.startswith("NoVideoStream")


def test_a_refused_stream_has_no_footage_and_is_of_no_model(opened, missing, model_folder):
    with pytest.raises(SourceUnreachable):
        list(ingest(without_model(), [missing]))
    with pytest.raises(NoFootage, match="no clips yet"):
        ask(opened, open_language_model(str(model_folder)), Question("what", ("none",)))
