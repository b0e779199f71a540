"""Re-compression over clips: what must hold whatever the tokens are, and what goes first."""

from dataclasses import replace

import pytest
import torch

from aot import (
    ClipTokens,
    InvalidFeatures,
    drop_empty_frames,
    join_clips,
    keep_anchors,
    recompress,
    split_frames,
)
from aot.recompression import WINDOW
from aot.types import TokenKind

GRID = (4, 5)


def make_clip(seed: int, count: int, *, frames: int = 8, width: int = 16) -> ClipTokens:
    generator = torch.Generator().manual_seed(seed)
    return ClipTokens(
        tokens=torch.randn(count, width, generator=generator),
        frame=torch.randint(frames, (count,), generator=generator).sort().values,
        cell=torch.randint(GRID[0] * GRID[1], (count,), generator=generator),
        mass=torch.rand(count, generator=generator) * 20,
        kind=torch.randint(3, (count,), generator=generator).to(torch.uint8),
        grid=GRID,
    )


def mass_of(clips: list[ClipTokens]) -> float:
    return sum(float(clip.mass.double().sum()) for clip in clips)


def rows_of(clip: ClipTokens) -> list[tuple[int, ...]]:
    columns = (clip.frame.tolist(), clip.cell.tolist(), clip.kind.tolist())
    return list(zip(*columns, strict=True))


@pytest.fixture
def clips() -> list[ClipTokens]:
    return [make_clip(seed, count) for seed, count in enumerate([40, 7, 0, 25, 60, 1, 33])]


@pytest.mark.parametrize("budget", [1, 2, 3, 17, 80, 165])
def test_the_budget_is_met_exactly_and_mass_stays(clips, budget):
    fewer = recompress(clips, budget)

    assert sum(map(len, fewer)) == budget
    assert mass_of(fewer) == pytest.approx(mass_of(clips), rel=1e-5)


def test_what_fits_is_left_as_it_is(clips):
    assert recompress(clips, sum(map(len, clips))) == clips


def test_a_smaller_budget_keeps_no_more_of_any_clip_and_no_other_tokens(clips):
    """The rows kept at one budget are among those kept at a larger one of the same rounds."""
    places = {}
    for budget in (150, 149, 148):
        fewer = recompress(clips, budget)
        places[budget] = {
            (number, frame, cell)
            for number, clip in enumerate(fewer)
            for frame, cell in zip(clip.frame.tolist(), clip.cell.tolist(), strict=True)
        }
    assert places[148] <= places[149] <= places[150]


def test_times_cells_and_kinds_are_those_of_tokens_that_were_there_in_their_order(clips):
    for before, after in zip(clips, recompress(clips, 60), strict=True):
        left = iter(rows_of(before))
        assert all(row in left for row in rows_of(after))  # each behind the one before


def test_it_gives_the_same_every_time(clips):
    first, second = recompress(clips, 50), recompress(clips, 50)

    assert all(torch.equal(a.tokens, b.tokens) for a, b in zip(first, second, strict=True))
    assert all(torch.equal(a.mass, b.mass) for a, b in zip(first, second, strict=True))


def test_what_comes_again_goes_into_where_it_was_first_seen():
    clip = make_clip(1, 12)

    first, second = recompress([clip, clip], 12)

    assert torch.allclose(first.tokens, clip.tokens, atol=1e-6)
    assert torch.allclose(first.mass, 2 * clip.mass)
    assert len(second) == 0


def test_what_is_new_outlives_what_is_alike():
    still = torch.ones(1, 16) + 0.01 * torch.randn(
        120, 16, generator=torch.Generator().manual_seed(0)
    )
    thing = torch.tensor([[1.0, -1.0] * 8])
    tokens = torch.cat([still[:70], thing, still[70:]])
    cell = torch.zeros(121, dtype=torch.int64)
    kind = torch.ones(121, dtype=torch.uint8)
    clip = ClipTokens(tokens, cell, cell, torch.ones(121), kind, GRID)

    [fewer] = recompress([clip], 2)

    assert torch.equal(fewer.tokens[1], thing[0])
    assert fewer.mass.tolist() == [120, 1]


def test_a_merged_token_is_the_mean_by_mass():
    tokens = torch.tensor([[1.0, 0.0], [1.0, 0.3], [-1.0, 0.0]])
    place = torch.zeros(3, dtype=torch.int64)
    clip = ClipTokens(
        tokens, place, place, torch.tensor([3.0, 1.0, 1.0]), place.to(torch.uint8), GRID
    )

    [fewer] = recompress([clip], 2)

    assert torch.allclose(fewer.tokens, torch.tensor([[1.0, 0.075], [-1.0, 0.0]]))


@pytest.mark.parametrize("room", [1, 5, 19, 20])
def test_the_most_tokens_that_fit_are_left(clips, room):
    """Frames are what room is for: as many stay as may, and one token more would be too many."""
    frame_of = torch.cat([20 * number + clip.frame for number, clip in enumerate(clips)])

    def count(stays: torch.Tensor) -> int:
        return len(frame_of[stays].unique())

    fewer = recompress(clips, 150, fits=lambda stays: count(stays) <= room)
    left = sum(map(len, fewer))
    more = recompress(clips, left + 1)

    def frames(some: list[ClipTokens]) -> int:
        return sum(len(clip.frame.unique()) for clip in some)

    assert frames(fewer) <= room < frames(more)
    plain = recompress(clips, left)
    assert all(torch.equal(a.tokens, b.tokens) for a, b in zip(fewer, plain, strict=True))


