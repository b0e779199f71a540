"""Attention of a training sequence without the pairs that its mask forbids.

A slot sees the video and itself. Computed as one masked square, more than a third of the scores are
thrown away, and the fused CPU kernel's backward pass is slow with a mask. Head by head, scores also
stay in the cache. It gives what the square gives (tests hold it to that), and is used in training
alone.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from transformers import AttentionInterface

from demo.miniature.sequence import SLOT_LENGTH

NAME = "video_and_slots"
"""Under which the language model finds it."""

NEVER = float("-inf")


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
    shape = query.shape
    if query.device.type != "cpu":  # all heads as one: an accelerator waits for launches
        hidden = None if hidden is None else hidden.repeat_interleave(shape[1], dim=0)
        query, key, value = (x.flatten(0, 1)[:, None] for x in (query, key, value))
    unseen = query.new_zeros(len(query), 1, prefix)
    if hidden is not None:
        unseen = unseen.masked_fill(hidden[:, None], NEVER)
    ahead = unseen.new_full((prefix, prefix), NEVER).triu(1) + unseen
    mixed = []
    for q, k, v in zip(query.unbind(1), key.unbind(1), value.unbind(1), strict=True):
        video = _attend_video(q[:, :prefix], k[:, :prefix], v[:, :prefix], scaling, ahead)
        slots = _attend_slots(q[:, prefix:], k, v, scaling, unseen)
        mixed.append(torch.cat([video, slots], dim=1))
    return torch.stack(mixed, dim=1).view(shape)


def _attend_video(query: Tensor, key: Tensor, value: Tensor, scaling: float, bias: Tensor):
    scores = torch.baddbmm(bias, query, key.transpose(1, 2), alpha=scaling)
    return scores.softmax(-1) @ value


def _attend_slots(
    query: Tensor, key: Tensor, value: Tensor, scaling: float, unseen: Tensor
) -> Tensor:
    """Slots of one head: scores towards the video, and within each slot."""
    prefix = unseen.shape[-1]
    bias = unseen.expand(-1, query.shape[1], -1)
    towards_video = torch.baddbmm(bias, query, key[:, :prefix].transpose(1, 2), alpha=scaling)
    own = [x.reshape(-1, SLOT_LENGTH, x.shape[-1]) for x in (query, key[:, prefix:])]
    ahead = torch.ones(SLOT_LENGTH, SLOT_LENGTH, dtype=torch.bool, device=query.device).triu(1)
    within = (scaling * (own[0] @ own[1].transpose(1, 2))).masked_fill(ahead, NEVER)
    within = within.reshape(*query.shape[:2], SLOT_LENGTH)
    weights = torch.cat([towards_video, within], dim=-1).softmax(-1)
    inner = weights[..., prefix:].reshape(-1, SLOT_LENGTH, SLOT_LENGTH)
    inner = inner @ value[:, prefix:].reshape(-1, SLOT_LENGTH, value.shape[-1])
    return weights[..., :prefix] @ value[:, :prefix] + inner.reshape(query.shape)


def _forward(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor,
    scaling: float, prefix: int, hidden: Tensor | None = None, **_kwargs: object,
) -> tuple[Tensor, None]:  # fmt: skip
    """As the library calls it; the mask is implied by `prefix` and `hidden`."""
    mixed = attend(query, key, value, prefix=prefix, scaling=scaling, hidden=hidden)
    return mixed.transpose(1, 2).contiguous(), None


AttentionInterface.register(NAME, _forward)
