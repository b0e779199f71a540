"""Attention received by the kernels against its twin."""

import pytest
import torch

from tests.aot.launches import LaunchCounter
from workers.models.attention import attention_received

kernels = pytest.importorskip("aot.kernels.attention", reason="Triton is not installed")

SCALING = 72**-0.5


def heads(num_tokens=150, width=72, *, batch=1, num_heads=2, dtype=torch.float32, scale=1.5):
    """Queries or keys as a tower has them: `(b n h c)` in memory."""
    return (torch.randn(batch, num_tokens, num_heads, width) * scale).to(dtype).transpose(1, 2)


def by_kernels(query, key, scaling):
    log_sums = kernels.attention_log_sums(query, key, scaling)
    return kernels.attention_received(query, key, log_sums, scaling)


@pytest.mark.parametrize("width", [8, 16, 24, 64, 72, 80])
def test_widths_of_heads(width):
    query, key = heads(70, width), heads(70, width)
    expected = attention_received(query, key, SCALING)
    torch.testing.assert_close(by_kernels(query, key, SCALING), expected, rtol=5e-6, atol=5e-6)


@pytest.mark.parametrize("num_tokens", [1, 64, 129, 196])
def test_numbers_of_tokens(num_tokens):
    query, key = heads(num_tokens, batch=2), heads(num_tokens, batch=2)
    expected = attention_received(query, key, SCALING)
    torch.testing.assert_close(by_kernels(query, key, SCALING), expected, rtol=5e-6, atol=5e-6)


def test_half_precision():
    query, key = (heads(dtype=torch.bfloat16) for _ in range(2))
    expected = attention_received(query, key, SCALING)
    torch.testing.assert_close(by_kernels(query, key, SCALING), expected, rtol=0, atol=1e-4)


def test_queries_and_keys_laid_out_differently():
    query, key = heads(), heads().contiguous()
    expected = attention_received(query, key, SCALING)
    torch.testing.assert_close(by_kernels(query, key, SCALING), expected, rtol=5e-6, atol=5e-6)


def test_large_scores_do_not_overflow():
    """Of a log-sum of 10^6 float32 has a tenth; so far from likely no attention is."""
    query, key = heads(40, scale=100.0), heads(40, scale=100.0)
    received = by_kernels(query, key, 1.0)
    assert received.isfinite().all()
    torch.testing.assert_close(received.sum(-1), torch.full((1, 2), 40.0), rtol=1e-2, atol=0)


def test_log_sums_are_those_of_flash_attention():
    query, key = heads(), heads()
    flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    _, expected = flash(query, key, key, 0.0, False, scale=SCALING)
    expected = expected.view(1, 150, 2).mT if expected.shape[1] == 150 else expected
    ours = kernels.attention_log_sums(query, key, SCALING)
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)


def test_a_layer_takes_three_launches():
    query, key = (heads().to("meta") for _ in range(2))
    with LaunchCounter() as counter:
        attention_received(query, key, SCALING).mean(1)
    assert counter.launches == 3
    assert not counter.waits
