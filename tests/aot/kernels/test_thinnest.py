"""The tokens below a quantile without a sort, in Triton's interpreter, against plain torch."""

import pytest
import torch

from aot import AOTConfig, matching
from aot.clip_batch import Schedule, StepTokens
from aot.matching import LaterFrames, find_thinnest, prepare_frames

pytest.importorskip("triton", reason="Triton is not installed")
CLIPS, TOKENS = 4, 50


def later_frames(fraction: float) -> LaterFrames:
    """Frames of all tokens, of some, of one and of none."""
    present = torch.rand(CLIPS, 2, TOKENS) < 0.7
    present[0], present[2], present[3] = True, False, False
    present[2, :, 17] = True
    numbers = torch.arange(CLIPS * 2).view(CLIPS, 2)
    steps = Schedule(
        starts=numbers < 0,
        follows=numbers >= 0,
        position=numbers + 1,
        passed=numbers[:, 0],
        keyframe=numbers[:, 0] * 0,
        end=numbers[:, 0],
    )
    tokens = torch.randn(CLIPS, 2, TOKENS, 3)
    batch = StepTokens(tokens, numbers[..., None].expand(-1, -1, TOKENS), tokens[..., 0], present)
    return prepare_frames(batch, steps, AOTConfig(distinct_fraction=fraction))


@pytest.mark.filterwarnings("ignore:invalid value")  # infinity less infinity, where no source is
@pytest.mark.parametrize("fraction", [0.0, 0.2, 0.5, 0.77, 1.0])
@pytest.mark.parametrize("tied", [False, True, "nearly"])
def test_the_kernel_finds_what_the_sort_finds(monkeypatch, fraction, tied):
    frames = later_frames(fraction)
    best = torch.rand(CLIPS, TOKENS, dtype=torch.float64)
    if tied:
        best = (best * 4).round() / 4
    if tied == "nearly":  # further apart than ties are, and closer
        best = best * (1 + torch.rand(CLIPS, TOKENS, dtype=torch.float64).sub(0.5) * 4e-8)
        best[:, ::2] *= 1 + 1e-11
    found = 0
    for step in range(2):
        frame = frames.at(step)
        expected = find_thinnest(best, frame)
        monkeypatch.setattr(matching, "runs_kernels", lambda device: True)
        assert torch.equal(find_thinnest(best, frame), expected)
        monkeypatch.undo()
        found += int(expected.sum())
    assert found or tied is True or fraction == 0
