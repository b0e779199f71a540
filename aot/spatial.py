"""The within-frame stage: a frame's anchors gather the frame's other tokens by transport.

A plan is made from the tokens' likeness and distance, then applied (method section 3). Merging
and the model's pooling are both linear in the tokens, and only the pooled cells that are kept are
ever needed, so the two are applied as one product `weights[k n] @ tokens[n d]` a frame: about a
tenth of the work of merging and pooling everything. Knows nothing of other frames.
"""

from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from aot.anchors import anchors_in_frame, keeps_all
from aot.config import AOTConfig
from aot.errors import InvalidFeatures
from aot.packing import exact_dtype, front_rows
from aot.pooling import pool_grid, pool_mask, pool_matrix, pooled_grid
from aot.transport import UNROLLED, exponentiate, multiply_vector, scale_kernel
from aot.types import Grid, Pooling

#: Norms are floored here before a cosine is taken (reference).
_NORM_FLOOR = 1e-8


@dataclass(frozen=True)
class FramePlan:
    """How every anchor of every frame is made of the frame's tokens."""

    anchor: Int[Tensor, "t a"]
    """Token index of each anchor, rising."""
    weights: Float[Tensor, "t a n"]
    """Row `a` times the frame's tokens is the merged anchor."""
    mass: Float[Tensor, "t a"]
    """Tokens each anchor stands for; adds up to `n`."""
    settled: Bool[Tensor, " t"] | None = None
    """See `Scaling.settled`."""


@dataclass(frozen=True)
class PooledFrames:
    """Kept cells of a batch of frames, padded at the end: on a CPU to the frame that kept most, on
    an accelerator to all cells.
    """

    tokens: Float[Tensor, "t k d"]
    """float32 or better; zero in the padding."""
    cell: Int[Tensor, "t k"]
    mass: Float[Tensor, "t k"]
    """Pooled input tokens each stands for; a frame adds up to the number of cells, or to zero when
    it kept none."""
    count: Int[Tensor, " t"]
    grid: Grid
    """The pooled grid."""
    finite: Bool[Tensor, " t"]
    """False where a frame's features hold NaN or infinity."""
    settled: Bool[Tensor, " t"] | None = None
    """See `Scaling.settled`."""

    @property
    def present(self) -> Bool[Tensor, "t k"]:
        """False in the padding."""
        steps = torch.arange(self.tokens.shape[1], device=self.count.device)
        return steps < self.count[:, None]


def merge_within_frame(
    tokens: Float[Tensor, "t n d"], anchors: Bool[Tensor, "t n"], grid: Grid, config: AOTConfig
) -> Float[Tensor, "t n d"]:
    """Tokens with the anchor rows merged and all others as they came, in the input dtype.

    For anchor `j` and the other tokens `i`, with plan `P` (uniform marginals) for the cost
    `1 - cos(x_i, x_j) + position_weight * distance(i, j)`::

        transported_j = (x_j + s sum_i P_ij x_i) / (1 + s sum_i P_ij)
        averaged_j    = (x_j + sum_{i nearest to j} x_i) / (1 + number of them)
        merged_j      = (1 - nearest_blend) transported_j + nearest_blend averaged_j

    where "nearest" is by cosine alone and `s` is `spatial_scale`. The maths is in float32.

    Raises:
        InvalidFeatures: the tokens do not fit the grid, hold NaN or infinity, or the frames have
            different numbers of anchors.
    """
    count = _count_anchors(anchors, tokens, grid)
    exact = tokens.to(exact_dtype(tokens.dtype))
    norm = torch.linalg.vector_norm(exact, dim=2)
    check_finite(norm)
    index = front_rows(anchors, count)
    plan = _plan(exact, norm, anchors, index, grid, config)
    merged = torch.bmm(plan.weights, exact)
    index = plan.anchor[:, :, None].expand(-1, -1, tokens.shape[2])
    return tokens.scatter(1, index, merged.to(tokens.dtype))