def test_all_are_left_where_all_fit_and_one_where_nothing_does(clips):
    assert recompress(clips, 166, fits=lambda _: True) == clips
    assert sum(map(len, recompress(clips, 166, fits=lambda _: False))) == 1


def test_many_windows_are_brought_down_to_one_token():
    clips = [make_clip(seed, 90, width=4) for seed in range(2 * WINDOW // 90 + 2)]

    fewer = recompress(clips, 1)

    assert sum(map(len, fewer)) == 1
    assert mass_of(fewer) == pytest.approx(mass_of(clips), rel=1e-5)


def test_tokens_without_mass_are_merged_too():
    clip = make_clip(3, 10)
    empty = ClipTokens(clip.tokens, clip.frame, clip.cell, 0 * clip.mass, clip.kind, GRID)

    [fewer] = recompress([empty], 3)

    assert len(fewer) == 3
    assert torch.isfinite(fewer.tokens).all()


def test_half_precision_stays(clips):
    halves = [
        ClipTokens(c.tokens.bfloat16(), c.frame, c.cell, c.mass, c.kind, c.grid) for c in clips
    ]

    assert {clip.tokens.dtype for clip in recompress(halves, 20)} == {torch.bfloat16}


def test_what_cannot_be_is_refused(clips):
    other = ClipTokens(*vars(make_clip(0, 3)).values())
    object.__setattr__(other, "grid", (2, 10))
    with pytest.raises(InvalidFeatures, match="grids"):
        recompress([*clips, other], 10)
    with pytest.raises(InvalidFeatures, match="budget of 0"):
        recompress(clips, 0)


def test_joined_clips_count_frames_through(clips):
    joined = join_clips(clips, [8] * len(clips))

    assert len(joined) == sum(map(len, clips))
    assert joined.frame.tolist() == [
        8 * number + frame for number, clip in enumerate(clips) for frame in clip.frame.tolist()
    ]


@pytest.mark.parametrize("is_sorted", [True, False])
@pytest.mark.parametrize("starts", [[0], [0, 3], [0, 1, 2, 6, 7]])
def test_a_clip_in_parts_has_each_parts_tokens_in_their_order(starts, is_sorted):
    clip = make_clip(3, 40)
    order = clip.frame.argsort(stable=True) if is_sorted else torch.arange(len(clip))
    columns = ("tokens", "frame", "cell", "mass", "kind")
    clip = replace(clip, **{name: getattr(clip, name)[order] for name in columns})
    clip = replace(clip, frame=torch.where(clip.frame == 1, 0, clip.frame))  # one has no token

    parts = split_frames(clip, starts)

    for part, first, stop in zip(parts, starts, [*starts[1:], 8], strict=True):
        inside = (clip.frame >= first) & (clip.frame < stop)
        assert torch.equal(part.frame, clip.frame[inside] - first)
        for name in ("tokens", "cell", "mass", "kind"):
            assert torch.equal(getattr(part, name), getattr(clip, name)[inside])
    assert sum(map(len, parts)) == len(clip)


def test_frames_of_which_no_token_speaks_are_not_counted():
    clip = make_clip(0, 4)
    clip = replace(clip, frame=torch.tensor([1, 4, 4, 6]))

    fewer, stay = drop_empty_frames(clip)
    by_pairs, pairs = drop_empty_frames(clip, 2)

    assert (fewer.frame.tolist(), stay) == ([0, 1, 1, 2], [1, 4, 6])
    assert (by_pairs.frame.tolist(), pairs) == ([1, 2, 2, 4], [0, 1, 4, 5, 6, 7])
    assert torch.equal(fewer.tokens, clip.tokens)


def test_anchors_stay_and_take_in_what_later_frames_brought(clips):
    clip = clips[4]
    kept = keep_anchors(clip)
    anchors = clip.kind != TokenKind.DISTINCT

    assert rows_of(kept) == [
        row for row, is_anchor in zip(rows_of(clip), anchors.tolist(), strict=True) if is_anchor
    ]
    assert mass_of([kept]) == pytest.approx(mass_of([clip]), rel=1e-5)
    assert keep_anchors(kept) is kept


def test_a_later_token_goes_into_the_anchor_it_is_like():
    clip = ClipTokens(
        tokens=torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 3.0]]),
        frame=torch.tensor([0, 0, 5]),
        cell=torch.tensor([0, 1, 0]),
        mass=torch.tensor([4.0, 6.0, 2.0]),
        kind=torch.tensor([0, 2, 1], dtype=torch.uint8),
        grid=GRID,
    )
    kept = keep_anchors(clip)

    assert kept.mass.tolist() == [4.0, 8.0]
    assert torch.allclose(kept.tokens, torch.tensor([[1.0, 0.0], [0.0, 1.5]]))


@pytest.mark.parametrize("kind", [TokenKind.DISTINCT, TokenKind.KEYFRAME, TokenKind.MERGED])
def test_a_clip_of_one_kind_stays_as_it_is(kind):
    clip = make_clip(3, 20)
    clip = replace(clip, kind=torch.full_like(clip.kind, kind))

    assert keep_anchors(clip) is clip
