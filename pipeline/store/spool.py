"""A stream's clips and gaps on disk, in order, until its store has them: bounded and checksummed.

One file an entry, named by its number, in a folder of its writer's own:

    {folder}/{store}/{stream_id}/{writer}/{number}.entry

An entry is written beside its name, flushed to the disk and then named, and it ends in a digest
over all of it: what was torn is refused when it is read. The bound counts all streams below the
folder. Knows of no store and no session.
"""

import hashlib
import json
import logging
import math
import os
import shutil
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal

from pipeline.store.checks import Place
from pipeline.values.types import Gap, StreamInfo
from workers.errors import SinkFull

logger = logging.getLogger(__name__)

MAGIC = b"AOTSPOOL1\n"
SUFFIX = ".entry"
OPEN = "open" + SUFFIX
"""The open clip as it is so far; replaced with every frame, and not flushed."""
_HEAD = struct.Struct("<I")
_DIGEST_BYTES = 32
MAX_HEAD_BYTES = 4096
LOOK_EVERY_S = 5.0
REMEMBERED = 4096
"""Entries that were stored whose heads are known, should the store turn out to have lost them."""

Kind = Literal["clip", "gap", "open"]


@dataclass(frozen=True)
class SpoolRules:
    """Where a spool is and how much all streams may leave there."""

    folder: str
    max_bytes: int


@dataclass(frozen=True)
class Entry:
    """What is to be stored: a clip's record, or a gap."""

    kind: Kind
    stream_id: str
    created_at_s: float
    """Of the stream: one that was removed and made anew has another."""
    epoch: int
    start_s: float
    end_s: float
    index: int = -1
    """Of a clip."""
    after: Place | None = None
    """Of the last clip before it."""
    reason: str = ""
    """Of a gap."""
    body: bytes = field(default=b"", repr=False)
    """Of a clip: its record."""

    @classmethod
    def of_gap(cls, info: StreamInfo, gap: Gap) -> "Entry":
        """A gap on its way."""
        return cls(
            "gap",
            gap.stream_id,
            info.created_at_s,
            gap.epoch,
            gap.start_s,
            gap.end_s,
            reason=gap.reason,
        )

    @property
    def place(self) -> Place:
        """Epoch and index of its clip."""
        return self.epoch, self.index

    @property
    def gap_identity(self) -> tuple[int, float, str] | None:
        """What makes it the same gap, though it ends elsewhere; None of a clip."""
        return (self.epoch, self.start_s, self.reason) if self.kind == "gap" else None

    def to_gap(self) -> Gap:
        """The gap it is."""
        return Gap(self.stream_id, self.epoch, self.start_s, self.end_s, self.reason)

    def to_bytes(self) -> bytes:
        """Magic, head, body, and a digest over them."""
        head = json.dumps({**asdict(self), "body": len(self.body)}).encode()
        text = b"".join((MAGIC, _HEAD.pack(len(head)), head, self.body))
        return text + hashlib.sha256(text).digest()

    @classmethod
    def from_bytes(cls, blob: bytes) -> "Entry":
        """What `to_bytes` wrote.

        Raises:
            ValueError: anything else, a torn one among them.
        """
        text, digest = blob[:-_DIGEST_BYTES], blob[-_DIGEST_BYTES:]
        if not text.startswith(MAGIC) or hashlib.sha256(text).digest() != digest:
            raise ValueError(f"{len(blob)} bytes that are no whole entry")
        at = len(MAGIC) + _HEAD.size
        (size,) = _HEAD.unpack(text[len(MAGIC) : at])
        if size > MAX_HEAD_BYTES:
            raise ValueError(f"a head of {size} bytes")
        fields = json.loads(text[at : at + size])
        after = fields["after"]
        fields |= {"body": text[at + size :], "after": None if after is None else tuple(after)}
        return cls(**fields)


@dataclass(frozen=True)
class Kept:
    """An entry of this writer: without its body, which is on the disk."""

    number: int
    entry: Entry
    size_bytes: int
    stored_at_s: float = math.inf
    """Monotonic time at which the store acknowledged it."""


