"""What a stream's source is: how it is named, and whether it is what the stream was begun with.

A file is known by its size and by digests of three places, not by its path: a recording that is
overwritten, a copy that was not finished and a file that still grows all keep their path. Knows of
no worker and no lease.
"""

import hashlib
import os
from datetime import UTC, datetime
from typing import BinaryIO, Literal

from pipeline.store import ClipStore
from pipeline.values.errors import Conflict, FingerprintMismatch, UnknownStream
from pipeline.values.types import FileIdentity, StreamInfo
from workers.redact import redact_url

BLOCK_BYTES = 64 << 10
TRUNCATED = "Truncated: "
"""How the error of a stream begins whose source ended before the end it declares."""

Change = Literal["same", "grown", "other"]
Comparison = tuple[FileIdentity | None, Change | None]
"""What a file is now, and what became of the one that is known."""


def known_info(store: ClipStore, stream_id: str) -> StreamInfo | None:
    """What is known of a stream, None when there is none."""
    try:
        return store.get_info(stream_id)
    except UnknownStream:
        return None


def describe_source(url: str) -> str:
    """A source as it is stored and shown: files by their full path, no credentials."""
    shown = redact_url(url)
    if "://" in url or (shown != url and not os.path.lexists(url)):  # a misspelt URL is no path
        return shown
    return os.fsencode(os.path.abspath(url)).decode("utf-8", "backslashreplace")


def has_credentials(url: str) -> bool:
    """Whether something would be missing to open `describe_source` of it."""
    return "://" in url and redact_url(url) != url


def identify_file(url: str) -> FileIdentity | None:
    """What the file is now; None for what is no readable file."""
    if "://" in url:
        return None
    try:
        with open(url, "rb", opener=_without_waiting) as file:
            facts = os.fstat(file.fileno())
            size_bytes = facts.st_size
            head, middle, tail = _digests(file, size_bytes)
    except OSError:
        return None
    return FileIdentity(size_bytes, facts.st_mtime, head, middle, tail)


def _without_waiting(path: str, flags: int) -> int:
    """A pipe that nobody writes to is not waited for."""
    return os.open(path, flags | os.O_NONBLOCK)


def _digests(file: BinaryIO, size_bytes: int) -> tuple[str, str, str]:
    block = min(BLOCK_BYTES, size_bytes // 3)
    places = (0, (size_bytes - block) // 2, size_bytes - block)
    head, middle, tail = (_digest_at(file, place, block) for place in places)
    return head, middle, tail


def _digest_at(file: BinaryIO, place: int, block: int) -> str:
    file.seek(place)
    return hashlib.blake2b(file.read(block), digest_size=16).hexdigest()


def compare_file(url: str, was: FileIdentity, now: FileIdentity) -> Change:
    """Whether a file is still what it was, has gone on, or is another one.

    A file that has gone on holds the old middle and end where they were; its head may differ, as a
    container writes its length there when the recording ends.
    """
    if now.size_bytes < was.size_bytes:
        return "other"
    if now.size_bytes == was.size_bytes:
        same = (now.head, now.middle, now.tail) == (was.head, was.middle, was.tail)
        return "same" if same else "other"
    try:
        with open(url, "rb", opener=_without_waiting) as file:
            _, middle, tail = _digests(file, was.size_bytes)
    except OSError:
        return "other"
    return "grown" if (middle, tail) == (was.middle, was.tail) else "other"


def require_same_source(
    known: StreamInfo, info: StreamInfo, *, moved: bool, change: Change | None = None
) -> bool:
    """Whether the source may hold more than was read; the stream has clips.

    Args:
        info: the stream as it is asked for now.
        moved: accept that the file lies elsewhere than it did.
        change: what became of the file; None where that is not known.

    Raises:
        Conflict: it is another source, begins elsewhere, or has another start on the clock.
    """
    if known.source != info.source and not moved:
        raise Conflict(
            f"stream {known.stream_id} holds {known.source}, got {info.source}; use "
            "another stream id, or --resume if the file was moved"
        )
    if change == "other":
        raise Conflict(
            f"stream {known.stream_id} was made from {_file_text(known)}, got another recording, "
            f"{_file_text(info)}; use another stream id, or --restart to have this one instead of "
            "what is stored"
        )
    has_more = change == "grown" or _range_is_longer(known, info)
    goes_on = known.status != "complete" or has_more
    given = info.wall_start_s is not None
    if (goes_on or given) and known.wall_start_s != info.wall_start_s:
        raise Conflict(
            f"stream {known.stream_id} was begun with wall start {known.wall_start_s}, got "
            f"{info.wall_start_s}; give the same --start-time to go on with it"
        )
    return has_more


def _range_is_longer(known: StreamInfo, info: StreamInfo) -> bool:
    """Whether more of the source is asked for than before."""
    if known.made_with is None or info.made_with is None:
        return False
    before, now = known.made_with.source, info.made_with.source
    if before.start_s != now.start_s:
        raise Conflict(
            f"stream {known.stream_id} begins at {before.start_s:g} s of its source, got "
            f"{now.start_s:g} s; use another stream id"
        )
    if before.max_hold_s != now.max_hold_s:
        raise Conflict(
            f"stream {known.stream_id} was begun with ingest.max_hold_s {before.max_hold_s}, got "
            f"{now.max_hold_s}; give the same to go on with it, or use another stream id"
        )
    return before.end_s is not None and (now.end_s is None or now.end_s > before.end_s)


def find_change(known: StreamInfo, url: str) -> Comparison:
    """(what a stream's file is now, what became of it), None where that is not known.

    To be called where the file is.
    """
    now = identify_file(url)
    if known.file is None or now is None:
        return now, None
    change = compare_file(url, known.file, now)
    was_cut = (known.error or "").startswith(TRUNCATED) or known.status == "failed"
    if change == "other" and was_cut and now.size_bytes >= known.file.size_bytes:
        return now, "grown" if _head_is(url, known.file) else "other"
    return now, change


def _head_is(url: str, was: FileIdentity) -> bool:
    """A copy that was not finished may have had its full length already."""
    try:
        with open(url, "rb", opener=_without_waiting) as file:
            return _digests(file, was.size_bytes)[0] == was.head
    except OSError:
        return False


def _file_text(info: StreamInfo) -> str:
    if info.file is None:
        return info.source
    changed = datetime.fromtimestamp(info.file.mtime_s, UTC).isoformat(" ", "seconds")
    return f"{info.source} ({info.file.size_bytes} bytes, changed {changed})"


def require_same_settings(known: StreamInfo, info: StreamInfo) -> None:
    """Raise `FingerprintMismatch` naming the settings that differ, of those both tell."""
    if known.made_with is not None and info.made_with is not None:
        changes = known.made_with.changes_to(info.made_with)
    else:  # of an earlier release
        both = [name for name in info.settings if name in known.settings]
        changes = [
            f"{name} {known.settings[name]} -> {info.settings[name]}"
            for name in both
            if known.settings[name] != info.settings[name]
        ]
    if changes:
        raise FingerprintMismatch(
            f"{known.stream_id} holds tokens made with other settings ({', '.join(changes)}); use "
            "those of the stream, or another stream id"
        )
