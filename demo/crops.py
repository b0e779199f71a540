"""Part of every frame: scenes seen through rectangles of cells.

A checkpoint of the family has met images and videos of many sizes; one that has only ever met 49
tokens a frame reads a time mark by how many tokens stand behind it. So many windows show one to
three rectangles of each frame, each token at its own place, whatever is in them: rectangles do not
know the content, and within them every token is there.
"""

from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from demo.labels import IGNORE
from demo.model import CELLS
from demo.pool import SeenScene
from demo.sequence import FRAME_LENGTH, MARK_TOKENS

LARGEST = 24
"""Cells of a frame that its rectangles show at most: half of them."""
BLANK = 0.1
"""Share of frames without any rectangle, where every frame has its own."""
TELLING = 0.3
"""Share of a cell's pixels from which on one cell tells what the item is."""
PARTLY = 0.3
"""Largest visible share of an item that the rectangles cut: questions about it are silenced."""


def crop_scene(
    seen: SeenScene, rng: np.random.Generator
) -> tuple[SeenScene, Bool[np.ndarray, "t n"]]:
    """The scene as its rectangles show it, and the cells they leave out.

    Half of the scenes keep their rectangles, the others have new ones every frame. An item counts
    as seen where a cell that tells it is inside, or all that it has.
    """
    frames = len(seen.tokens)
    if rng.random() < 0.5:
        inside = np.broadcast_to(_draw_rectangles(rng), (frames, CELLS * CELLS))
    else:
        drawn = [_draw_rectangles(rng) for _ in range(frames)]
        inside = np.stack(drawn) & (rng.random((frames, 1)) >= BLANK)
    visible = seen.visible.copy()
    for index in range(visible.shape[1]):
        own = seen.owner == index
        shown = own & inside
        told = (shown & (seen.share >= TELLING)).any(1) | (shown.sum(1) == own.sum(1))
        visible[:, index] = np.where(told, visible[:, index], np.minimum(visible[:, index], PARTLY))
        visible[own.any(1) & ~shown.any(1), index] = 0.0
    owner = np.where(inside, seen.owner, IGNORE)
    return replace(seen, visible=visible, owner=owner), ~inside


def hide(outside: Bool[Tensor, "b t n"]) -> Bool[Tensor, "b l"]:
    """Positions of the video part of a sequence that nobody sees.

    A frame without tokens has no newline either, as where a reducer kept none of it.
    """
    frames = torch.zeros(*outside.shape[:2], FRAME_LENGTH, dtype=torch.bool)
    frames[..., MARK_TOKENS:-1] = outside
    frames[..., -1] = outside.all(-1)
    first = torch.zeros(len(outside), 1, dtype=torch.bool)
    return torch.cat([first, frames.flatten(1)], dim=1)


def pack(hidden: Bool[Tensor, "b l"]) -> tuple[Int64[Tensor, "b m"], Bool[Tensor, "b m"]]:
    """Where each row's visible positions are, rising, and which entries only fill up the row."""
    order = hidden.to(torch.int8).argsort(dim=1, stable=True)
    index = order[:, : int((~hidden).sum(1).max())]
    return index, hidden.gather(1, index)


def take(values: Float[Tensor, "b l d"], index: Int64[Tensor, "b m"]) -> Float[Tensor, "b m d"]:
    """Rows of `values` at `index`."""
    return values.gather(1, index[..., None].expand(-1, -1, values.shape[-1]))


def _draw_rectangles(rng: np.random.Generator) -> Bool[np.ndarray, " n"]:
    """One to three rectangles, the smaller the more there are; at most `LARGEST` cells."""
    while True:
        count = int(rng.integers(1, 4))
        inside = np.zeros((CELLS, CELLS), bool)
        for _ in range(count):
            rows, columns = rng.integers(1, (CELLS, 5, 4)[count - 1] + 1, 2)
            top, left = rng.integers(CELLS - rows + 1), rng.integers(CELLS - columns + 1)
            inside[top : top + rows, left : left + columns] = True
        if inside.sum() <= LARGEST:
            return inside.reshape(-1)
