"""The two walks that docs/architecture.md tells are the ways a frame and a question really go."""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FrameType

import pytest

from pipeline.ingest.request import IngestRequest
from pipeline.ingest.run import ingest
from tests.pipeline.conftest import CLIPS, FPS
from tests.rooms import DRAWING, ROOT, module_arrows
from workers.types import VideoSource

SEAMS = "workers.seams"
"""Rooms that import nothing of each other meet where both know the same protocols."""
VALUES = ("aot.types",)
"""What is handed on: whoever looks at it calls nobody."""
MOST_ROOMS = 7
Call = tuple[str, str]
"""Who calls whom, by their rooms."""


@dataclass(frozen=True)
class Walk:
    """A table of the page."""

    driver: str
    """Who drives it, without being a room of it; empty where nobody does."""
    rooms: tuple[str, ...]
    steps: tuple[tuple[str, str], ...]
    """How each room but the first comes to have what it works on: `pulled` or `called`, by whom."""

    @property
    def calls(self) -> set[Call]:
        """Who calls whom in each step: who pulls calls what lies before it."""
        return {
            (room, other) if way == "pulled" else (other, room)
            for room, (way, other) in zip(self.rooms[1:], self.steps, strict=True)
        }


def read_walks(text: str) -> list[Walk]:
    """The walks of a page, each below a comment that names its driver."""
    tables = re.findall(r"<!-- walk: ?(\S*?) ?-->\n((?:\|.*\n)+)", text)
    return [_read_walk(driver, table.splitlines()[2:]) for driver, table in tables]


def _read_walk(driver: str, rows: list[str]) -> Walk:
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    rooms = tuple(room.strip("`") for _, room, _, _ in cells)
    steps = [re.fullmatch(r"(pulled|called) (?:from|by) `(.*)`", how) for _, _, how, _ in cells[1:]]
    assert all(steps), "a step is `pulled from` or `called by` a room"
    return Walk(driver, rooms, tuple((step[1], step[2]) for step in steps if step))


FRAME, QUESTION = read_walks(DRAWING.read_text())


def find_room(module: str, walk: Walk) -> str | None:
    """The room of a walk, or its driver, that a module belongs to."""
    if module in VALUES:
        return None
    names = (name for name in (*walk.rooms, walk.driver) if name)
    return next((name for name in names if f"{module}.".startswith(f"{name}.")), None)


@contextmanager
def record_calls(walk: Walk) -> Iterator[set[Call]]:
    """Every call from one room of a walk into another, in this thread.

    A function made inside another one is a part of its caller's work that was handed down, a retry
    for instance: that it is called there is no call back.
    """
    rooms: dict[CodeType, str | None] = {}
    found: set[Call] = set()

    def room_of(frame: FrameType) -> str | None:
        code = frame.f_code
        if code not in rooms:
            path = Path(code.co_filename)
            inside = path.is_relative_to(ROOT) and path.suffix == ".py"
            rooms[code] = find_room(_name_of(path), walk) if inside else None
        return rooms[code]

    def find_caller(frame: FrameType) -> str | None:
        """The room that lies nearest below; None for what the driver does not drive."""
        nearest, below = None, frame.f_back
        while below is not None:
            room = room_of(below)
            nearest = nearest or room
            if nearest and walk.driver in ("", room):
                return nearest
            below = below.f_back
        return None

    def note(frame: FrameType, event: str, argument: object) -> None:
        if event != "call" or "<locals>" in frame.f_code.co_qualname:
            return
        if (callee := room_of(frame)) not in (None, walk.driver):
            caller = find_caller(frame)
            if caller not in (None, callee):
                found.add((caller, callee))

    sys.setprofile(note)
    try:
        yield found
    finally:
        sys.setprofile(None)


def _name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def find_ways_back(walk: Walk, calls: set[Call]) -> set[Call]:
    """Calls of a room that lies behind, but for what is pulled."""
    place = {room: number for number, room in enumerate(walk.rooms)}
    known = {(a, b) for a, b in calls if a in place and b in place}
    return {(a, b) for a, b in known if place[a] > place[b]} - walk.calls


@pytest.mark.parametrize("walk", [FRAME, QUESTION], ids=["frame", "question"])
def test_a_walk_is_short_and_never_comes_back_to_a_room(walk):
    assert 1 < len(walk.rooms) <= MOST_ROOMS
    assert len(set(walk.rooms)) == len(walk.rooms)
    for number, (_, other) in enumerate(walk.steps, start=1):
        assert other == walk.driver or other in walk.rooms[:number]


@pytest.mark.parametrize("walk", [FRAME, QUESTION], ids=["frame", "question"])
def test_each_step_is_an_import_or_a_protocol_that_both_know(walk):
    arrows = {(find_room(a, walk), find_room(b, walk)) for a, b in module_arrows()}
    at_seams = {find_room(a, walk) for a, b in module_arrows() if b == SEAMS}
    assert {
        (caller, callee)
        for caller, callee in walk.calls
        if (caller, callee) not in arrows and not {caller, callee} <= at_seams
    } == set()


def test_a_frame_goes_where_the_page_says(settings, video, opened):
    with record_calls(FRAME) as calls:
        *_, last = ingest(settings, [IngestRequest(VideoSource(str(video), "walk", FPS))])
    assert last.clips == CLIPS
    assert FRAME.calls - calls == set()
    assert find_ways_back(FRAME, calls) == set()


def test_a_question_goes_where_the_page_says(run, video):
    assert run("ingest", video).code == 0
    with record_calls(QUESTION) as calls:
        answered = run("ask", "what is seen", "-s", "walk")
    assert answered.code == 0
    assert QUESTION.calls - calls == set()
    assert find_ways_back(QUESTION, calls) == set()


def test_a_way_back_is_found():
    back = {("workers.models", "workers.decode"), ("workers.clips", "workers.decode")}
    assert find_ways_back(FRAME, back) == {("workers.models", "workers.decode")}
