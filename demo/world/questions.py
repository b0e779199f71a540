"""Questions with closed answers about a window of sampled frames, and what a guess would score.

In: a `Window`, what sampled frames of a scene really show. Out: `Question`s whose answers follow
from those frames alone. An item counts as seen where enough of its area shows; questions that
hang on an item which only ever shows in part are not asked. Nothing here knows of a model.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from demo.world.scenes import COLOURS, LETTERS, SHAPES, Item, Scene

SEEN = 0.45
"""Share of an item's area from which on it is seen in a frame."""
UNSEEN = 0.06
"""Share below which it is not; in between nobody could say."""


@dataclass(frozen=True)
class Question:
    """A question, its one right answer, and the chance of a guess among what is present."""

    kind: str
    text: str
    answer: str
    guess: float


@dataclass(frozen=True)
class Window:
    """Sampled frames of a scene as ground truth."""

    kind: str
    times_s: Float[np.ndarray, " t"]
    """What the time marks say, in seconds."""
    items: tuple[Item, ...]
    visible: Float[np.ndarray, "t items"]
    scene_times_s: Float[np.ndarray, " t"]
    """When the frames were taken, in seconds of the scene."""

    def first_frame(self, index: int) -> int:
        """First frame the item is seen in; the number of frames when it never is."""
        seen = np.flatnonzero(self.visible[:, index] >= SEEN)
        return int(seen[0]) if len(seen) else len(self.times_s)

    def is_clear(self, index: int) -> bool:
        """True when no frame before the first clear one shows a part of the item."""
        column = self.visible[:, index]
        shown = np.flatnonzero(column > UNSEEN)
        return len(shown) == 0 or bool(column[shown[0]] >= SEEN)

    def select(self, kind: str) -> list[int]:
        """Seen items of a kind in the order they came."""
        chosen = [
            k
            for k, item in enumerate(self.items)
            if item.kind == kind and self.first_frame(k) < len(self.times_s)
        ]
        return sorted(chosen, key=self.first_frame)


def open_window(
    scene: Scene,
    visible: Float[np.ndarray, "t items"],
    scene_times_s: Float[np.ndarray, " t"],
    clock_s: float = 0.0,
) -> Window:
    """A window of frames at `scene_times_s`; its marks start at `clock_s`."""
    marks = scene_times_s - scene_times_s[0] + clock_s
    return Window(scene.kind, marks, scene.items, visible, scene_times_s)


def ask(
    window: Window,
    rng: np.random.Generator,
    kinds: Sequence[str] | None = None,
) -> list[Question]:
    """One question of every kind, or of those in `kinds`, that the window allows."""
    allowed = SURVEILLANCE if window.kind == "surveillance" else LECTURE
    wanted = allowed if kinds is None else [k for k in kinds if k in allowed]
    questions = []
    for kind in wanted:
        drawn = allowed[kind](window, rng)
        if drawn is not None:
            text, answer, guess = drawn
            questions.append(Question(kind, text, answer, guess))
    return questions


Drawn = tuple[str, str, float] | None


def format_mark(time_s: float) -> str:
    """The time mark in front of a frame, `HH:MM:SS`: three ids; hours wrap at 100."""
    minutes, seconds = divmod(int(time_s), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours % 100:02d}:{minutes:02d}:{seconds:02d}"


def _clear(window: Window, kind: str) -> list[int] | None:
    """Seen items in order, or None when one shows only in part."""
    if all(window.is_clear(k) for k, i in enumerate(window.items) if i.kind == kind):
        return window.select(kind)
    return None


def _pick(rng: np.random.Generator, values: Sequence):
    return values[int(rng.integers(len(values)))]


def _exist(window: Window, rng: np.random.Generator) -> Drawn:
    present = [window.items[k] for k in window.select("object")]
    shown = {i.name for k, i in enumerate(window.items) if window.visible[:, k].max() > UNSEEN}
    if present and rng.random() < 0.5:
        return f"was there a {_pick(rng, present).name} ?", "yes", 0.5
    # Half of the noes join a colour that was there with a shape that was there.
    mixed = [f"{a.colour} {b.shape}" for a in present for b in present]
    near = [f"{a.colour} {s}" for a in present for s in SHAPES]
    near += [f"{c} {a.shape}" for a in present for c in COLOURS]
    every = [f"{c} {s}" for c in COLOURS for s in SHAPES]
    for names in (mixed if rng.random() < 0.5 else [], near if rng.random() < 0.7 else [], every):
        absent = [name for name in names if name not in shown]
        if absent:
            return f"was there a {_pick(rng, absent)} ?", "no", 0.5
    return None


