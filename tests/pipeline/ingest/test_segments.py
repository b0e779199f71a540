"""Where files lie on a joined stream's time, told from names, headers and clocks alone."""

import os
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from pipeline.ingest.begun import begun_times, natural_order
from pipeline.ingest.segments import lay_out
from pipeline.values.errors import Conflict
from workers.decode.joined import SegmentFacts
from workers.errors import NoVideoStream

NOON = datetime(2026, 5, 4, 14, tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    "path",
    [
        "cam/2026-05-04_14-00-00.mp4",
        "cam/gate_20260504T140000Z.mkv",
        "RecM01_20260504_140000_140500_6D28.mp4",
        "NVR_ch1_main_20260504140000_20260504150000.mp4",
        "2026-05-04 14.00.00.ts",
        "2026-05-04/14.00.00.mp4",
        "2026-05-04/gate/cam2_14-00-00.mp4",
        "2026/05/04/14/00.mp4",
        "2026-05-04/14/gate/00.00.mp4",
        "2026-05/04/14/gate/00.00.mp4",
        f"gate-{NOON:.0f}.mp4",
        f"{NOON:.0f}250.mp4",
    ],
)
def test_times_that_recorders_write_into_names(path):
    assert begun_times(path, UTC) == [pytest.approx(NOON, abs=0.5)]


@pytest.mark.parametrize(
    "path", ["part007.mp4", "clip_2026.mp4", "cam/12345.ts", "20269999_999999.mp4", "lobby.mkv"]
)
def test_names_that_tell_no_time(path):
    assert begun_times(path, UTC) == []


def test_a_name_is_of_the_streams_zone_and_an_hour_may_come_twice():
    berlin = ZoneInfo("Europe/Berlin")
    assert begun_times("2026-05-04_16-00-00.mp4", berlin) == [NOON]
    twice = begun_times("2026-10-25_02-30-00.mp4", berlin)
    assert twice[1] - twice[0] == 3600


def test_numbers_in_names_are_numbers():
    names = ["part10.mp4", "part9.mp4", "part010b.mp4", "a.mp4"]
    assert sorted(names, key=natural_order)[:3] == ["a.mp4", "part9.mp4", "part10.mp4"]


