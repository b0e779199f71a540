"""Attention of few queries to many keys, without a copy of the keys for every head.

Where several heads of queries share one of keys (grouped-query attention), transformers' SDPA
repeats keys and values for each of them wherever a mask is needed: for a question of thirty tokens
behind ten minutes of video that copy costs more than the attention. Here a group of heads is read
as more queries, or as a batch whose keys lie at the same place. Every query attends to all that
stands up to its own place, which is all that a prompt of one sequence needs; where a mask says
more than that, it is transformers' SDPA.

Several sequences may be attended to in one call, each with as many keys as it has (`Ragged`): what
is written of several answers at one time needs no padding and no common length.

`GROUPED_SDPA` is an entry of transformers' attention interface.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.bias import causal_lower_right
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

GROUPED_SDPA = "sdpa_of_groups"
FEW = 64
"""Queries up to which a group's heads stand in a row; beyond it the mask would be too large."""


class Ragged(tuple[Tensor, ...]):
    """Keys or values of several sequences, `[1 heads length width]` each."""


def attend(query: Tensor, key: Tensor, value: Tensor, scaling: float | None = None) -> Tensor:
    """softmax(q kᵀ · scaling) v; the last query stands at the last key, and none looks ahead.

    Args:
        query: `[1 heads l width]`, of `heads` a multiple of the keys'.
        key: `[1 groups n width]`, n >= l; `value` the same.
        scaling: None is `width ** -0.5`.
    """
    _, heads, queries, width = query.shape
    _, groups, keys, _ = key.shape
    size = heads // groups
    if query.device.type != "cpu":
        bias = None if queries == 1 else causal_lower_right(queries, keys)
        return scaled_dot_product_attention(
            query, key, value, attn_mask=bias, scale=scaling, enable_gqa=size > 1
        )
    if queries <= FEW and queries < keys:
        row = query.reshape(1, groups, size * queries, width)
        if queries == 1:
            out = scaled_dot_product_attention(row, key, value, scale=scaling)
        else:
            ahead = _lower_right(queries, queries, query).repeat(size, 1)
            out = _behind(row, key, value, ahead, scaling)
        return out.view(1, heads, queries, width)
    batch = query.view(groups, size, queries, width).transpose(0, 1)
    is_whole = queries == keys
    out = scaled_dot_product_attention(
        batch,
        key.expand(size, -1, -1, -1),
        value.expand(size, -1, -1, -1),
        attn_mask=None if is_whole else _lower_right(queries, keys, query),
        is_causal=is_whole,
        scale=scaling,
    )
    return out.transpose(0, 1).reshape(1, heads, queries, width)


def _behind(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scaling: float | None
) -> Tensor:
    """Attention to all keys, of which `mask` is about the last alone: `[rows last]`.

    A mask over all of them would be as large as the scores, and for a question behind a long window
    a fifth of the time. Both parts are joined by the logarithms of their sums, as blocks of flash
    attention are (arXiv 2205.14135, section 3.1).
    """
    before = key.shape[-2] - mask.shape[-1]
    flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    seen, seen_sum = flash(query, key[..., :before, :], value[..., :before, :], scale=scaling)
    own, own_sum = flash(
        query, key[..., before:, :], value[..., before:, :], attn_mask=mask, scale=scaling
    )
    return torch.lerp(own, seen, (seen_sum - own_sum).sigmoid()[..., None].to(own.dtype))


def _lower_right(queries: int, keys: int, like: Tensor) -> Tensor:
    """0 where a query may look, -inf ahead of it: `[queries keys]`."""
    ahead = torch.ones(queries, keys, dtype=torch.bool).triu(keys - queries + 1)
    return like.new_zeros(queries, keys).masked_fill_(ahead, float("-inf"))


def _grouped_attention(
    module: Any,
    query: Tensor,
    key: Tensor | Ragged,
    value: Tensor | Ragged,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """For transformers: `[b heads l width]` in, `[b l heads width]` out."""
    if attention_mask is not None:
        assert isinstance(key, Tensor)
        assert isinstance(value, Tensor)
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **options
        )
    keys, values = (one if isinstance(one, Ragged) else one.split(1) for one in (key, value))
    each = zip(query.split(1), keys, values, strict=True)
    out = torch.cat([attend(q, k, v, scaling) for q, k, v in each])
    return out.transpose(1, 2).contiguous(), None


def _mask(*sizes: Any, attention_mask: Tensor | None = None, **options: Any) -> Tensor | None:
    """For transformers: no mask where it would say nothing but what stands before what."""
    is_causal = options.get("allow_is_causal_skip", True)
    if is_causal and (attention_mask is None or bool(attention_mask.all())):
        return None
    return sdpa_mask(*sizes, attention_mask=attention_mask, **options)


AttentionInterface.register(GROUPED_SDPA, _grouped_attention)
AttentionMaskInterface.register(GROUPED_SDPA, _mask)


def attends_to_all(text_config: Any) -> bool:
    """Whether every layer of a language model attends to all that stands before."""
    kinds = getattr(text_config, "layer_types", None)
    if kinds is not None:
        return set(kinds) == {"full_attention"}
    return getattr(text_config, "sliding_window", None) is None
