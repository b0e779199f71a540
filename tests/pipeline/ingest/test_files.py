"""Files that change under their path, and streams that are gone on with as they were begun."""

import itertools
import json
from dataclasses import replace

import pytest

from pipeline.api.pipeline import Pipeline
from pipeline.api.sessions import prepare_resume
from pipeline.ingest.request import IngestRequest
from pipeline.ingest.run import ingest
from pipeline.settings import load_settings
from pipeline.values.errors import Conflict, InvalidQuery
from tests.pipeline.conftest import CLIPS, FPS
from tests.pipeline.support import digests
from tests.videos import write_video
from workers.types import VideoSource


@pytest.fixture(scope="module")
def other_video(tmp_path_factory):
    """As long as `video`, of other pictures."""
    folder = tmp_path_factory.mktemp("video")
    return write_video(folder / "other.mp4", frames=80, fps=4, gop=8, width=160, height=120)


@pytest.fixture(scope="module", params=["mpegts", "matroska"])
def growing(request, tmp_path_factory):
    """(the bytes of a recording, those of it that were written when it was half done)"""
    path = tmp_path_factory.mktemp("video") / "r"
    write_video(path, frames=80, fps=4, gop=8, container=request.param)
    data = path.read_bytes()
    return data, data[: len(data) // 2]


def test_a_file_that_is_overwritten_is_a_conflict_until_it_is_said_to_replace(
    run, opened, video, other_video, tmp_path
):
    path = tmp_path / "latest.mp4"
    path.write_bytes(video.read_bytes())
    assert run("ingest", path).code == 0
    before = digests(opened, "latest")
    path.write_bytes(other_video.read_bytes())
    for more in ([], ["--resume"]):
        ran = run("ingest", path, *more)
        assert ran.code == 1
        assert "error: Conflict: stream latest was made from" in ran.err
        assert "--restart" in ran.err
    assert digests(opened, "latest") == before
    assert run("ingest", path, "--restart").code == 0
    assert set(digests(opened, "latest")) == set(before)
    assert digests(opened, "latest") != before
    assert run("ingest", path).out.startswith("latest: already complete")


def test_restart_keeps_what_is_stored_where_the_new_file_cannot_be_read(
    run, opened, video, tmp_path
):
    path = tmp_path / "latest.mp4"
    path.write_bytes(video.read_bytes())
    assert run("ingest", path).code == 0
    path.write_text("no video")
    assert run("ingest", path, "--restart").code == 1
    assert len(opened.list_spans("latest")) == CLIPS


def test_a_recording_that_goes_on_is_gone_on_with(run, opened, growing, tmp_path):
    whole, half = growing
    path = tmp_path / "live.rec"
    path.write_bytes(half)
    assert run("ingest", path).code == 0
    first = opened.list_spans("live")
    assert 2 <= len(first) < CLIPS
    path.write_bytes(whole)
    assert run("ingest", path).code == 0
    spans = opened.list_spans("live")
    assert spans[: len(first)] == first
    assert spans[-1].end_s == pytest.approx(20.0, abs=0.6)
    assert all(b.start_s - a.end_s < 0.6 for a, b in itertools.pairwise(spans))
    assert opened.list_gaps("live") == []
    assert run("ingest", path).out.startswith("live: already complete")


def test_a_copy_that_was_not_finished_is_finished(run, opened, tmp_path):
    options = {"movflags": "+faststart"}
    video = write_video(tmp_path / "x.mp4", frames=160, fps=4, gop=8, mux_options=options)
    whole, path = video.read_bytes(), tmp_path / "copy.mp4"
    path.write_bytes(whole[: len(whole) * 6 // 10])
    assert run("ingest", path).code == 0
    assert opened.get_info("copy").error.startswith("Truncated: ")
    path.write_bytes(whole)
    assert run("ingest", path).code == 0
    assert opened.get_info("copy").error is None
    assert opened.list_spans("copy")[-1].end_s == pytest.approx(40.0, abs=0.6)


def test_a_paused_stream_is_not_spliced_from_two_recordings(
    opened, settings, video, other_video, tmp_path
):
    path = tmp_path / "a.mp4"
    path.write_bytes(video.read_bytes())
    request = IngestRequest(VideoSource(str(path), "a", FPS))
    progress = ingest(settings, [request])
    while next(progress).clips < 3:
        pass
    progress.close()
    assert opened.get_info("a").status == "paused"
    path.write_bytes(other_video.read_bytes())
    with pytest.raises(Conflict, match="another recording"):
        list(ingest(settings, [request]))
    assert len(opened.list_spans("a")) == 3


def test_more_of_a_video_is_read_when_more_is_asked_for(settings, opened, video):
    with Pipeline(settings) as pipeline:
        assert pipeline.ingest(str(video), stream="all", end_s=8.0).clips == 4
        assert pipeline.ingest(str(video), stream="all", end_s=8.0).clips == 0
        assert pipeline.ingest(str(video), stream="all").clips == CLIPS - 4
        assert pipeline.ingest(str(video), stream="all", end_s=4.0).clips == 0
        assert pipeline.ingest(str(video), stream="whole").clips == CLIPS
    assert len(digests(opened, "all")) == CLIPS


def begin(settings, video, **fields):
    """A stream that was stopped after two clips."""
    source = VideoSource(str(video), "walk", FPS, **fields)
    progress = ingest(settings, [IngestRequest(source, zone="+02:00")])
    while next(progress).clips < 2:
        pass
    progress.close()


def test_a_stream_is_resumed_as_it_was_begun(opened, settings, video, model_folder):
    given = {"ingest": {"retention": 0.3, "constants": {"window": 3}}, "store": {"dtype": "int8"}}
    begun = load_settings(None, given)
    begin(begun, video, start_s=2.0, end_s=14.0, wall_start_s=1e9)
    later = load_settings(
        None, {"model": {"id": "another/model", "revision": "x"}, "ingest": {"fps": 5.0}}
    )
    resumed, request = prepare_resume(later, "walk")
    assert request.source == VideoSource(
        str(video), "walk", FPS, start_s=2.0, end_s=14.0, wall_start_s=1e9
    )
    assert request.zone == "+02:00"
    assert resumed.compress_settings() == replace(
        begun.compress_settings(), model=str(model_folder)
    )
    assert resumed.store.dtype == "int8"
    *_, last = ingest(resumed, [request])
    assert (last.state, last.clips) == ("complete", 4)
    assert opened.verify("walk").ok


def test_a_stream_is_resumed_here_where_ray_is_off(run, opened, settings, video):
    begin(settings, video)
    ran = run("streams", "resume", "walk", "--json")
    assert ran.code == 0, ran.err
    assert (ran.json["state"], ran.json["clips"]) == ("complete", CLIPS - 2)


def test_a_moved_file_is_resumed_from_where_it_lies_now(run, opened, settings, video, tmp_path):
    path = tmp_path / "before.mp4"
    path.write_bytes(video.read_bytes())
    begin(settings, path)
    moved = path.rename(tmp_path / "after.mp4")
    assert run("streams", "resume", "walk").code == 1
    assert run("streams", "resume", "walk", "--source", moved).code == 0
    assert opened.get_info("walk").source == str(moved)


def test_a_source_with_a_password_is_resumed_with_the_password_only(opened, settings, video):
    begin(settings, video)
    info = opened.get_info("walk")
    secret = replace(info.made_with.source, url="rtsp://cam/1", needs_credentials=True)
    opened.put_info(replace(info, made_with=replace(info.made_with, source=secret)))
    with pytest.raises(InvalidQuery, match="--source URL"):
        prepare_resume(settings, "walk")
    _, request = prepare_resume(settings, "walk", "rtsp://u:p@cam/1")
    assert request.source.url == "rtsp://u:p@cam/1"


def test_a_stream_of_an_earlier_release_says_how_to_go_on(opened, settings, video):
    begin(settings, video)
    opened.put_info(replace(opened.get_info("walk"), made_with=None))
    with pytest.raises(Conflict, match="aot ingest"):
        prepare_resume(settings, "walk")


def test_a_stream_begun_by_the_first_release_goes_on_under_its_fingerprint(
    opened, settings, video, monkeypatch
):
    other = load_settings(None, {"ingest": {"retention": 0.3}})
    begin(other, video)
    info = opened.get_info("walk")
    flat = {name: value for name, value in info.settings.items()}
    from pipeline.ingest.describe import first_fingerprint
    from workers.compress.inline import InlineWorkers

    with InlineWorkers(other.compress_settings()) as workers:
        first = first_fingerprint(workers.info, "bf16", FPS, 0.3)
    assert first not in (None, info.fingerprint)
    opened.delete_stream("walk")
    monkeypatch.setattr("pipeline.ingest.describe.fingerprint", lambda *given: first)
    begin(other, video)
    opened.put_info(replace(opened.get_info("walk"), made_with=None, file=None, settings=flat))
    monkeypatch.undo()
    *_, last = ingest(other, [IngestRequest(VideoSource(str(video), "walk", FPS))])
    assert (last.state, last.clips) == ("complete", CLIPS - 2)
    assert opened.get_info("walk").fingerprint == first
    assert json.dumps(opened.verify("walk").ok) == "true"
