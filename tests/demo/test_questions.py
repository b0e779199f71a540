"""Answers follow from what the frames show; yes and no balance; every word is known."""

import numpy as np
import pytest

from demo.miniature.sequence import SLOT_LENGTH, open_vocabulary
from demo.world.questions import KINDS, ask, open_window
from demo.world.render import render
from demo.world.scenes import Item, Scene, generate_scene


def passing(colour, shape, start_s, end_s, path=((0.2, 0.5), (0.8, 0.5))):
    return Item("object", start_s, end_s, path, 0.08, 1.0, colour=colour, shape=shape)


@pytest.fixture(scope="module")
def window():
    items = (
        passing("red", "circle", 0.0, 3.0),
        passing("blue", "circle", 2.0, 6.0, ((0.5, 0.9), (0.5, 0.1))),
        passing("green", "square", 5.0, 8.0, ((0.8, 0.2), (0.2, 0.2))),
    )
    visible = np.zeros((8, 3))
    visible[0:3, 0] = visible[2:6, 1] = visible[5:8, 2] = 1.0
    scene = Scene("surveillance", 0, 8.0, items)
    return open_window(scene, visible, np.arange(8.0), clock_s=3600.0)


def answers(window, kind, draws=40):
    rng = np.random.default_rng(0)
    return {q.text: q.answer for _ in range(draws) for q in ask(window, rng, [kind])}


@pytest.mark.parametrize(
    ("kind", "text", "answer"),
    [
        ("count", "how many objects were there ?", "3"),
        ("colours", "which colours were seen ?", "red green blue"),
        ("first", "which object came first ?", "red circle"),
        ("last", "which object came last ?", "green square"),
        ("after", "which object came after the red circle ?", "blue circle"),
        ("before", "which object came before the green square ?", "blue circle"),
        ("order", "did the red circle come before the green square ?", "yes"),
        ("order", "did the green square come before the blue circle ?", "no"),
        ("direction", "which way did the red circle go ?", "right"),
        ("direction", "which way did the blue circle go ?", "up"),
        ("direction", "which way did the green square go ?", "left"),
        ("when", "when did the blue circle come ?", "01:00:02"),
        ("colour", "what colour was the square ?", "green"),
        ("shape", "what shape was the blue object ?", "circle"),
        ("exist", "was there a red circle ?", "yes"),
        ("exist", "was there a red square ?", "no"),
    ],
)
def test_answer_follows_from_the_frames(window, kind, text, answer):
    assert answers(window, kind, 300)[text] == answer


def test_an_ambiguous_name_is_not_asked_about(window):
    assert "what colour was the circle ?" not in answers(window, "colour")


def test_half_seen_items_silence_what_hangs_on_them(window):
    visible = window.visible.copy()
    visible[2:6, 1] = 0.2
    scene = Scene("surveillance", 0, 8.0, window.items)
    doubtful = open_window(scene, visible, np.arange(8.0))
    kinds = {q.kind for q in ask(doubtful, np.random.default_rng(0))}
    assert kinds <= {"exist", "direction"}


def test_yes_and_no_balance():
    rng = np.random.default_rng(1)
    given = {"exist": [], "order": [], "slide_exist": []}
    for seed in range(120):
        scene = generate_scene("lecture" if seed % 2 else "surveillance", seed)
        times_s = np.arange(8.0)
        visible = render(scene, times_s).visible
        for q in ask(open_window(scene, visible, times_s), rng):
            if q.kind in given:
                given[q.kind].append(q.answer == "yes")
    for values in given.values():
        assert len(values) > 20
        assert 0.3 < np.mean(values) < 0.7


def test_every_kind_occurs_and_fits_its_slot():
    rng, vocabulary, seen = np.random.default_rng(2), open_vocabulary(), set()
    for seed in range(40):
        scene = generate_scene("lecture" if seed % 2 else "surveillance", seed)
        times_s = np.arange(8.0)
        for q in ask(open_window(scene, render(scene, times_s).visible, times_s), rng):
            ids = vocabulary.encode(f"{q.text} <|assistant|> {q.answer} <|end|>")
            assert vocabulary.words["<unk>"] not in ids
            assert len(ids) <= SLOT_LENGTH
            assert 0 < q.guess <= 1
            seen.add(q.kind)
    assert seen == set(KINDS)
