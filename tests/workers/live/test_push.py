"""The pusher of this process: what it counts."""

import numpy as np
import pytest

from tests.checkpoints import write_tiny_checkpoint
from workers.compress import CompressSettings
from workers.live.push import InlinePusher
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
