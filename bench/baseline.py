"""The reference's order of operations with its broadcast cosine replaced by a matrix product.

This is the honest baseline of `aot bench reduce`: select, gather anchors and others, cosine,
transport for the whole batch, both aggregates, write back, pool everything, then a loop over clips
and frames (method sections 2 to 6 and 11). It gives the same tokens as `aot`; it is written for
the order of its steps, not for reuse.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from aot import AOTConfig


def reduce_in_reference_order(
    tokens: Float[Tensor, "t n d"],
    local_attention: Float[Tensor, "t n"],
    global_attention: Float[Tensor, "t n"],
    side: int,
    config: AOTConfig,
) -> list[Float[Tensor, "m d"]]:
    """Tokens kept of each clip of a video; overwrites the anchors in `tokens`, as the reference."""
    mask = _select(local_attention, global_attention, side, config)
    _merge_anchors(tokens, mask, side, config)
    pooled_side = -(-side // 2)
    image = tokens.view(-1, side, side, tokens.shape[2]).permute(0, 3, 1, 2).contiguous()
    pooled = F.interpolate(image, size=(pooled_side, pooled_side), mode="bilinear")
    pooled = pooled.permute(0, 2, 3, 1).reshape(len(tokens), pooled_side**2, -1)
    marks = mask.float().view(-1, 1, side, side)
    kept = F.interpolate(marks, size=(pooled_side, pooled_side), mode="bilinear") >= 0.5
    kept = kept.view(len(tokens), -1)
    frames = [rows[marked] for rows, marked in zip(pooled, kept, strict=True)]
    size = config.clip_frames
    return [_clip(frames[at : at + size], config) for at in range(0, len(frames), size)]


def _select(local: Tensor, deep: Tensor, side: int, config: AOTConfig) -> Bool[Tensor, "t n"]:
    wanted = config.anchors_per_frame or side * side
    blocks = side // config.window
    per_window = int(wanted * (1 - config.global_fraction)) // blocks**2
    windows = local.view(-1, blocks, config.window, blocks, config.window).permute(0, 1, 3, 2, 4)
    best = windows.reshape(len(local), blocks**2, -1).topk(per_window, dim=2).indices
    row, column = best // config.window, best % config.window
    window = torch.arange(blocks**2)[None, :, None]
    row, column = row + window // blocks * config.window, column + window % blocks * config.window
    index = (row * side + column).flatten(1)
    mask = torch.zeros_like(local, dtype=torch.bool).scatter_(1, index, True)
    rest = deep.masked_fill(mask, 0.0).topk(
        wanted - int(wanted * (1 - config.global_fraction)), dim=1
    )
    return mask.scatter_(1, rest.indices, True)


def _merge_anchors(tokens: Tensor, mask: Tensor, side: int, config: AOTConfig) -> None:
    frames, _, dim = tokens.shape
    anchors, others = tokens[mask].view(frames, -1, dim), tokens[~mask].view(frames, -1, dim)
    cosine = torch.bmm(F.normalize(others, dim=2), F.normalize(anchors, dim=2).mT)
    steps = torch.arange(side) / (side - 1)
    points = torch.stack(torch.meshgrid(steps, steps, indexing="ij"), dim=2).view(-1, 2)
    points = points.expand(frames, -1, -1)
    distance = torch.cdist(
        points[~mask].view(frames, -1, 2),
        points[mask].view(frames, -1, 2),
        compute_mode="donot_use_mm_for_euclid_dist",
    )
    plan = _transport(1 - cosine + config.position_weight * distance, config)
    load = plan.sum(dim=1).clamp(min=1e-9)[:, :, None]
    transported = (anchors + torch.bmm(plan.mT, others)) / (1 + load)
    nearest = cosine.argmax(dim=2)
    averaged = anchors.clone()
    averaged.scatter_add_(1, nearest[:, :, None].expand_as(others), others)
    count = torch.zeros_like(load[:, :, 0]).scatter_add_(
        1, nearest, torch.ones_like(cosine[:, :, 0])
    )
    averaged /= 1 + count[:, :, None]
    merged = config.nearest_blend * averaged + (1 - config.nearest_blend) * transported
    tokens[mask] = merged.view(-1, dim)


def _transport(cost: Float[Tensor, "b s a"], config: AOTConfig) -> Float[Tensor, "b s a"]:
    kernel = torch.exp(-cost / config.epsilon)
    r, c = torch.ones_like(cost[:, :, 0]), torch.ones_like(cost[:, 0])
    for _ in range(config.max_iterations):
        previous = r
        r = 1 / cost.shape[1] / torch.bmm(kernel, c[:, :, None])[:, :, 0]
        c = 1 / cost.shape[2] / torch.bmm(kernel.mT, r[:, :, None])[:, :, 0]
        if (r - previous).abs().mean() < config.tolerance:
            break
    return r[:, :, None] * kernel * c[:, None]


def _clip(frames: list[Tensor], config: AOTConfig) -> Float[Tensor, "m d"]:
    anchors, emitted = frames[0].clone(), [frames[0]]
    for step, tokens in enumerate(frames[1:], start=1):
        cosine = F.normalize(tokens, dim=1) @ F.normalize(anchors, dim=1).T
        cost = 1 - cosine.clamp(-1 + 1e-6, 1 - 1e-6)
        distance = torch.tensor(float(step))
        time_cost = 1 - torch.exp(-(distance**2) / (2 * config.time_sigma**2 + 1e-9))
        plan = _transport(((cost - cost.min()) * time_cost)[None], config)[0]
        share = plan / plan.sum(dim=1, keepdim=True).clamp(min=1e-9)
        best = share.max(dim=1).values
        keep = best < torch.quantile(best.double(), config.distinct_fraction)
        emitted.append(tokens[keep])
        share, tokens = share[~keep], tokens[~keep]
        load = share.sum(dim=0)[:, None]
        anchors = (anchors + config.temporal_scale * share.T @ tokens) / (
            1 + config.temporal_scale * load
        )
    return torch.cat([*emitted, anchors] if len(frames) > 1 else emitted)
