"""Sinkhorn on an accelerator: the kernel and the unrolled loop against the loop of a CPU."""

import pytest
import torch

from aot import transport
from aot.transport import Scaling, exponentiate, scale_kernel
from tests.aot.launches import count_launches

LIMITS = {"max_iterations": 100, "tolerance": 1e-2}


def problem(batch, sources, anchors, *, epsilon=0.1, dtype=torch.float32, missing=0.2, seed=0):
    """A kernel with its shift, and marginals with padding among the sources."""
    generator = torch.Generator().manual_seed(seed)
    score = -2 * torch.rand(batch, anchors, sources, generator=generator, dtype=dtype).mT
    kernel, shift = exponentiate(score, epsilon)
    present = (torch.rand(batch, sources, generator=generator) >= missing).to(dtype)
    source = present / present.sum(dim=1, keepdim=True).clamp(min=1)
    return kernel, shift, source, torch.full((batch, anchors), 1 / anchors, dtype=dtype)


PROBLEMS = {
    "one tile": (2, 20, 12),
    "tiles of rows": (3, 90, 33),
    "more anchors than sources": (2, 5, 60),
    "wide": (1, 40, 300),
    "one source": (2, 1, 3),
    "one anchor": (2, 7, 1),
}


def fused(kernel, shift, source, anchor, *, max_iterations, tolerance) -> Scaling:
    pytest.importorskip("triton", reason="Triton is not installed")
    from aot.kernels import sinkhorn

    return Scaling(*sinkhorn.scale_kernel(kernel, shift, source, anchor, max_iterations, tolerance))


def unrolled(*given, rounds: int) -> Scaling:
    """What an accelerator without the kernels does."""
    return transport.iterate(*given, rounds=rounds, asks=False, **LIMITS)


def assert_same(ours: Scaling, expected: Scaling, rtol: float = 1e-5) -> None:
    assert ours.iterations.tolist() == expected.iterations.tolist()
    torch.testing.assert_close(ours.source, expected.source, rtol=rtol, atol=0)
    torch.testing.assert_close(ours.anchor, expected.anchor, rtol=rtol, atol=0)


@pytest.mark.parametrize("epsilon", [0.1, 0.03])
@pytest.mark.parametrize("shape", PROBLEMS.values(), ids=PROBLEMS)
def test_the_kernel_is_the_loop(shape, epsilon):
    given = problem(*shape, epsilon=epsilon)
    assert_same(fused(*given, **LIMITS), scale_kernel(*given, **LIMITS))


def test_the_kernel_in_float64():
    given = problem(2, 50, 20, dtype=torch.float64)
    assert_same(fused(*given, **LIMITS), scale_kernel(*given, **LIMITS), rtol=1e-13)


def test_the_kernel_stops_each_element_by_itself_and_at_the_limit():
    easy, hard = problem(1, 30, 10, epsilon=1.0), problem(1, 30, 10, epsilon=0.02, seed=1)
    both = [torch.cat(pair) for pair in zip(easy, hard, strict=True)]
    iterations = fused(*both, **LIMITS).iterations
    assert iterations.tolist() == scale_kernel(*both, **LIMITS).iterations.tolist()
    assert iterations[0] < iterations[1]
    limited = {"max_iterations": 3, "tolerance": 0.0}
    assert_same(fused(*both, **limited), scale_kernel(*both, **limited))


def test_the_kernel_gives_an_element_of_padding_alone_nothing():
    kernel, shift, source, anchor = problem(2, 9, 5)
    source[1] = 0
    result = fused(kernel, shift, source, anchor, **LIMITS)
    assert result.source[1].abs().sum() == 0
    assert result.anchor.isfinite().all()


def test_the_unrolled_loop_is_the_loop_where_it_is_long_enough():
    given = problem(3, 40, 12)
    ours = unrolled(*given, rounds=transport.UNROLLED)
    assert_same(ours, scale_kernel(*given, **LIMITS), rtol=0)
    assert ours.settled is not None
    assert ours.settled.all()


def test_the_unrolled_loop_says_where_it_was_too_short():
    easy, hard = problem(1, 30, 10, epsilon=1.0), problem(1, 30, 10, epsilon=0.01, seed=1)
    both = [torch.cat(pair) for pair in zip(easy, hard, strict=True)]
    short = unrolled(*both, rounds=4).settled
    assert short is not None
    assert short.tolist() == [True, False]
    again = unrolled(*both, rounds=100)
    assert again.settled is None
    assert_same(again, scale_kernel(*both, **LIMITS), rtol=0)


def test_an_accelerator_is_asked_nothing(monkeypatch):
    given = [value.to("meta") for value in problem(2, 40, 12)]
    alone = count_launches(lambda: scale_kernel(*given, **LIMITS))
    assert alone.by_operator == {"scale_kernel": 1}
    monkeypatch.setattr(transport, "runs_kernels", lambda device: False)
    plain = count_launches(lambda: scale_kernel(*given, **LIMITS))
    assert plain.launches <= 16 * transport.UNROLLED + 10
    assert not plain.waits
