"""Scenes are deterministic, grow by their end, and draw what they say."""

import itertools

import numpy as np
import pytest

from demo.world.render import render
from demo.world.scenes import COLOURS, generate_scene

KINDS = ("surveillance", "lecture")


@pytest.mark.parametrize("kind", KINDS)
def test_same_seed_gives_the_same_scene_and_pixels(kind):
    one, two = generate_scene(kind, 3), generate_scene(kind, 3)
    assert one == two
    times_s = np.array([0.0, 5.0])
    assert np.array_equal(render(one, times_s).pixels, render(two, times_s).pixels)
    assert generate_scene(kind, 4) != one


@pytest.mark.parametrize("kind", KINDS)
def test_a_longer_scene_starts_alike(kind):
    short, long = generate_scene(kind, 5, 16.0), generate_scene(kind, 5, 3600.0)
    early = tuple(i for i in long.items if i.start_s < 16.0)
    assert early == short.items
    assert len(long.items) > 300


@pytest.mark.parametrize("kind", KINDS)
def test_names_are_unique_at_any_time(kind):
    scene = generate_scene(kind, 6, 400.0)
    for second in range(400):
        names = [i.name for i in scene.items if i.start_s <= second < i.end_s]
        assert len(names) == len(set(names))


def test_slides_follow_each_other_without_a_pause():
    letters = [i for i in generate_scene("lecture", 7, 80.0).items if i.letter]
    for one, two in itertools.pairwise(letters):
        assert one.end_s == pytest.approx(two.start_s)
        assert one.end_s - one.start_s >= 1.05 - 1e-9


@pytest.mark.parametrize("kind", KINDS)
def test_item_map_marks_the_item_where_it_is(kind):
    scene = generate_scene(kind, 8)
    shown = render(scene, np.arange(8.0))
    for frame, time_s in enumerate(range(8)):
        for k, item in enumerate(scene.items):
            rows, columns = np.nonzero(shown.items[frame] == k)
            if not item.start_s <= time_s < item.end_s:
                assert len(rows) == 0
            elif shown.visible[frame, k] > 0.95:
                x, y = item.position(time_s)
                assert columns.mean() / 112 == pytest.approx(x, abs=0.06)
                assert rows.mean() / 112 == pytest.approx(y, abs=0.06)


def test_a_vivid_object_has_its_colour_in_the_picture():
    found = 0
    for seed in range(30):
        scene = generate_scene("surveillance", seed)
        shown = render(scene, np.arange(8.0))
        for k, item in enumerate(scene.items):
            frame = int(shown.visible[:, k].argmax())
            inside = shown.items[frame] == k
            if item.contrast > 0.9 and item.colour in ("red", "green", "blue") and inside.any():
                mean = shown.pixels[frame][inside].mean(0)
                assert mean.argmax() == np.argmax(COLOURS[item.colour])
                found += 1
    assert found >= 3


def test_larger_pictures_show_the_same():
    scene = generate_scene("lecture", 9)
    small, large = render(scene, np.array([3.0]), 112), render(scene, np.array([3.0]), 336)
    shrunk = large.pixels[0].reshape(112, 3, 112, 3, 3).mean((1, 3))
    assert np.abs(shrunk - small.pixels[0]).mean() < 8.0
    assert np.allclose(small.visible, large.visible, atol=0.15)


def test_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="expected surveillance or lecture"):
        generate_scene("sports", 0)  # type: ignore[arg-type]
