"""How a later frame's tokens are matched to a keyframe's anchors: whom they go to, and which stay.

One frame of every clip and the clips' anchors in; out come the distinct tokens and the parts in
which the others are given to the anchors (method section 6). What depends on no anchor is made
for all frames of a push at once. Nothing is merged here.

Everything is in float64. The reference compares shares strictly, and equal tokens have equal
shares: in float64 what rounding makes of equal shares (1e-14) is far below any other difference,
so that ties are told from near ties, in whatever order a device adds up.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from aot.clip_batch import AnchorState, Schedule, StepTokens
from aot.config import AOTConfig
from aot.kernels import runs_kernels
from aot.transport import multiply_vector, scale_kernel

#: The reference's guards against division by zero and against a cosine of exactly one.
_NORM_FLOOR, _SUM_FLOOR, _COSINE_LIMIT = 1e-12, 1e-9, 1 - 1e-6
#: Shares this close (relative) are ties, and tokens tied at the quantile are all merged: equal
#: tokens are equally explained.
_TIE = 1e-9


@dataclass(frozen=True)
class LaterFrames:
    """Frames that follow their clip's keyframe, and what of their transport needs no anchor."""

    tokens: Float[Tensor, "*c k d"]
    sources: Bool[Tensor, "*c k"]
    """Tokens to be matched: none of a frame that follows no keyframe."""
    absent: Bool[Tensor, "*c k"]
    """All others."""
    norm: Float[Tensor, "*c k"]
    marginal: Float[Tensor, "*c k"]
    sharpness: Float[Tensor, "*c"]
    """Cost of the time from the keyframe, over epsilon."""
    edges: Int[Tensor, "*c 2"]
    """Ranks of the two sources that the quantile lies between."""
    between: Float[Tensor, "*c"]
    """How far it lies from the first."""

    def at(self, step: int) -> "LaterFrames":
        """One frame of every clip."""
        return LaterFrames(**{name: value[:, step] for name, value in vars(self).items()})


@dataclass(frozen=True)
class Targets:
    """The places of a clip's anchors, which stay while their tokens change."""

    unreachable: Bool[Tensor, "c 1 a"]
    """All but the anchors; a clip without keeps one of no mass, so that no plan's row is empty."""
    marginal: Float[Tensor, "c a"]
    count: Int[Tensor, " c"]


@dataclass(frozen=True)
class Match:
    """What becomes of a frame's tokens."""

    distinct: Bool[Tensor, "c k"]
    given: Float[Tensor, "c k a"]
    """The parts in which the other tokens go to the anchors, in the tokens' own precision."""
    settled: Bool[Tensor, " c"] | None
    """See `Scaling.settled`."""


def prepare_frames(batch: StepTokens, steps: Schedule, config: AOTConfig) -> LaterFrames:
    """All frames of a push as sources of their transport."""
    sources = batch.present & steps.follows[:, :, None]
    count = sources.sum(dim=2)
    distance = (steps.position - steps.keyframe[:, None]).clamp(min=1).double()
    time_cost = 1 - torch.exp(distance**2 / -(2 * config.time_sigma**2 + 1e-9))
    norm = torch.linalg.vector_norm(batch.tokens, dim=3).double()
    rank = config.distinct_fraction * (count - 1).clamp(min=0).double()
    low = rank.floor()
    return LaterFrames(
        tokens=batch.tokens,
        sources=sources,
        absent=~sources,
        norm=norm.clamp_(min=_NORM_FLOOR),
        marginal=_uniform(sources, count),
        sharpness=time_cost / config.epsilon,
        edges=torch.stack([low, rank.ceil()], dim=2).long(),
        between=rank - low,
    )


def prepare_targets(clips: AnchorState) -> Targets:
    """The anchors of clips that have their keyframe."""
    place = torch.arange(clips.anchors.shape[1], device=clips.count.device)
    unreachable = place >= clips.count.clamp(min=1)[:, None]
    return Targets(unreachable[:, None], _uniform(clips.present, clips.count), clips.count)


def match_frame(
    frame: LaterFrames,
    anchors: Float[Tensor, "c a d"],
    targets: Targets,
    config: AOTConfig,
    *,
    unrolled: int,
) -> Match:
    """Transport one frame of every clip onto the clip's anchors, as they are now."""
    similarity, nearest, kernel = sharpen(frame, anchors, targets)
    # The cost is taken from its minimum over the whole frame (reference): the stop rule of the
    # scaling looks at absolute values.
    most_alike = nearest.masked_fill(frame.absent, -2.0).amax(dim=1)
    scaling = scale_kernel(
        kernel,
        (most_alike[:, None] - nearest) * frame.sharpness[:, None],
        frame.marginal,
        targets.marginal,
        max_iterations=config.max_iterations,
        tolerance=config.tolerance,
        unrolled=unrolled,
    )
    share, best = give_shares(kernel, scaling.anchor)
    if config.keep_rule == "quantile":
        distinct = find_thinnest(best, frame)
    else:
        distinct = frame.sources & _unexplained(best, similarity, frame, targets, config)
    others = frame.sources ^ distinct
    return Match(distinct, (share * others[:, :, None]).to(frame.tokens.dtype), scaling.settled)


