"""What a patch, a cell and a frame show: the targets the vision half is trained on.

In: a scene and its item maps. Out: class indices per patch (0 is "nothing", IGNORE where an item
only touches), and what is in a frame as a multi-label vector. Order of classes: `CLASSES`.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int16, Int64

from demo.world.scenes import COLOURS, LETTERS, SHAPES, Scene

IGNORE = -100
CLASSES: dict[str, tuple[str, ...]] = {
    "colour": tuple(COLOURS),
    "shape": SHAPES,
    "letter": LETTERS,
}
PAIRS = tuple(f"{c} {s}" for c in COLOURS for s in SHAPES)
PRESENT = (*COLOURS, *SHAPES, *LETTERS, *PAIRS)
"""What the pooled objective names: every colour, shape, letter, and coloured shape."""


@dataclass(frozen=True)
class ItemClasses:
    """Class indices of a scene's items, 0 where an attribute does not apply."""

    colour: Int64[np.ndarray, " items"]
    shape: Int64[np.ndarray, " items"]
    letter: Int64[np.ndarray, " items"]


def classify_items(scene: Scene) -> ItemClasses:
    """Class index + 1 of each item's colour, shape and letter."""

    def index(attribute: str) -> np.ndarray:
        values = [getattr(item, attribute) for item in scene.items]
        known = CLASSES[attribute]
        return np.array([known.index(v) + 1 if v else 0 for v in values], np.int64)

    return ItemClasses(index("colour"), index("shape"), index("letter"))


def cover_cells(
    items: Int16[np.ndarray, "t h w"], num_items: int, cells: int
) -> Float[np.ndarray, "t items cells"]:
    """Share of every cell's pixels that show an item; cells in raster order."""
    frames, height, _ = items.shape
    side = height // cells
    blocks = items.reshape(frames, cells, side, cells, side)
    shares = [(blocks == k).mean((2, 4)).reshape(frames, -1) for k in range(num_items)]
    if not shares:
        return np.zeros((frames, 0, cells * cells))
    return np.stack(shares, axis=1)


def choose_owner(
    cover: Float[np.ndarray, "t items cells"], owns: float, touches: float
) -> Int64[np.ndarray, "t cells"]:
    """The item that covers at least `owns` of a cell; -1 where none does; IGNORE in between.

    In between is a largest share above `touches` but below `owns`: neither content nor nothing.
    """
    if cover.shape[1] == 0:
        return np.full((cover.shape[0], cover.shape[2]), -1, np.int64)
    largest, owner = cover.max(1), cover.argmax(1)
    owner = np.where(largest >= owns, owner, np.where(largest > touches, IGNORE, -1))
    return owner.astype(np.int64)


def label_cells(
    owner: Int64[np.ndarray, "t cells"], classes: ItemClasses
) -> dict[str, Int64[np.ndarray, "t cells"]]:
    """Class index per cell and attribute: 0 nothing, IGNORE as in `owner`."""
    labels = {}
    for attribute in CLASSES:
        of_item = np.append(getattr(classes, attribute), 0)
        labels[attribute] = np.where(owner == IGNORE, IGNORE, of_item[np.maximum(owner, -1)])
    return labels


def label_frames(
    visible: Float[np.ndarray, "t items"], scene: Scene, threshold: float = 0.4
) -> Float[np.ndarray, "t present"]:
    """1 where a frame shows what `PRESENT` names, by items at least `threshold` visible."""
    labels = np.zeros((visible.shape[0], len(PRESENT)), np.float32)
    for k, item in enumerate(scene.items):
        names = [n for n in (item.colour, item.shape, item.letter) if n]
        names += [item.name] if item.colour else []
        for name in names:
            labels[:, PRESENT.index(name)] = np.maximum(
                labels[:, PRESENT.index(name)], visible[:, k] >= threshold
            )
    return labels
