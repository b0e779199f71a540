"""`aot ingest FILE --follow`: a recording that still runs, read until it grows no more."""

import signal
import threading
import time

import pytest

from tests.pipeline.conftest import CLIPS
from tests.pipeline.support import digests, running
from tests.videos import write_video
from tests.waits import HANG_S, wait_until

FRAGMENTED = {"movflags": "+frag_keyframe+empty_moov+default_base_moof"}


@pytest.fixture(scope="module", params=["mpegts", "matroska", "mp4"])
def recording(request, tmp_path_factory):
    """The bytes of 20 s in each container that can be followed."""
    path = tmp_path_factory.mktemp("video") / "r"
    options = {"mux_options": FRAGMENTED} if request.param == "mp4" else {}
    write_video(path, frames=80, fps=4, gop=8, container=request.param, **options)
    return path.read_bytes()


@pytest.fixture(scope="module")
def transport_stream(tmp_path_factory):
    path = tmp_path_factory.mktemp("video") / "r.ts"
    return write_video(path, frames=80, fps=4, gop=8).read_bytes()


@pytest.fixture(autouse=True)
def _short_wait(environment, monkeypatch):
    monkeypatch.setenv("AOT_INGEST__FOLLOW_S", "1.5")


def write_on(path, data, parts=10, pause_s=0.1):
    for at in range(parts):
        with path.open("ab") as file:
            file.write(data[at * len(data) // parts : (at + 1) * len(data) // parts])
        time.sleep(pause_s)


def finished(run, opened, tmp_path, data):
    """Digests of the same recording, ingested when it was done."""
    path = tmp_path / "done.rec"
    path.write_bytes(data)
    assert run("ingest", path).code == 0
    return list(digests(opened, "done").values())


def test_a_recording_that_runs_gives_the_records_of_the_finished_one(
    run, opened, recording, tmp_path
):
    path = tmp_path / "live.rec"
    path.write_bytes(b"")
    writer = threading.Thread(target=write_on, args=(path, recording))
    writer.start()
    ran = run("ingest", path, "--follow")
    writer.join()
    assert (ran.code, opened.get_info("live").status) == (0, "complete"), ran.err
    done = digests(opened, "live")
    assert len(done) == CLIPS
    lengths = [(span.start_s, span.end_s) for span in opened.list_spans("live")]
    assert list(done) == [(0, index) for index in range(CLIPS)]
    assert len(finished(run, opened, tmp_path, recording)) == CLIPS
    assert lengths == [(span.start_s, span.end_s) for span in opened.list_spans("done")]
    tokens = [opened.get_clip(span).tokens.tokens for span in opened.list_spans("live")]
    others = [opened.get_clip(span).tokens.tokens for span in opened.list_spans("done")]
    assert all(one.equal(other) for one, other in zip(tokens, others, strict=True))
    assert run("ingest", path, "--follow").out.startswith("live: already complete")


def test_a_kill_while_it_runs_loses_and_doubles_nothing(run, opened, transport_stream, tmp_path):
    path, cut = tmp_path / "live.ts", len(transport_stream) * 2 // 3
    path.write_bytes(transport_stream[:cut])
    with running("ingest", path, "--follow", environment={"AOT_INGEST__FOLLOW_S": "null"}) as live:
        wait_until(lambda: len(digests(opened, "live")) >= 4)
        live.kill()
    before = digests(opened, "live")
    with path.open("ab") as file:
        file.write(transport_stream[cut:])
    assert run("ingest", path, "--follow").code == 0
    after = digests(opened, "live")
    assert {place: after[place] for place in before} == before
    assert [span.index for span in opened.list_spans("live")] == list(range(CLIPS))
    assert opened.get_info("live").status == "complete"


def test_one_that_waits_without_a_limit_is_stopped_soon_and_goes_on_later(
    run, opened, transport_stream, tmp_path
):
    path, cut = tmp_path / "live.ts", len(transport_stream) * 2 // 3
    path.write_bytes(transport_stream[:cut])
    with running("ingest", path, "--follow", environment={"AOT_INGEST__FOLLOW_S": "null"}) as live:
        wait_until(lambda: len(digests(opened, "live")) >= 4)
        live.send_signal(signal.SIGTERM)
        live.wait(HANG_S)
        assert live.returncode != 0
    assert opened.get_info("live").status == "paused"
    assert opened.get_info("live").made_with.source.follow
    with path.open("ab") as file:
        file.write(transport_stream[cut:])
    assert run("streams", "resume", "live").code == 0
    assert len(digests(opened, "live")) == CLIPS
    assert opened.get_info("live").status == "complete"


def test_what_was_asked_of_a_file_without_its_index_says_what_can_be_followed(run, tmp_path):
    path = tmp_path / "now.mp4"
    path.write_bytes(write_video(tmp_path / "whole.mp4", frames=8).read_bytes()[:2000])
    assert "--follow" in run("ingest", path).err
    refused = run("ingest", path, "--follow")
    assert (refused.code, "fragmented MP4" in refused.err) == (1, True)


def test_finished_files_are_joined_and_not_followed(run, tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"")
    assert run("ingest", tmp_path, "--join", "--follow").code == 2