def _colour(window: Window, rng: np.random.Generator) -> Drawn:
    return _attribute(window, rng, "shape", "colour", "what colour was the {} ?")


def _shape(window: Window, rng: np.random.Generator) -> Drawn:
    return _attribute(window, rng, "colour", "shape", "what shape was the {} object ?")


def _attribute(
    window: Window, rng: np.random.Generator, known: str, asked: str, text: str
) -> Drawn:
    objects = _clear(window, "object")
    if not objects:
        return None
    items = [window.items[k] for k in objects]
    values = [getattr(i, known) for i in items]
    unique = [i for i in items if values.count(getattr(i, known)) == 1]
    if not unique:
        return None
    item = _pick(rng, unique)
    guess = 1 / len({getattr(i, asked) for i in items})
    return text.format(getattr(item, known)), getattr(item, asked), guess


def _colours(window: Window, rng: np.random.Generator) -> Drawn:
    objects = _clear(window, "object")
    if objects is None:
        return None
    present = {window.items[k].colour for k in objects}
    answer = " ".join(c for c in COLOURS if c in present) or "none"
    return "which colours were seen ?", answer, 1 / len(COLOURS)


def _count(window: Window, rng: np.random.Generator) -> Drawn:
    objects = _clear(window, "object")
    if objects is None:
        return None
    return "how many objects were there ?", str(len(objects)), 0.2


def _ordered(window: Window, kind: str) -> list[int]:
    """Items in the order they came, empty when two came in the same frame."""
    items = _clear(window, kind) or []
    firsts = [window.first_frame(k) for k in items]
    return items if len(set(firsts)) == len(firsts) else []


def _extreme(window: Window, kind: str, text: str, last: bool) -> Drawn:
    items = _clear(window, kind) or []
    firsts = [window.first_frame(k) for k in items]
    if len(items) < 2:
        return None
    edge = firsts[-1] if last else firsts[0]
    if firsts.count(edge) > 1:
        return None
    return text, window.items[items[-1 if last else 0]].name, 1 / len(items)


def _first(window: Window, rng: np.random.Generator) -> Drawn:
    return _extreme(window, "object", "which object came first ?", last=False)


def _last(window: Window, rng: np.random.Generator) -> Drawn:
    return _extreme(window, "object", "which object came last ?", last=True)


def _neighbour(window: Window, rng: np.random.Generator, kind: str, text: str, step: int) -> Drawn:
    items = _ordered(window, kind)
    if len(items) < 3:
        return None
    at = int(rng.integers(len(items) - 1)) + (0 if step > 0 else 1)
    name = window.items[items[at]].name
    return text.format(name), window.items[items[at + step]].name, 1 / (len(items) - 1)


def _after(window: Window, rng: np.random.Generator) -> Drawn:
    return _neighbour(window, rng, "object", "which object came after the {} ?", 1)


def _before(window: Window, rng: np.random.Generator) -> Drawn:
    return _neighbour(window, rng, "object", "which object came before the {} ?", -1)


def _order(window: Window, rng: np.random.Generator) -> Drawn:
    items = _ordered(window, "object")
    if len(items) < 2:
        return None
    a, b = sorted(rng.choice(len(items), 2, replace=False))
    yes = rng.random() < 0.5
    first, second = (a, b) if yes else (b, a)
    names = [window.items[items[k]].name for k in (first, second)]
    text = f"did the {names[0]} come before the {names[1]} ?"
    return text, "yes" if yes else "no", 0.5


def find_direction(window: Window, index: int, until: int | None = None) -> str | None:
    """Which way an item went between its first and last seen frame; None when unclear."""
    seen = np.flatnonzero(window.visible[:until, index] >= SEEN)
    if len(seen) < 2:
        return None
    item = window.items[index]
    x0, y0 = item.position(float(window.scene_times_s[seen[0]]))
    x1, y1 = item.position(float(window.scene_times_s[seen[-1]]))
    dx, dy = x1 - x0, y1 - y0
    if max(abs(dx), abs(dy)) < 0.15:
        return None
    if abs(dx) > abs(dy):
        return "right" if dx > 0 else "left"
    return "down" if dy > 0 else "up"


