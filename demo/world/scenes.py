"""Generated surveillance and lecture scenes: what happens, where and when, by seed.

A scene is a list of items with true times (objects that pass a camera, letters and figures on the
slides of a lecture) and a setting (background, distractors, light, shake). Coordinates are
fractions of the frame, times are seconds of the scene, so a scene can be any length and be drawn
at any size. Nothing here draws (`demo.world.render`) or asks (`demo.world.questions`).
"""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

COLOURS = {
    "red": (214, 38, 38),
    "orange": (245, 140, 20),
    "yellow": (240, 222, 50),
    "green": (40, 170, 60),
    "cyan": (50, 205, 215),
    "blue": (40, 75, 215),
    "magenta": (205, 50, 190),
    "white": (245, 245, 245),
}
SHAPES = ("circle", "square", "triangle", "cross")
LETTERS = tuple("ACEHKLNRSTXZ")
DIRECTIONS = ("left", "right", "up", "down")

Kind = Literal["surveillance", "lecture"]
Point = tuple[float, float]

BLOCK_S = 8.0
"""Items are drawn per block of this length, so that every window of a long stream has some."""


@dataclass(frozen=True)
class Item:
    """Something questions are asked about."""

    kind: Literal["object", "letter", "figure"]
    start_s: float
    end_s: float
    path: tuple[Point, Point]
    """Centre (x, y) at `start_s` and at `end_s`; it moves straight between them."""
    radius: float
    contrast: float
    """1 is the pure colour, 0 is the background."""
    colour: str | None = None
    shape: str | None = None
    letter: str | None = None
    slide: int = -1
    """Which slide it is on, counted through the scene; -1 for an object."""

    def position(self, time_s: float) -> Point:
        """Centre (x, y) at a time."""
        (x0, y0), (x1, y1) = self.path
        share = (time_s - self.start_s) / max(self.end_s - self.start_s, 1e-9)
        return x0 + share * (x1 - x0), y0 + share * (y1 - y0)

    @property
    def name(self) -> str:
        """What an answer calls it: `red circle`, or the letter."""
        return self.letter if self.letter is not None else f"{self.colour} {self.shape}"


@dataclass(frozen=True)
class Scene:
    """What happens in one generated video."""

    kind: Kind
    seed: int
    duration_s: float
    items: tuple[Item, ...]

    def __repr__(self) -> str:
        return (
            f"Scene({self.kind}, seed={self.seed}, {self.duration_s:g} s, {len(self.items)} items)"
        )


def generate_scene(kind: Kind, seed: int, duration_s: float = BLOCK_S) -> Scene:
    """Draw a scene; the same arguments give the same scene, and a longer one starts alike."""
    if kind not in ("surveillance", "lecture"):
        raise ValueError(f"kind is {kind!r}, expected surveillance or lecture; pass one of them")
    if not duration_s > 0:
        raise ValueError(f"duration_s is {duration_s}, expected above 0; pass seconds")
    draw_block = _draw_objects if kind == "surveillance" else _draw_slides
    items: list[Item] = []
    for block in range(int(np.ceil(duration_s / BLOCK_S))):
        rng = np.random.default_rng([seed, block, kind == "lecture"])
        items += draw_block(rng, block * BLOCK_S, items)
    return Scene(kind, seed, duration_s, tuple(i for i in items if i.start_s < duration_s))


def crowd_scene(scene: Scene, rng: np.random.Generator) -> Scene:
    """The same setting with many items at once, at any place, all through: to learn to see by."""
    items: list[Item] = []
    lecture = scene.kind == "lecture"
    for _ in range(int(rng.integers(1, 5)) if lecture else 0):
        at = (rng.uniform(0.1, 0.9), rng.uniform(0.1, 0.9))
        letter = str(rng.choice(LETTERS))
        items.append(
            Item("letter", 0.0, scene.duration_s, (at, at), 0.1, 1.0, letter=letter, slide=0)
        )
    for _ in range(int(rng.integers(3, 6) if lecture else rng.integers(4, 11))):
        colour, shape = str(rng.choice(list(COLOURS))), str(rng.choice(SHAPES))
        item = _draw_object(rng, 0.0, colour, shape)
        at = (rng.uniform(0.08, 0.92), rng.uniform(0.08, 0.92))
        kind, slide = ("figure", 0) if lecture else ("object", -1)
        items.append(
            replace(
                item, kind=kind, slide=slide, path=(at, at), start_s=0.0, end_s=scene.duration_s
            )
        )
    return replace(scene, items=tuple(items))


def scatter_scene(seed: int, duration_s: float) -> Scene:
    """Surveillance with two to six objects at once, apart and standing: to learn to bind by.

    Half of the scenes have two colours only, so that a shape tells what a colour does not.
    """
    rng = np.random.default_rng([seed, 11])
    colours = rng.permutation(list(COLOURS))[: 8 if rng.random() < 0.5 else 2]
    names = rng.permutation([(c, s) for c in colours for s in SHAPES])[: int(rng.integers(2, 7))]
    items: list[Item] = []
    for colour, shape in names:
        at = (rng.uniform(0.1, 0.9), rng.uniform(0.1, 0.9))
        if any(np.hypot(at[0] - i.path[0][0], at[1] - i.path[0][1]) < 0.27 for i in items):
            continue
        item = _draw_object(rng, 0.0, str(colour), str(shape))
        items.append(replace(item, path=(at, at), end_s=duration_s))
    return Scene("surveillance", seed, duration_s, tuple(items))


