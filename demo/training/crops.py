"""Part of every frame: scenes seen through rectangles of cells, or through few of their cells.

A checkpoint of the family has met images and videos of many sizes; one that has only ever met 49
tokens a frame reads a time mark by how many tokens stand behind it. So many windows show one to
three rectangles of each frame, each token at its own place, whatever is in them: rectangles do not
know the content, and within them every token is there.

Others show few cells, more of the items' than of the background's: a model that always had
background around it rests its heads there, and answers worse the less of it is left, whatever is
told by the rest. Which cells of an item, and of which frames, is left to chance, as is how many of
the background's: no reducer's choice is imitated.
"""

from dataclasses import replace
from enum import StrEnum

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from demo.miniature.model import CELLS
from demo.miniature.sequence import FRAME_LENGTH, MARK_TOKENS
from demo.training.pool import SeenScene
from demo.world.labels import IGNORE

LARGEST = 24
"""Cells of a frame that its rectangles show at most: half of them."""
BLANK = 0.1
"""Share of frames without any rectangle, where every frame has its own."""
CONTENT_KEPT = (0.4, 0.7, 1.0)
"""Chances of an item's cell in sparse views, one of them for a scene."""
REST_KEPT = (0.0, 0.02, 0.08, 0.3)
"""Chances of a cell that shows no item."""
FRAMES_LEFT_OUT = (0.0, 0.3)
"""Chances of a frame to show nothing in a sparse view."""
TELLING = 0.3
"""Share of a cell's pixels from which on one cell tells what the item is."""
PARTLY = 0.3
"""Largest visible share of an item that the rectangles cut: questions about it are silenced."""


class View(StrEnum):
    """How much of a window's frames is shown."""

    WHOLE = "whole"
    RECTANGLES = "rectangles"
    SPARSE = "sparse"


def draw_inside(seen: SeenScene, view: View, rng: np.random.Generator) -> Bool[np.ndarray, "t n"]:
    """The cells that a view of the scene shows."""
    if view == View.WHOLE:
        return np.ones(seen.owner.shape, bool)
    if view == View.RECTANGLES:
        return _draw_crop(len(seen.owner), rng)
    return _draw_sparse(seen.owner, rng)


def crop_scene(seen: SeenScene, inside: Bool[np.ndarray, "t n"]) -> SeenScene:
    """The scene as these cells show it.

    An item counts as seen where a cell that tells it is inside, or all that it has.
    """
    visible = seen.visible.copy()
    for index in range(visible.shape[1]):
        own = seen.owner == index
        shown = own & inside
        told = (shown & (seen.share >= TELLING)).any(1) | (shown.sum(1) == own.sum(1))
        visible[:, index] = np.where(told, visible[:, index], np.minimum(visible[:, index], PARTLY))
        visible[own.any(1) & ~shown.any(1), index] = 0.0
    return replace(seen, visible=visible, owner=np.where(inside, seen.owner, IGNORE))


def hide(outside: Bool[Tensor, "b t n"]) -> Bool[Tensor, "b l"]:
    """Positions of the video part of a sequence that nobody sees.

    A frame without tokens has no newline either, as where a reducer kept none of it.
    """
    frames = outside.new_zeros(*outside.shape[:2], FRAME_LENGTH)
    frames[..., MARK_TOKENS:-1] = outside
    frames[..., -1] = outside.all(-1)
    first = outside.new_zeros(len(outside), 1)
    return torch.cat([first, frames.flatten(1)], dim=1)


def pack(hidden: Bool[Tensor, "b l"]) -> tuple[Int64[Tensor, "b m"], Bool[Tensor, "b m"]]:
    """Where each row's visible positions are, rising, and which entries only fill up the row."""
    order = hidden.to(torch.int8).argsort(dim=1, stable=True)
    index = order[:, : int((~hidden).sum(1).max())]
    return index, hidden.gather(1, index)


def take(values: Float[Tensor, "b l d"], index: Int64[Tensor, "b m"]) -> Float[Tensor, "b m d"]:
    """Rows of `values` at `index`."""
    return values.gather(1, index[..., None].expand(-1, -1, values.shape[-1]))


def _draw_crop(frames: int, rng: np.random.Generator) -> Bool[np.ndarray, "t n"]:
    """Half of the scenes keep their rectangles, the others have new ones every frame."""
    if rng.random() < 0.5:
        return np.broadcast_to(_draw_rectangles(rng), (frames, CELLS * CELLS))
    drawn = [_draw_rectangles(rng) for _ in range(frames)]
    return np.stack(drawn) & (rng.random((frames, 1)) >= BLANK)


def _draw_sparse(
    owner: Int64[np.ndarray, "t n"], rng: np.random.Generator
) -> Bool[np.ndarray, "t n"]:
    """Every cell by itself: an item's often, those beside it half as often, others seldom."""
    content, rest = rng.choice(CONTENT_KEPT), rng.choice(REST_KEPT)
    frame = rng.random((len(owner), 1)) >= rng.choice(FRAMES_LEFT_OUT)
    kept = np.where(owner >= 0, content, np.where(owner == IGNORE, content / 2, rest))
    return (rng.random(owner.shape) < kept) & frame


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