def _direction(window: Window, rng: np.random.Generator) -> Drawn:
    moving = [(k, find_direction(window, k)) for k in window.select("object")]
    moving = [(k, d) for k, d in moving if d]
    if not moving:
        return None
    index, direction = _pick(rng, moving)
    return f"which way did the {window.items[index].name} go ?", str(direction), 0.25


def _when_of(window: Window, rng: np.random.Generator, kind: str, text: str) -> Drawn:
    items = _clear(window, kind)
    if not items:
        return None
    # Draw the frame first, seldom the start: otherwise "at the start" would be a good guess.
    frames = sorted({window.first_frame(k) for k in items})
    later = [frame for frame in frames if frame > 0]
    frame = _pick(rng, later if later and rng.random() < 0.8 else frames)
    index = _pick(rng, [k for k in items if window.first_frame(k) == frame])
    answer = format_mark(float(window.times_s[frame]))
    return text.format(window.items[index].name), answer, 1 / len(window.times_s)


def _when(window: Window, rng: np.random.Generator) -> Drawn:
    return _when_of(window, rng, "object", "when did the {} come ?")


def _slide_when(window: Window, rng: np.random.Generator) -> Drawn:
    return _when_of(window, rng, "letter", "when did slide {} come ?")


def _slide_exist(window: Window, rng: np.random.Generator) -> Drawn:
    if _clear(window, "letter") is None:
        return None
    shown = [window.items[k].letter for k in window.select("letter")]
    if shown and rng.random() < 0.5:
        return f"was slide {_pick(rng, shown)} shown ?", "yes", 0.5
    absent = [letter for letter in LETTERS if letter not in shown]
    return f"was slide {_pick(rng, absent)} shown ?", "no", 0.5


def _slide_count(window: Window, rng: np.random.Generator) -> Drawn:
    letters = _clear(window, "letter")
    if not letters:
        return None
    return "how many slides were shown ?", str(len(letters)), 0.25


def _slide_first(window: Window, rng: np.random.Generator) -> Drawn:
    return _extreme(window, "letter", "which slide was first ?", last=False)


def _slide_last(window: Window, rng: np.random.Generator) -> Drawn:
    return _extreme(window, "letter", "which slide was last ?", last=True)


def _slide_after(window: Window, rng: np.random.Generator) -> Drawn:
    return _neighbour(window, rng, "letter", "which slide came after slide {} ?", 1)


def _slide_before(window: Window, rng: np.random.Generator) -> Drawn:
    return _neighbour(window, rng, "letter", "which slide came before slide {} ?", -1)


def _figures(window: Window) -> dict[str, Item]:
    """Letter of a slide -> its figure, for those that are clearly seen in one frame."""
    letters = {i.slide: k for k, i in enumerate(window.items) if i.letter}
    figures = {}
    for k in window.select("figure"):
        figure, letter = window.items[k], letters[window.items[k].slide]
        if (window.visible[:, [k, letter]] >= SEEN).all(axis=1).any():
            figures[str(window.items[letter].letter)] = figure
    return figures


def _slide_figure(window: Window, rng: np.random.Generator) -> Drawn:
    figures = _figures(window)
    if not figures:
        return None
    letter = _pick(rng, list(figures))
    return f"what was on slide {letter} ?", figures[letter].name, 1 / len(figures)


def _on_slide(window: Window, rng: np.random.Generator) -> Drawn:
    figures = _figures(window)
    if len(figures) < 2:
        return None
    letter = _pick(rng, list(figures))
    return f"on which slide was the {figures[letter].name} ?", letter, 1 / len(figures)


SURVEILLANCE: dict[str, Callable[[Window, np.random.Generator], Drawn]] = {
    "exist": _exist,
    "colour": _colour,
    "shape": _shape,
    "colours": _colours,
    "count": _count,
    "first": _first,
    "last": _last,
    "before": _before,
    "after": _after,
    "order": _order,
    "direction": _direction,
    "when": _when,
}
LECTURE: dict[str, Callable[[Window, np.random.Generator], Drawn]] = {
    "slide_exist": _slide_exist,
    "slide_count": _slide_count,
    "slide_first": _slide_first,
    "slide_last": _slide_last,
    "slide_before": _slide_before,
    "slide_after": _slide_after,
    "slide_when": _slide_when,
    "slide_figure": _slide_figure,
    "on_slide": _on_slide,
}
KINDS = (*SURVEILLANCE, *LECTURE)
