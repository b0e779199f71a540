"""What every token could know of the past: targets that teach the language half to remember.

A question gives a gradient for one word; the tokens it hangs on have to carry which frame they
are from, what came before them and how long it is ago long before any question is answered. Small
heads on a middle layer ask the tokens just that while the model trains. The heads are not
exported. Everything asked follows from the frames up to the token's own.
"""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Int64

from demo.miniature.model import CELLS
from demo.world.labels import CLASSES, IGNORE, PAIRS
from demo.world.questions import SEEN, Window, find_direction
from demo.world.scenes import DIRECTIONS

MOST = 5
"""More are counted as so many."""
FACTS: dict[str, int] = {
    "colour": 9,
    "shape": 5,
    "letter": 13,
    "pair": 33,
    "rank": MOST + 1,
    "previous_colour": 9,
    "previous_shape": 5,
    "previous_letter": 13,
    "previous_pair": 33,
    "slide_letter": 13,
    "slide_colour": 9,
    "slide_shape": 5,
    "direction": 5,
    "row": 7,
    "column": 7,
    "first_row": 7,
    "first_column": 7,
    "arrived": MOST + 1,
    "count": MOST + 1,
}
"""Fact -> number of classes; class 0 is "none" where there can be none.

The last two are asked of the newline that closes a frame: how many items it is the first to show,
and how many there were up to it.
"""

CLOCKS = ("second", "first_second")
"""Seconds of the time mark of the token's own frame, and of the first that showed its item."""
FRESH = "fresh"
"""2 for the first token of an item, 1 for its others, 0 for the background: who counts things has
to tell them apart."""
_ROWS = (*FACTS, *CLOCKS, FRESH)


def state_facts(
    window: Window, owner: Int64[np.ndarray, "t n"]
) -> Int64[np.ndarray, "facts t slots"]:
    """Class per fact for every cell of every frame, then for the newline after them.

    Rows are those of FACTS, CLOCKS, FRESH. IGNORE where a fact says nothing of a token; background
    cells are asked for their second and FRESH alone.
    """
    frames, cells = owner.shape
    facts = np.full((len(_ROWS), frames, cells + 1), IGNORE, np.int64)
    content = _item_facts(window)
    for frame, cell in np.argwhere(owner >= 0):
        known = content.get((int(owner[frame, cell]), int(frame)))
        if known is not None:
            facts[:, frame, cell] = known
    facts[_ROWS.index(FRESH), :, :cells] = _mark_fresh(window, owner)
    facts[:, :, cells] = _frame_facts(window)
    seconds = window.times_s.astype(np.int64) % 60
    facts[_ROWS.index("second")] = seconds[:, None]
    return facts


def _mark_fresh(window: Window, owner: Int64[np.ndarray, "t n"]) -> Int64[np.ndarray, "t n"]:
    """FRESH of every cell; IGNORE where it is merely touched, or its item first showed in part."""
    fresh = np.where(owner == -1, 0, IGNORE)
    for index in range(len(window.items)):
        first = window.first_frame(index)
        cells = np.argwhere(owner == index)
        if first == len(owner) or not window.is_clear(index) or not len(cells):
            continue
        fresh[owner == index] = 1
        if cells[0, 0] == first:
            fresh[tuple(cells[0])] = 2
    return fresh


def _pack(values: dict[str, int]) -> list[int]:
    return [values.get(name, IGNORE) for name in _ROWS]


