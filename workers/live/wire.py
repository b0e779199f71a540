"""What a decoder's process says to its supervisor: messages with an optional body, over a pipe.

A message is a length, a JSON head and as many bytes as the head's `size_bytes` says. Nothing that
crosses is code, and a head that does not read ends the connection: the other side decodes what
strangers send.
"""

import json
import struct
from dataclasses import asdict, dataclass, fields
from typing import IO, Any, BinaryIO, ClassVar

import numpy as np

from workers.decode.live import Picture

MAX_HEAD_BYTES = 16_384
MAX_BODY_BYTES = 3 * 4096 * 4096
"""The largest picture that is decoded at all, in RGB."""

_LENGTH = struct.Struct("<I")


class WireError(Exception):
    """What came is no message of ours."""


@dataclass(frozen=True)
class Started:
    """The process runs and begins to open its source."""

    kind: ClassVar[str] = "started"


@dataclass(frozen=True)
class Opened:
    """The source answers and holds video."""

    kind: ClassVar[str] = "opened"
    container: str
    codec: str
    width: int
    height: int
    rate_fps: float


@dataclass(frozen=True)
class Beat:
    """Sent about every second while packets come, whether or not a picture was wanted."""

    kind: ClassVar[str] = "beat"
    packets: int
    decoded: int
    refused_packets: int
    shed: int
    """Pictures dropped because the reader of the pipe was behind."""
    memory_bytes: int = 0
    """The most that was resident of the process so far."""


@dataclass(frozen=True)
class Ended:
    """The last message: why the source is not read any more."""

    kind: ClassVar[str] = "ended"
    code: str | None = None
    """Of the typed error, None where the source just ended."""
    text: str = ""
    memory_bytes: int = 0
    """As a beat has it: a source that cannot be opened has none."""


Message = Started | Opened | Beat | Ended | Picture

_KINDS = {kind.kind: kind for kind in (Started, Opened, Beat, Ended)}


def write_message(pipe: BinaryIO, message: Message) -> None:
    """Write one message whole."""
    body = memoryview(b"")
    if isinstance(message, Picture):
        rows, columns, _ = message.rgb.shape
        body = np.ascontiguousarray(message.rgb).data.cast("B")
        head = {"kind": "picture", "rows": rows, "columns": columns, "size_bytes": len(body)}
        head |= {name: getattr(message, name) for name in _PICTURE_FIELDS}
    else:
        head = {"kind": message.kind, **asdict(message)}
    text = json.dumps(head).encode()
    pipe.write(_LENGTH.pack(len(text)))
    pipe.write(text)
    pipe.write(body)
    pipe.flush()


def read_message(pipe: IO[bytes]) -> Message | None:
    """The next message; None where the other side is gone, in the middle of one as well.

    Raises:
        WireError: what came is no message.
    """
    prefix = _read(pipe, _LENGTH.size)
    if prefix is None:
        return None
    (size,) = _LENGTH.unpack(prefix)
    if size > MAX_HEAD_BYTES:
        raise WireError(f"got a head of {size} bytes, expected at most {MAX_HEAD_BYTES}")
    text = _read(pipe, size)
    if text is None:
        return None
    try:
        head = json.loads(bytes(text))
        return _read_picture(pipe, head) if head["kind"] == "picture" else _make(head)
    except (ValueError, KeyError, TypeError) as error:
        raise WireError(f"got a head that does not read: {error}") from None


def _make(head: dict[str, Any]) -> Message:
    kind = _KINDS[head.pop("kind")]
    return kind(**head)


_PICTURE_FIELDS = [field.name for field in fields(Picture) if field.name != "rgb"]


def _read_picture(pipe: IO[bytes], head: dict[str, Any]) -> Picture | None:
    rows, columns, size = (int(head[name]) for name in ("rows", "columns", "size_bytes"))
    if not 0 < size == rows * columns * 3 <= MAX_BODY_BYTES:
        raise WireError(f"got a picture of {rows} x {columns} in {size} bytes")
    body = _read(pipe, size)
    if body is None:
        return None
    rgb = np.frombuffer(body, np.uint8).reshape(rows, columns, 3)
    return Picture(rgb=rgb, **{name: head[name] for name in _PICTURE_FIELDS})


def _read(pipe: IO[bytes], size: int) -> bytearray | None:
    """Exactly `size` bytes in one buffer of its own, None at the end of the pipe."""
    buffer = bytearray(size)
    view, filled = memoryview(buffer), 0
    while filled < size:
        count = pipe.readinto(view[filled:])  # type: ignore[attr-defined]
        if not count:
            return None
        filled += count
    return buffer
