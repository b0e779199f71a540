"""Sinkhorn: against POT, its invariants, and the edges of its arithmetic."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aot import InvalidFeatures, sinkhorn


def costs(batch: int, sources: int, anchors: int, seed: int = 0, scale: float = 2.0):
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.rand(batch, sources, anchors, generator=generator, dtype=torch.float64)


def test_converged_plan_equals_pot():
    ot = pytest.importorskip("ot", reason="POT is not installed")
    cost = costs(3, 20, 7, scale=1.0)
    plan = sinkhorn(cost, max_iterations=5000, tolerance=0.0).plan
    for ours, matrix in zip(plan, cost, strict=True):
        u, v = torch.full((20,), 1 / 20).double(), torch.full((7,), 1 / 7).double()
        expected = ot.sinkhorn(u, v, matrix, reg=0.1, numItermax=5000, stopThr=0, warn=False)
        torch.testing.assert_close(ours, expected, rtol=1e-6, atol=1e-9)


def test_given_marginals_equal_pot():
    ot = pytest.importorskip("ot", reason="POT is not installed")
    cost = costs(1, 6, 4)
    u = torch.tensor([[0.3, 0.1, 0.1, 0.2, 0.2, 0.1]]).double()
    v = torch.tensor([[0.1, 0.2, 0.3, 0.4]]).double()
    plan = sinkhorn(cost, u, v, max_iterations=5000, tolerance=0.0).plan[0]
    expected = ot.sinkhorn(u[0], v[0], cost[0], reg=0.1, numItermax=5000, stopThr=1e-14)
    torch.testing.assert_close(plan, expected, rtol=1e-8, atol=1e-12)


@settings(max_examples=40)
@given(
    sources=st.integers(1, 12),
    anchors=st.integers(1, 8),
    seed=st.integers(0, 1000),
    iterations=st.integers(1, 30),
)
def test_columns_are_exact_and_the_mass_is_one_after_any_iteration(
    sources, anchors, seed, iterations
):
    plan = sinkhorn(costs(2, sources, anchors, seed), max_iterations=iterations).plan
    assert (plan >= 0).all()
    torch.testing.assert_close(plan.sum(1), torch.full((2, anchors), 1 / anchors).double())
    torch.testing.assert_close(plan.sum((1, 2)), torch.ones(2).double())


@settings(max_examples=15)
@given(seed=st.integers(0, 1000))
def test_row_error_falls_with_iterations(seed):
    cost = costs(1, 12, 5, seed)
    errors = [
        float(sinkhorn(cost, epsilon=0.5, max_iterations=n, tolerance=0.0).marginal_error)
        for n in (1, 5, 100)
    ]
    assert errors[0] >= errors[1] - 1e-12
    assert errors[1] >= errors[2] - 1e-12
    assert errors[2] < 1e-6


def test_every_element_stops_by_itself():
    easy, hard = costs(1, 30, 10, scale=0.1), costs(1, 30, 10, seed=1, scale=6.0)
    together = sinkhorn(torch.cat([easy, hard]))
    alone = [sinkhorn(easy), sinkhorn(hard)]
    assert together.iterations.tolist() == [int(one.iterations) for one in alone]
    assert together.iterations[0] < together.iterations[1]
    torch.testing.assert_close(together.plan, torch.cat([one.plan for one in alone]))


def test_zero_marginals_are_padding():
    cost = costs(1, 5, 3)
    padded = torch.zeros(1, 8, 6, dtype=torch.float64)  # nearer than anything real
    padded[:, :5, :3] = cost
    u = torch.tensor([[0.2] * 5 + [0.0] * 3]).double()
    v = torch.tensor([[1 / 3] * 3 + [0.0] * 3]).double()
    plan = sinkhorn(padded, u, v)
    torch.testing.assert_close(plan.plan[:, :5, :3], sinkhorn(cost).plan)
    assert plan.plan[:, 5:].abs().sum() == plan.plan[:, :, 3:].abs().sum() == 0
    assert plan.iterations.tolist() == sinkhorn(cost).iterations.tolist()


def test_padding_far_nearer_than_the_real_anchors_does_not_underflow_them():
    cost = torch.tensor([[[30.0, 30.1, -300.0], [30.2, 30.0, -300.0]]])
    v = torch.tensor([[0.5, 0.5, 0.0]])
    plan = sinkhorn(cost, None, v).plan
    torch.testing.assert_close(plan.sum(1), v)


def test_an_element_of_padding_alone_has_an_empty_plan():
    plan = sinkhorn(costs(1, 3, 2).float(), torch.zeros(1, 3), torch.zeros(1, 2))
    assert torch.equal(plan.plan, torch.zeros(1, 3, 2))


@pytest.mark.parametrize("offset", [-1e4, 0.0, 1e3, 1e6])
def test_a_constant_in_the_cost_neither_overflows_nor_matters_when_converged(offset):
    cost = torch.randint(0, 16, (1, 10, 4)) / 8  # exact beside the offsets
    plan = sinkhorn(cost + offset, tolerance=0.0, max_iterations=500).plan
    expected = sinkhorn(cost, tolerance=0.0, max_iterations=500).plan
    torch.testing.assert_close(plan, expected, rtol=1e-4, atol=1e-6)


@settings(max_examples=30)
@given(seed=st.integers(0, 1000), scale=st.sampled_from([10.0, 1e3, 1e6, 1e30]))
def test_huge_costs_stay_finite(seed, scale):
    plan = sinkhorn(costs(1, 6, 4, seed, scale).float())
    assert torch.isfinite(plan.plan).all()
    assert (plan.plan.sum((1, 2)) <= 1 + 1e-4).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    cost = costs(2, 40, 12, scale=2.7).to(dtype)  # exp(-27) is zero in float16
    plan = sinkhorn(cost)
    assert plan.plan.dtype == torch.float32
    torch.testing.assert_close(plan.plan, sinkhorn(cost.float()).plan)


def test_cost_that_is_not_finite_is_refused():
    with pytest.raises(InvalidFeatures, match="NaN or infinity, expected finite"):
        sinkhorn(torch.tensor([[[0.0, float("nan")]]]))


def test_the_cost_is_not_written_to():
    cost = costs(1, 4, 3)
    before = cost.clone()
    sinkhorn(cost)
    assert torch.equal(cost, before)
