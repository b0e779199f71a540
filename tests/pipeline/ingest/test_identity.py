"""Whether a file is what a stream was begun with: the same, gone on, or another recording."""

import os
from dataclasses import replace

import pytest

from pipeline.ingest.identity import (
    describe_source,
    find_change,
    has_credentials,
    identify_file,
    require_same_settings,
    require_same_source,
)
from pipeline.values.errors import Conflict, FingerprintMismatch
from pipeline.values.made_with import MadeWith, ModelAsked, SourceAsked, TokensAsked
from pipeline.values.types import StreamInfo

SIZE = 300_000


@pytest.fixture
def recording(tmp_path):
    path = tmp_path / "latest.ts"
    path.write_bytes(os.urandom(SIZE))
    return path


def known(path, **changes) -> StreamInfo:
    """A complete stream of the file as it is now."""
    info = StreamInfo(
        "lobby", str(path), "m", "f", status="complete", file=identify_file(str(path))
    )
    return replace(info, **changes)


def change_of(info: StreamInfo, path) -> str | None:
    return find_change(info, str(path))[1]


def test_a_file_that_was_touched_or_copied_is_the_same(recording, tmp_path):
    info = known(recording)
    os.utime(recording, (1, 1))
    assert change_of(info, recording) == "same"
    copy = tmp_path / "copy.ts"
    copy.write_bytes(recording.read_bytes())
    assert change_of(info, copy) == "same"


@pytest.mark.parametrize("size", [SIZE, SIZE // 2, 2 * SIZE, 0])
def test_a_file_that_was_overwritten_is_another(recording, size):
    info = known(recording)
    recording.write_bytes(os.urandom(size))
    assert change_of(info, recording) == "other"


@pytest.mark.parametrize("place", [0, SIZE // 2, SIZE - 1])
def test_one_byte_in_any_of_three_places_makes_another_file_of_the_same_size(recording, place):
    info = known(recording)
    data = bytearray(recording.read_bytes())
    data[place] ^= 1
    recording.write_bytes(data)
    assert change_of(info, recording) == "other"


def test_a_file_that_went_on_has_grown_also_where_its_header_was_rewritten(recording):
    info = known(recording)
    data = recording.read_bytes()
    recording.write_bytes(data + os.urandom(1000))
    assert change_of(info, recording) == "grown"
    recording.write_bytes(b"\1" * 64 + data[64:] + os.urandom(1000))
    assert change_of(info, recording) == "grown"


def test_a_copy_that_was_not_finished_has_gone_on_whatever_stood_there(recording):
    whole = recording.read_bytes()
    recording.write_bytes(whole[: SIZE // 2] + bytes(SIZE // 2))  # its full length beforehand
    cut = known(recording, error="Truncated: the source ended before the end it declares")
    assert change_of(cut, recording) == "same"
    recording.write_bytes(whole)
    assert change_of(cut, recording) == "grown"
    assert change_of(replace(cut, error=None), recording) == "other"
    recording.write_bytes(os.urandom(SIZE))
    assert change_of(cut, recording) == "other"


@pytest.mark.parametrize("size", [0, 1, 2, 3, 10])
def test_files_of_hardly_a_byte_are_files(tmp_path, size):
    path = tmp_path / "x"
    path.write_bytes(b"x" * size)
    assert change_of(known(path), path) == "same"


def test_nothing_is_said_of_what_is_gone_or_no_file(recording, tmp_path):
    info = known(recording)
    recording.unlink()
    assert find_change(info, str(recording)) == (None, None)
    os.mkfifo(tmp_path / "pipe")
    assert identify_file(str(tmp_path)) is None
    assert identify_file("rtsp://cam/1") is None
    assert change_of(replace(info, file=None), __file__) is None


def asked(**source) -> MadeWith:
    fields = {"url": "/v/a.ts", "fps": 1.0, **source}
    return MadeWith(SourceAsked(**fields), ModelAsked("m"), TokensAsked("adaptive", 0.1, 8, "bf16"))


def test_another_recording_is_a_conflict_that_names_both_and_the_ways_out(recording):
    info = known(recording)
    recording.write_bytes(os.urandom(SIZE + 7))
    now = replace(info, file=identify_file(str(recording)))
    with pytest.raises(Conflict, match=rf"\({SIZE} bytes.*\({SIZE + 7} bytes.*--restart"):
        require_same_source(info, now, moved=False, change="other")
    with pytest.raises(Conflict, match="another recording"):
        require_same_source(info, now, moved=True, change="other")


@pytest.mark.parametrize(
    ("before_s", "now_s", "more"),
    [(16.0, None, True), (16.0, 20.0, True), (16.0, 16.0, False), (16.0, 8.0, False),
     (None, 8.0, False)],
)  # fmt: skip
def test_more_of_a_source_may_be_asked_for_later(before_s, now_s, more):
    info = StreamInfo("lobby", "/v/a.ts", "m", "f", status="complete")
    before, now = (replace(info, made_with=asked(end_s=end_s)) for end_s in (before_s, now_s))
    assert require_same_source(before, now, moved=False) is more


def test_another_start_of_the_range_is_a_conflict():
    info = StreamInfo("lobby", "/v/a.ts", "m", "f", status="complete", made_with=asked())
    with pytest.raises(Conflict, match="begins at 0 s of its source, got 5 s"):
        require_same_source(info, replace(info, made_with=asked(start_s=5.0)), moved=False)


def test_another_hold_of_pictures_is_a_conflict():
    info = StreamInfo("lobby", "/v/a.ts", "m", "f", status="paused", made_with=asked())
    with pytest.raises(Conflict, match=r"ingest\.max_hold_s None, got 9"):
        require_same_source(info, replace(info, made_with=asked(max_hold_s=9.0)), moved=False)


def test_a_start_time_for_a_complete_stream_is_not_dropped_in_silence():
    info = StreamInfo("lobby", "/v/a.ts", "m", "f", status="complete")
    with pytest.raises(Conflict, match="--start-time"):
        require_same_source(info, replace(info, wall_start_s=7.0), moved=False)
    assert not require_same_source(replace(info, wall_start_s=7.0), info, moved=False)


def test_a_mismatch_says_which_setting_differs():
    info = StreamInfo("lobby", "/v/a.ts", "m", "f", made_with=asked())
    with pytest.raises(FingerprintMismatch, match=r"\(fps 1\.0 -> 2\.0\)"):
        require_same_settings(info, replace(info, made_with=asked(fps=2.0)))


def test_a_source_is_described_without_credentials_and_by_its_full_path(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert describe_source("rtsp://u:p@cam/1") == "rtsp://cam/1"
    assert describe_source("a.mp4") == str(tmp_path / "a.mp4")
    assert describe_source("/v/\udcff\udce9.mp4") == "/v/\\xff\\xe9.mp4"
    assert has_credentials("rtsp://u:p@cam/1")
    assert not has_credentials("rtsp://cam/1")
    assert not has_credentials("a@b.mp4")
