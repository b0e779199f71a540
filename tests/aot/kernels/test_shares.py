"""The matrices of a later frame's transport, in Triton's interpreter, against plain torch."""

import pytest
import torch

from aot import matching
from aot.matching import LaterFrames, Targets, give_shares, sharpen
from tests.aot.kernels.test_thinnest import later_frames

pytest.importorskip("triton", reason="Triton is not installed")


@pytest.fixture(params=[7, 40])
def problem(request) -> tuple[LaterFrames, torch.Tensor, Targets]:
    """A frame of several clips, one of which has all of its anchors, another none."""
    frame, rows = later_frames(0.2).at(1), request.param
    clips, width = frame.tokens.shape[0], frame.tokens.shape[2]
    anchors = torch.randn(clips, rows, width)
    anchors[0, 2] = frame.tokens[0, 3] * 2  # as near as a cosine comes
    anchors[1, 0] = 0
    count = torch.tensor([rows, 5, 1, 0])
    unreachable = torch.arange(rows) >= count.clamp(min=1)[:, None]
    return frame, anchors, Targets(unreachable[:, None], torch.rand(clips, rows).double(), count)


def with_kernels(monkeypatch) -> None:
    monkeypatch.setattr(matching, "runs_kernels", lambda device: True)


def test_the_kernel_sharpens_as_the_passes_do(monkeypatch, problem):
    expected = sharpen(*problem)
    with_kernels(monkeypatch)
    for ours, theirs in zip(sharpen(*problem), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-13, atol=1e-14)


def test_shares_add_up_to_one(monkeypatch, problem):
    kernel = sharpen(*problem)[2]
    scaling = torch.rand(kernel.shape[0], kernel.shape[2], dtype=torch.float64)
    expected = give_shares(kernel.clone(), scaling)
    with_kernels(monkeypatch)
    share, best = give_shares(kernel, scaling)
    torch.testing.assert_close(share.sum(dim=2), torch.ones_like(best), rtol=1e-13, atol=0)
    torch.testing.assert_close(share, expected[0], rtol=1e-13, atol=0)
    torch.testing.assert_close(best, expected[1], rtol=1e-13, atol=0)