def _draw_objects(rng: np.random.Generator, start_s: float, before: list[Item]) -> list[Item]:
    taken = {i.name for i in before if i.end_s > start_s - BLOCK_S}
    count = int(rng.choice(5, p=[0.04, 0.12, 0.22, 0.34, 0.28]))
    # Half of the scenes share colours and shapes on purpose: a name is then needed in full.
    colours = rng.permutation(list(COLOURS))[: 8 if rng.random() < 0.5 else 2]
    arrivals_s = _draw_arrivals(rng, count)
    items: list[Item] = []
    while len(items) < count:
        colour, shape = str(rng.choice(colours)), str(rng.choice(SHAPES))
        if f"{colour} {shape}" in taken:
            colours = np.array(list(COLOURS))
            continue
        taken.add(f"{colour} {shape}")
        begin_s = start_s + float(arrivals_s[len(items)])
        items.append(_draw_object(rng, begin_s, colour, shape))
    return items


def _draw_arrivals(rng: np.random.Generator, count: int) -> np.ndarray:
    """Seconds of a block at which objects come; in two blocks of three no two in one second.

    What came before, after and in which order can only be asked where arrivals are apart.
    """
    if rng.random() < 1 / 3:
        return np.maximum(rng.uniform(-1.0, BLOCK_S - 1.01, count), 0.0)
    seconds = rng.permutation(int(BLOCK_S) - 1)[:count]
    return np.maximum(seconds - rng.uniform(0.02, 0.95, count), 0.0)


def _draw_object(rng: np.random.Generator, begin_s: float, colour: str, shape: str) -> Item:
    brief = rng.random() < 0.35
    length_s = rng.uniform(1.0, 1.9) if brief else rng.uniform(2.0, 6.0)
    radius = 0.5 * rng.uniform(0.115, 0.15 if rng.random() < 0.5 else 0.22)
    low_contrast = rng.random() < 0.35
    return Item(
        kind="object",
        start_s=begin_s,
        end_s=begin_s + length_s,
        path=_draw_path(rng, radius, length_s),
        radius=radius,
        contrast=rng.uniform(0.5, 0.65) if low_contrast else rng.uniform(0.7, 1.0),
        colour=colour,
        shape=shape,
    )


def _draw_path(rng: np.random.Generator, radius: float, length_s: float) -> tuple[Point, Point]:
    """In from a side and straight on; about one in six stays where it appeared."""
    low, high = radius + 0.02, 1 - radius - 0.02
    across = rng.uniform(low, high)
    start, stop = (low, min(high, low + rng.uniform(0.1, 0.22) * length_s + 0.15))
    if rng.random() < 0.5:
        start, stop = 1 - start, 1 - stop
    drift = float(np.clip(across + rng.uniform(-0.05, 0.05), low, high))
    if rng.random() < 1 / 6:
        still = (rng.uniform(low, high), across)
        return still, still
    if rng.random() < 0.5:
        return (start, across), (stop, drift)
    return (across, start), (drift, stop)


def _draw_slides(rng: np.random.Generator, start_s: float, before: list[Item]) -> list[Item]:
    recent = [i for i in before if i.end_s > start_s - BLOCK_S]
    letters = [x for x in rng.permutation(LETTERS) if x not in {i.letter for i in recent}]
    figures = [(c, s) for c in COLOURS for s in SHAPES]
    figures = [figures[i] for i in rng.permutation(len(figures))]
    figures = [f for f in figures if " ".join(f) not in {i.name for i in recent}]
    count = int(rng.choice([1, 2, 3, 4], p=[0.13, 0.29, 0.32, 0.26]))
    cuts_s = [0.0, *_draw_cuts(rng, count - 1), BLOCK_S]
    first = 1 + max((i.slide for i in before), default=-1)
    items: list[Item] = []
    for k in range(count):
        span = (start_s + cuts_s[k], start_s + cuts_s[k + 1])
        items += _draw_slide(rng, span, str(letters[k]), figures[k], first + k)
    return items


def _draw_cuts(rng: np.random.Generator, count: int) -> list[float]:
    """Times of slide changes within a block, each slide at least 1.05 s."""
    slack = BLOCK_S - 1.05 * (count + 1)
    return [float(c + 1.05 * (k + 1)) for k, c in enumerate(np.sort(rng.uniform(0, slack, count)))]


def _draw_slide(
    rng: np.random.Generator,
    span_s: tuple[float, float],
    letter: str,
    figure: tuple[str, str],
    slide: int,
) -> list[Item]:
    start_s, end_s = span_s
    at = (rng.uniform(0.14, 0.36), rng.uniform(0.15, 0.22))
    radius = 0.5 * rng.uniform(0.13, 0.24)
    centre = (rng.uniform(0.3, 0.86 - radius), rng.uniform(0.42 + radius, 0.9 - radius))
    low_contrast = rng.random() < 0.35
    contrast = rng.uniform(0.5, 0.65) if low_contrast else rng.uniform(0.7, 1.0)
    colour, shape = figure
    return [
        Item("letter", start_s, end_s, (at, at), 0.1, 1.0, letter=letter, slide=slide),
        Item(
            "figure", start_s, end_s, (centre, centre), radius, contrast,
            colour=colour, shape=shape, slide=slide,
        ),
    ]  # fmt: skip
