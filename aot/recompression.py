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
from bisect import bisect_left
from collections.abc import Callable, Sequence
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
_BLOCK = 64
"""Rows of a window whose costs are reckoned at a time: earlier ones alone are looked at, and what
is reckoned stays in a cache."""

Fits = Callable[[Bool[Tensor, " n"]], bool]
"""Whether the tokens that are True may stay together, of all clips' in their order."""


def recompress(
    clips: Sequence[ClipTokens], budget: int, *, fits: Fits | None = None
) -> list[ClipTokens]:
    """The same clips with `budget` tokens together; as they are where they have no more.

    With `fits`, with the most tokens up to `budget` that fit; with one where not even that does.

    What is left keeps its frame, cell and kind, its order and its clip; it is the mean by mass of
    what was merged into it and carries their mass. A clip all of whose tokens were merged into
    earlier ones has none. Masses add up to what they did. The same input gives the same output; a
    smaller budget never keeps more.

    Args:
        clips: in order of time; of one grid and width.
        budget: at least 1.
        fits: tokens that are a part of others that fit have to fit too.

    Raises:
        InvalidFeatures: a budget below 1, or clips of several grids or widths.
    """
    _check(clips, budget)
    total = sum(map(len, clips))
    tokens = torch.cat([clip.tokens for clip in clips])
    if total <= budget and (fits is None or fits(tokens.new_ones(total, dtype=torch.bool))):
        return list(clips)
    mass = torch.cat([clip.mass for clip in clips]).double()
    place = _places(torch.cat([clip.cell for clip in clips]), clips[0].grid)
    weight = mass.clamp(min=_TINY)
    root = _merge(tokens.float(), weight, place, budget, fits)
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


def split_frames(clip: ClipTokens, starts: Sequence[int]) -> list[ClipTokens]:
    """The tokens of the frames from each start on and before the next, counted from there.

    Args:
        starts: frames, rising from 0.
    """
    bounds = torch.tensor(starts, device=clip.frame.device)
    part = torch.bucketize(clip.frame, bounds.to(clip.frame.dtype), right=True) - 1
    columns = {name: getattr(clip, name) for name in TOKEN_COLUMNS}
    columns["frame"] = clip.frame - bounds.to(clip.frame.dtype)[part]
    if bool((part[1:] < part[:-1]).any()):
        order = part.argsort(stable=True)
        columns = {name: column[order] for name, column in columns.items()}
    sizes = torch.bincount(part, minlength=len(starts)).tolist()
    parts = zip(*(column.split(sizes) for column in columns.values()), strict=True)
    return [ClipTokens(**dict(zip(columns, own, strict=True)), grid=clip.grid) for own in parts]


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
    fits: Fits | None,
) -> Int[Tensor, " n"]:
    """Which row each goes into; itself where it stays."""
    total, turn = len(tokens), 0
    left = torch.arange(total, device=tokens.device)
    root = left.clone()

    def may_stay(gone: Int[Tensor, " g"]) -> bool:
        """Whether what is left without some of it is what is wanted."""
        if len(left) - len(gone) > budget:
            return False
        if fits is None:
            return True
        stays = torch.zeros(total, dtype=torch.bool, device=left.device).index_fill_(0, left, True)
        return fits(stays.index_fill_(0, left[gone], False))

    while len(left) > 1 and not may_stay(left[:0]):
        order, target = _cheapest(F.normalize(tokens, dim=1), place[left], turn)
        most = min(len(order), max(1, len(left) // _SHARE))
        # Of a round's merges the fewest that are enough, the cheapest first; else all of them.
        enough = bisect_left(range(1, most), True, key=lambda n: may_stay(order[:n]))
        into = _merge_into(order[: min(enough + 1, most)], target)
        stay = into == torch.arange(len(left), device=left.device)
        root[left] = left[into]
        root = root[root]
        tokens = _mean_by(into, tokens, weight)[stay]
        weight = torch.zeros_like(weight).index_add_(0, into, weight)[stay]
        left, turn = left[stay], turn + 1
    return root


def _cheapest(
    unit: Float[Tensor, "n d"], place: Float[Tensor, "n 2"], turn: int
) -> tuple[Int[Tensor, " m"], Int[Tensor, " n"]]:
    """Rows that may be merged, the cheapest merge first, and the earlier row each goes into."""
    count = len(unit)
    side = min(WINDOW, count)
    before = side // 2 if turn % 2 and count > side else 0
    windows = -(-(count + before) // side)
    rows = torch.arange(windows * side, device=unit.device) - before
    inside = (rows >= 0) & (rows < count)
    rows = rows.clamp(0, count - 1).view(windows, side)
    unit, place = (_take(one, rows) for one in (unit, place))
    cost, target = _best_earlier(unit, POSITION_WEIGHT * place, before)
    firsts = torch.arange(windows, device=unit.device)[:, None] * side - before
    cost, target = cost.flatten()[inside], (target + firsts).flatten()[inside]
    # Stable: among equals the later token goes, and the earliest stays.
    ranked = cost.flip(0).sort(stable=True)
    return (count - 1 - ranked.indices)[: int((ranked.values < math.inf).sum())], target


def _take(table: Float[Tensor, "n k"], rows: Int[Tensor, "w s"]) -> Float[Tensor, "w s k"]:
    """Rows of a table; by `index_select`, which copies whole rows."""
    return table.index_select(0, rows.flatten()).view(*rows.shape, table.shape[1])


def _merge_into(gone: Int[Tensor, " m"], target: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
    """The row each goes into when some go; itself where it stays."""
    into = torch.arange(len(target), device=target.device)
    into[gone] = target[gone]
    return _to_roots(into)


def _best_earlier(
    unit: Float[Tensor, "w s d"], place: Float[Tensor, "w s 2"], before: int
) -> tuple[Float[Tensor, "w s"], Int[Tensor, "w s"]]:
    """Cost and place of the cheapest merge into an earlier token; infinite where there is none.

    The first `before` rows of the first window hold no token. Costs are a cosine distance and a
    weighted distance in the frame, less a constant.
    """
    side, costs, places = unit.shape[1], [], []
    later = torch.full((_BLOCK, _BLOCK), math.inf, device=unit.device).triu()
    for first in range(0, side, _BLOCK):
        stop = min(first + _BLOCK, side)
        cost = torch.cdist(place[:, first:stop], place[:, :stop])
        cost.baddbmm_(unit[:, first:stop], unit[:, :stop].mT, alpha=-1)
        cost[:, :, first:] += later[: stop - first, : stop - first]
        cost[0, :, :before] = math.inf
        best = cost.min(dim=2)
        costs.append(best.values)
        places.append(best.indices)
    return torch.cat(costs, dim=1), torch.cat(places, dim=1)


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
    columns = {
        "tokens": tokens[stays],
        "mass": mass[stays].to(clips[0].mass.dtype),
        **{
            name: torch.cat([getattr(clip, name) for clip in clips])[stays]
            for name in ("frame", "cell", "kind")
        },
    }
    sizes = [int(kept.sum()) for kept in stays.split([len(clip) for clip in clips])]
    parts = (
        dict(zip(columns, own, strict=True))
        for own in zip(*(column.split(sizes) for column in columns.values()), strict=True)
    )
    return [replace(clip, **own) for clip, own in zip(clips, parts, strict=True)]
