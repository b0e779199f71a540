"""Tokens and their lengths in one pass, in Triton's interpreter, against plain torch."""

import pytest
import torch

from aot.reducers import cells

pytest.importorskip("triton", reason="Triton is not installed")


@pytest.fixture(params=[(2, 3, 5, 64), (1, 7, 100), (3, 1000)], ids=str)
def tokens(request) -> torch.Tensor:
    tokens = torch.randn(request.param)
    tokens[0] = 0
    return tokens


def with_kernels(monkeypatch) -> None:
    monkeypatch.setattr(cells, "runs_kernels", lambda device: True)


def test_tokens_are_parted_from_their_lengths(monkeypatch, tokens):
    expected = cells.part_lengths(tokens)
    torch.testing.assert_close(expected[0], cells.normalise(tokens), rtol=0, atol=0)
    with_kernels(monkeypatch)
    for ours, theirs in zip(cells.part_lengths(tokens), expected, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_tokens_are_scaled_each_by_its_factor(monkeypatch, tokens):
    factor = torch.rand(tokens.shape[:-1])
    expected = cells.scale_tokens(tokens, factor)
    with_kernels(monkeypatch)
    assert torch.equal(cells.scale_tokens(tokens, factor), expected)


@pytest.mark.filterwarnings("ignore:invalid value")  # infinity over infinity, as a card has it
@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_a_token_that_is_not_finite_has_no_finite_length(monkeypatch, wrong):
    tokens = torch.randn(4, 33)
    tokens[2, 5] = wrong
    for _ in range(2):
        finite = cells.part_lengths(tokens)[1].isfinite()
        assert finite.tolist() == [True, True, False, True]
        with_kernels(monkeypatch)
