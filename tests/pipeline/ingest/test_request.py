"""Which files of a folder are videos, and what their streams are called."""

import pytest

from pipeline.ingest.request import VIDEO_SUFFIXES, find_videos, stream_name, stream_names
from pipeline.values.errors import InvalidQuery
from workers.names import STREAM_ID


def touch(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def found(folder, **options):
    return [path.removeprefix(f"{folder}/") for path in find_videos(str(folder), **options)]


def test_a_folder_gives_its_videos_in_order(tmp_path):
    touch(tmp_path, "b.MP4", "a.mkv", "notes.txt", "c/d.mp4")
    assert found(tmp_path) == ["a.mkv", "b.MP4"]


@pytest.mark.parametrize("suffix", VIDEO_SUFFIXES)
def test_every_ending_is_found(tmp_path, suffix):
    touch(tmp_path, f"a{suffix}")
    assert found(tmp_path) == [f"a{suffix}"]


def test_folders_below_are_looked_into_by_choice(tmp_path):
    touch(tmp_path, "2026-05-04/14/gate/39.07.mp4", "2026-05-04/15/gate/00.07.mp4")
    with pytest.raises(InvalidQuery, match="--recursive"):
        find_videos(str(tmp_path))
    assert found(tmp_path, recursive=True) == [
        "2026-05-04/14/gate/39.07.mp4",
        "2026-05-04/15/gate/00.07.mp4",
    ]


def test_hidden_files_and_folders_are_passed_over(tmp_path):
    touch(tmp_path, "a.mp4", "._a.mp4", ".b.mp4", ".cache/c.mp4")
    assert found(tmp_path, recursive=True) == ["a.mp4"]


def test_a_circle_of_links_ends(tmp_path):
    touch(tmp_path, "a.mp4")
    (tmp_path / "again").symlink_to(tmp_path)
    assert found(tmp_path, recursive=True) == ["a.mp4"]


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("/v/cam_14-00.mp4", "cam_14-00"),
        ("my clip (1).mp4", "my_clip_1"),
        ("rtsp://u:secret@cam/live", "live"),
        ("rtsp://admin:secret@cam", "cam"),
        ("...mp4", ".."),
        ("", "video"),
    ],
)
def test_a_plain_name_is_kept(url, name):
    assert stream_name(url) == name


def test_names_in_other_alphabets_are_distinct_and_steady():
    names = [
        stream_name(f"/v/{name}.mp4") for name in ("лекция", "семинар", "監視", "講座1", "講座2")
    ]
    assert len(set(names)) == 5
    assert all(STREAM_ID.fullmatch(name) for name in names)
    assert names[3].startswith("1-")
    assert names == [
        stream_name(f"/w/{name}.mkv") for name in ("лекция", "семинар", "監視", "講座1", "講座2")
    ]
    assert stream_name("Übung 3.mp4").startswith("Ubung_3-")
    assert STREAM_ID.fullmatch(stream_name("a\udcff.mp4"))


def test_long_names_that_differ_at_their_end_are_distinct():
    names = [stream_name("x" * 80 + f"{number}.mp4") for number in (1, 2)]
    assert len(set(names)) == 2
    assert all(STREAM_ID.fullmatch(name) for name in names)


def test_files_of_one_name_are_told_apart_by_their_folders():
    assert stream_names(["/v/camA/001.mp4", "/v/camB/001.mp4", "/v/door.mp4"]) == [
        "camA-001",
        "camB-001",
        "door",
    ]
    assert stream_names(["/v/a/x/001.mp4", "/v/b/x/001.mp4"]) == ["a-x-001", "b-x-001"]


def test_neighbours_of_one_stem_are_told_apart_by_their_ending():
    assert stream_names(["/v/a.mp4", "/v/a.mkv", "/v/b.mp4"]) == ["a.mp4", "a.mkv", "b"]


def test_whatever_is_still_alike_gets_a_digest():
    names = stream_names(["/v/a b.mp4", "/v/a_b.mp4", "/v/a?b.mp4"])
    assert len(set(names)) == 3
    assert all(STREAM_ID.fullmatch(name) for name in names)
