"""OpenAI's chat: its messages into a question, answers into its completions and chunks.

A window of a stream is a video part whose URL is `stream://NAME?start=..&end=..` or `?last=10m`
(`aot://`, `from` and `to` are other names of the same). Earlier turns of the conversation are read
to the model as text before the question. Knows of no server.
"""

import json
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlencode, urlsplit

from pipeline.ask.answer import Answer, Citation
from pipeline.serve.asking import Asked, Window
from pipeline.serve.evidence import Evidence
from pipeline.serve.schemas import Chat, Message
from pipeline.values.errors import InvalidQuery
from pipeline.values.plain import to_plain
from workers.names import STREAM_ID

SCHEMES = ("stream", "aot")
_NAMES = {"start": "start", "from": "start", "end": "end", "to": "end", "last": "last"}
DONE = "data: [DONE]\n\n"


def parse_window(url: str) -> Window:
    """The window that a video part's URL names.

    Raises:
        InvalidQuery: it names none.
    """
    expected = "expected stream://NAME?start=..&end=.. or stream://NAME?last=10m"
    try:
        parts = urlsplit(url)
    except ValueError:
        parts = urlsplit("")
    name = parts.netloc or parts.path.lstrip("/")
    if parts.scheme not in SCHEMES or not STREAM_ID.fullmatch(name):
        raise InvalidQuery(f"got a video_url that names no stream of the store, {expected}")
    given: dict[str, str] = {}
    for pair in filter(None, parts.query.split("&")):
        key, _, value = pair.partition("=")  # a plus stays one: it is part of a time's zone
        if key not in _NAMES or _NAMES[key] in given or len(value) > 384:
            raise InvalidQuery(f"got {key[:40]!r} in the URL of {name}, {expected}")
        given[_NAMES[key]] = unquote(value)
    return Window(name, **given)


def write_window(stream_id: str, start_s: float, end_s: float) -> str:
    """The URL of a window."""
    return f"stream://{stream_id}?{urlencode({'start': f'{start_s:g}', 'end': f'{end_s:g}'})}"


def read_chat(chat: Chat) -> Asked:
    """What a conversation asks last, with what was said before it.

    Raises:
        InvalidQuery: no question, no window, or a kind of part that is not read here.
    """
    *before, last = chat.messages
    if last.role != "user":
        raise InvalidQuery(f"got a last message of {last.role}, expected one of the user")
    windows = [window for message in chat.messages for window in _windows(message)]
    if not windows:
        raise InvalidQuery(
            "got no window of a stream, expected at least one content part "
            '{"type": "video_url", "video_url": {"url": "stream://NAME?last=10m"}}'
        )
    turns = [f"{message.role}: {text}" for message in before if (text := _text(message))]
    question = _text(last)
    if not question:
        raise InvalidQuery("got no text in the last message, expected a question")
    text = "\n".join([*turns, question]) if turns else question
    options = {
        **chat.aot.model_dump(),
        "max_new_tokens": chat.max_completion_tokens or chat.max_tokens or chat.aot.max_new_tokens,
    }
    return Asked(text, list(dict.fromkeys(windows)), options, told=_newest_first(chat.messages))


def ask_after(
    messages: Sequence[tuple[str, str]], streams: Sequence[str], window: Mapping[str, Any]
) -> Asked:
    """The same of plain (role, text), all about one range; errors as `read_chat`."""
    read = [Message.model_validate({"role": role, "content": text}) for role, text in messages]
    *before, last = read
    turns = [f"{message.role}: {_text(message)}" for message in before]
    windows = [Window(name, **window) for name in streams]
    return Asked("\n".join([*turns, _text(last)]), windows, told=_newest_first(read))


def _newest_first(messages: Sequence[Message]) -> str:
    """What the user said: a time in a later message holds before one in an earlier."""
    return "\n".join(_text(one) for one in reversed(messages) if one.role == "user")


def _windows(message: Message) -> Iterator[Window]:
    for part in message.content if isinstance(message.content, list) else ():
        if part.type == "video_url":
            given = part.video_url
            url = given.get("url") if isinstance(given, dict) else given
            yield parse_window(url if isinstance(url, str) else "")
        elif part.type != "text":
            raise InvalidQuery(
                f"got a content part of type {part.type!r}, expected text or video_url"
            )


def _text(message: Message) -> str:
    if isinstance(message.content, str):
        return message.content.strip()
    texts = (part.text for part in message.content or () if part.type == "text")
    return "\n".join(text for text in texts if text).strip()


@dataclass(frozen=True)
class Completion:
    """An answer in OpenAI's shapes: as a whole, or chunk by chunk."""

    model: str
    max_new_tokens: int
    name: str = field(default_factory=lambda: f"chatcmpl-{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, answer: Answer, evidence: Evidence) -> dict[str, Any]:
        """A `chat.completion`."""
        message = {
            "role": "assistant",
            "content": answer.text,
            "refusal": None,
            "annotations": annotations_of(answer),
        }
        choice = {"index": 0, "message": message, "finish_reason": self._reason(evidence)}
        return {
            **self._head("chat.completion"),
            "choices": [{**choice, "logprobs": None}],
            "usage": usage_of(evidence),
            "aot": to_plain(evidence),
        }

    def begin(self) -> str:
        """The first chunk."""
        return self._chunk({"role": "assistant", "content": ""})

    def piece(self, text: str) -> str:
        """Some text."""
        return self._chunk({"content": text})

    def end(self, answer: Answer, evidence: Evidence, *, with_usage: bool) -> Iterator[str]:
        """The last chunk with what the answer rests on; then, if wanted, what it took."""
        delta = {"annotations": annotations_of(answer)}
        yield self._chunk(delta, self._reason(evidence), aot=to_plain(evidence))
        if with_usage:
            yield self._event({"choices": [], "usage": usage_of(evidence)})
        yield DONE

    def _reason(self, evidence: Evidence) -> str:
        return "length" if evidence.cost.completion_tokens >= self.max_new_tokens else "stop"

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.name, "object": kind, "created": self.created, "model": self.model}

    def _chunk(self, delta: dict[str, Any], reason: str | None = None, **more: Any) -> str:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        return self._event({"choices": [choice], **more})

    def _event(self, fields: dict[str, Any]) -> str:
        return event({**self._head("chat.completion.chunk"), **fields})


def event(value: Any) -> str:
    """A value as a server-sent event."""
    return f"data: {json.dumps(value, ensure_ascii=False, allow_nan=False)}\n\n"


def usage_of(evidence: Evidence) -> dict[str, int]:
    """What OpenAI calls usage, and of the prompt how much was video."""
    cost = evidence.cost
    return {
        "prompt_tokens": cost.prompt_tokens,
        "completion_tokens": cost.completion_tokens,
        "total_tokens": cost.prompt_tokens + cost.completion_tokens,
        "visual_tokens": cost.visual_tokens,
    }


def annotations_of(answer: Answer) -> Sequence[dict[str, Any]]:
    """The clips that were read, as citations of the whole text."""
    return [
        {
            "type": "url_citation",
            "url_citation": {
                "start_index": 0,
                "end_index": len(answer.text),
                "title": _title(span),
                "url": write_window(span.stream_id, span.start_s, span.end_s),
                "wall_start": span.wall_start,
                "wall_end": span.wall_end,
            },
        }
        for span in answer.citations
    ]


def _title(span: Citation) -> str:
    """A clip as people are told of it: by the time of day where its stream has one."""
    when = "" if span.wall_start is None else f", {span.wall_start} to {span.wall_end}"
    return f"{span.stream_id}{when}, clip {span.index}"