def sharpen(
    frame: LaterFrames, anchors: Float[Tensor, "c a d"], targets: Targets
) -> tuple[Float[Tensor, "c k a"], Float[Tensor, "c k"], Float[Tensor, "c k a"]]:
    """Cosines of tokens and anchors, each token's highest, and the kernel of its transport, of
    which every row's largest entry is one.
    """
    exact = anchors.double()
    norm = torch.linalg.vector_norm(exact, dim=2).clamp_(min=_NORM_FLOOR)
    # Norms are divided out of the products, which are far smaller than the tokens.
    product = torch.bmm(frame.tokens.double(), exact.mT)
    if runs_kernels(product.device):
        from aot.kernels import shares  # Triton is there now

        columns = product, frame.norm, norm, targets.count, frame.sharpness
        return shares.sharpen(*columns, _COSINE_LIMIT)
    similarity = product.div_(frame.norm[:, :, None]).div_(norm[:, None, :])
    similarity.clamp_(-_COSINE_LIMIT, _COSINE_LIMIT)
    score = similarity.masked_fill(targets.unreachable, -math.inf)
    nearest = score.amax(dim=2)
    kernel = score.sub_(nearest[:, :, None]).mul_(frame.sharpness[:, None, None]).exp_()
    return similarity, nearest, kernel


def give_shares(
    kernel: Float[Tensor, "c k a"], anchor_scaling: Float[Tensor, "c a"]
) -> tuple[Float[Tensor, "c k a"], Float[Tensor, "c k"]]:
    """What part of each source goes to each anchor: the plan with its rows scaled to one; and
    each one's largest part. The source's scaling is common to a row, so it cancels.
    """
    if runs_kernels(kernel.device):
        from aot.kernels import shares

        return shares.give_shares(kernel, anchor_scaling)
    plan = kernel.mul_(anchor_scaling[:, None, :])
    share = plan.div_(plan.sum(dim=2, keepdim=True).clamp_(min=1e-30))
    return share, share.amax(dim=2)


def find_thinnest(best: Float[Tensor, "c k"], frame: LaterFrames) -> Bool[Tensor, "c k"]:
    """The `distinct_fraction` of a frame's sources that the plan spreads thinnest (reference).

    The quantile is interpolated linearly; tokens tied with it are not among them.
    """
    if runs_kernels(best.device):
        from aot.kernels import thinnest  # Triton is there now

        if best.shape[1] <= thinnest.LARGEST_NUM_TOKENS:
            columns = best, frame.sources, frame.edges, frame.between
            return thinnest.find_thinnest(*columns, _TIE)
    rising = best.masked_fill(frame.absent, math.inf).sort(dim=1).values
    below, above = rising.gather(1, frame.edges).unbind(dim=1)
    quantile = torch.lerp(below, above, frame.between)
    return frame.sources & (best < (quantile * (1 - _TIE))[:, None])


def _unexplained(
    best: Float[Tensor, "c k"],
    similarity: Float[Tensor, "c k a"],
    frame: LaterFrames,
    targets: Targets,
    config: AOTConfig,
) -> Bool[Tensor, "c k"]:
    """Extension: which tokens no anchor explains, in absolute terms.

    `cost`: the cosine distance to the nearest anchor is above the threshold. `plan`: of a token's
    mean distance to the anchors, the plan's best anchor saves less than the threshold. The largest
    share alone would not do: among `M` anchors it starts at `1 / M`, and the time kernel sharpens
    it with every frame. `log(M share) / sharpness` takes both out and leaves how much nearer the
    best anchor is than the anchors on the whole; relative to the mean distance it also holds for
    anchors that have blurred.
    """
    if config.keep_rule == "cost":
        nearest = similarity.masked_fill(targets.unreachable, -1.0).amax(dim=2)
        return 1 - nearest > config.keep_threshold
    count = targets.count[:, None]
    gain = (best * count).clamp_(min=_SUM_FLOOR).log() / frame.sharpness[:, None]
    return gain < config.keep_threshold * (1 - multiply_vector(similarity, targets.marginal))


def _uniform(present: Bool[Tensor, "*c k"], count: Int[Tensor, "*c"]) -> Float[Tensor, "*c k"]:
    return present / count.clamp(min=1).double().unsqueeze(-1)
