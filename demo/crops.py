"""Part of every frame: scenes seen through rectangles of cells.

A checkpoint of the family has met images and videos of many sizes; one that has only ever met 49
tokens a frame reads a time mark by how many tokens stand behind it. So most windows of the last
phase show a rectangle of each frame, each token at its own place, whatever is in it: the rectangle
does not know the content, and within it every token is there.
"""

from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from demo.labels import IGNORE
from demo.model import CELLS
from demo.pool import SeenScene
from demo.sequence import FRAME_LENGTH, MARK_TOKENS

SMALLEST = 1
"""Rows or columns of a rectangle."""
PARTLY = 0.3
"""Largest visible share of an item that the rectangle cuts: questions about it are silenced."""


def crop_scene(
    seen: SeenScene, rng: np.random.Generator
) -> tuple[SeenScene, Bool[np.ndarray, "t n"]]:
    """The scene as its rectangles show it, and the cells they leave out.

    Half of the scenes keep one rectangle, the others have a new one every frame.
    """
    frames = len(seen.tokens)
    count = 1 if rng.random() < 0.5 else frames
    inside = np.stack([_draw_rectangle(rng) for _ in range(count)])
    inside = np.broadcast_to(inside, (frames, CELLS * CELLS))
    visible = seen.visible.copy()
    for index in range(visible.shape[1]):
        own = seen.owner == index
        total, shown = own.sum(1), (own & inside).sum(1)
        visible[:, index] = np.where(
            shown == total, visible[:, index], np.minimum(visible[:, index], PARTLY)
        )
        visible[(shown == 0) & (total > 0), index] = 0.0
    owner = np.where(inside, seen.owner, IGNORE)
    return replace(seen, visible=visible, owner=owner), ~inside


def hide(outside: Bool[Tensor, "b t n"]) -> Bool[Tensor, "b l"]:
    """Positions of the video part of a sequence that nobody sees."""
    frames = torch.zeros(*outside.shape[:2], FRAME_LENGTH, dtype=torch.bool)
    frames[..., MARK_TOKENS:-1] = outside
    first = torch.zeros(len(outside), 1, dtype=torch.bool)
    return torch.cat([first, frames.flatten(1)], dim=1)


def _draw_rectangle(rng: np.random.Generator) -> Bool[np.ndarray, " n"]:
    rows, columns = rng.integers(SMALLEST, CELLS + 1, 2)
    top, left = rng.integers(CELLS - rows + 1), rng.integers(CELLS - columns + 1)
    inside = np.zeros((CELLS, CELLS), bool)
    inside[top : top + rows, left : left + columns] = True
    return inside.reshape(-1)
