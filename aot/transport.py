r"""Entropic optimal transport between many tokens and few anchors, by Sinkhorn's scaling.

Minimises `<P, C> - epsilon H(P)` over plans `P >= 0` with row sums `u` (source marginal) and
column sums `v` (anchor marginal). With `K = exp(-C / epsilon)` the plan is `diag(r) K diag(c)`;
one iteration is `r = u / (K c)`, then `c = v / (K^T r)` (Cuturi 2013; method section 4).

Everything runs in float32 or better. Row minima are taken off the cost before the exponential,
which cancels in `r` and keeps every row of `K` away from zero. Knows nothing of video.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from aot.errors import InvalidFeatures
from aot.kernels import runs_kernels

UNROLLED = 10
"""Iterations that an accelerator without the kernels runs before anyone asks whether they were
enough; 2 to 6 are at epsilon 0.1, up to 9 behind a cut of the scene."""
#: Denominators below this come from anchors no source can reach; it keeps scalings finite.
_FLOOR = 1e-30
#: Costs that differ by more than this many epsilons leave anchors which no source can reach in
#: float32: exp(-60) times a small scaling is at the floor.
LARGEST_COST_RANGE = 60.0
#: exp of more than this is infinite in float32; costs that high never meet the stop rule anyway.
_LARGEST_SHIFT = 80.0


@dataclass(frozen=True)
class Scaling:
    """The two scalings and how they were found; `plan = r[:, :, None] * kernel * c[:, None]`."""

    source: Float[Tensor, "b s"]
    anchor: Float[Tensor, "b a"]
    iterations: Int[Tensor, " b"]
    settled: Bool[Tensor, " b"] | None = None
    """False where the loop was left before the stop rule or the limit was met; None if nowhere."""


@dataclass(frozen=True)
class TransportPlan:
    """A batch of plans."""

    plan: Float[Tensor, "b s a"]
    iterations: Int[Tensor, " b"]
    """Iterations each element took."""
    marginal_error: Float[Tensor, " b"]
    """L1 distance of the plan's row sums from the source marginal; columns are exact."""


def sinkhorn(
    cost: Float[Tensor, "b s a"],
    source_marginal: Float[Tensor, "b s"] | None = None,
    anchor_marginal: Float[Tensor, "b a"] | None = None,
    *,
    epsilon: float = 0.1,
    max_iterations: int = 100,
    tolerance: float = 1e-2,
) -> TransportPlan:
    """Transport plans for a batch of costs; uniform marginals unless given.

    Zero entries of a marginal mark padding: such rows and columns carry no mass. Costs may differ
    by about 60 epsilon within an element; beyond that the plan stays finite, but an anchor so far
    from every source gets less than its marginal. Each batch
    element stops by itself after the update in which the mean of `|r - r_previous|` over its
    sources falls below `tolerance` (absolute, `r` starts at one), so that a result does not
    depend on its neighbours in the batch.

    Raises:
        InvalidFeatures: the cost is not finite.
    """
    cost = cost if cost.dtype == torch.float64 else cost.float()
    if not bool(torch.isfinite(cost).all()):
        raise InvalidFeatures(
            "cost holds NaN or infinity, expected finite values; check the tokens it was made from"
        )
    batch, sources, anchors = cost.shape
    u = cost.new_full((batch, sources), 1 / sources) if source_marginal is None else source_marginal
    v = cost.new_full((batch, anchors), 1 / anchors) if anchor_marginal is None else anchor_marginal
    reachable = (v > 0)[:, None, :]
    # Padding must not be what a row is shifted by, and must stay finite in rows of nothing else.
    score = cost.neg().masked_fill_(~reachable, torch.finfo(cost.dtype).min * min(epsilon, 1) / 2)
    kernel, shift = exponentiate(score, epsilon)
    kernel.mul_(reachable)
    scaling = scale_kernel(kernel, shift, u, v, max_iterations=max_iterations, tolerance=tolerance)
    plan = scaling.source[:, :, None] * kernel * scaling.anchor[:, None, :]
    error = (plan.sum(dim=2) - u).abs().sum(dim=1)
    return TransportPlan(plan, scaling.iterations, error)