class SpoolUse:
    """What lies in a spool's folder, for all streams that a process writes; any thread may ask.

    Looking takes the longer the more streams there are, and each of their clips asks. So it is
    looked at every few seconds, what this process adds is counted meanwhile, and nothing that would
    be lost is refused by what was seen earlier.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._lock, self._clock = threading.Lock(), clock
        self._looked_at_s, self._used_bytes = -math.inf, 0

    def take(
        self, root: Path, size_bytes: int, most_bytes: int, *, is_needed: bool = True
    ) -> int | None:
        """Make room for so many bytes; where there is none, how many are used of the most.

        What is not needed may be refused although there has been room for some seconds.
        """
        with self._lock:
            for looks_again in (False, True) if is_needed else (False,):
                if looks_again or self._clock() - self._looked_at_s > LOOK_EVERY_S:
                    self._looked_at_s, self._used_bytes = self._clock(), measure(root)
                if self._used_bytes + size_bytes <= most_bytes:
                    self._used_bytes += size_bytes
                    return None
            return self._used_bytes


class Spool:
    """One writer's entries in the order they were put; used by one thread at a time."""

    def __init__(
        self,
        rules: SpoolRules,
        store: str,
        stream_id: str,
        writer: str,
        *,
        use: SpoolUse | None = None,
    ) -> None:
        """`store`: names the store, on this machine; `writer`: sorts behind earlier ones; `use`:
        that of all streams of this process."""
        self._rules, self._root = rules, Path(rules.folder).expanduser()
        self._use = use or SpoolUse()
        self._stream = self._root / store / stream_id
        self._folder = self._stream / writer
        self._stored: deque[Kept] = deque()
        self._gone: deque[Kept] = deque(maxlen=REMEMBERED)
        """What was stored too, and is on the disk no more: heads alone."""
        self._waiting: deque[Kept] = deque()
        self._number = 0
        self.last_clip: Place | None = None
        """The last clip that was put."""

    @property
    def waiting(self) -> int:
        """Entries that the store does not have yet."""
        return len(self._waiting)

    @property
    def waiting_bytes(self) -> int:
        """Their bytes on disk."""
        return sum(kept.size_bytes for kept in self._waiting)

    def append(self, entry: Entry) -> None:
        """Keep one more; once this returns it outlives this process and a loss of power.

        Raises:
            SinkFull: the bound is reached, or the disk takes no more.
        """
        blob = entry.to_bytes()
        used_bytes = self._use.take(self._root, len(blob), self._rules.max_bytes)
        if used_bytes is not None:
            raise SinkFull(
                f"{entry.stream_id}: the spool in {self._root} holds {used_bytes} bytes of at most "
                f"{self._rules.max_bytes}; bring the store back, or raise spool.max_bytes"
            )
        number = self._number + 1
        try:
            self._write(f"{number:010d}{SUFFIX}", blob, flush=True)
        except OSError as error:
            raise SinkFull(
                f"{entry.stream_id}: the spool in {self._root} takes no more: {error.strerror}"
            ) from error
        self._number = number
        self._waiting.append(Kept(number, replace(entry, body=b""), len(blob)))
        if entry.kind == "clip":
            self.last_clip = entry.place
        (self._folder / OPEN).unlink(missing_ok=True)

    def keep_open(self, entry: Entry) -> None:
        """The open clip as it is so far, in the place of what it was; nothing where it is full."""
        blob = entry.to_bytes()
        most_bytes = self._rules.max_bytes
        if self._use.take(self._root, len(blob), most_bytes, is_needed=False) is not None:
            return
        try:
            self._write(OPEN, blob, flush=False)
        except OSError as error:
            logger.info("%s: the open clip is not kept: %s", entry.stream_id, error.strerror)

    def first(self) -> Entry | None:
        """The oldest that waits, whole.

        Raises:
            ValueError, OSError: it does not read any more.
        """
        if not self._waiting:
            return None
        return Entry.from_bytes(self._path(self._waiting[0]).read_bytes())

    def acknowledge(self, now_s: float) -> None:
        """The store has the oldest that waits."""
        kept = self._waiting.popleft()
        self._stored.append(replace(kept, stored_at_s=now_s))

    def note(self, entry: Entry) -> None:
        """An entry went to the store that the disk had no room for."""
        self._number += 1
        self._remember(Kept(self._number, replace(entry, body=b""), 0))
        if entry.kind == "clip":
            self.last_clip = entry.place

    def skip(self) -> Entry:
        """Give up the oldest that waits, which does not read."""
        kept = self._waiting.popleft()
        self._path(kept).unlink(missing_ok=True)
        return kept.entry

    def forget_before(self, now_s: float) -> None:
        """Remove what was acknowledged before `now_s`, but for the last clip of all.

        That one tells the next writer whether somebody else wrote meanwhile.
        """
        for kept in list(self._stored):
            is_last = kept.entry.kind == "clip" and kept.entry.place == self.last_clip
            if kept.stored_at_s < now_s and not is_last:
                self._path(kept).unlink(missing_ok=True)
                self._stored.remove(kept)
                self._remember(kept)

    def _remember(self, kept: Kept) -> None:
        """Its head; a gap that was only told again takes the place of what it was."""
        before = self._gone[-1].entry if self._gone else None
        if before is not None and before.gap_identity == kept.entry.gap_identity is not None:
            self._gone.pop()
        self._gone.append(kept)

    def rewind(self, last: Place | None, covered_s: float) -> None:
        """The store ends at clip `last` and has nothing from `covered_s` on: what was acknowledged
        behind that clip waits again, and `told_gaps` are what is to be told again.

        What is on the disk no more is a gap `store` where it was a clip.
        """
        acked = self._acknowledged()
        at = max((i for i, kept in enumerate(acked) if _is_in(kept.entry, last)), default=None)
        behind = acked if at is None else acked[at + 1 :]
        on_disk = {kept.number for kept in self._stored}
        lost = _tell_lost([None if kept.number in on_disk else kept for kept in behind])
        if at is None and (missing := self._missing_before(behind, last, covered_s)) is not None:
            lost = [missing, *lost]
        again = [kept for kept in behind if kept.number in on_disk]
        self._waiting.extendleft(replace(kept, stored_at_s=math.inf) for kept in reversed(again))
        first = behind[0].number if behind else self._number + 1
        self._stored = deque(kept for kept in self._stored if kept.number < first)
        before = [kept for kept in self._gone if kept.number < first]
        self._gone = deque([*before, *lost], maxlen=REMEMBERED)

    def _missing_before(
        self, behind: list[Kept], last: Place | None, covered_s: float
    ) -> Kept | None:
        """What lies before all that is known here, where the first clip of it says that there was
        one before it that the store does not have."""
        known = [*behind, *self._waiting]
        clip = next((kept.entry for kept in known if kept.entry.kind == "clip"), None)
        if clip is None or clip.after in (None, last):
            return None
        return Kept(-1, _lost_gap(replace(clip, start_s=covered_s), known[0].entry.start_s), 0)

    def told_gaps(self) -> list[Entry]:
        """Gaps that were acknowledged behind the last acknowledged clip, in order."""
        told = []
        for kept in reversed(self._acknowledged()):
            if kept.entry.kind == "clip":
                break
            told.append(kept.entry)
        return told[::-1]

    def _acknowledged(self) -> list[Kept]:
        return sorted([*self._gone, *self._stored], key=lambda kept: kept.number)

    def earlier(self) -> Iterator[Entry | None]:
        """What earlier writers left, in order; None in the place of one that is torn."""
        for path in self._earlier_paths():
            try:
                yield Entry.from_bytes(path.read_bytes())
            except (ValueError, OSError) as error:
                logger.warning("%s: refused, and left out: %s", path, error)
                yield None

    def remove_earlier(self) -> None:
        """Their folders too: whoever still writes there has lost the stream."""
        for folder in self._earlier_folders():
            shutil.rmtree(folder, ignore_errors=True)

    def remove(self) -> None:
        """This writer's folder, once nothing waits in it."""
        if not self._waiting:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _earlier_folders(self) -> list[Path]:
        if not self._stream.is_dir():
            return []
        return sorted(
            f for f in self._stream.iterdir() if f.is_dir() and f.name != self._folder.name
        )

    def _earlier_paths(self) -> Iterator[Path]:
        for folder in self._earlier_folders():
            yield from sorted(folder.glob(f"*{SUFFIX}"))  # digits sort before `open`

    def _path(self, kept: Kept) -> Path:
        return self._folder / f"{kept.number:010d}{SUFFIX}"

    def _write(self, name: str, blob: bytes, *, flush: bool) -> None:
        """Whole under its name, or not at all."""
        if not self._number and not self._folder.is_dir():
            self._folder.mkdir(parents=True, mode=0o700)
        beside = self._folder / f"{name}.new"
        try:
            with open(beside, "wb") as file:
                file.write(blob)
                if flush:
                    file.flush()
                    os.fsync(file.fileno())
            os.replace(beside, self._folder / name)
        except OSError:
            beside.unlink(missing_ok=True)
            raise
        if flush:
            _flush_folder(self._folder)


