"""Pooling in one pass, in Triton's interpreter, against the model's own."""

import pytest
import torch

from aot import AOTConfig, stack_clips
from aot.pooling import pool_grid, pooled_grid
from aot.reducers import cells
from tests.aot.support import features

pytest.importorskip("triton", reason="Triton is not installed")


@pytest.mark.parametrize("grid", [(27, 27), (12, 9), (5, 3), (1, 2)], ids=str)
@pytest.mark.parametrize("stride", [2, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_the_kernel_pools_as_the_model_does(grid, stride, dtype):
    from aot.kernels.pooling import pool_bilinear

    tokens = torch.randn(2, grid[0] * grid[1], 20).to(dtype)
    expected = pool_grid(tokens.float(), grid, "bilinear", stride=stride)
    ours = pool_bilinear(tokens, *grid, *pooled_grid(grid, "bilinear", stride=stride))
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=2e-5)


def test_frames_may_be_apart():
    from aot.kernels.pooling import pool_bilinear

    tokens = torch.randn(4, 36, 8)
    every_other = pool_bilinear(tokens[::2], 6, 6, 3, 3)
    assert torch.equal(every_other, pool_bilinear(tokens[::2].contiguous(), 6, 6, 3, 3))


def test_clips_are_pooled_alike_with_the_kernel(monkeypatch):
    batch = stack_clips([features(2, (9, 7), seed=seed) for seed in range(2)])
    expected = cells.pool_batch(batch, AOTConfig())
    monkeypatch.setattr(cells, "runs_kernels", lambda device: True)
    ours = cells.pool_batch(batch, AOTConfig())
    for name in ("tokens", "attention", "local_attention"):
        torch.testing.assert_close(
            getattr(ours, name), getattr(expected, name), rtol=1e-5, atol=2e-5
        )
