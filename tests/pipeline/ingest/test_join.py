"""`aot ingest --join`: files of one camera become one stream, whatever happens on the way."""

import itertools
import json
import os

import pytest

from tests.videos import split_video


def contents(store, stream: str) -> list[tuple]:
    """All that is stored of a stream, but for its name and its wall clock."""
    return [
        (clip.index, clip.start_s, clip.end_s, clip.pts_s, clip.tokens.tokens.tolist())
        for clip in store.iter_clips(store.list_spans(stream))
    ]


@pytest.fixture
def parts(video, tmp_path):
    """`video` cut into five files of 4 s, in folders of their own."""
    cut = split_video(video, tmp_path / "gate", "p%03d.mp4", every=2)
    moved = []
    for number, path in enumerate(cut):
        folder = path.parent / f"hour{number // 2}"
        folder.mkdir(exist_ok=True)
        moved.append(path.rename(folder / path.name))
    return moved


def test_a_folder_of_segments_is_the_stream_of_the_undivided_video(
    run, opened, video, parts, tmp_path
):
    assert run("ingest", video, "-s", "whole").code == 0
    ran = run("ingest", tmp_path / "gate", "--join")
    assert ran.code == 0, ran.err
    assert ran.out.startswith("gate: complete, 10 clips of 0:00:20")
    assert contents(opened, "gate") == contents(opened, "whole")
    assert opened.list_gaps("gate") == []
    assert run("ingest", tmp_path / "gate", "--join").out.startswith("gate: already complete")


def test_segments_that_come_later_go_on(run, opened, video, parts, tmp_path):
    assert run("ingest", video, "-s", "whole").code == 0
    for count in (2, 3, 5):
        ran = run("ingest", *parts[:count], "--join", "-s", "gate")
        assert ran.code == 0, ran.err
    spans = opened.list_spans("gate")
    assert [span.index for span in spans] == list(range(len(spans)))
    assert all(a.end_s == b.start_s for a, b in itertools.pairwise(spans))
    frames = [pts for clip in contents(opened, "gate") for pts in clip[3]]
    assert frames == [pts for clip in contents(opened, "whole") for pts in clip[3]]


def test_a_run_that_was_left_goes_on_where_it_was(run, opened, video, parts, tmp_path, monkeypatch):
    import pipeline.ingest.run as runs
    from pipeline.api.sessions import prepare_resume
    from pipeline.ingest.run import ingest

    assert run("ingest", video, "-s", "whole").code == 0
    begun = []

    def leave(settings, requests, **options):
        for progress in ingest(settings, requests, **options):
            begun.append(settings)
            if progress.clips == 4:
                return
            yield progress

    monkeypatch.setattr(runs, "ingest", leave)
    run("ingest", tmp_path / "gate", "--join")
    assert len(opened.list_spans("gate")) == 4
    assert opened.get_info("gate").status == "paused"
    settings, request = prepare_resume(begun[0], "gate")
    *_, last = ingest(settings, [request])
    assert (last.state, last.clips) == ("complete", 6)
    assert contents(opened, "gate") == contents(opened, "whole")


def test_names_with_times_give_the_wall_clock_and_the_gaps(run, opened, parts, tmp_path):
    for number, minute in enumerate((0, 1, 30)):
        os.rename(parts[number], tmp_path / f"2026-05-04_14-{minute:02}-00.mp4")
    ran = run("ingest", *sorted(tmp_path.glob("*.mp4")), "--join", "-s", "gate", "--zone", "UTC")
    assert ran.code == 0, ran.err
    starts = [span.start_s for span in opened.list_spans("gate")]
    assert starts == [0, 2, 60, 62, 1800, 1802]
    assert opened.get_info("gate").wall_start_s == 1777903200
    assert [(gap.start_s, gap.end_s) for gap in opened.list_gaps("gate")] == [(4, 60), (64, 1800)]
    ran = run("clips", "ls", "gate", "--from", "14:30", "--json")
    assert [clip["start_s"] for clip in json.loads(ran.out)["clips"]] == [1800, 1802]


def test_a_last_file_that_cannot_be_read_yet_is_read_when_it_can(run, opened, parts, tmp_path):
    data = parts[2].read_bytes()
    parts[2].write_bytes(data[: len(data) // 2])  # an MP4 that is still written has no index
    ran = run("ingest", *parts[:3], "--join", "-s", "gate")
    assert ran.code == 0
    assert "p002.mp4" in ran.err
    assert opened.list_spans("gate")[-1].end_s == 8
    parts[2].write_bytes(data)
    assert run("ingest", *parts[:3], "--join", "-s", "gate").code == 0
    assert opened.list_spans("gate")[-1].end_s == 12
    assert opened.list_gaps("gate") == []


def test_a_joined_stream_is_not_mixed_with_others(run, opened, video, parts, tmp_path):
    assert run("ingest", parts[0], parts[2], "--join", "-s", "gate").code == 0
    before = contents(opened, "gate")
    cases = {
        "is new and comes before": [*parts[:3], "--join"],
        "is made of 2 files": [video],
        "has no time that says where": [video, "--join"],
    }
    parts[2].touch()
    for said, arguments in cases.items():
        ran = run("ingest", *arguments, "-s", "gate")
        assert ran.code == 1
        assert "Conflict: " in ran.err
        assert said in ran.err
    data = parts[2].read_bytes()
    parts[2].write_bytes(parts[3].read_bytes())
    ran = run("ingest", parts[0], parts[2], "--join", "-s", "gate")
    assert "another recording" in ran.err
    assert contents(opened, "gate") == before
    parts[2].write_bytes(data)
    assert run("ingest", *parts[:3], "--join", "-s", "gate", "--restart").code == 0
    assert len(opened.list_segments("gate")) == 3


def test_a_stream_of_one_file_is_not_joined(run, parts):
    assert run("ingest", parts[0], "-s", "gate").code == 0
    ran = run("ingest", *parts, "--join", "-s", "gate")
    assert ran.code == 1
    assert "Conflict: stream gate has clips and no list of files" in ran.err


def test_only_files_are_joined(run):
    ran = run("ingest", "rtsp://camera/live", "--join")
    assert ran.code == 2
    assert "--join" in ran.err


def test_files_that_are_known_are_not_read_again(run, parts, tmp_path, monkeypatch):
    assert run("ingest", tmp_path / "gate", "--join").code == 0
    import pipeline.ingest.segments as segments

    monkeypatch.setattr(segments, "identify_file", None)
    ran = run("ingest", tmp_path / "gate", "--join")
    assert ran.out.startswith("gate: already complete"), ran.err
