"""The pusher of this process: what it counts."""

import numpy as np
import pytest

from tests.checkpoints import write_tiny_checkpoint
from workers.compress import CompressSettings
from workers.live.push import InlinePusher
from workers.live.tally import BusyClock
from workers.seams import Push


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_tiny_checkpoint(tmp_path_factory.mktemp("model") / "tiny")


def test_batches_frames_and_the_time_they_took_are_counted(model):
    with InlinePusher(CompressSettings(model=str(model), clip_frames=4)) as pusher:
        assert (pusher.tally.batches, pusher.tally.frames) == (0, 0)
        size = pusher.info.pixel_format
        pixels = np.zeros((2, size.height, size.width, 3), np.uint8)
        pixels[:, ::2] = 200
        state = pusher.push(Push(pixels), timeout_s=60.0).state
        pusher.push(Push(pixels[:1], state), timeout_s=60.0)
        tally = pusher.tally
    assert (tally.batches, tally.frames, tally.last_frames, tally.waiting) == (2, 3, 1, 0)
    assert 0 < tally.encode_s + tally.reduce_s <= tally.busy_s


def test_time_at_work_is_counted_once_however_many_batches_are():
    times_s = iter([0.0, 3.0, 5.0, 10.0, 12.0])
    clock = BusyClock(lambda: next(times_s))
    clock.begin()  # at 0
    clock.begin()
    assert clock.busy_s == 3
    clock.end()
    clock.end()  # at 5
    assert clock.busy_s == 5
    clock.begin()  # at 10
    assert clock.busy_s == 7
