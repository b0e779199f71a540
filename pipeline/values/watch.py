"""Standing questions: what is asked of every new clip, and when its answers make an event.

The rule is a pure function of what was known before and one answer more: a service that follows a
stream and a back-test over its past find the same events. Knows of no store and no model.
"""

import math
import re
import time
from dataclasses import dataclass, field, replace
from typing import Literal

from pipeline.values.errors import InvalidQuery
from pipeline.values.types import ClipSpan, require_stream_id

WATCH_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
EventKind = Literal["raised", "cleared"]
_WORD = re.compile(r"\w+")
_WEBHOOK = re.compile(r"https?://(?=[^\s@]{1,2048}$)[^\s/@]+(/[^\s@]*)?", re.ASCII)


@dataclass(frozen=True)
class Watch:
    """A question that is asked of every new clip of a stream."""

    watch_id: str
    stream_id: str
    question: str
    expect: str = "yes"
    """A word that an answer has when it is so."""
    window_s: float | None = None
    """The last so many seconds up to the clip's end; None asks of the clip alone."""
    raise_after: int = 1
    """Answers in a row that it takes to be so."""
    clear_after: int = 1
    """Answers in a row that it takes to be over."""
    cooldown_s: float = 0.0
    """After it was raised, seconds of the stream in which it is not raised again."""
    webhook: str | None = None
    """Where events are told: an http or https URL, to be kept as a secret is."""
    created_at_s: float = field(default_factory=time.time)

    def __post_init__(self) -> None:
        require_stream_id(self.stream_id)
        if not WATCH_ID.fullmatch(self.watch_id):
            raise InvalidQuery("a watch's id must be 1 to 64 of A-Z a-z 0-9 . _ -")
        if not self.question.strip() or len(self.question) > 4096:
            raise InvalidQuery(
                "got a question that is empty or over 4096 characters; ask something"
            )
        if len(_WORD.findall(self.expect)) != 1:
            raise InvalidQuery(f"got expect {self.expect[:40]!r}, expected one word such as yes")
        if self.window_s is not None and not 0 < self.window_s <= 86_400:
            raise InvalidQuery(f"got a window of {self.window_s} s, expected 0 to 86400")
        if min(self.raise_after, self.clear_after) < 1:
            raise InvalidQuery("raise_after and clear_after must be at least 1")
        if not 0 <= self.cooldown_s < math.inf:
            raise InvalidQuery(f"got a cool-down of {self.cooldown_s} s, expected 0 or more")
        if self.webhook is not None and not _WEBHOOK.fullmatch(self.webhook):
            raise InvalidQuery(
                "got a webhook that is no URL, expected https://HOST/PATH of at most 2048 "
                "characters, without user and password"
            )

    def window_of(self, span: ClipSpan) -> tuple[float, float]:
        """The seconds that are asked about when this clip is new."""
        if self.window_s is None:
            return span.start_s, span.end_s
        return max(0.0, span.end_s - self.window_s), span.end_s

    def is_met(self, answer: str) -> bool:
        """Whether an answer says that it is so."""
        return self.expect.casefold() in (word.casefold() for word in _WORD.findall(answer))


@dataclass(frozen=True)
class WatchState:
    """What is remembered of the clips that were asked about."""

    epoch: int = 0
    index: int = -1
    """Of the last of them."""
    end_s: float = 0.0
    hits: int = 0
    """Answers in a row that said so, and that did not."""
    misses: int = 0
    is_raised: bool = False
    quiet_until_s: float | None = None
    """Of the stream's time: until then nothing is raised."""
    told: str = ""
    """Mark of the last event that the webhook was told; empty before the first."""


@dataclass(frozen=True)
class Event:
    """That what was watched for began, or is over."""

    event_id: str
    """Of the watch, the clip and the kind: the same however often it is found."""
    watch_id: str
    stream_id: str
    kind: EventKind
    start_s: float
    """The window that was asked about last: what the event rests on."""
    end_s: float
    wall_start_s: float | None
    epoch: int
    index: int
    answer: str


def shown_webhook(url: str) -> str:
    """A webhook as it may be shown: its path and query may be a secret."""
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.partition('/')[0].partition('?')[0]}/..."


def without_secret(watch: Watch) -> Watch:
    """A watch as it may be shown."""
    return watch if watch.webhook is None else replace(watch, webhook=shown_webhook(watch.webhook))


def follow(
    watch: Watch, state: WatchState, span: ClipSpan, answer: str
) -> tuple[WatchState, Event | None]:
    """What is known after one clip more, and the event that it makes."""
    met = watch.is_met(answer)
    state = replace(
        state,
        epoch=span.epoch,
        index=span.index,
        end_s=span.end_s,
        hits=state.hits + 1 if met else 0,
        misses=0 if met else state.misses + 1,
    )
    quiet = state.quiet_until_s is not None and span.start_s < state.quiet_until_s
    if not state.is_raised and state.hits >= watch.raise_after and not quiet:
        raised = replace(state, is_raised=True, quiet_until_s=span.end_s + watch.cooldown_s)
        return raised, _event(watch, span, "raised", answer)
    if state.is_raised and state.misses >= watch.clear_after:
        return replace(state, is_raised=False), _event(watch, span, "cleared", answer)
    return state, None


def _event(watch: Watch, span: ClipSpan, kind: EventKind, answer: str) -> Event:
    start_s, end_s = watch.window_of(span)
    shift_s = start_s - span.start_s
    return Event(
        event_id=f"{watch.watch_id}-{span.epoch}-{span.index}-{kind}",
        watch_id=watch.watch_id,
        stream_id=watch.stream_id,
        kind=kind,
        start_s=start_s,
        end_s=end_s,
        wall_start_s=None if span.wall_start_s is None else span.wall_start_s + shift_s,
        epoch=span.epoch,
        index=span.index,
        answer=answer,
    )
