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
def test_cells_are_means_of_luma(shape):
    gray = np.full(shape, 77, np.uint8)

    np.testing.assert_allclose(average_cells(gray, 24), 77.0, rtol=1e-5)
