"""What callers send, checked: the bodies of requests."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

StreamId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]{1,64}$")]
Text = Annotated[str, StringConstraints(min_length=1, max_length=4096)]
Moment = (
    Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]
    | Annotated[str, StringConstraints(max_length=128)]
)
"""Seconds of the stream, `14:05`, `-10m`, ISO 8601."""
Budget = Annotated[int, Field(ge=1, le=10_000_000)]
NewTokens = Annotated[int, Field(ge=1, le=4096)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class NewStream(_Body):
    """A source to bring in."""

    stream_id: StreamId
    url: Annotated[str, StringConstraints(min_length=1, max_length=4096)]
    fps: Annotated[float, Field(gt=0, le=240, allow_inf_nan=False)] | None = None
    """Null takes the settings'."""
    zone: Annotated[str, StringConstraints(max_length=64)] | None = None


class Resumption(_Body):
    """How to go on with a stream."""

    url: Annotated[str, StringConstraints(min_length=1, max_length=4096)] | None = None
    """Where the source lies now, or with its user and password, which are kept nowhere."""


class WindowBody(_Body):
    """A stretch of one stream."""

    stream_id: StreamId
    start: Moment | None = None
    end: Moment | None = None
    last: Moment | None = None


class Options(_Body):
    """Budget and reading of a question; null takes the settings'."""

    max_visual_tokens: Budget | None = None
    max_new_tokens: NewTokens | None = None
    max_clips: Budget | None = None
    marks: Literal["clip", "frame"] | None = None
    keep_positions: bool | None = None
    fit: Literal["choose", "recompress", "find"] | None = None
    """What is done where the range holds more than the budget."""


class _Question(_Body):
    """What is asked of which streams, all over one range, or each over its own."""

    question: Text
    streams: Annotated[list[StreamId | WindowBody], Field(min_length=1, max_length=64)]
    start: Moment | None = None
    end: Moment | None = None
    last: Moment | None = None


class Ask(_Question):
    """A question about streams."""

    options: Options = Options()


class Search(_Question):
    """What is looked for in streams."""

    top: Annotated[int, Field(ge=1, le=1000)] = 5
    """How many clips are told, the most relevant first."""


class Part(BaseModel):
    """A part of a message, as OpenAI's clients send it."""

    type: Annotated[str, StringConstraints(max_length=64)]
    text: str | None = None
    video_url: dict[str, Any] | str | None = None


class Message(BaseModel):
    """A message of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Part] | None = None


class StreamOptions(BaseModel):
    """What a streamed answer tells beside its text."""

    include_usage: bool = False


class Chat(BaseModel):
    """`POST /v1/chat/completions`, as much of OpenAI's as has a meaning here."""

    model: Annotated[str, StringConstraints(max_length=256)]
    messages: Annotated[list[Message], Field(min_length=1, max_length=256)]
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: NewTokens | None = None
    max_completion_tokens: NewTokens | None = None
    n: Annotated[int, Field(ge=1, le=1)] | None = None
    aot: Options = Options()
    """Ours, by `extra_body`."""


class NewWatch(_Body):
    """A question to ask of every new clip; `pipeline.values.watch.Watch` says what each is."""

    watch_id: StreamId
    question: Text
    expect: Annotated[str, StringConstraints(min_length=1, max_length=64)] = "yes"
    window_s: Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)] | None = None
    raise_after: Annotated[int, Field(ge=1, le=1000)] = 1
    clear_after: Annotated[int, Field(ge=1, le=1000)] = 1
    cooldown_s: Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)] = 0.0
    webhook: Annotated[str, StringConstraints(max_length=2048)] | None = None