def _is_in(entry: Entry, last: Place | None) -> bool:
    """Whether a store that ends at clip `last` has this clip."""
    return entry.kind == "clip" and last is not None and entry.place <= last


def _tell_lost(behind: list[Kept | None]) -> list[Kept]:
    """Gaps as they were, and gaps `store` for clips that are lost; None is what is not lost."""
    told: list[Kept] = []
    goes_on = False
    for kept in behind:
        if kept is None or kept.entry.kind == "gap":
            told += [] if kept is None else [kept]
            goes_on = False
            continue
        if goes_on and told[-1].entry.epoch == kept.entry.epoch:
            before = told.pop()
            entry = replace(before.entry, end_s=kept.entry.end_s)
            told.append(replace(before, entry=entry))
        else:
            told.append(replace(kept, entry=_lost_gap(kept.entry, kept.entry.end_s)))
        goes_on = True
    return told


def _lost_gap(clip: Entry, end_s: float) -> Entry:
    """What is told of a stretch from a clip's start on that nothing is left of."""
    return replace(
        clip, kind="gap", end_s=max(clip.start_s, end_s), index=-1, after=None, reason="store"
    )


def discard(rules: SpoolRules, store: str, stream_id: str) -> None:
    """Remove all that is spooled of a stream: it was removed itself."""
    shutil.rmtree(Path(rules.folder).expanduser() / store / stream_id, ignore_errors=True)


def measure(root: Path) -> int:
    """Bytes of all files below a folder."""
    total = 0
    for folder, _, names in os.walk(root):
        for name in names:
            try:
                total += os.stat(os.path.join(folder, name)).st_size
            except FileNotFoundError:  # stored meanwhile
                continue
    return total


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
