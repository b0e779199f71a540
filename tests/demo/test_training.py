"""Stages resume exactly, cached tokens equal the product's, files hold real video."""

import av
import numpy as np
import pytest
import torch

from aot import pool_grid
from demo.miniature.model import build_model, load_model
from demo.miniature.sequence import open_vocabulary, write_slots
from demo.training import pool
from demo.training.batches import BatchSource, PoolShare
from demo.training.checkpoint import load_state, save_state
from demo.training.crops import View
from demo.training.curriculum import Phase, Progress
from demo.training.fact_heads import FactHeads
from demo.training.facts import CLOCKS, FACTS, FRESH, name_pairs, state_facts
from demo.training.language import train_language
from demo.training.optim import build_optimizers
from demo.training.tower import draw_batch
from demo.world.labels import IGNORE, PAIRS, PRESENT
from demo.world.questions import LECTURE, SURVEILLANCE, Question, open_window
from demo.world.scenes import generate_scene
from demo.world.video import write_video
from workers.models import open_vision_encoder


def test_a_batch_depends_on_seed_and_step_alone():
    one, two = draw_batch(0, 5, 4), draw_batch(0, 5, 4)
    assert torch.equal(one[0], two[0])
    assert not torch.equal(one[0], draw_batch(0, 6, 4)[0])


def test_frames_of_scenes_as_they_come_mostly_show_something():
    drawn = draw_batch(0, 1, 40, ["surveillance"])
    assert (drawn.cells["shape"] > 0).any(1).float().mean() > 0.6
    assert drawn.present.shape == (40, len(PRESENT))


def test_touched_cells_are_told_what_touches_them():
    drawn = draw_batch(0, 1, 12, ["crowded surveillance"])
    owned, touched = drawn.cells["shape"], drawn.touched["shape"]
    assert torch.equal(touched[owned > 0], owned[owned > 0])
    assert (touched[owned == IGNORE] > 0).all()
    assert (touched[owned == 0] == 0).all()


def test_shards_made_ahead_are_those_made_when_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(pool, "SHARD_SCENES", 2)
    model = build_model()
    pool.fill_pool(model, tmp_path / "ahead", range(2), 2)
    assert len(list((tmp_path / "ahead").iterdir())) == 2
    for index in range(2):
        ahead = pool.load_shard(model, tmp_path / "ahead", index)
        here = pool.load_shard(model, tmp_path / "here", index)
        for one, other in zip(ahead, here, strict=True):
            assert torch.equal(one.tokens, other.tokens)


def test_optimizer_state_comes_back(tmp_path):
    def make():
        torch.manual_seed(0)
        layer = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.LayerNorm(4))
        return layer, build_optimizers(layer, [], muon_lr=0.01, adam_lr=0.01)

    def step(layer, optimizers):
        for optimizer in optimizers:
            optimizer.zero_grad()
        layer(torch.arange(8.0).view(2, 4)).square().sum().backward()
        for optimizer in optimizers:
            optimizer.step()

    layer, optimizers = make()
    step(layer, optimizers)
    save_state(tmp_path / "s.safetensors", {"layer": layer}, optimizers, 1)
    step(layer, optimizers)
    other, fresh = make()
    assert load_state(tmp_path / "s.safetensors", {"layer": other}, fresh) == 1
    step(other, fresh)
    for name, value in layer.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name


def test_no_checkpoint_is_step_nought(tmp_path):
    assert load_state(tmp_path / "none.safetensors", {}, []) == 0


def test_an_interrupted_run_ends_like_an_undisturbed_one(tmp_path, monkeypatch):
    monkeypatch.setattr(pool, "SHARD_SCENES", 4)
    monkeypatch.setattr("demo.training.batches.SHARD_SCENES", 4)
    match = Phase((1,), 4, 4, 2, ("exist", "slide_exist"), scattered=True)
    phases = (match, Phase((3, 4), 2, 4, 2))

    def run(folder, stop_s):
        model = build_model()
        done = train_language(model, folder, phases=phases, shards=PoolShare(most=1), stop_s=stop_s)
        return model, done

    straight, _ = run(tmp_path / "straight", None)
    done = 0
    while done < 6:
        broken, done = run(tmp_path / "broken", 0.0)
    for name, value in straight.state_dict().items():
        assert torch.allclose(value, broken.state_dict()[name], atol=1e-6), name


def test_cached_tokens_are_those_of_the_product(untrained):
    scene = generate_scene("surveillance", 12)
    seen = pool.see_scene(load_model(untrained), scene)
    encoder = open_vision_encoder(untrained)
    from demo.world.render import render

    features = encoder.encode(render(scene, np.arange(8.0)).pixels)
    exact = pool_grid(features.tokens, features.grid)
    assert torch.nn.functional.cosine_similarity(seen.tokens, exact, dim=-1).min() > 0.99


