"""What speaks against a video is said before a model is loaded or a cluster started."""

import re
import threading
import time
from contextlib import closing, nullcontext
from dataclasses import replace

import pytest

from pipeline.ask.run import Question, ask
from pipeline.ingest.admission import admit
from pipeline.ingest.job import _check_there
from pipeline.ingest.lease import holder_text
from pipeline.ingest.on_ray import detach
from pipeline.ingest.request import IngestRequest
from pipeline.ingest.run import ingest
from pipeline.settings import load_settings
from pipeline.store import StoreConfig
from pipeline.store.memory import MemoryStore
from pipeline.values.errors import (
    Conflict,
    InvalidSettings,
    LeaseHeld,
    NoFootage,
    StoreUnavailable,
)
from pipeline.values.types import StreamInfo
from tests.pipeline.conftest import CLIPS, FPS
from tests.pipeline.ingest.test_sink import clip
from workers.clips import check_source
from workers.errors import (
    ClipsFailed,
    ModelNotFound,
    NoVideoStream,
    SourceError,
    SourceUnreachable,
    WorkerLost,
)
from workers.models import open_language_model
from workers.session import Progress
from workers.types import VideoSource

INFO = StreamInfo("lobby", "/videos/a.mp4", "some/model", "", settings={"fps": 1.0})
LIVING = holder_text("other")


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
    raise NoVideoStream("a.mp4: no picture in it; check the file")


def missing_file() -> None:
    raise SourceUnreachable("a.mp4: No such file or directory; check the path")


def untouchable() -> None:
    raise AssertionError("the file was looked at")


# --- one request -----------------------------------------------------------------------------


def test_a_good_file_of_a_new_stream_leaves_no_trace(store):
    admit(store, INFO, good)
    assert store.list_streams() == []
    assert store.get_lease("lobby") is None


def test_a_refused_file_is_kept_as_the_streams_failure(store):
    with pytest.raises(NoVideoStream):
        admit(store, INFO, bad)
    failed = store.get_info("lobby")
    assert (failed.status, failed.error) == (
        "failed",
        "NoVideoStream: a.mp4: no picture in it; check the file",
    )
    assert (failed.model_id, failed.fingerprint, failed.settings) == ("some/model", "", {"fps": 1})
    assert failed.created_at_s == failed.updated_at_s > 0
    assert store.get_lease("lobby") is None


def test_a_mistyped_path_leaves_no_stream(store):
    with pytest.raises(SourceUnreachable):
        admit(store, INFO, missing_file)
    assert store.list_streams() == []


def test_a_known_stream_says_that_its_file_is_gone(store, known):
    with pytest.raises(SourceUnreachable):
        admit(store, INFO, missing_file)
    assert store.get_info("lobby").error.startswith("SourceUnreachable: ")


def test_a_stream_with_clips_stays_what_it_is_but_for_its_status(store, known):
    with pytest.raises(NoVideoStream):
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
    with pytest.raises(LeaseHeld, match=re.escape(LIVING)):
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
    with pytest.raises(NoVideoStream) as caught:
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
    monkeypatch.setattr("pipeline.ingest.on_ray.open_cluster", untouchable)
    settings = without_model(enabled=ray)
    for request, error in ((missing, SourceUnreachable), (text, NoVideoStream)):
        with pytest.raises(error, match=request.source.url):
            list(ingest(settings, [request]))
    assert opened.list_streams() == ["text"]
    assert opened.get_info("text").error.startswith("NoVideoStream")


def test_a_taken_stream_is_named_before_a_model_is_loaded(opened, walk):
    lease = opened.acquire_lease("walk", LIVING)
    with pytest.raises(LeaseHeld, match=re.escape(LIVING)):
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
    monkeypatch.setattr("pipeline.ingest.on_ray.start_local_cluster", untouchable)
    with pytest.raises(SourceUnreachable):
        detach(without_model(enabled=True), [missing])
    assert detach(without_model(enabled=True), [missing, text], keep_going=True) == []
    assert opened.get_info("text").error.startswith("NoVideoStream")


def test_a_refused_stream_has_no_footage_and_is_of_no_model(opened, text, model_folder):
    with pytest.raises(NoVideoStream):
        list(ingest(without_model(), [text]))
    with pytest.raises(NoFootage, match="no clips yet"):
        ask(opened, open_language_model(str(model_folder)), Question("what", ("text",)))


