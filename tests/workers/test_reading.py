"""How stored clips are read: marks, order, positions."""

import pytest
import torch

from aot import ClipTokens
from workers.reading import format_mark, read_clip
from workers.types import CompressedClip

FRAME = [0, 0, 1, 1, 1, 0]
CELL = [4, 1, 5, 0, 3, 2]


@pytest.fixture
def clip() -> CompressedClip:
    """Two frames on a grid of 2x3, emitted out of raster order: frame 0's cell 2 comes last."""
    tokens = ClipTokens(
        tokens=torch.arange(12.0).reshape(6, 2),
        frame=torch.tensor(FRAME),
        cell=torch.tensor(CELL),
        mass=torch.ones(6),
        kind=torch.zeros(6, dtype=torch.uint8),
        grid=(2, 3),
    )
    return CompressedClip("lobby", 0, 0, 3723.0, 3725.0, (3723.0, 3724.5), tokens)


@pytest.mark.parametrize(
    ("time_s", "mark"),
    [
        (0.0, "[00:00:00]"),
        (59.99, "[00:00:59]"),
        (3723.4, "[01:02:03]"),
        (-3.0, "[00:00:00]"),
        (360_000.0, "[100:00:00]"),
    ],
)
def test_a_mark_is_the_time_of_the_stream(time_s, mark):
    assert format_mark(time_s) == mark


def test_a_mark_without_brackets():
    assert format_mark(61.0, mark="{}") == "00:01:01"


def test_a_mark_may_name_its_stream():
    assert format_mark(750.0, name="camera-1") == "[camera-1 00:12:30]"


@pytest.mark.parametrize("marks", ["clip", "frame"])
def test_a_name_stands_in_the_first_mark_alone_and_changes_nothing_else(clip, marks):
    plain = read_clip(clip, marks=marks)
    first, *others = read_clip(clip, marks=marks, name="lobby")
    assert first.mark == "[lobby 01:02:03]"
    assert [segment.mark for segment in others] == [segment.mark for segment in plain[1:]]
    for named, unnamed in zip([first, *others], plain, strict=True):
        assert named.tokens.equal(unnamed.tokens)


def test_a_clip_is_one_run_behind_one_mark_as_emitted(clip):
    [segment] = read_clip(clip)
    assert segment.mark == "[01:02:03]"
    assert segment.tokens.equal(clip.tokens.tokens)
    assert segment.positions is None


def test_with_positions_every_token_has_the_place_it_had_before(clip):
    [segment] = read_clip(clip, keep_positions=True)
    assert segment.positions.tolist() == [6 * f + c for f, c in zip(FRAME, CELL, strict=True)]
    assert segment.num_positions == 12


def test_frame_by_frame_every_frame_has_its_mark_and_raster_order(clip):
    first, second = read_clip(clip, marks="frame")
    assert (first.mark, second.mark) == ("[01:02:03]", "[01:02:04]")
    assert first.tokens.equal(clip.tokens.tokens[[1, 5, 0]])
    assert second.tokens.equal(clip.tokens.tokens[[3, 4, 2]])


def test_frame_by_frame_positions_are_cells(clip):
    first, second = read_clip(clip, marks="frame", keep_positions=True)
    assert first.positions.tolist() == [1, 2, 4]
    assert second.positions.tolist() == [0, 3, 5]
    assert (first.num_positions, second.num_positions) == (6, 6)


def test_a_frame_of_which_nothing_was_kept_still_has_its_mark(clip):
    kept = clip.tokens.frame == 1
    columns = {
        name: getattr(clip.tokens, name)[kept]
        for name in ("tokens", "frame", "cell", "mass", "kind")
    }
    thin = CompressedClip(
        "lobby", 0, 0, 3723.0, 3725.0, clip.pts_s, ClipTokens(**columns, grid=(2, 3))
    )
    first, second = read_clip(thin, marks="frame")
    assert (first.mark, len(first.tokens), len(second.tokens)) == ("[01:02:03]", 0, 3)


@pytest.mark.parametrize("marks", ["clip", "frame"])
@pytest.mark.parametrize("within", [None, (3724.6, 3725.0)])
def test_a_stored_clip_says_which_of_its_rows_are_read(clip, marks, within):
    segments = read_clip(clip, marks=marks, within=within, record="print/lobby/0/0")
    assert segments
    for segment in segments:
        assert segment.stored is not None
        assert segment.stored.record == "print/lobby/0/0"
        assert clip.tokens.tokens[segment.stored.rows].equal(segment.tokens)


def test_a_clip_that_is_not_said_to_be_stored_says_nothing(clip):
    assert [segment.stored for segment in read_clip(clip)] == [None]