class Files:
    """Files of bytes, with what a look at them would tell."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.facts, self.looks = folder, {}, 0

    def add(
        self,
        name: str,
        length_s: float = 60.0,
        *,
        clock_s: float = 0.0,
        created_s: float | None = None,
    ) -> str:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name * 50)
        self.facts[str(path)] = SegmentFacts(float(clock_s), length_s, created_s)
        return str(path)

    def probe(self, path: str) -> SegmentFacts:
        self.looks += 1
        if path not in self.facts:
            raise NoVideoStream(f"{path}: no video")
        return self.facts[path]


@pytest.fixture
def files(tmp_path):
    return Files(tmp_path)


def starts(files, paths, known=(), **options):
    layout = lay_out(paths, known, files.probe, zone=UTC, **options)
    return [round(one.at_s, 3) for one in layout.segments]


def test_files_without_any_time_follow_each_other_in_the_order_of_their_numbers(files):
    paths = [files.add(f"part{n}.mp4", 10.0 + n) for n in (10, 2, 1)]
    layout = lay_out(paths, [], files.probe)
    assert [os.path.basename(one.path) for one in layout.segments] == [
        *("part1.mp4", "part2.mp4", "part10.mp4")
    ]
    assert [one.at_s for one in layout.segments] == [0.0, 11.0, 23.0]
    assert layout.wall_start_s is None


def test_names_with_times_leave_the_gaps_that_were_there(files):
    paths = [files.add(f"2026-05-04/14/gate/{m:02}.00.mp4", 60.3) for m in (0, 1, 2, 10)]
    assert starts(files, reversed(paths)) == [0.0, 60.3, 120.6, 600.0]
    assert lay_out(paths, [], files.probe, zone=UTC).wall_start_s == NOON


def test_clocks_that_go_on_leave_gaps_too_and_others_do_not(files):
    going_on = [files.add(f"x{n}.mkv", 10.0, clock_s=c) for n, c in enumerate((5, 15, 40))]
    assert starts(files, going_on) == [0.0, 10.0, 35.0]
    anew = [files.add(f"y{n}.mp4", 10.0, clock_s=c) for n, c in enumerate((0, 0, 1.4, 9e6))]
    assert starts(files, anew) == [0.0, 10.0, 20.0, 30.0]


def test_creation_times_count_where_they_are_those_of_a_recording(files):
    real = [files.add(f"x{n}.mp4", 60.0, created_s=NOON + t) for n, t in enumerate((0, 60, 200))]
    assert starts(files, real) == [0.0, 60.0, 200.0]
    converted = [files.add(f"y{n}.mp4", 60.0, created_s=NOON + 3 * n) for n in range(3)]
    assert starts(files, converted) == [0.0, 60.0, 120.0]
    copied = [files.add(f"z{n}.mp4", 60.0, created_s=NOON) for n in range(3)]
    assert starts(files, copied) == [0.0, 60.0, 120.0]


def test_what_two_recordings_share_is_read_once(files):
    paths = [files.add(f"2026-05-04_14-0{n}-00.mp4", 70.0) for n in range(3)]
    segments = lay_out(paths, [], files.probe, zone=UTC).segments
    assert [(one.at_s, one.start_s, one.end_s) for one in segments] == [
        *((0.0, 0.0, 70.0), (60.0, 70.0, 130.0), (120.0, 130.0, 190.0))
    ]


def test_a_night_on_which_clocks_are_set_back_goes_on(files):
    berlin = ZoneInfo("Europe/Berlin")
    names = ["2026-10-25_02-00-00", "2026-10-25_02-30-00", "2026-10-25_02-00-00b",
             "2026-10-25_02-30-00b", "2026-10-25_03-00-00"]  # fmt: skip
    paths = [files.add(f"{n}.mp4", 1800.0) for n in names]
    known = lay_out(paths[:2], [], files.probe, zone=berlin).segments
    for path in paths[2:]:  # as they come
        known = lay_out([path], known, files.probe, zone=berlin).segments
    assert [one.at_s for one in known] == [0.0, 1800.0, 3600.0, 5400.0, 7200.0]


def test_what_comes_later_goes_behind_what_is_known_and_that_is_not_looked_at_again(files):
    paths = [files.add(f"2026-05-04_14-0{n}-00.mp4") for n in range(3)]
    known = lay_out(paths[:2], [], files.probe, zone=UTC).segments
    files.looks = 0
    layout = lay_out(paths, known, files.probe, zone=UTC)
    assert [one.at_s for one in layout.segments] == [0.0, 60.0, 120.0]
    assert [one.path for one in layout.fresh] == paths[2:]
    assert files.looks == 1
    assert lay_out(paths, layout.segments, files.probe, zone=UTC).fresh == ()


def test_a_recorder_that_removes_its_oldest_files_goes_on(files):
    paths = [files.add(f"2026-05-04_14-0{n}-00.mp4") for n in range(4)]
    known = lay_out(paths[:2], [], files.probe, zone=UTC).segments
    for path in paths[:2]:
        os.remove(path)
    assert starts(files, paths[2:], known) == [0.0, 60.0, 120.0, 180.0]


def test_a_file_that_came_late_or_was_changed_is_a_conflict(files):
    paths = [files.add(f"part{n}.mp4") for n in range(3)]
    known = lay_out([paths[0], paths[2]], [], files.probe).segments
    with pytest.raises(Conflict, match=r"part1.mp4 is new and comes before .* --restart"):
        lay_out(paths, known, files.probe)
    files.add("part0.mp4")
    Path(paths[0]).write_text("another")
    with pytest.raises(Conflict, match=r"part0.mp4 is another recording"):
        lay_out([paths[0], paths[2]], known, files.probe)


def test_files_that_have_nothing_to_do_with_the_stream_need_a_word(files):
    known = lay_out([files.add("a/part0.mp4")], [], files.probe).segments
    later = files.add("b/part1.mp4", 30.0)
    with pytest.raises(Conflict, match="has no time that says where it lies"):
        lay_out([later], known, files.probe)
    assert starts(files, [later], known, moved=True) == [0.0, 60.0]


def test_files_that_were_moved_are_known_by_what_they_are(files):
    known = lay_out([files.add("a/part0.mp4")], [], files.probe).segments
    moved = files.folder / "b" / "part0.mp4"
    moved.parent.mkdir()
    os.rename(known[0].path, moved)
    layout = lay_out([str(moved)], known, files.probe, moved=True)
    assert (layout.segments, layout.fresh) == (tuple(known), ())


def test_a_file_that_is_still_written_is_longer_the_next_time(files):
    path = files.add("part0.ts", 10.0)
    known = lay_out([path], [], files.probe).segments
    files.facts[path] = SegmentFacts(0.0, 25.0, None)
    with open(path, "a") as file:
        file.write("more")
    layout = lay_out([path, files.add("part1.ts", 5.0)], known, files.probe)
    assert [(one.at_s, one.end_s) for one in layout.segments] == [(0.0, 25.0), (25.0, 30.0)]
    assert len(layout.fresh) == 2


def test_a_file_that_cannot_be_read_is_left_out_and_said(files, caplog):
    paths = [files.add(f"part{n}.mp4") for n in range(3)]
    del files.facts[paths[1]]
    assert starts(files, paths) == [0.0, 60.0]
    assert "part1.mp4: no video" in caplog.text
    files.facts.clear()
    with pytest.raises(NoVideoStream):
        starts(files, paths)


def test_a_file_that_goes_while_it_is_looked_at_is_left_out_and_said(files, caplog):
    paths = [files.add(f"part{n}.mp4") for n in range(3)]

    def probe(path):
        facts = files.probe(path)
        if path == paths[1]:
            os.remove(path)
        return facts

    segments = lay_out(paths, [], probe).segments
    assert [(one.path, one.at_s) for one in segments] == [(paths[0], 0.0), (paths[2], 60.0)]
    assert "part1.mp4 went while it was looked at" in caplog.text
