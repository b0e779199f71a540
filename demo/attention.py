"""Attention of a training sequence without the pairs that its mask forbids.

A slot sees the video and itself. Computed as one masked square, more than a third of the scores are
thrown away, and the fused CPU kernel's backward pass is slow with a mask: this form trains 1.4
times faster. It gives what the square gives (tests hold it to that), and is used in training
alone.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from transformers import AttentionInterface

from demo.sequence import SLOT_LENGTH, prefix_length

NAME = "video_and_slots"
"""Under which the language model finds it."""


def attend(
    query: Float[Tensor, "b h l d"],
    key: Float[Tensor, "b h l d"],
    value: Float[Tensor, "b h l d"],
    *,
    prefix: int,
    scaling: float,
    hidden: Bool[Tensor, "b prefix"] | None = None,
) -> Float[Tensor, "b h l d"]:
    """Causal attention over the first `prefix` positions, then slots that see these and themselves.

    `l - prefix` is a multiple of `SLOT_LENGTH`. Nobody sees what is `hidden`, never the first.
    """
    unseen = None
    if hidden is not None:
        unseen = torch.zeros(hidden.shape, dtype=query.dtype).masked_fill(hidden, float("-inf"))
        unseen = unseen.repeat_interleave(query.shape[1], dim=0)[:, None]
    video = _flat(query, key, value, slice(prefix))
    slots = _flat(query, key, value, slice(prefix, None))
    seen = _attend_video(*video, scaling, unseen)
    asked = _attend_slots(*slots, video[1], video[2], scaling, unseen)
    return torch.cat([seen, asked], dim=1).unflatten(0, query.shape[:2])


def _flat(query: Tensor, key: Tensor, value: Tensor, part: slice) -> tuple[Tensor, Tensor, Tensor]:
    """A part of the positions, batch and heads in one axis."""
    return (
        query[:, :, part].flatten(0, 1),
        key[:, :, part].flatten(0, 1),
        value[:, :, part].flatten(0, 1),
    )


def _attend_video(
    query: Tensor, key: Tensor, value: Tensor, scaling: float, unseen: Tensor | None
) -> Tensor:
    ahead = torch.full((query.shape[1],) * 2, float("-inf"), dtype=query.dtype).triu(1)
    bias = ahead.expand(len(query), -1, -1)
    scores = torch.baddbmm(bias, query, key.transpose(1, 2), alpha=scaling)
    if unseen is not None:
        scores = scores + unseen
    return scores.softmax(-1) @ value


def _attend_slots(
    query: Tensor, key: Tensor, value: Tensor, video_key: Tensor, video_value: Tensor,
    scaling: float, unseen: Tensor | None,
) -> Tensor:  # fmt: skip
    """Slots beside each other: scores towards the video, and within each slot."""
    prefix = video_key.shape[1]
    own = [x.unflatten(1, (-1, SLOT_LENGTH)).flatten(0, 1) for x in (query, key, value)]
    towards_video = scaling * (query @ video_key.transpose(1, 2))
    if unseen is not None:
        towards_video = towards_video + unseen
    ahead = torch.ones(SLOT_LENGTH, SLOT_LENGTH, dtype=torch.bool).triu(1)
    within = scaling * (own[0] @ own[1].transpose(1, 2))
    within = within.masked_fill(ahead, float("-inf")).reshape(*query.shape[:2], SLOT_LENGTH)
    weights = torch.cat([towards_video, within], dim=-1).softmax(-1)
    inner = weights[..., prefix:].reshape(-1, SLOT_LENGTH, SLOT_LENGTH) @ own[2]
    return weights[..., :prefix] @ video_value + inner.reshape(value.shape)


def _forward(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor,
    scaling: float, frames: int, hidden: Tensor | None = None, **_kwargs: object,
) -> tuple[Tensor, None]:  # fmt: skip
    """As the library calls it; the mask is implied by `frames` and `hidden`."""
    prefix = prefix_length(frames)
    mixed = attend(query, key, value, prefix=prefix, scaling=scaling, hidden=hidden)
    return mixed.transpose(1, 2).contiguous(), None


AttentionInterface.register(NAME, _forward)
