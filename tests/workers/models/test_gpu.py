"""Both halves on an accelerator against the CPU."""

import pytest
import torch

from aot import pool_grid
from tests.checkpoints import random_frames, write_tiny_checkpoint
from workers.models import VisualSegment, open_language_model, open_vision_encoder

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tiny_checkpoint(tmp_path_factory.mktemp("models") / "tiny")


def test_features_agree_with_the_cpus(folder):
    frames = random_frames(5)
    expected = open_vision_encoder(folder).encode(frames)

    features = open_vision_encoder(folder, device="cuda").encode(frames)

    assert features.tokens.is_cuda
    for name in ("tokens", "local_attention", "global_attention"):
        got = getattr(features, name).cpu()
        torch.testing.assert_close(got, getattr(expected, name), rtol=1e-3, atol=1e-3)


def test_half_precision_attention_still_adds_up(folder):
    encoder = open_vision_encoder(folder, device="cuda", dtype="bfloat16")

    features = encoder.encode(random_frames(5))

    ones = torch.ones(5, device="cuda")
    torch.testing.assert_close(features.global_attention.mean(1), ones, rtol=0, atol=1e-3)


def test_tokens_of_the_host_are_answered_on_the_device(folder):
    features = open_vision_encoder(folder).encode(random_frames(2))
    tokens = pool_grid(features.tokens, features.grid, "bilinear").flatten(0, 1)
    segment = VisualSegment("[00:12]", tokens)
    expected = open_language_model(folder).logits("what ?", [segment])

    logits = open_language_model(folder, device="cuda").logits("what ?", [segment])

    torch.testing.assert_close(logits.cpu(), expected, rtol=1e-3, atol=1e-3)
