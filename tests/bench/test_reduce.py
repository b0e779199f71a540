"""The bench of the reduction: both contestants give the same tokens, and its line is complete."""

import pytest
import torch

from aot import AOTConfig, ClipCompressor
from bench.baseline import reduce_in_reference_order
from bench.features import make_features, split_clips
from bench.reduce import format_figures, run


def test_baseline_and_reduction_keep_the_same_tokens():
    features, config = make_features(4, 32), AOTConfig(clip_frames=2)
    ours = ClipCompressor(config).compress_clips(split_clips(features, 2))
    maps = features.local_attention, features.global_attention
    theirs = reduce_in_reference_order(features.tokens.clone(), *maps, 27, config)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.tokens, other, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_bench_gives_every_figure_and_a_table():
    result = run(frames=4, rounds=1)
    for key in ("speedup_d896", "speedup_d3584", "encoder_share", "peak_mb"):
        assert result[key] > 0
    assert result["bench"] == "reduce"
    assert result["commit"]
    assert result["device"]
    assert "3584" in format_figures(result)
