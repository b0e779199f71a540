"""A recording pasted from several, each with a clock of its own: one stream on one line of time."""

from pathlib import Path

import pytest

from pipeline.ask.question import Question, look_up_stream
from pipeline.ingest.request import IngestRequest
from pipeline.ingest.run import ingest
from pipeline.settings import Settings
from pipeline.store import ClipStore
from tests.videos import write_video
from workers.types import VideoSource

WALL_START_S = 1_777_888_800.0  # 2026-05-04T10:00:00Z


@pytest.fixture
def pasted(settings: Settings, opened: ClipStore, tmp_path: Path) -> ClipStore:
    """Three recordings of 20 s in one transport stream, the second one's clock an hour back."""
    data = b""
    for name, offset_s in (("a", 4000), ("b", 400), ("c", 10)):
        path = tmp_path / f"{name}.ts"
        write_video(path, frames=80, fps=4, gop=8, offset=offset_s * 90_000)
        data += path.read_bytes()
    path = tmp_path / "all.ts"
    path.write_bytes(data)
    source = VideoSource(str(path), "all", fps=2.0, wall_start_s=WALL_START_S)
    *_, last = ingest(settings, [IngestRequest(source)])
    assert last.state == "complete"
    return opened


def test_clips_of_all_epochs_follow_each_other(pasted: ClipStore):
    spans = pasted.list_spans("all")
    assert [s.epoch for s in spans] == [0] * 10 + [1] * 10 + [2] * 10
    assert [s.start_s for s in spans] == pytest.approx(range(0, 60, 2))
    assert [s.end_s for s in spans] == pytest.approx(range(2, 62, 2))
    assert [s.wall_start_s for s in spans] == [WALL_START_S + s.start_s for s in spans]
    assert pasted.list_gaps("all") == []


@pytest.mark.parametrize(
    ("asked", "range_s"),
    [
        ({"start": 25, "end": 35}, (25, 35)),
        ({"last": "30s"}, (30, 60)),
        ({}, (0, 60)),
        ({"start": "2026-05-04T10:00:30Z", "end": "2026-05-04T10:00:50Z"}, (30, 50)),
    ],
)
def test_a_range_is_found_in_whatever_epoch_it_lies(pasted: ClipStore, asked, range_s):
    part = look_up_stream(pasted, "all", Question("what", ("all",), **asked))
    assert (part.start_s, part.end_s) == pytest.approx(range_s)
    assert part.footage_s == pytest.approx(part.asked_s)