# --- batches ---------------------------------------------------------------------------------


def copies(video, folder, count):
    """Requests for so many copies of a video under names of their own."""
    requests = []
    for index in range(count):
        path = folder / f"v{index}.mp4"
        path.write_bytes(video.read_bytes())
        requests.append(IngestRequest(VideoSource(str(path), f"v{index}", FPS)))
    return requests


class Runs:
    """A runner whose sessions do what a test says."""

    def __init__(self, width, work):
        self.width, self.work = width, work

    def side_by_side(self, num_videos):
        return min(self.width, num_videos)

    def run(self, request):
        yield from self.work(request)


def with_runner(monkeypatch, runner):
    monkeypatch.setattr("pipeline.ingest.run.open_inline", lambda job: nullcontext(runner))


def complete(request):
    yield Progress(request.source.stream_id, state="running")
    yield Progress(request.source.stream_id, state="complete")


@pytest.mark.parametrize(
    "error", [ClipsFailed("no memory"), WorkerLost("gone"), LeaseHeld("x"), ValueError("29")]
)
@pytest.mark.parametrize("width", [1, 3])
def test_whatever_ends_one_video_the_others_go_on(
    opened, settings, video, tmp_path, monkeypatch, error, width
):
    def work(request):
        if request.source.stream_id == "v1":
            raise error
        yield from complete(request)

    with_runner(monkeypatch, Runs(width, work))
    seen = list(ingest(settings, copies(video, tmp_path, 3), keep_going=True))
    last = {progress.stream_id: (progress.state, progress.error) for progress in seen}
    assert last == {"v0": ("complete", None), "v1": ("failed", error), "v2": ("complete", None)}


@pytest.mark.parametrize("width", [1, 3])
def test_a_store_that_is_gone_ends_the_batch(opened, settings, video, tmp_path, monkeypatch, width):
    def work(request):
        yield Progress(request.source.stream_id, state="running")
        raise StoreUnavailable("gone")

    with_runner(monkeypatch, Runs(width, work))
    with pytest.raises(StoreUnavailable):
        list(ingest(settings, copies(video, tmp_path, 3), keep_going=True))


def test_videos_run_side_by_side_up_to_the_runners_width(
    opened, settings, video, tmp_path, monkeypatch
):
    meet = threading.Barrier(3)

    def work(request):
        meet.wait(timeout=200)  # passed only by three at one time
        yield from complete(request)

    with_runner(monkeypatch, Runs(3, work))
    seen = list(ingest(settings, copies(video, tmp_path, 6), keep_going=True))
    assert sum(progress.state == "complete" for progress in seen) == 6


def test_leaving_a_batch_stops_what_runs_and_starts_nothing_more(
    opened, settings, video, tmp_path, monkeypatch
):
    begun, stopped = [], []

    def work(request):
        begun.append(request.source.stream_id)
        try:
            while True:
                yield Progress(request.source.stream_id, state="running")
                time.sleep(0.01)
        finally:
            stopped.append(request.source.stream_id)

    with_runner(monkeypatch, Runs(2, work))
    with closing(ingest(settings, copies(video, tmp_path, 5), keep_going=True)) as seen:
        next(seen)
    assert sorted(stopped) == sorted(begun)
    assert len(begun) <= 2


@pytest.mark.parametrize("ray", [False, True])
def test_for_videos_that_are_complete_nothing_is_started(opened, settings, walk, monkeypatch, ray):
    list(ingest(settings, [walk]))
    monkeypatch.setattr("pipeline.ingest.run.open_inline", untouchable)
    monkeypatch.setattr("pipeline.ingest.run.open_on_ray", untouchable)
    settings = load_settings(None, {"ray": {"enabled": ray}})
    again = list(ingest(settings, [walk, walk], keep_going=True))
    assert [(value.state, value.clips, value.position_s) for value in again] == [
        ("complete", 0, 20.0)
    ] * 2


def test_a_store_of_this_machine_alone_is_refused_where_sessions_run_elsewhere(tmp_path, video):
    source = VideoSource(str(video), "walk")
    nowhere = StoreConfig(f"unix://{tmp_path}/redis.sock")
    with pytest.raises(InvalidSettings, match=r"this machine's alone .*--ray auto"):
        _check_there(check_source, nowhere, source)
