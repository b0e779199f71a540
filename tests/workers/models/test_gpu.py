"""Both halves on an accelerator against the CPU."""

import pytest
import torch
from transformers import SiglipVisionConfig, SiglipVisionModel

from aot import pool_grid
from tests.aot.support import no_waits
from tests.checkpoints import random_frames, write_tiny_checkpoint
from tests.scores import scores
from workers.models import VisualSegment, attention, open_language_model, open_vision_encoder
from workers.models.attention import PROBED_SDPA, attention_received, probe_attention

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


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float32, 5e-6), (torch.float16, 1e-4), (torch.bfloat16, 1e-4)],
    ids=str,
)
@pytest.mark.parametrize("width", [64, 72])
def test_attention_received_by_the_kernels(dtype, tolerance, width):
    query, key = (
        torch.randn(3, 729, 4, width, device="cuda").to(dtype).transpose(1, 2) for _ in range(2)
    )
    scaling = width**-0.5
    plain = attention_received(query, key, scaling, working_bytes=2**28)
    allocated = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()

    received = attention_received(query, key, scaling)

    torch.testing.assert_close(received, plain, rtol=0, atol=tolerance)
    small = 3 * received.numel() * received.element_size() + 2**20
    assert torch.cuda.max_memory_allocated() - allocated <= small


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_log_sums_of_flash_attention_spare_a_pass(dtype, monkeypatch):
    layer = SiglipVisionModel(tower_config()).to("cuda", dtype).encoder.layers[0].self_attn
    probe = probe_attention(layer)
    hidden = torch.randn(2, 729, 144, device="cuda", dtype=dtype)
    taken = []
    monkeypatch.setattr(
        attention,
        "_received_by_kernels",
        lambda *given, by=attention._received_by_kernels: (
            taken.append(given[3] is not None) or by(*given)
        ),
    )
    with torch.inference_mode():
        output, _ = layer(hidden)
        with_flash = probe.take()
        monkeypatch.setattr(attention, "_runs_flash", lambda *_: False)
        expected, _ = layer(hidden)
    assert taken == [True, False]
    torch.testing.assert_close(with_flash, probe.take(), rtol=0, atol=2e-3)
    torch.testing.assert_close(output, expected, rtol=2e-2, atol=2e-2)


def test_frames_are_encoded_without_a_wait_of_the_host(folder):
    encoder = open_vision_encoder(folder, device="cuda", dtype="bfloat16")
    frames = random_frames(5)
    expected = encoder.encode(frames)
    with no_waits():
        features = encoder.encode(frames)
    assert features.tokens.is_cuda
    torch.testing.assert_close(features.tokens, expected.tokens)


def tower_config() -> SiglipVisionConfig:
    """One layer of two heads, 72 wide each."""
    config = SiglipVisionConfig(
        hidden_size=144,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        vision_use_head=False,
    )
    config._attn_implementation = PROBED_SDPA
    return config


def test_tokens_of_the_host_are_answered_on_the_device(folder):
    features = open_vision_encoder(folder).encode(random_frames(2))
    tokens = pool_grid(features.tokens, features.grid, "bilinear").flatten(0, 1)
    segment = VisualSegment("[00:12]", tokens)
    expected = scores(open_language_model(folder), "what ?", [segment])

    logits = scores(open_language_model(folder, device="cuda"), "what ?", [segment])

    torch.testing.assert_close(logits.cpu(), expected, rtol=1e-3, atol=1e-3)
