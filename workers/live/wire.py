"""What a decoder's process says to its supervisor: short messages over a pipe.

A message is a length and a JSON head; a picture's pixels lie in a slot of shared memory that its
head names. Nothing that crosses is code, and a head that does not read ends the connection: the
other side decodes what strangers send.
"""

import json
import struct
from dataclasses import asdict, dataclass, fields
from typing import Any, BinaryIO, ClassVar

from workers.decode.live import Picture
from workers.live.slots import PictureSlots

MAX_HEAD_BYTES = 16_384

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
    """Pictures dropped because their reader was behind."""
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
_PICTURE_FIELDS = [field.name for field in fields(Picture) if field.name != "rgb"]


class MessageWriter:
    """Writes whole messages; waits where the other side takes no pictures."""

    def __init__(self, pipe: BinaryIO, slots: PictureSlots) -> None:
        self._pipe, self._slots = pipe, slots

    def write(self, message: Message) -> None:
        """Write one message."""
        if isinstance(message, Picture):
            rows, columns, _ = message.rgb.shape
            slot = self._slots.put(message.rgb)
            head = {"kind": "picture", "rows": rows, "columns": columns, "slot": slot}
            head |= {name: getattr(message, name) for name in _PICTURE_FIELDS}
        else:
            head = {"kind": message.kind, **asdict(message)}
        text = json.dumps(head).encode()
        self._pipe.write(_LENGTH.pack(len(text)) + text)
        self._pipe.flush()


class MessageReader:
    """Takes bytes as they come and gives the messages in them."""

    def __init__(self, slots: PictureSlots) -> None:
        self._slots = slots
        self._bytes = bytearray()

    def feed(self, data: bytes) -> None:
        """What came next."""
        self._bytes += data

    def take(self) -> Message | None:
        """The next message, None where it is not there as a whole.

        Raises:
            WireError: what came is no message.
        """
        if len(self._bytes) < _LENGTH.size:
            return None
        (size,) = _LENGTH.unpack_from(self._bytes)
        if size > MAX_HEAD_BYTES:
            raise WireError(f"got a head of {size} bytes, expected at most {MAX_HEAD_BYTES}")
        end = _LENGTH.size + size
        if len(self._bytes) < end:
            return None
        text = bytes(self._bytes[_LENGTH.size : end])
        del self._bytes[:end]
        try:
            head = json.loads(text)
            return self._take_picture(head) if head["kind"] == "picture" else _make(head)
        except (ValueError, KeyError, TypeError) as error:
            raise WireError(f"got a head that does not read: {error}") from None

    def _take_picture(self, head: dict[str, Any]) -> Picture:
        rgb = self._slots.take(*(int(head[name]) for name in ("slot", "rows", "columns")))
        return Picture(rgb=rgb, **{name: head[name] for name in _PICTURE_FIELDS})


def _make(head: dict[str, Any]) -> Message:
    kind = _KINDS[head.pop("kind")]
    return kind(**head)