def merge_and_pool(
    tokens: Float[Tensor, "t n d"],
    anchors: Bool[Tensor, "t n"],
    grid: Grid,
    config: AOTConfig,
    *,
    unrolled: int = UNROLLED,
) -> PooledFrames:
    """What `merge_within_frame`, pooling and keeping the marked cells would give, in one product.

    `anchors` are those that `config` selects; the host waits for nothing. Mass is counted in
    pooled tokens: anchors share the frame's tokens by their plan, a pooled cell gathers the mass of
    its anchors by the pooling weights, and the kept cells of a frame are scaled to add up to the
    number of its cells.
    """
    exact = tokens.to(exact_dtype(tokens.dtype))
    mode, stride = config.pooling, config.pool_stride
    norm = torch.linalg.vector_norm(exact, dim=2)
    finite = torch.isfinite(norm).all(dim=1)
    if keeps_all(grid, config):
        return _pool_all(exact, finite, grid, mode, stride)
    pooled = pooled_grid(grid, mode, stride=stride)
    kept = pool_mask(anchors, grid, mode, stride=stride, threshold=config.pool_threshold)
    cell = _kept_cells(kept)
    taps = pool_matrix(grid, mode, stride, exact.dtype, exact.device)[cell]  # (t, k, n)
    index = front_rows(anchors, anchors_in_frame(grid, config))
    plan = _plan(exact, norm, anchors, index, grid, config, unrolled=unrolled)
    index = plan.anchor[:, None, :].expand(-1, cell.shape[1], -1)
    of_anchors = taps.gather(2, index)  # (t, k, a)
    weights = torch.baddbmm(taps.scatter_(2, index, 0.0), of_anchors, plan.weights)
    mass = multiply_vector(of_anchors, plan.mass)
    frames = PooledFrames(
        torch.bmm(weights, exact), cell, mass, kept.sum(dim=1), pooled, finite, plan.settled
    )
    return _without_padding_values(frames)


def _pool_all(
    tokens: Tensor, finite: Bool[Tensor, " t"], grid: Grid, mode: Pooling, stride: int
) -> PooledFrames:
    """Every cell of every frame, each standing for itself."""
    pooled = pool_grid(tokens, grid, mode, stride=stride)
    frames, num_cells, _ = pooled.shape
    return PooledFrames(
        tokens=pooled,
        cell=torch.arange(num_cells, device=tokens.device).expand(frames, -1),
        mass=pooled.new_ones(frames, num_cells),
        count=torch.full((frames,), num_cells, device=tokens.device),
        grid=pooled_grid(grid, mode, stride=stride),
        finite=finite,
    )


def _plan(
    tokens: Float[Tensor, "t n d"],
    norm: Float[Tensor, "t n"],
    anchors: Bool[Tensor, "t n"],
    index: Int[Tensor, "t a"],
    grid: Grid,
    config: AOTConfig,
    *,
    unrolled: int = UNROLLED,
) -> FramePlan:
    """The plan of `merge_within_frame` for tokens in float32 or better, of these norms, whose
    anchors lie at `index`, rising; on an accelerator the host waits for nothing.

    Every token is taken as a source, anchors with zero mass: one product over all tokens is
    cheaper than gathering the others first.
    """
    similarity = _similarity(tokens, norm, index)  # (t, a, n): contiguous along tokens
    others = (~anchors).to(tokens.dtype)
    nearest, tally = _nearest(similarity, others)
    # The negative cost, its constant included: the stop rule of the scaling is absolute.
    base_cost = _base_cost(grid, config.position_weight, tokens.dtype, tokens.device)
    score = similarity.sub_(base_cost[index])
    num_others, num_anchors = others.shape[1] - index.shape[1], index.shape[1]
    source = others / max(num_others, 1)
    anchor = torch.full_like(tally, 1 / num_anchors)
    kernel, shift = exponentiate(score.mT, config.epsilon)
    scaling = scale_kernel(
        kernel,
        shift,
        source,
        anchor,
        max_iterations=config.max_iterations,
        tolerance=config.tolerance,
        unrolled=unrolled,
    )
    mass = _gathered_mass(kernel, scaling.anchor, others, tally, config)
    # The anchors' update comes last in an iteration: an anchor's load is its marginal, exactly.
    load = anchor if num_others else torch.zeros_like(anchor)
    transported = (1 - config.nearest_blend) / (1 + config.spatial_scale * load)
    averaged = config.nearest_blend / (1 + tally)
    weights = kernel.mT.mul_(scaling.source[:, None, :])
    weights.mul_((scaling.anchor * config.spatial_scale * transported)[:, :, None])
    weights.scatter_add_(1, nearest[:, None, :], (averaged.gather(1, nearest) * others)[:, None, :])
    weights.scatter_(2, index[:, :, None], (transported + averaged)[:, :, None])
    return FramePlan(index, weights, mass, scaling.settled)


