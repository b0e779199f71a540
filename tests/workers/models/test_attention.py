"""Attention received: against its definition, recorded outputs, eager attention."""

import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import SiglipVisionConfig, SiglipVisionModel

from workers.errors import UnsupportedModel
from workers.models.attention import PROBED_SDPA, attention_received, probe_attention


def by_definition(query: Tensor, key: Tensor, scaling: float) -> Tensor:
    return torch.softmax(query @ key.transpose(-1, -2) * scaling, dim=-1).sum(-2)


def random_tower(layers: int = 3, implementation: str = PROBED_SDPA) -> SiglipVisionModel:
    torch.manual_seed(0)
    config = SiglipVisionConfig(
        hidden_size=24,
        intermediate_size=32,
        num_hidden_layers=layers,
        num_attention_heads=3,
        image_size=40,
        patch_size=8,
        vision_use_head=False,
    )
    config._attn_implementation = implementation
    return SiglipVisionModel(config).eval().requires_grad_(False)


@pytest.mark.parametrize("working_bytes", [1, 2 * 4 * 30 * 7, 2 * 4 * 30 * 30, 10**5, 10**9])
def test_any_block_size_gives_the_definition(working_bytes):
    query, key = torch.randn(2, 3, 4, 30, 8)

    received = attention_received(query, key, 0.3, working_bytes)

    torch.testing.assert_close(received, by_definition(query, key, 0.3), rtol=1e-5, atol=1e-6)


def test_what_is_received_adds_up_to_the_number_of_queries():
    query, key = torch.randn(2, 2, 3, 50, 8) * 4

    received = attention_received(query, key, 1.0)

    torch.testing.assert_close(received.sum(-1), torch.full((2, 3), 50.0))


def test_large_scores_do_not_overflow():
    query, key = torch.randn(2, 1, 1, 20, 8) * 1000

    received = attention_received(query, key, 1.0)

    assert received.isfinite().all()
    torch.testing.assert_close(received.sum(), torch.tensor(20.0))


def test_half_precision_inputs_are_summed_in_float32():
    query, key = (torch.randn(2, 1, 2, 400, 8) * 2).bfloat16()

    received = attention_received(query, key, 0.3)

    assert received.dtype == torch.float32
    expected = by_definition(query.double(), key.double(), 0.3).float()
    torch.testing.assert_close(received, expected, rtol=1e-5, atol=1e-5)


def test_memory_does_not_grow_with_frames_and_heads():
    def peak(num_frames: int) -> int:
        query, key = torch.randn(2, num_frames, 8, 100, 8)
        with torch.profiler.profile(profile_memory=True) as profile:
            attention_received(query, key, 0.3, working_bytes=2**16)
        return max(event.cpu_memory_usage for event in profile.events())

    assert 0 < peak(8) <= 2 * peak(1)


def test_a_probed_layer_leaves_eager_attentions_sums():
    probed, eager = random_tower(), random_tower(implementation="eager")
    pixels = torch.randn(2, 3, 40, 40)
    probe = probe_attention(probed.encoder.layers[1].self_attn)

    hidden = probed(pixels).last_hidden_state

    expected = eager(pixels, output_attentions=True)
    attention = expected.attentions[1]
    torch.testing.assert_close(probe.take(), attention.sum(2).mean(1), rtol=0, atol=1e-5)
    torch.testing.assert_close(hidden, expected.last_hidden_state, rtol=1e-5, atol=1e-5)


def test_a_probed_layer_by_the_kernels_of_an_accelerator(monkeypatch):
    pytest.importorskip("triton", reason="Triton is not installed")
    monkeypatch.setattr("workers.models.attention.runs_kernels", lambda device: True)
    probed, eager = random_tower(), random_tower(implementation="eager")
    pixels = torch.randn(2, 3, 40, 40)
    probe = probe_attention(probed.encoder.layers[1].self_attn)

    probed(pixels)

    attention = eager(pixels, output_attentions=True).attentions[1]
    torch.testing.assert_close(probe.take(), attention.sum(2).mean(1), rtol=0, atol=1e-5)


def test_sums_are_taken_once():
    tower = random_tower()
    probe = probe_attention(tower.encoder.layers[0].self_attn)
    tower(torch.randn(1, 3, 40, 40))

    probe.take()

    with pytest.raises(UnsupportedModel, match="attention interface"):
        probe.take()


def test_probing_twice_shares_the_probe():
    attention = random_tower().encoder.layers[0].self_attn

    assert probe_attention(attention) is probe_attention(attention)


def test_threads_of_one_tower_keep_their_own_sums():
    tower = random_tower()
    probe = probe_attention(tower.encoder.layers[1].self_attn)
    pixels = torch.randn(6, 1, 3, 40, 40)
    expected = []
    for frame in pixels:
        tower(frame)
        expected.append(probe.take())
    barrier, got = threading.Barrier(6, timeout=100), {}

    def run(i: int) -> None:
        tower(pixels[i])
        barrier.wait()  # every thread has run its forward pass before any takes its sums
        got[i] = probe.take()

    threads = [threading.Thread(target=run, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)

    for i in range(6):
        torch.testing.assert_close(got[i], expected[i], rtol=1e-5, atol=1e-6)


def test_a_mask_in_a_probed_layer_is_refused():
    attention = random_tower().encoder.layers[0].self_attn
    probe_attention(attention)

    with pytest.raises(UnsupportedModel, match="mask"):
        attention(torch.randn(1, 25, 24), attention_mask=torch.zeros(1, 1, 25, 25))


def test_recorded_sums_per_head():
    golden = np.load(Path(__file__).parent / "golden" / "attn_received.npz")
    query, key = (torch.from_numpy(golden[name]).float() for name in ("q", "k"))

    received = attention_received(query, key, query.shape[-1] ** -0.5)

    torch.testing.assert_close(received, torch.from_numpy(golden["per_head"]), rtol=1e-4, atol=1e-5)
    head_mean = torch.from_numpy(golden["head_mean"])
    torch.testing.assert_close(received.mean(1), head_mean, rtol=1e-4, atol=1e-5)