def exponentiate(
    score: Float[Tensor, "b s a"], epsilon: float
) -> tuple[Float[Tensor, "b s a"], Float[Tensor, "b s"]]:
    """Kernel of the negative cost `score`, and what shifting its rows took out of it.

    `score` is overwritten: it is the largest tensor of the reduction. The unshifted kernel is
    `kernel * exp(-shift)[:, :, None]`.
    """
    highest = score.amax(dim=2)
    # Subtract before dividing: what is left is small, and exact in float32 beside large costs.
    kernel = score.sub_(highest[:, :, None]).div_(epsilon).exp_()
    return kernel, highest.div_(-epsilon)


def scale_kernel(
    kernel: Float[Tensor, "b s a"],
    shift: Float[Tensor, "b s"],
    source_marginal: Float[Tensor, "b s"],
    anchor_marginal: Float[Tensor, "b a"],
    *,
    max_iterations: int,
    tolerance: float,
    unrolled: int = UNROLLED,
) -> Scaling:
    """Sinkhorn's loop on a kernel whose rows were shifted by `exp(shift)`.

    The stop rule looks at the unshifted scaling `r * exp(shift)`, as the reference does. An
    element that has stopped is frozen, so that none depends on its neighbours.

    On a CPU the loop ends once all have stopped. An accelerator does it in one launch, in which
    every element stops by itself. Without the kernels (`aot.kernels`) it runs `unrolled`
    iterations, since asking whether all have stopped would make the host wait, and `settled` tells
    whether they were enough.
    """
    device, num_anchors = kernel.device, kernel.shape[2]
    if runs_kernels(device) and max_iterations:
        from aot.kernels import sinkhorn  # Triton is there now

        if num_anchors <= sinkhorn.LARGEST_NUM_ANCHORS:
            if source_marginal.stride(1) != 1:
                source_marginal = source_marginal.contiguous()
            columns = shift.contiguous(), source_marginal, anchor_marginal.contiguous()
            return Scaling(*sinkhorn.scale_kernel(kernel, *columns, max_iterations, tolerance))
    asks = device.type == "cpu"
    return iterate(
        kernel,
        shift,
        source_marginal,
        anchor_marginal,
        rounds=max_iterations if asks else min(unrolled, max_iterations),
        asks=asks,
        max_iterations=max_iterations,
        tolerance=tolerance,
    )


def iterate(
    kernel: Float[Tensor, "b s a"],
    shift: Float[Tensor, "b s"],
    source_marginal: Float[Tensor, "b s"],
    anchor_marginal: Float[Tensor, "b a"],
    *,
    rounds: int,
    asks: bool,
    max_iterations: int,
    tolerance: float,
) -> Scaling:
    """`scale_kernel` in plain torch, `rounds` iterations at most, fewer where it asks."""
    present = source_marginal > 0
    unit = present / present.sum(dim=1, keepdim=True).clamp(min=1)
    weight = unit * shift.clamp(max=_LARGEST_SHIFT).exp()
    r = torch.zeros_like(source_marginal)
    c = torch.ones_like(anchor_marginal)
    iterations = torch.zeros(kernel.shape[0], dtype=torch.int64, device=kernel.device)
    active = torch.ones_like(iterations, dtype=torch.bool)
    previous = unit
    for _ in range(rounds):
        new_r = source_marginal / multiply_vector(kernel, c).clamp_(min=_FLOOR)
        new_c = anchor_marginal / multiply_vector(kernel.mT, new_r).clamp_(min=_FLOOR)
        r = torch.where(active[:, None], new_r, r)
        c = torch.where(active[:, None], new_c, c)
        iterations = iterations + active
        unshifted = r * weight
        active = active & ((unshifted - previous).abs().sum(dim=1) >= tolerance)
        previous = unshifted
        if asks and not bool(active.any()):
            break
    return Scaling(r, c, iterations, ~active if rounds < max_iterations else None)


def multiply_vector(
    matrix: Float[Tensor, "b p q"], vector: Float[Tensor, "b q"]
) -> Float[Tensor, "b p"]:
    """Batched matrix times vector, the vector as a row: up to 50 times faster on a CPU."""
    return torch.bmm(vector[:, None, :], matrix.mT)[:, 0]