def _count_anchors(anchors: Tensor, tokens: Tensor, grid: Grid) -> int:
    """Anchors of each frame, the same for all."""
    if anchors.shape != tokens.shape[:2] or anchors.shape[1] != grid[0] * grid[1]:
        raise InvalidFeatures(
            f"got tokens {tuple(tokens.shape)} and anchor mask {tuple(anchors.shape)}, expected "
            f"{grid[0] * grid[1]} tokens per frame in both for grid {grid}"
        )
    counts = sorted(set(anchors.sum(dim=1).tolist()))
    if len(counts) > 1 or 0 in counts:
        raise InvalidFeatures(
            f"got frames with {counts} anchors, expected one number above 0 for all; select "
            "anchors with one configuration"
        )
    return counts[0]


def _similarity(
    tokens: Float[Tensor, "t n d"], norm: Float[Tensor, "t n"], index: Int[Tensor, "t a"]
) -> Float[Tensor, "t a n"]:
    norm = norm.clamp(min=_NORM_FLOOR)
    rows = torch.arange(tokens.shape[0], device=tokens.device)[:, None]
    product = torch.bmm(tokens[rows, index], tokens.mT)
    # Norms are divided out of the products, which are far smaller than the tokens.
    return product.div_(norm.gather(1, index)[:, :, None]).div_(norm[:, None, :])


def check_finite(norm: Float[Tensor, "t n"]) -> None:
    """Whether the tokens of these norms are finite; names the first that is not.

    Raises:
        InvalidFeatures: some are not.
    """
    if not bool(torch.isfinite(norm).all()):
        frame, token = (~torch.isfinite(norm)).nonzero()[0].tolist()
        raise InvalidFeatures(
            f"token {token} of frame {frame} holds NaN or infinity, expected finite values; check "
            "the vision tower's output"
        )


def _nearest(
    similarity: Float[Tensor, "t a n"], others: Float[Tensor, "t n"]
) -> tuple[Int[Tensor, "t n"], Float[Tensor, "t a"]]:
    """The most similar anchor of every token, and how many other tokens chose each anchor."""
    nearest = similarity.max(dim=1).indices  # four times faster than argmax on a CPU
    tally = torch.zeros_like(similarity[:, :, 0]).scatter_add_(1, nearest, others)
    return nearest, tally


@lru_cache(maxsize=8)
def _base_cost(
    grid: Grid, position_weight: float, dtype: torch.dtype, device: torch.device
) -> Float[Tensor, "n n"]:
    """Cost of tokens whose cosine is zero: one, and the weighted distance of their cells.

    Rows and columns both span [0, 1]. Kept for the few grids a process sees; never written to.
    """
    sides = (torch.linspace(0, 1, max(size, 2), dtype=dtype, device=device)[:size] for size in grid)
    points = torch.cartesian_prod(*sides)
    difference = points[:, None] - points[None]
    return 1 + position_weight * difference.square().sum(dim=2).sqrt()


def _gathered_mass(
    kernel: Float[Tensor, "t n a"],
    anchor_scaling: Float[Tensor, "t a"],
    others: Float[Tensor, "t n"],
    tally: Float[Tensor, "t a"],
    config: AOTConfig,
) -> Float[Tensor, "t a"]:
    """One for the anchor itself, and its share of every other token.

    Two iterations leave the plan's rows short of their marginal, so each row is taken relative to
    its own sum: every token is given away whole.
    """
    row_sum = multiply_vector(kernel, anchor_scaling)
    share = multiply_vector(kernel.mT, others / row_sum.clamp(min=1e-30))
    transported = (1 - config.nearest_blend) * share * anchor_scaling
    return 1 + transported + config.nearest_blend * tally


def _kept_cells(kept: Bool[Tensor, "t p"]) -> Int[Tensor, "t k"]:
    """Raster-ordered cells of every row, then others.

    One column is left where no row keeps anything, so that no later step meets an empty axis.
    """
    cells = front_rows(kept, kept.shape[1])
    return cells if cells.shape[1] else cells.new_zeros(kept.shape[0], 1)


def _without_padding_values(frames: PooledFrames) -> PooledFrames:
    """Zero tokens and mass in the padding, and scale the mass of each frame to its cells."""
    present = frames.present.to(frames.mass.dtype)
    mass = frames.mass * present
    num_cells = frames.grid[0] * frames.grid[1]
    mass = mass * (num_cells / mass.sum(dim=1, keepdim=True).clamp(min=1e-30))
    tokens = frames.tokens.mul_(present[:, :, None])
    return replace(frames, tokens=tokens, mass=mass)
