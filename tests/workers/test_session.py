"""The session without Ray and without a model: order, cursor, gaps, ends."""

import threading
from itertools import islice

import pytest

from tests.workers.session_support import (
    FolderSink,
    ModelFreeWorkers,
    clip_digest,
    digests,
    gaps,
    make_clip,
    open_canned,
    report,
)
from workers.errors import ClipsFailed, NoFrames, SourceUnreachable
from workers.session import SessionSettings, run_session
from workers.types import VideoSource


def run(folder, url="canned:clips=6", *, workers=None, stop=None, settings=None, **source):
    return run_session(
        VideoSource(url, "lobby", **source),
        settings or SessionSettings(),
        workers or ModelFreeWorkers(),
        FolderSink(folder),
        open_clips=open_canned,
        stop=stop,
    )


def test_commits_every_clip_in_order(tmp_path):
    workers = ModelFreeWorkers()
    steps = list(run(tmp_path, workers=workers))
    assert workers.seen == list(range(6))
    assert [step.position_s for step in steps] == [0, 4, 8, 12, 16, 20, 24, 24]
    assert list(digests(tmp_path)) == list(range(6))
    assert report(tmp_path)["state"] == "complete"


def test_progress_counts_what_was_committed(tmp_path):
    last = list(run(tmp_path))[-1]
    assert (last.state, last.done) == ("complete", True)
    assert (last.clips, last.frames, last.footage_s, last.total_s) == (6, 24, 24.0, 24.0)
    assert (last.tokens_in, last.tokens_out, last.retention) == (96, 24, 0.25)
    assert last.stored_bytes == 24 * 4 * 4
    assert last.x_realtime == pytest.approx(24.0 / last.elapsed_s)


@pytest.mark.parametrize("died_after", [1, 2, 5])
def test_a_session_started_again_gives_the_same_clips(tmp_path, died_after):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    list(run(whole))
    first_run = run(broken)
    list(islice(first_run, 1 + died_after))
    first_run.close()
    again = ModelFreeWorkers()
    first = next(steps := run(broken, workers=again))
    list(steps)
    assert first.resumed_s == 4.0 * died_after
    assert again.seen == list(range(died_after, 6))
    assert digests(broken) == digests(whole)


def test_ingesting_a_complete_stream_again_reads_nothing(tmp_path):
    list(run(tmp_path))
    workers = ModelFreeWorkers()
    steps = list(run(tmp_path, "canned:clips=6,break=0", workers=workers))
    assert [step.state for step in steps] == ["complete"]
    assert workers.seen == []


def test_a_jump_within_an_epoch_is_a_gap(tmp_path):
    last = list(run(tmp_path, "canned:clips=6,jump=3"))[-1]
    assert gaps(tmp_path) == [("gap", 12.0, 112.0)]
    assert last.gaps == 1


def test_a_source_that_begins_late_has_a_gap_before_it(tmp_path):
    list(run(tmp_path, "canned:clips=2,jump=0"))
    assert gaps(tmp_path) == [("gap", 0.0, 100.0)]


def test_a_pause_of_two_samples_is_no_gap(tmp_path):
    list(run(tmp_path, "canned:clips=6,jump=3,by=2"))
    assert gaps(tmp_path) == []


def test_a_source_of_nothing_but_damage_is_not_complete(tmp_path):
    with pytest.raises(NoFrames, match="every one of its pictures came out damaged"):
        list(run(tmp_path, "canned:clips=2,damaged=1"))
    assert len(digests(tmp_path)) == 2
    assert report(tmp_path)["state"] == "failed"


def test_a_gap_keeps_the_readers_reason(tmp_path):
    list(run(tmp_path, "canned:clips=6,jump=3,lossy=1"))
    assert gaps(tmp_path) == [("damaged", 12.0, 112.0)]


def test_a_jump_is_found_when_the_session_was_started_again_before_it(tmp_path):
    list(run(tmp_path, "canned:clips=3"))
    (tmp_path / "complete").unlink()
    list(run(tmp_path, "canned:clips=6,jump=3"))
    assert gaps(tmp_path) == [("gap", 12.0, 112.0)]


def test_what_a_truncated_source_lacks_is_a_gap(tmp_path):
    list(run(tmp_path, "canned:clips=2,truncated=1"))
    assert gaps(tmp_path) == [("truncated", 8.0, 18.0)]
    assert report(tmp_path)["truncated"] is True


def test_a_failed_clip_is_a_gap_and_the_stream_goes_on(tmp_path):
    last = list(run(tmp_path, workers=ModelFreeWorkers(fails=(2,))))[-1]
    assert gaps(tmp_path) == [("failed", 8.0, 12.0)]
    assert list(digests(tmp_path)) == [0, 1, 3, 4, 5]
    assert (last.state, last.failed_clips) == ("complete", 1)


def test_failures_in_a_row_end_the_session(tmp_path):
    with pytest.raises(ClipsFailed, match=r"2 clips in a row .* no memory"):
        list(
            run(
                tmp_path,
                workers=ModelFreeWorkers(fails=(1, 3, 4)),
                settings=SessionSettings(max_failed_in_row=2),
            )
        )
    assert report(tmp_path)["error_code"] == "ClipsFailed"
    assert list(digests(tmp_path)) == [0, 2]


def test_a_source_that_breaks_keeps_what_came_before(tmp_path):
    with pytest.raises(SourceUnreachable, match="went away"):
        list(run(tmp_path, "canned:clips=6,break=4"))
    assert list(digests(tmp_path)) == [0, 1, 2, 3]
    assert report(tmp_path)["state"] == "failed"
    assert report(tmp_path)["error"] == "the source went away"


def test_a_stop_ends_the_session_and_the_next_run_goes_on(tmp_path):
    stop = threading.Event()
    first_run = run(tmp_path, stop=stop)
    list(islice(first_run, 3))
    stop.set()
    assert [step.state for step in first_run] == ["stopped"]
    assert report(tmp_path)["state"] == "stopped"
    assert list(digests(tmp_path)) == [0, 1]
    assert list(run(tmp_path))[-1].state == "complete"
    assert list(digests(tmp_path)) == list(range(6))


def test_the_wall_clock_is_carried_by_every_clip(tmp_path):
    stored = []

    class Keep(FolderSink):
        def put(self, clip):
            stored.append((clip.start_s, clip.wall_start_s))
            return super().put(clip)

    source = VideoSource("canned:clips=2", "lobby", wall_start_s=1_000.0)
    settings, workers = SessionSettings(), ModelFreeWorkers()
    list(run_session(source, settings, workers, Keep(tmp_path), open_clips=open_canned))
    assert stored == [(0.0, 1_000.0), (4.0, 1_004.0)]


def test_a_sink_that_fails_ends_the_session_with_its_error(tmp_path):
    class Full(FolderSink):
        def put(self, clip):
            raise OSError("no space left")

        def finish(self, report):
            raise OSError("still no space")

    source = VideoSource("canned:clips=2", "lobby")
    with pytest.raises(OSError, match="no space left") as caught:
        list(
            run_session(
                source,
                SessionSettings(),
                ModelFreeWorkers(),
                Full(tmp_path),
                open_clips=open_canned,
            )
        )
    assert caught.value.__notes__ == ["the sink could not record the end: still no space"]


def test_the_digest_tells_clips_apart():
    workers = ModelFreeWorkers()
    first, second = (workers._compress(make_clip("lobby", index)) for index in (0, 1))
    assert clip_digest(first) != clip_digest(second)
    assert clip_digest(first) == clip_digest(workers._compress(make_clip("lobby", 0)))
