"""Which records are read of a range: whole groups by their levels, all else by itself."""

import random

import pytest

from pipeline.ask.cover import AMPLE
from pipeline.ask.cover import cover as find_cover
from pipeline.store.levels import HIGHEST
from pipeline.values.types import ClipSpan

TOKENS = 10


def spans(indexes, epoch_of=lambda index: 0, stream_id="s"):
    return [
        ClipSpan(stream_id, epoch_of(i), i, 8.0 * i, 8.0 * i + 8, TOKENS, 1000) for i in indexes
    ]


def cover(*given):
    parts = find_cover(*given)
    assert parts is not None
    return parts


def shape(parts):
    return [(part.node.level, part.node.first) for part in parts]


def test_few_clips_are_read_by_themselves():
    parts = cover([spans(range(8))], [], 8 * TOKENS // AMPLE, 100)
    assert shape(parts) == [(0, index) for index in range(8)]


def test_the_finest_level_that_is_no_more_than_ample_is_read():
    for num_clips in (64, 256, 1024):
        parts = cover([spans(range(num_clips))], [], 4 * TOKENS, 2048)
        assert sum(part.num_tokens for part in parts) == 16 * TOKENS == AMPLE * 4 * TOKENS


def test_ends_of_a_range_are_read_finer():
    parts = cover([spans(range(3, 38))], [], 1, 100)
    assert shape(parts) == [
        *[(0, 3), (1, 4), (1, 8), (1, 12)],
        *[(2, 16), (1, 32)],
        *[(0, 36), (0, 37)],
    ]


def test_a_clip_that_is_cut_is_read_by_itself():
    given = spans(range(16))
    assert shape(cover([given], given[-1:], 1, 100)) == [
        *[(1, 0), (1, 4), (1, 8)],
        *[(0, 12), (0, 13), (0, 14), (0, 15)],
    ]


def test_an_epoch_has_levels_of_its_own():
    parts = cover([spans(range(16), lambda index: int(index > 5))], [], 1, 100)
    assert [(p.node.level, p.node.epoch, len(p.spans)) for p in parts] == [(2, 0, 6), (2, 1, 10)]


def test_streams_are_read_apart():
    given = [spans(range(4), stream_id="a"), spans(range(4), stream_id="b")]
    assert [part.node.stream_id for part in cover(given, [], 1, 100)] == ["a", "b"]


def test_more_records_than_may_be_read_are_none():
    assert find_cover([spans(range(3))], [], 1, 2) is None
    assert shape(cover([spans(range(4**HIGHEST))], [], 1, 1)) == [(HIGHEST, 0)]


@pytest.mark.parametrize("seed", range(8))
def test_every_clip_is_told_of_once_and_nothing_else(seed):
    rng = random.Random(seed)
    indexes = sorted(rng.sample(range(1000), rng.randint(1, 900)))
    turns = rng.randint(0, 1000)
    given = spans(indexes, lambda index: int(index >= turns))
    cut = rng.sample(given, min(2, len(given)))
    parts = cover([given], cut, rng.choice([1, 50, 1000]), 2048)
    assert [span for part in parts for span in part.spans] == given
    for part in parts:
        node, told = part.node, {span.index for span in part.spans}
        of_group = {s.index for s in given if node.first <= s.index < node.end}
        assert told == {i for i in of_group if int(i >= turns) == node.epoch}
        assert not node.level or not set(cut) & set(part.spans)
