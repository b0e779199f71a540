"""Every reducer on an accelerator against the CPU."""

import pytest
import torch

from aot import REDUCERS, FrameFeatures, make_reducer
from tests.aot.support import features

GRID, FRAMES = (12, 12), 8
pytestmark = pytest.mark.gpu


def move(clip: FrameFeatures) -> FrameFeatures:
    parts = (clip.tokens, clip.local_attention, clip.global_attention)
    return FrameFeatures(*(part.cuda() for part in parts), clip.grid)


@pytest.mark.parametrize("name", sorted(REDUCERS))
@pytest.mark.parametrize("retention", [0.1, 0.5])
def test_it_keeps_what_it_keeps_on_the_cpu(name, retention):
    clip = features(FRAMES, GRID, dim=32)
    make = [make_reducer(name, retention, grid=GRID, clip_frames=FRAMES) for _ in range(2)]

    [expected] = make[0].compress_clips([clip])
    [kept] = make[1].compress_clips([move(clip)])

    assert kept.tokens.is_cuda
    assert torch.equal(kept.frame.cpu(), expected.frame)
    assert torch.equal(kept.cell.cpu(), expected.cell)
    torch.testing.assert_close(kept.tokens.cpu(), expected.tokens, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(kept.mass.cpu(), expected.mass, rtol=1e-3, atol=1e-3)
