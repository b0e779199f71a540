"""The absolute keep rules (extensions): a static clip keeps few tokens, a busy one many."""

import pytest
import torch

from aot import AOTConfig, FrameFeatures, TokenKind, compress_clip
from tests.aot.support import features

GRID = (12, 12)
RULES = ["plan", "cost"]


def distinct(clip: FrameFeatures, rule: str, **constants) -> int:
    config = AOTConfig(anchors_per_frame=48, window=4, keep_rule=rule, **constants)
    return int((compress_clip(clip, config).kind == TokenKind.DISTINCT).sum())


def static_clip() -> FrameFeatures:
    clip = features(6, GRID, dim=64, change=0.1)
    maps = (clip.local_attention[:1], clip.global_attention[:1])
    return FrameFeatures(clip.tokens, *(m.expand(6, -1).contiguous() for m in maps), GRID)


def busy_clip() -> FrameFeatures:
    clip = static_clip()
    other = torch.cat([features(1, GRID, dim=64, seed=seed).tokens for seed in range(6)])
    return FrameFeatures(other, clip.local_attention, clip.global_attention, GRID)


@pytest.mark.parametrize("rule", RULES)
def test_a_static_clip_keeps_few_and_a_busy_one_many(rule):
    few, many = distinct(static_clip(), rule), distinct(busy_clip(), rule)
    total = distinct(busy_clip(), "cost", keep_threshold=0.0)
    assert few < 0.1 * total
    assert many > 0.5 * total


def test_the_reference_rule_cannot_tell_them_apart():
    assert distinct(static_clip(), "quantile") == distinct(busy_clip(), "quantile") > 0


@pytest.mark.parametrize("rule", RULES)
def test_the_count_is_monotone_in_the_threshold(rule):
    clip = features(6, GRID, dim=64, change=0.5)
    counts = [distinct(clip, rule, keep_threshold=step / 20) for step in range(0, 20)]
    assert counts == sorted(counts, reverse=rule == "cost")
    assert counts[0] != counts[-1]


@pytest.mark.parametrize("position", [1, 5])
def test_the_plan_rule_does_not_depend_on_the_clock(position):
    """The time kernel sharpens plans with the distance; the rule takes that out."""
    clip = static_clip()
    steps = [0, *range(1, position + 1)]
    tokens = clip.tokens[[0] * position + [3]]  # stays still until the last frame
    some = FrameFeatures(
        tokens, clip.local_attention[steps], clip.global_attention[steps], clip.grid
    )
    assert distinct(some, "plan") == 0


@pytest.mark.parametrize("rule", RULES)
def test_nothing_merged_leaves_no_second_copy_of_the_anchors(rule):
    threshold = 0.0 if rule == "cost" else 2.0  # all is distinct
    config = AOTConfig(anchors_per_frame=48, window=4, keep_rule=rule, keep_threshold=threshold)
    kinds = compress_clip(busy_clip(), config).kind.tolist()
    assert TokenKind.DISTINCT in kinds
    assert TokenKind.MERGED not in kinds
