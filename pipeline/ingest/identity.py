"""What a stream's source is: how it is named, and whether it is the one a stream was begun with.

Knows of no worker and no lease.
"""

import os

from pipeline.errors import Conflict, FingerprintMismatch, UnknownStream
from pipeline.store import ClipStore
from pipeline.types import StreamInfo, without_credentials


def known_info(store: ClipStore, stream_id: str) -> StreamInfo | None:
    """What is known of a stream, None when there is none."""
    try:
        return store.get_info(stream_id)
    except UnknownStream:
        return None


def require_same_source(known: StreamInfo, info: StreamInfo, *, moved: bool) -> None:
    """Raise `Conflict` unless a stream that was begun may go on with this source.

    A complete stream is not gone on with: its start does not matter.
    """
    if known.source != info.source and not moved:
        raise Conflict(
            f"stream {known.stream_id} holds {known.source}, got {info.source}; use "
            "another stream id, or --resume if the file was moved"
        )
    if known.status != "complete" and known.wall_start_s != info.wall_start_s:
        raise Conflict(
            f"stream {known.stream_id} was begun with wall start {known.wall_start_s}, got "
            f"{info.wall_start_s}; give the same --start-time to go on with it"
        )


def require_same_settings(known: StreamInfo, info: StreamInfo) -> None:
    """Raise `FingerprintMismatch` naming the settings that differ, of those both tell."""
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


def describe_source(url: str) -> str:
    """A source as it is stored and shown: files by their full path, no credentials."""
    if "://" in url:
        return without_credentials(url)
    return os.fsencode(os.path.abspath(url)).decode("utf-8", "backslashreplace")
