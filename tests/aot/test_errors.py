"""Wrong input: one typed line that says got, expected and what to do."""

import pytest
import torch

from aot import (
    AOTConfig,
    AOTError,
    ClipCompressor,
    FrameFeatures,
    FrameTokens,
    InvalidConfig,
    InvalidFeatures,
    make_reducer,
    merge_across_frames,
    merge_within_frame,
    pool_grid,
    pooled_grid,
    select_anchors,
)
from tests.aot.support import features, part

GRID = (6, 6)
CONFIG = AOTConfig(anchors_per_frame=16, window=3)


def with_value(clip: FrameFeatures, name: str, place: tuple, value: float) -> FrameFeatures:
    columns = {n: getattr(clip, n).clone() for n in vars(clip) if n != "grid"}
    columns[name][place] = value
    return FrameFeatures(**columns, grid=clip.grid)


def push(clip, state=None, config=CONFIG):
    return ClipCompressor(config).push(clip, state)


def two_widths():
    frames = [FrameTokens(torch.ones(2, dim), torch.arange(2), torch.ones(2)) for dim in (3, 4)]
    return merge_across_frames(frames, CONFIG)


CLIP = features(3, GRID)
CASES = {
    "grid of other size": (
        lambda: FrameFeatures(CLIP.tokens, CLIP.local_attention, CLIP.global_attention, (6, 7)),
        InvalidFeatures,
        ["(6, 7)", "got 36 tokens", "pass the grid"],
    ),
    "mask of another grid": (
        lambda: merge_within_frame(
            CLIP.tokens[:, 1:], torch.ones(3, 35, dtype=torch.bool), GRID, CONFIG
        ),
        InvalidFeatures,
        ["(3, 35)", "expected 36"],
    ),
    "no anchor in a frame": (
        lambda: merge_within_frame(CLIP.tokens, torch.zeros(3, 36, dtype=torch.bool), GRID, CONFIG),
        InvalidFeatures,
        ["[0] anchors", "above 0"],
    ),
    "unequal anchors": (
        lambda: merge_within_frame(CLIP.tokens, torch.eye(36)[:3].cumsum(0) > 0, GRID, CONFIG),
        InvalidFeatures,
        ["[1, 2, 3] anchors", "expected one number"],
    ),
    "NaN": (
        lambda: push(with_value(CLIP, "tokens", (1, 7, 2), float("nan"))),
        InvalidFeatures,
        ["token 7 of frame 1", "expected finite", "vision tower"],
    ),
    "infinity": (
        lambda: push(with_value(CLIP, "tokens", (2, 0, 0), float("inf"))),
        InvalidFeatures,
        ["token 0 of frame 2"],
    ),
    "NaN where all is kept": (
        lambda: push(with_value(CLIP, "tokens", (1, 7, 2), float("nan")), None,
                     AOTConfig.for_retention(1.0, grid=GRID)),
        InvalidFeatures,
        ["token 7 of frame 1"],
    ),
    "NaN attention": (
        lambda: push(with_value(CLIP, "global_attention", (2, 5), float("nan"))),
        InvalidFeatures,
        ["attention of token 5 of frame 2", "expected finite"],
    ),
    "attention maps of another grid": (
        lambda: select_anchors(torch.rand(2, 35), torch.rand(2, 35), GRID, CONFIG),
        InvalidFeatures,
        ["(2, 35)", "expected 36"],
    ),
    "more anchors than tokens": (
        lambda: push(CLIP, None, AOTConfig(anchors_per_frame=37)),
        InvalidConfig,
        ["37", "at most the 36 tokens", "lower it"],
    ),
    "windows that leave no anchor": (
        lambda: push(CLIP, None, AOTConfig(anchors_per_frame=3, window=3, global_fraction=0.0)),
        InvalidConfig,
        ["anchors_per_frame is 3", "4 windows", "raise either"],
    ),
    "empty clip": (
        lambda: push(part(CLIP, 0, 0)),
        InvalidFeatures,
        ["0 frames", "expected at least 1", "leave it out"],
    ),
    "no clips": (
        lambda: ClipCompressor(CONFIG).push_many([], []),
        InvalidFeatures,
        ["got 0 clips", "at least one"],
    ),
    "one state too few": (
        lambda: ClipCompressor(CONFIG).push_many([CLIP, CLIP], [None]),
        InvalidFeatures,
        ["2 clips and 1 states"],
    ),
    "state of another grid": (
        lambda: push(CLIP, push(features(1, (9, 9)))[1]),
        InvalidFeatures,
        ["(5, 5)", "expected (3, 3)", "one model"],
    ),
    "state of another width": (
        lambda: push(CLIP, push(features(1, GRID, dim=4))[1]),
        InvalidFeatures,
        ["width 4", "and 8"],
    ),
    "clips of two models": (
        lambda: ClipCompressor(CONFIG).push_many([CLIP, features(1, GRID, dim=4)], [None, None]),
        InvalidFeatures,
        ["expected one for all", "one model"],
    ),
    "no frames to merge": (
        lambda: merge_across_frames([], CONFIG),
        InvalidFeatures,
        ["0 frames", "at least 1"],
    ),
    "frames of two widths": (two_widths, InvalidFeatures, ["[3, 4]", "expected one"]),
    "pooling another grid": (
        lambda: pool_grid(CLIP.tokens, (5, 5)),
        InvalidFeatures,
        ["got 36", "expected 25", "pass the grid"],
    ),
    "grid smaller than the stride": (
        lambda: pooled_grid((1, 4), "average"),
        InvalidConfig,
        ["(1, 4)", "at least 2", "lower the stride"],
    ),
    "unknown reducer": (
        lambda: make_reducer("magic"),
        InvalidConfig,
        ["'magic'", "uniform"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_wrong_input_is_one_typed_line(case):
    call, error, words = CASES[case]
    with pytest.raises(error) as caught:
        call()
    message = str(caught.value)
    assert isinstance(caught.value, AOTError)
    assert caught.value.code == error.__name__
    assert "\n" not in message
    for word in words:
        assert word in message


def unchecked(**values) -> None:
    """What a program gets, which runs without the tests' own checks of shapes."""
    clip = object.__new__(FrameFeatures)
    for name, value in values.items():
        object.__setattr__(clip, name, value)
    clip.__post_init__()


def test_tokens_without_frames_axis_are_refused():
    with pytest.raises(InvalidFeatures, match=r"shape \(4, 8\), expected \(frames, tokens"):
        unchecked(tokens=torch.ones(4, 8), grid=(2, 2))


def test_attention_of_another_length_is_refused():
    columns = {"tokens": torch.ones(3, 4, 8), "local_attention": torch.ones(3, 5), "grid": (2, 2)}
    with pytest.raises(
        InvalidFeatures, match=r"local_attention has shape \(3, 5\), expected \(3, 4"
    ):
        unchecked(**columns)
