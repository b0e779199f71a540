"""Long streams in memory: each way keeps to the budget, and clips score as the product scores."""

import numpy as np
import pytest

from aot import recompress
from demo.miniature.reading import sort_clip
from demo.quality.contestants import open_contestant
from demo.quality.evaluate import choose_seeds, watch_scenes
from demo.quality.streams import MODEL, RETENTION, WAYS, Reader, draw, may_answer
from workers.models import open_language_model
from workers.reading import read_clip
from workers.types import CompressedClip


@pytest.fixture(scope="module")
def scenes():
    return watch_scenes(MODEL, choose_seeds(24))


@pytest.fixture(scope="module")
def stored(scenes):
    features = [scene.features for scene in scenes]
    return [sort_clip(c) for c in open_contestant("adaptive", RETENTION, features)(features)]


@pytest.mark.parametrize("way", WAYS)
def test_every_way_keeps_to_the_budget(stored, way):
    clips, budget = stored[:4], len(stored[0])

    read = WAYS[way](clips, budget, 2)

    assert 0 < sum(len(clip) for _, clip in read) <= budget
    assert [number for number, _ in read] == sorted(number for number, _ in read)


@pytest.mark.parametrize("way", WAYS)
def test_what_fits_is_read_as_it_is(stored, way):
    [(number, clip)] = WAYS[way]([stored[0]], len(stored[0]), 0)
    assert (number, clip) == (0, stored[0])


def test_no_other_clip_of_a_stream_shows_what_is_asked_for(scenes):
    asked = draw(scenes, 6, 4)

    assert asked
    for one in asked:
        assert one.clips[one.at] == one.scene
        others = [clip for place, clip in enumerate(one.clips) if place != one.at]
        assert not any(may_answer(one.question, scenes[clip]) for clip in others)


def test_clips_are_scored_as_the_product_scores_them(scenes, stored):
    model, reader = open_language_model(MODEL), Reader(MODEL)
    clips = [recompress([clip], 20)[0] for clip in stored[:6]]
    times_s = tuple(map(float, range(8)))
    parts = [
        read_clip(
            CompressedClip("cam", 0, 0, 0.0, 8.0, times_s, clip),
            marks="frame",
            keep_positions=True,
            skip_empty=True,
        )
        for clip in clips
    ]
    for text in (
        "when did the red circle come ?",
        "was slide K shown ?",
        "which colours were seen ?",
        "what colour was the circle ?",
        "what shape was the red object ?",
    ):
        ours = reader.score(clips, text)
        assert np.allclose(ours, model.score_relevance(text, parts), atol=1e-3)
