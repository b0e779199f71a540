"""Held frames: noise is not news, things are."""

import numpy as np
import pytest

from workers.live.stillness import StillnessGate, StillnessRule, average_cells

SIDE = 96


def scene(rng, *, noise=3.0, item=None, light=0.0):
    rows, columns = np.mgrid[0:SIDE, 0:SIDE]
    picture = 90 + rows / 2 + columns / 3 + light + rng.normal(0, noise, (SIDE, SIDE))
    if item is not None:
        row, column = item
        picture[row : row + 12, column : column + 12] += 60
    return np.repeat(picture.clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)


@pytest.mark.parametrize("noise", [0.0, 3.0, 12.0])
def test_noise_is_held(noise):
    gate, rng = StillnessGate(), np.random.default_rng(0)

    still = [gate.is_still(scene(rng, noise=noise)) for _ in range(60)]

    assert still[0] is False
    assert sum(still[10:]) >= 48


def test_a_thing_that_comes_moves_and_goes_is_seen():
    gate, rng = StillnessGate(), np.random.default_rng(1)
    for _ in range(20):
        gate.is_still(scene(rng))

    seen = [gate.is_still(scene(rng, item=item)) for item in [(10, 10), (10, 30), (40, 60), None]]

    assert seen == [False] * 4


def test_an_edge_that_trembles_in_one_block_is_held_and_a_clear_change_there_is_not():
    rng, cell = np.random.default_rng(6), SIDE // StillnessRule().cells
    gate = StillnessGate()

    def look(light):
        frame = scene(rng, noise=0.0).astype(np.float32)
        frame[:cell, :cell] += light
        return gate.is_still(frame.clip(0, 255).astype(np.uint8))

    seen = [look(light) for light in (0.0, 0.0, 0.0, 0.0, 0.0, 3.0, 0.0, 5.0, 60.0, 63.0)]

    assert [at for at, still in enumerate(seen) if not still] == [0, 8]


def test_what_comes_in_the_first_seconds_is_no_noise():
    gate, rng = StillnessGate(), np.random.default_rng(7)
    items = [None, (10, 10), (10, 30), (40, 60), None, (60, 20), (20, 60), None]

    assert not any(gate.is_still(scene(rng, item=item)) for item in items)


def test_a_colour_that_changes_at_the_same_lightness_is_seen():
    gate = StillnessGate()
    gray = np.full((SIDE, SIDE, 3), 120, np.uint8)
    red = gray.copy()
    red[20:40, 20:40] = (220, 77, 98)  # of the same luma
    for _ in range(6):
        gate.is_still(gray)

    assert [gate.is_still(frame) for frame in (gray, red, red, gray)] == [True, False, True, False]


def test_light_that_jumps_all_over_does_not_hide_what_comes_with_it():
    gate, rng = StillnessGate(), np.random.default_rng(8)
    lights = [0.0, 5.0, 1.0, 6.0, 2.0, 5.0, 0.0, 4.0]
    for light in lights:
        gate.is_still(scene(rng, light=light))

    assert gate.is_still(scene(rng, light=4.0))
    assert not gate.is_still(scene(rng, light=4.0, item=(30, 30)))


def test_a_keyframe_that_codes_all_anew_is_held_and_what_comes_with_it_is_seen():
    gate, rng = StillnessGate(), np.random.default_rng(9)
    blocks = rng.normal(0, 2.5, (24, 24)).repeat(SIDE // 24, axis=0).repeat(SIDE // 24, axis=1)

    def look(number, item=None):
        frame = scene(np.random.default_rng(10), noise=0.0, item=item).astype(np.float32)
        coded = frame + (blocks[..., None] if number % 5 == 0 else 0)
        return gate.is_still(coded.clip(0, 255).astype(np.uint8))

    assert all([look(number) for number in range(1, 31)][1:])
    assert not look(35, item=(30, 30))
    assert look(36, item=(30, 30))
    assert not look(37)


def test_a_thing_that_stays_is_held():
    gate, rng = StillnessGate(), np.random.default_rng(2)
    for _ in range(20):
        gate.is_still(scene(rng))
    gate.is_still(scene(rng, item=(20, 20)))

    assert all(gate.is_still(scene(rng, item=(20, 20))) for _ in range(10))


def test_light_that_changes_slowly_is_seen_in_the_end():
    gate, rng = StillnessGate(), np.random.default_rng(3)

    still = [gate.is_still(scene(rng, light=0.1 * step)) for step in range(200)]

    assert 2 <= still.count(False) <= 20


def test_nothing_is_held_for_ever():
    gate = StillnessGate(StillnessRule(longest_frames=5))
    frame = scene(np.random.default_rng(4))

    still = [gate.is_still(frame) for _ in range(13)]

    assert [at for at, held in enumerate(still) if not held] == [0, 6, 12]


def test_a_restart_forgets_the_picture():
    gate, frame = StillnessGate(), scene(np.random.default_rng(5))
    gate.is_still(frame)

    gate.restart()

    assert not gate.is_still(frame)


@pytest.mark.parametrize("shape", [(96, 96, 3), (100, 50, 3), (10, 7, 3)])
def test_cells_are_mean_colours(shape):
    gray = np.full(shape, 77, np.uint8)

    np.testing.assert_allclose(average_cells(gray, 24), 77.0, rtol=1e-5)


@pytest.mark.parametrize("side", [96, 112, 119, 30])
def test_every_part_of_a_picture_is_looked_at(side):
    for row, column in ((0, 0), (side - 9, side - 9), (side - 9, side // 2), (side // 2, side - 9)):
        gate, frame = StillnessGate(), np.full((side, side, 3), 90, np.uint8)
        gate.is_still(frame)
        frame[row : row + 9, column : column + 9] = 200

        assert not gate.is_still(frame)
