"""How the miniature reads a clip's tokens: time mark, tokens, newline for every frame.

In: `ClipTokens` and the frames' times. Out: a `Layout` for fast batches, equal to what the product
writes with `marks="frame", keep_positions=True`. Every token keeps the position it had among all
tokens of the clip, whatever was left out: repacking costs accuracy no reducer is to blame for.
"""

import itertools
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from aot import ClipTokens
from aot.types import TOKEN_COLUMNS
from demo.miniature.model import TOKENS_PER_FRAME
from demo.miniature.sequence import FRAME_LENGTH, MARK_TOKENS, Vocabulary, write_marks

Order = Literal["reading", "frame"]
"""`frame`: by frame and cell, as the product reads; `reading`: as emitted, merged anchors last."""

NEWLINE = -1
"""Entry of `Layout.visual` for the newline."""
TEXT = -2
"""Entry of `Layout.visual` for a word."""


@dataclass(frozen=True)
class Layout:
    """The video part of a prompt, `<|user|>` first."""

    ids: Int64[np.ndarray, " l"]
    """Word ids; 0 where there is none."""
    visual: Int64[np.ndarray, " l"]
    """Index of the visual token, NEWLINE or TEXT."""
    positions: Int64[np.ndarray, " l"]
    end: int
    """Position of what follows: that of the whole clip, all tokens counted."""


def sort_clip(clip: ClipTokens) -> ClipTokens:
    """By frame, then cell; equal places keep their order."""
    order = torch.argsort(clip.frame * TOKENS_PER_FRAME + clip.cell, stable=True)
    return replace(clip, **{name: getattr(clip, name)[order] for name in TOKEN_COLUMNS})


def find_runs(frame: Int64[np.ndarray, " m"]) -> list[tuple[int, slice]]:
    """(frame, where its tokens stand) of consecutive tokens of one frame."""
    if len(frame) == 0:
        return []
    starts = [0, *(np.flatnonzero(np.diff(frame)) + 1).tolist(), len(frame)]
    return [(int(frame[a]), slice(a, b)) for a, b in itertools.pairwise(starts)]


def lay_out(clip: ClipTokens, times_s: Float[np.ndarray, " t"], vocabulary: Vocabulary) -> Layout:
    """The same as ids, indices and positions. A frame without tokens keeps its mark."""
    marks = write_marks(times_s, vocabulary)
    runs = find_runs(clip.frame.numpy())
    present = {frame for frame, _ in runs}
    empty = [(frame, slice(0, 0)) for frame in range(len(times_s)) if frame not in present]
    cell = clip.cell.numpy()
    ids, visual, positions = [vocabulary.words["<|user|>"]], [TEXT], [0]
    for frame, run in _merge_in_order(runs, empty):
        start = 1 + frame * FRAME_LENGTH
        ids += [*marks[frame].tolist(), *[0] * (run.stop - run.start)]
        visual += [*[TEXT] * MARK_TOKENS, *range(run.start, run.stop)]
        positions += [start + k for k in range(MARK_TOKENS)]
        positions += (start + MARK_TOKENS + cell[run]).tolist()
        if run.stop > run.start:
            ids.append(0)
            visual.append(NEWLINE)
            positions.append(start + FRAME_LENGTH - 1)
    end = 1 + len(times_s) * FRAME_LENGTH
    return Layout(np.array(ids), np.array(visual), np.array(positions), end)


def _merge_in_order(
    runs: list[tuple[int, slice]], empty: list[tuple[int, slice]]
) -> list[tuple[int, slice]]:
    """Put empty frames where their time is, leaving the runs' own order."""
    merged, left = [], list(empty)
    latest = -1
    for frame, run in runs:
        latest = max(latest, frame)
        while left and left[0][0] < latest:
            merged.append(left.pop(0))
        merged.append((frame, run))
    return merged + left


def gather(
    layout: Layout, tokens: Float[Tensor, "m d"], newline: Float[Tensor, " d"], words: Tensor
) -> Float[Tensor, "l d"]:
    """Embeddings of a layout; `words` are the language model's."""
    table = torch.cat([tokens, newline[None]])
    visual = torch.from_numpy(layout.visual)
    is_text = (visual == TEXT)[:, None]
    return torch.where(is_text, words[torch.from_numpy(layout.ids)], table[visual.clamp(min=-1)])
