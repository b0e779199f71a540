"""Of a stream that a cluster's sessions share: whether one reads it, and if not, what it waits for.

Told from the list in the store alone; needs no Ray.
"""

from dataclasses import dataclass
from typing import Literal

from pipeline.settings import Settings
from pipeline.store import ClipStore
from pipeline.store.roster import Roster, RosterView
from pipeline.values.errors import NotReadYet, UnknownStream
from pipeline.values.labels import LabelSelector, selector_of
from pipeline.values.types import StreamInfo

WaitsFor = Literal["resume", "session", "label_match", "room", "turn"]
"""`resume` of one that is paused; `session` where none takes streams; `label_match` where none does
on a machine that meets its `label_selector`; `room` where all that may read it have as many as they
may; `turn` where one of them has it in a moment."""
_MEANINGS: dict[WaitsFor | None, str] = {
    "resume": "it is paused; resume it",
    "session": "no session takes streams",
    "label_match": "no session runs on a machine that meets its label_selector",
    "room": "all sessions that may read it have as many streams as they may",
    "turn": "a session has it in a moment",
    None: "a session has it, and no clip has come of it yet",
}


@dataclass(frozen=True)
class Reading:
    """How it stands with a stream of the list."""

    is_read: bool
    waits_for: WaitsFor | None
    """None of one that is read."""
    label_selector: dict[str, str]
    label_fallback: bool


def look_up_reading(store: ClipStore, stream_id: str, settings: Settings) -> Reading | None:
    """None of a stream that is not on the list."""
    if not isinstance(store, Roster):
        return None
    paused, silent_s = store.get_paused(stream_id), settings.ray.session_silent_s
    text = paused or store.get_wanted([stream_id]).get(stream_id)
    if text is None:
        return None
    selector = selector_of(text)
    is_read = paused is None and store.is_held(stream_id, silent_s=silent_s)
    waits_for = None if is_read else "resume"
    if not is_read and paused is None:
        most = settings.ray.streams_per_session
        waits_for = explain_wait(selector, store.view(), most=most, silent_s=silent_s)
    return Reading(is_read, waits_for, dict(selector.conditions), not selector.is_required)


def require_info(store: ClipStore, stream_id: str, settings: Settings) -> StreamInfo:
    """What is stored of a stream.

    Raises:
        UnknownStream: nothing, and nobody is to read one of that name.
        NotReadYet: it is on the list and nothing of it is stored yet; says what it waits for.
    """
    try:
        return store.get_info(stream_id)
    except UnknownStream:
        reading = look_up_reading(store, stream_id, settings)
        if reading is None:
            raise
    raise NotReadYet(
        f"{stream_id} is to be read, and nothing of it is stored yet: "
        f"{_MEANINGS[reading.waits_for]}; ask again once it is (`aot streams show {stream_id}`)"
    )


def explain_wait(
    selector: LabelSelector, view: RosterView, *, most: int, silent_s: float
) -> WaitsFor:
    """What a free stream waits for, that asks for this."""
    takers = [host for host in view.hosts if host.takes and host.quiet_s <= silent_s]
    if not takers:
        return "session"
    near = [host for host in takers if selector.admits(host.seat.labels)]
    if not near:
        return "label_match"
    return "turn" if any(host.num_streams < most for host in near) else "room"
