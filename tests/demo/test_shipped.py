"""The shipped weights: small, salient where anchors are chosen, and right through the product."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from aot import make_reducer
from demo.miniature.model import ATTENTION_LAYERS
from demo.quality.evaluate import answer_clips, choose_seeds, evaluate, watch_scenes
from demo.quality.saliency import measure_saliency
from workers.models import ReadingStyle, open_language_model
from workers.reading import read_clip
from workers.types import CompressedClip

MODEL = Path(__file__).resolve().parents[2] / "demo" / "weights"
ACCURACY = 0.98
"""The mean over kinds must not fall below this on the first 24 scenes for choosing."""

pytestmark = pytest.mark.skipif(
    not (MODEL / "model.safetensors").is_file(), reason=f"no weights in {MODEL}"
)


@pytest.fixture(scope="module")
def watched():
    return watch_scenes(MODEL, choose_seeds(24))


def test_folder_is_small():
    assert sum(path.stat().st_size for path in MODEL.iterdir()) < 12e6


def test_the_product_reads_clips_to_it_as_in_training():
    reading = open_language_model(MODEL).reading
    style = ReadingStyle("frame", keep_positions=True, name_streams=False)
    assert replace(reading, relevance=()) == style
    assert reading.relevance


def test_accuracy_with_all_tokens_is_as_recorded(watched):
    assert evaluate(MODEL, watched).accuracy >= ACCURACY


def test_dropping_tokens_at_random_costs_answers(watched):
    full = evaluate(MODEL, watched).accuracy
    reduce = make_reducer("random", 0.05, grid=(14, 14)).compress_clips
    assert evaluate(MODEL, watched, reduce).accuracy < full - 0.1


def test_the_deep_layer_s_attention_finds_content():
    auc = measure_saliency(MODEL, choose_seeds(8)).auc[f"layer {ATTENTION_LAYERS[1]}"]
    assert min(auc.values()) > 0.75


def test_a_right_answer_is_what_the_product_says(watched):
    product = open_language_model(MODEL)
    agreed = 0
    for scene in watched[:3]:
        clip = make_reducer("none", 1.0, grid=(14, 14)).compress_clips([scene.features])[0]
        pts_s = tuple(float(t) for t in scene.times_s)
        stored = CompressedClip("demo", 0, 0, pts_s[0], pts_s[-1] + 1, pts_s, clip)
        segments = read_clip(stored, marks="frame", keep_positions=True)
        correct = answer_clips(MODEL, [clip], [scene], bfloat16=False)
        said = [
            "".join(product.stream_answer(q.text, segments)).strip() == q.answer
            for q in scene.questions
        ]
        assert np.array_equal(correct, said)
        agreed += sum(said)
    assert agreed > 0
