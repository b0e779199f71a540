"""Fewer tokens of clips that were compressed before: merged by likeness, over neighbouring clips.

Tokens of many clips in time order are looked at in windows that reach over clip borders. In every
round each token is told its cheapest merge, into an earlier token of its window; the cheapest of
all windows are made, never more than a quarter of the tokens; the windows then lie elsewhere and,
as tokens get fewer, reach further in time. What is alike goes first, wherever it is, so that a
quiet hour gives way to a busy minute (after ToMe, arXiv 2210.09461, whose matching is within one
frame). The earlier token stays: its time and cell say when and where a thing was first seen.

Knows nothing of seconds, of models or of storage.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from aot.errors import InvalidFeatures
from aot.packing import concatenate
from aot.types import TOKEN_COLUMNS, ClipTokens, Grid, TokenKind

WINDOW = 512
"""Tokens looked at together: bounds work and memory at `tokens * WINDOW`."""
POSITION_WEIGHT = 0.1
"""Price of a merge across the whole frame beside the cosine distance, as in the adaptive rule."""
_TINY = torch.finfo(torch.float32).tiny
_SHARE = 4
"""A round merges one token in so many at most: what was merged is seen before more is."""


def recompress(clips: Sequence[ClipTokens], budget: int) -> list[ClipTokens]:
    """The same clips with `budget` tokens together; as they are where they have no more.

    What is left keeps its frame, cell and kind, its order and its clip; it is the mean by mass of
    what was merged into it and carries their mass. A clip all of whose tokens were merged into
    earlier ones has none. Masses add up to what they did. The same input gives the same output; a
    smaller budget never keeps more.

    Args:
        clips: in order of time; of one grid and width.
        budget: at least 1.

    Raises:
        InvalidFeatures: a budget below 1, or clips of several grids or widths.
    """
    _check(clips, budget)
    total = sum(map(len, clips))
    if total <= budget:
        return list(clips)
    tokens = torch.cat([clip.tokens for clip in clips])
    mass = torch.cat([clip.mass for clip in clips]).double()
    place = _places(torch.cat([clip.cell for clip in clips]), clips[0].grid)
    weight = mass.clamp(min=_TINY)
    root = _merge(tokens.float(), weight, place, budget)
    return _gather(clips, tokens, mass, root)


def keep_anchors(clip: ClipTokens) -> ClipTokens:
    """The keyframe's anchors alone, each with what it is nearest to of the later frames' tokens.

    Nearest as in `recompress`; masses add up to what they did. A clip without anchors, or with
    nothing else, stays as it is.
    """
    is_anchor = clip.kind != TokenKind.DISTINCT
    if bool(is_anchor.all()) or not bool(is_anchor.any()):
        return clip
    unit, place = F.normalize(clip.tokens.float(), dim=1), _places(clip.cell, clip.grid)
    cost = 1 - unit[~is_anchor] @ unit[is_anchor].T
    cost += POSITION_WEIGHT * torch.cdist(place[~is_anchor], place[is_anchor])
    root = torch.arange(len(clip), device=clip.tokens.device)
    root[~is_anchor] = root[is_anchor][cost.argmin(dim=1)]
    [kept] = _gather([clip], clip.tokens, clip.mass.double(), root)
    return kept


def join_clips(clips: Sequence[ClipTokens], frames: Sequence[int]) -> ClipTokens:
    """Clips as one, frames counted through; `frames` are those of each.

    Raises:
        InvalidFeatures: no clip, or clips of several grids or widths.
    """
    _check(clips, 1)
    firsts = accumulate([0, *frames[:-1]])
    moved = [replace(c, frame=c.frame + first) for c, first in zip(clips, firsts, strict=True)]
    return concatenate(moved)


def take_frames(clip: ClipTokens, first: int, stop: int) -> ClipTokens:
    """The tokens of the frames from `first` on and before `stop`, counted from there."""
    inside = (clip.frame >= first) & (clip.frame < stop)
    columns = {name: getattr(clip, name)[inside] for name in TOKEN_COLUMNS}
    return replace(clip, **{**columns, "frame": columns["frame"] - first})


def drop_empty_frames(clip: ClipTokens, together: int = 1) -> tuple[ClipTokens, list[int]]:
    """The clip with frames counted without those of which no token speaks, and which ones stay.

    Frames are looked at in groups of so many `together`, that stay whole.
    """
    groups, place = torch.unique(clip.frame.long() // together, return_inverse=True)
    frame = place * together + clip.frame.long() % together
    stay = [group * together + step for group in groups.tolist() for step in range(together)]
    return replace(clip, frame=frame.to(clip.frame.dtype)), stay


def _check(clips: Sequence[ClipTokens], budget: int) -> None:
    shapes = {(clip.grid, clip.tokens.shape[1]) for clip in clips}
    if len(shapes) != 1:
        raise InvalidFeatures(
            f"got clips of grids and widths {sorted(shapes)}, expected one of each; join clips of "
            "one stream"
        )
    if budget < 1:
        raise InvalidFeatures(f"got a budget of {budget} tokens, expected at least 1; leave it out")


def _places(cell: Int[Tensor, " n"], grid: Grid) -> Float[Tensor, "n 2"]:
    rows, columns = grid
    at = torch.stack([cell // columns / max(rows - 1, 1), cell % columns / max(columns - 1, 1)], 1)
    return at.float() / math.sqrt(2)


def _merge(
    tokens: Float[Tensor, "n d"],
    weight: Float[Tensor, " n"],
    place: Float[Tensor, "n 2"],
    budget: int,
) -> Int[Tensor, " n"]:
    """Which row each goes into; itself where it stays."""
    total = len(tokens)
    root = torch.arange(total, device=tokens.device)
    left, turn = root, 0
    while len(left) > budget:
        most = min(len(left) - budget, max(1, len(left) // _SHARE))
        into = _cheapest(F.normalize(tokens[left], dim=1), place[left], most, turn)
        step = torch.arange(total, device=tokens.device)
        step[left] = left[into]
        root = step[root]
        tokens = _mean_by(step, tokens, weight)
        weight = torch.zeros_like(weight).index_add_(0, step, weight)
        left = left[into == torch.arange(len(left), device=left.device)]
        turn += 1
    return root


def _cheapest(
    unit: Float[Tensor, "n d"], place: Float[Tensor, "n 2"], most: int, turn: int
) -> Int[Tensor, " n"]:
    """The row each goes into when the `most` cheapest merges are made; itself where it stays."""
    count = len(unit)
    side = min(WINDOW, count)
    before = side // 2 if turn % 2 and count > side else 0
    windows = -(-(count + before) // side)
    rows = torch.arange(windows * side, device=unit.device) - before
    inside = (rows >= 0) & (rows < count)
    rows = rows.clamp(0, count - 1).view(windows, side)
    cost, target = _best_earlier(unit[rows], place[rows], inside.view(windows, side))
    cost, target = cost.flatten()[inside], (target + _firsts(windows, side, before, unit)).flatten()
    target = target[inside]
    # Stable: among equals the later token goes, and the earliest stays.
    chosen = cost.flip(0).sort(stable=True).indices[:most]
    chosen = count - 1 - chosen
    chosen = chosen[cost[chosen] < math.inf]
    into = torch.arange(count, device=unit.device)
    into[chosen] = target[chosen]
    return _to_roots(into)


def _firsts(windows: int, side: int, before: int, like: Tensor) -> Int[Tensor, "w 1"]:
    return torch.arange(windows, device=like.device)[:, None] * side - before


def _best_earlier(
    unit: Float[Tensor, "w s d"], place: Float[Tensor, "w s 2"], inside: Bool[Tensor, "w s"]
) -> tuple[Float[Tensor, "w s"], Int[Tensor, "w s"]]:
    """Cost and place of the cheapest merge into an earlier token; infinite where there is none."""
    side = unit.shape[1]
    cost = 1 - torch.bmm(unit, unit.mT)
    cost += POSITION_WEIGHT * torch.cdist(place, place)
    earlier = torch.ones(side, side, dtype=torch.bool, device=unit.device).tril(-1)
    cost = cost.masked_fill(~(earlier & inside[:, None, :] & inside[:, :, None]), math.inf)
    best = cost.min(dim=2)
    return best.values, best.indices


def _to_roots(into: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
    """Follow merges to what stays; all go to earlier rows, so that this ends."""
    while not torch.equal(further := into[into], into):
        into = further
    return into


def _mean_by(
    into: Int[Tensor, " n"], tokens: Float[Tensor, "n d"], weight: Float[Tensor, " n"]
) -> Float[Tensor, "n d"]:
    """Mean by weight of what goes into each row; zero where nothing does."""
    total = torch.zeros_like(weight).index_add_(0, into, weight)
    share = (weight / total[into].clamp(min=1e-300)).float()
    return torch.zeros(tokens.shape, device=tokens.device).index_add_(
        0, into, tokens.float() * share[:, None]
    )


def _gather(
    clips: Sequence[ClipTokens],
    tokens: Float[Tensor, "n d"],
    mass: Float[Tensor, " n"],
    root: Int[Tensor, " n"],
) -> list[ClipTokens]:
    """The clips' tokens, each merged into its root."""
    stays = root == torch.arange(len(root), device=root.device)
    summed = torch.zeros_like(mass).index_add_(0, root, mass)
    mean = _mean_by(root, tokens, mass.clamp(min=_TINY))
    changed = (torch.bincount(root, minlength=len(root)) > 1) & stays
    tokens = torch.where(changed[:, None], mean.to(tokens.dtype), tokens)
    return _apart(clips, tokens, summed, stays)


def _apart(
    clips: Sequence[ClipTokens],
    tokens: Float[Tensor, "n d"],
    mass: Float[Tensor, " n"],
    stays: Bool[Tensor, " n"],
) -> list[ClipTokens]:
    sizes = [len(clip) for clip in clips]
    parts = zip(clips, *(x.split(sizes) for x in (tokens, mass, stays)), strict=True)
    return [
        replace(
            clip,
            tokens=own[kept],
            frame=clip.frame[kept],
            cell=clip.cell[kept],
            mass=carried[kept].to(clip.mass.dtype),
            kind=clip.kind[kept],
        )
        for clip, own, carried, kept in parts
    ]
