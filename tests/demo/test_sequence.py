"""Many questions in one sequence get the answers each would get alone, through the product."""

import numpy as np
import pytest
import torch

from aot import make_reducer
from demo.miniature.model import load_model
from demo.miniature.reading import gather, lay_out, sort_clip
from demo.miniature.sequence import (
    embed_videos,
    open_vocabulary,
    position_ids,
    prefix_length,
    write_marks,
    write_slots,
)
from demo.quality.evaluate import choose_seeds, evaluate, watch_scenes
from tests.demo.masks import block_mask
from tests.scores import scores
from workers.models import open_language_model
from workers.reading import read_clip
from workers.types import CompressedClip

GRID = (14, 14)


@pytest.fixture(scope="module")
def watched(untrained):
    return watch_scenes(untrained, choose_seeds(3))


def read_as_product(clip, times_s):
    pts_s = tuple(float(t) for t in times_s)
    stored = CompressedClip("demo", 0, 0, pts_s[0], pts_s[-1] + 1, pts_s, clip)
    return read_clip(stored, marks="frame", keep_positions=True)


def test_block_mask_hides_other_slots_and_the_future():
    mask = block_mask(frames=1, slots=2)[0, 0]
    prefix = prefix_length(1)
    assert mask[prefix + 3, :prefix].all()
    assert not mask[prefix + 14, prefix : prefix + 14].any()
    assert not mask.triu(1).any()
    assert position_ids(1, 2)[0, prefix] == position_ids(1, 2)[0, prefix + 14] == prefix


@torch.inference_mode()
def test_training_sequence_equals_the_product_s_own_prompt(untrained, watched):
    scene, vocabulary = watched[0], open_vocabulary()
    questions = list(scene.questions[:3])
    llava = load_model(untrained).model
    clip = make_reducer("none", 1.0, grid=GRID).compress_clips([scene.features])[0]
    slots = write_slots(questions, vocabulary)
    embedded = embed_videos(
        llava.language_model,
        llava.image_newline,
        clip.tokens.unflatten(0, (8, 49))[None],
        torch.from_numpy(write_marks(scene.times_s, vocabulary))[None],
        torch.from_numpy(slots.ids)[None],
        vocabulary,
    )
    hidden = llava.language_model(
        inputs_embeds=embedded,
        attention_mask=block_mask(8, 3),
        position_ids=position_ids(8, 3),
    ).last_hidden_state[0]
    logits = hidden @ llava.language_model.embed_tokens.weight.T
    product = open_language_model(untrained)
    segments = read_as_product(clip, scene.times_s)
    for slot, question in enumerate(questions):
        alone = scores(product, question.text, segments)
        last = prefix_length(8) + 14 * slot + len(vocabulary.encode(question.text))
        assert torch.allclose(logits[last], alone[-1], atol=2e-4)


@pytest.mark.parametrize("name", ["none", "uniform", "random", "aot"])
def test_evaluation_measures_retention_and_answers_every_question(untrained, watched, name):
    retention = 1.0 if name == "none" else 0.25
    reduce = make_reducer(name, retention, grid=GRID).compress_clips
    result = evaluate(untrained, watched, reduce)
    assert len(result.correct) == sum(len(s.questions) for s in watched)
    assert result.tokens_in == 3 * 8 * 49
    assert result.retention == pytest.approx(retention, rel=0.35)
    assert set(result.by_kind()) == {q.kind for s in watched for q in s.questions}


@torch.inference_mode()
def test_reduced_layout_equals_the_product_s_own_prompt(untrained, watched):
    scene, vocabulary = watched[1], open_vocabulary()
    llava = load_model(untrained).model
    words = llava.language_model.embed_tokens.weight
    clip = make_reducer("aot", 0.1, grid=GRID).compress_clips([scene.features])[0]
    keep = (clip.frame != 2) & (clip.frame != 7)
    columns = {n: getattr(clip, n)[keep] for n in ("tokens", "frame", "cell", "mass", "kind")}
    clip = sort_clip(type(clip)(grid=clip.grid, **columns))
    layout = lay_out(clip, scene.times_s, vocabulary)
    text = vocabulary.encode(f"{scene.questions[0].text} <|assistant|>")
    prefix = gather(layout, clip.tokens, llava.image_newline, words)
    positions = torch.cat(
        [torch.from_numpy(layout.positions), layout.end + torch.arange(len(text))]
    )
    hidden = llava.language_model(
        inputs_embeds=torch.cat([prefix, words[torch.tensor(text)]])[None],
        position_ids=positions[None],
    ).last_hidden_state[0]
    product = open_language_model(untrained)
    expected = scores(product, scene.questions[0].text, read_as_product(clip, scene.times_s))
    assert torch.allclose(hidden @ words.T, expected, atol=1e-4)


def test_batching_does_not_change_answers(untrained, watched):
    reduce = make_reducer("random", 0.25, grid=GRID).compress_clips
    together = evaluate(untrained, watched, reduce, bfloat16=False).correct
    alone = [evaluate(untrained, [s], reduce, bfloat16=False).correct for s in watched]
    assert np.array_equal(together, np.concatenate(alone))


def test_dropped_tokens_leave_the_others_where_they_were(watched):
    vocabulary = open_vocabulary()
    scene = watched[0]
    full = make_reducer("none", 1.0, grid=GRID).compress_clips([scene.features])[0]
    few = make_reducer("uniform", 0.1, grid=GRID).compress_clips([scene.features])[0]
    whole, part = (lay_out(c, scene.times_s, vocabulary) for c in (full, few))
    assert whole.end == part.end == prefix_length(8)
    assert np.array_equal(whole.positions, np.arange(prefix_length(8)))
    where = part.positions[part.visual >= 0]
    expected = 1 + few.frame.numpy() * 53 + 3 + few.cell.numpy()
    assert np.array_equal(where, expected)


def test_a_frame_without_tokens_keeps_its_mark(watched):
    scene, vocabulary = watched[0], open_vocabulary()
    full = make_reducer("none", 1.0, grid=GRID).compress_clips([scene.features])[0]
    keep = full.frame != 3
    columns = {n: getattr(full, n)[keep] for n in ("tokens", "frame", "cell", "mass", "kind")}
    layout = lay_out(type(full)(grid=full.grid, **columns), scene.times_s, vocabulary)
    assert (layout.visual == -2).sum() == 1 + 8 * 3
    assert (layout.visual == -1).sum() == 7
    assert np.all(np.diff(layout.positions) > 0)


def test_sorting_puts_merged_anchors_beside_their_keyframe(watched):
    clip = make_reducer("aot", 0.25, grid=GRID).compress_clips([watched[0].features])[0]
    ordered = sort_clip(clip)
    place = (ordered.frame * 49 + ordered.cell).numpy()
    assert np.all(np.diff(place) >= 0)
    assert ordered.mass.sum() == pytest.approx(float(clip.mass.sum()))