def test_facts_say_what_came_before():
    scene = generate_scene("lecture", 3)
    letters = [k for k, i in enumerate(scene.items) if i.letter]
    visible = np.zeros((8, len(scene.items)))
    owner = np.full((8, 49), -1)
    for k in letters:
        item = scene.items[k]
        frames = [t for t in range(8) if item.start_s <= t < item.end_s]
        visible[frames, k] = 1.0
        owner[frames, 8] = k
    window = open_window(scene, visible, np.arange(8.0), clock_s=120.0)
    facts = dict(zip((*FACTS, *CLOCKS, FRESH), state_facts(window, owner), strict=True))
    assert facts["second"][:, 8].tolist() == list(range(8))
    assert facts["rank"][-1, 8] == len(letters)
    assert facts["rank"][-1, 49] == IGNORE
    came = np.bincount([window.first_frame(k) for k in letters], minlength=8)
    assert facts["arrived"][:, 49].tolist() == came.tolist()
    assert facts["count"][:, 49].tolist() == came.cumsum().tolist()
    assert (facts["count"][:, :49] == IGNORE).all()
    assert facts["previous_letter"][0, 8] == 0
    assert facts["second"][:, 7].tolist() == list(range(8))
    assert (facts["letter"][:, 7] == IGNORE).all()
    assert (facts[FRESH][:, 8] == 2).sum() == len(letters)
    assert (facts[FRESH][:, 8] == 1).sum() == 8 - len(letters)
    assert facts[FRESH][0, 8] == 2
    assert (facts[FRESH][:, 7] == 0).all()


def test_a_number_is_asked_for_where_it_is_the_next_word():
    heads, words = FactHeads(8), open_vocabulary().words
    targets = torch.tensor([[IGNORE, words["3"], words["<|end|>"]], [words["red"], IGNORE, IGNORE]])
    goal = heads.find_numbers(targets)
    assert goal.tolist() == [[IGNORE, 3, IGNORE], [IGNORE] * 3]
    hidden = 9.0 * torch.eye(8)[None, :3].expand(2, -1, -1)
    embeddings = torch.zeros(len(words), 8)
    sure = embeddings.index_put((torch.tensor(words["3"]), torch.tensor(1)), torch.tensor(9.0))
    assert heads.count_loss(sure, (hidden, goal)) < 1e-3
    assert heads.count_loss(embeddings, (hidden, goal)) == pytest.approx(np.log(6), rel=1e-5)


def test_video_file_has_the_scene_s_frames(tmp_path):
    scene = generate_scene("surveillance", 2, 2.5)
    write_video(scene, tmp_path / "scene.mp4", size=128, fps=10)
    with av.open(str(tmp_path / "scene.mp4")) as container:
        frames = [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]
    from demo.world.render import render

    assert len(frames) == 25
    assert np.abs(frames[20] - render(scene, np.array([2.0]), 128).pixels[0].astype(int)).mean() < 8


def test_odd_sizes_are_refused(tmp_path):
    with pytest.raises(ValueError, match="expected an even number"):
        write_video(generate_scene("lecture", 0, 1.0), tmp_path / "x.mp4", size=111)


def test_text_that_names_a_coloured_shape_is_told_which():
    vocabulary = open_vocabulary()
    asked = Question("exist", "was there a red circle ?", "yes", 0.5)
    slots = write_slots(
        [asked, Question("colour", "what colour was the circle ?", "red", 0.5)], vocabulary
    )
    pairs = name_pairs(slots.ids, vocabulary.words)
    assert np.flatnonzero(pairs[0] != IGNORE).tolist() == [4]
    assert pairs[0, 4] == 1 + PAIRS.index("red circle")
    assert (pairs[1] == IGNORE).all()


def test_a_run_draws_from_more_and_more_of_the_pool():
    share = PoolShare(first=4, most=10)
    assert [share.count(step) for step in (0, 39, 40, 400)] == [4, 4, 5, 10]


def test_counts_are_not_asked_of_scenes_chosen_for_having_much(monkeypatch, tmp_path):
    monkeypatch.setattr(pool, "SHARD_SCENES", 4)
    monkeypatch.setattr("demo.training.batches.SHARD_SCENES", 4)

    def asked(busy):
        source = BatchSource(build_model(), tmp_path, 0, PoolShare(most=1), (0, 1))
        progress = {view: Progress() for view in View}
        batch = source.draw(0, Phase((8,), 1, 10, 4, busy=busy), progress)
        kinds = {kind for row in batch.kinds for kind in row}
        counts = batch.facts[:, list(FACTS).index("count")]
        return bool(kinds & {"count", "slide_count"}), bool((counts != IGNORE).any())

    assert asked(0.0) == (True, True)
    assert asked(1.0) == (False, False)


def test_a_phase_says_how_many_scenes_are_lectures(monkeypatch, tmp_path):
    monkeypatch.setattr(pool, "SHARD_SCENES", 4)
    monkeypatch.setattr("demo.training.batches.SHARD_SCENES", 4)
    source = BatchSource(build_model(), tmp_path, 0, PoolShare(most=1), (0, 1))
    progress = {view: Progress() for view in View}

    def kinds(lectures):
        batch = source.draw(0, Phase((8,), 1, 10, 6, lectures=lectures), progress)
        return {kind for row in batch.kinds for kind in row if kind}

    assert kinds(0.0) <= set(SURVEILLANCE)
    assert kinds(1.0) <= set(LECTURE)