def _item_facts(window: Window) -> dict[tuple[int, int], list[int]]:
    """(item, frame) -> facts, for every frame the item is seen in."""
    known = classify_items_of(window)
    order = {kind: window.select(kind) for kind in ("object", "letter", "figure")}
    letters = {i.slide: known["letter"][k] for k, i in enumerate(window.items) if i.letter}
    firsts = [window.first_frame(k) for k in range(len(window.items))]
    facts: dict[tuple[int, int], list[int]] = {}
    for kind, items in order.items():
        for rank, k in enumerate(items):
            tied = [j for j in items if j != k and firsts[j] == firsts[k]]
            earlier = [j for j in items if firsts[j] < firsts[k]]
            before = earlier[-1] if earlier else None
            for frame in np.flatnonzero(window.visible[:, k] >= SEEN):
                values = {name: known[name][k] for name in ("colour", "shape", "letter")}
                values["pair"] = _pair_of(window, k)
                values["first_second"] = int(window.times_s[firsts[k]]) % 60
                values |= _places(window, k, firsts[k], int(frame))
                if not tied and window.is_clear(k):
                    values["rank"] = min(rank + 1, MOST)
                    for name in ("colour", "shape", "letter"):
                        values[f"previous_{name}"] = 0 if before is None else known[name][before]
                    values["previous_pair"] = 0 if before is None else _pair_of(window, before)
                if kind == "figure":
                    values["slide_letter"] = letters[window.items[k].slide]
                if kind == "object":
                    way = find_direction(window, k, until=int(frame) + 1)
                    values["direction"] = DIRECTIONS.index(way) + 1 if way else 0
                facts[k, int(frame)] = _pack(values)
    return facts


def name_pairs(
    ids: Int64[np.ndarray, "slots length"], words: Mapping[str, int]
) -> Int64[np.ndarray, "slots length"]:
    """Index + 1 into PAIRS at the shape that completes a coloured shape in a slot, else IGNORE."""
    pairs = np.full_like(ids, IGNORE)
    for index, pair in enumerate(PAIRS):
        colour, shape = (words[word] for word in pair.split())
        named = (ids[:, :-1] == colour) & (ids[:, 1:] == shape)
        pairs[:, 1:][named] = index + 1
    return pairs


def _pair_of(window: Window, index: int) -> int:
    """Index + 1 into PAIRS; 0 for a letter."""
    name = window.items[index].name
    return PAIRS.index(name) + 1 if name in PAIRS else 0


def _places(window: Window, index: int, first: int, frame: int) -> dict[str, int]:
    """Pooled row and column of an item's centre, now and when it was first seen."""
    item = window.items[index]
    places = {}
    for prefix, at in (("", frame), ("first_", first)):
        x, y = item.position(float(window.scene_times_s[at]))
        places[f"{prefix}row"] = min(max(int(y * CELLS), 0), CELLS - 1)
        places[f"{prefix}column"] = min(max(int(x * CELLS), 0), CELLS - 1)
    return places


def _frame_facts(window: Window) -> np.ndarray:
    """Facts of each frame's newline: how many came, how many so far, what the slide shows."""
    known = classify_items_of(window)
    columns = []
    clear = {}
    for kind in ("object", "letter"):
        chosen = [k for k, i in enumerate(window.items) if i.kind == kind]
        clear[kind] = all(window.is_clear(k) for k in chosen)
    kind = "object" if window.kind == "surveillance" else "letter"
    firsts = [window.first_frame(k) for k in window.select(kind)]
    for frame in range(len(window.times_s)):
        values: dict[str, int] = {}
        if clear[kind]:
            values["arrived"] = min(firsts.count(frame), MOST)
            values["count"] = min(sum(first <= frame for first in firsts), MOST)
        for k, item in enumerate(window.items):
            if item.slide >= 0 and window.visible[frame, k] >= SEEN:
                names = ("letter",) if item.kind == "letter" else ("colour", "shape")
                values |= {f"slide_{name}": known[name][k] for name in names}
        columns.append(_pack(values))
    return np.array(columns, np.int64).T


def classify_items_of(window: Window) -> dict[str, list[int]]:
    """Class index + 1 of colour, shape and letter per item of a window, 0 for none."""
    return {
        name: [
            CLASSES[name].index(value) + 1 if (value := getattr(item, name)) else 0
            for item in window.items
        ]
        for name in CLASSES
    }
