"""What is asked to come in: videos, found in folders, each under a stream id of its own.

Knows of no store and no model.
"""

import hashlib
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.settings import Settings, StreamSettings, stream_url
from pipeline.values.errors import InvalidQuery
from pipeline.values.types import StreamSegment, require_stream_id
from workers.redact import redact_url
from workers.types import VideoSource

VIDEO_SUFFIXES = (
    *(".3gp", ".asf", ".avi", ".dav", ".f4v", ".flv", ".ivf", ".m2ts", ".m4v", ".mkv", ".mov"),
    *(".mp4", ".mpeg", ".mpg", ".mts", ".mxf", ".ogv", ".ts", ".vob", ".webm", ".wmv"),
)
ID_LENGTH = 64
_NOT_IN_ID = re.compile(r"[^A-Za-z0-9._-]+")


@dataclass(frozen=True)
class IngestRequest:
    """One video to bring in."""

    source: VideoSource
    resume: bool = False
    """Go on with a stream although its file lies elsewhere now."""
    restart: bool = False
    """Have this video instead of what is stored under its stream id."""
    zone: str | None = None
    """In which wall times of the stream are told."""
    hold_still: bool | None = None
    """Of an endless source: whether frames that show nothing new are held; None as the settings."""
    files: tuple[str, ...] = ()
    """Of a joined stream: the files there are, in any order; `source.url` is their folder."""
    fresh: tuple[StreamSegment, ...] = ()
    """Those of which the store does not know yet what they are, once they were looked at."""


def request_of(stream: StreamSettings, settings: Settings) -> IngestRequest:
    """What a stream of the settings asks for.

    Raises:
        InvalidSettings: the variable that holds its URL is not set here.
    """
    return IngestRequest(
        VideoSource(stream_url(stream), stream.name, stream.fps or settings.ingest.fps),
        zone=settings.ingest.zone,
        hold_still=stream.hold_still,
    )


def stream_of(request: IngestRequest) -> StreamSettings:
    """The same, of an endless source, as settings name it.

    Raises:
        InvalidQuery: its URL may hold a secret, which stands in no list of streams.
    """
    source = request.source
    require_stream_id(source.stream_id)
    _require_harmless(source.stream_id, source.url)
    return StreamSettings(
        name=source.stream_id, url=source.url, fps=source.fps, hold_still=request.hold_still
    )


def move_stream(text: str, url: str) -> str:
    """A stream as settings name it, as JSON, with its source elsewhere.

    Raises:
        InvalidQuery: the URL may hold a secret.
    """
    stream = StreamSettings.model_validate_json(text)
    _require_harmless(stream.name, url)
    return stream.model_copy(update={"url": url, "url_env": None}).model_dump_json()


def _require_harmless(stream_id: str, url: str) -> None:
    if redact_url(url) != url:
        raise InvalidQuery(
            f"stream {stream_id}: its URL holds what may be a secret, and the list of streams that "
            "a cluster shares keeps none; put the URL into a variable of the machines that read "
            "it, list the stream with url_env under `streams:` and say `aot up --detach`"
        )


def find_videos(path: str, *, recursive: bool = False) -> list[str]:
    """A folder's videos by their names' endings, in order; anything else as it is.

    Hidden files are passed over, `._name` of macOS among them.

    Raises:
        InvalidQuery: a folder without videos.
    """
    folder = Path(path)
    if "://" in path or not folder.is_dir():
        return [path]
    found = sorted(_walk(folder, recursive))
    if not found:
        below = "" if recursive else ", or --recursive for the folders below it"
        raise InvalidQuery(
            f"folder {path!r} holds no video, expected files ending in "
            f"{', '.join(sorted(VIDEO_SUFFIXES))}; name the file itself{below}"
        )
    return found


def _walk(folder: Path, recursive: bool) -> list[str]:
    """Videos below a folder; links to folders are not followed, so that it ends."""
    found = []
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if recursive and not name.startswith(".")]
        found += [os.path.join(parent, name) for name in files if _is_video(name)]
    return found


def _is_video(name: str) -> bool:
    return not name.startswith(".") and Path(name).suffix.lower() in VIDEO_SUFFIXES


def stream_names(urls: Sequence[str]) -> list[str]:
    """A stream id for each video, no two alike.

    A video is called after its file: by its stem, or with its ending where a neighbour has the
    same stem. Where files in other folders have that name too, their folders' names stand before
    it, as many as it takes.
    """
    neighbours = Counter((url.rpartition("/")[0], stream_name(url)) for url in urls)
    endings = [neighbours[url.rpartition("/")[0], stream_name(url)] > 1 for url in urls]
    names = [stream_name(url, ending=kept) for url, kept in zip(urls, endings, strict=True)]
    for folders in range(1, max((url.count("/") for url in urls), default=0) + 1):
        counts = Counter(names)
        names = [
            stream_name(url, ending=kept, folders=folders) if counts[name] > 1 else name
            for url, kept, name in zip(urls, endings, names, strict=True)
        ]
    counts = Counter(names)
    return [
        _with_digest(name, url) if counts[name] > 1 else name
        for url, name in zip(urls, names, strict=True)
    ]


def stream_name(url: str, *, ending: bool = False, folders: int = 0) -> str:
    """A stream id from a file's name and so many of its folders.

    What an id cannot hold becomes `_`, and accents go. Where the name had letters of other
    alphabets, or was too long, a digest of it follows, so that other names give other ids.
    """
    parts = redact_url(url).split("/")
    *parents, name = [part for part in parts if part not in ("", ".", "..")] or [""]
    kept = parents[len(parents) - folders :] if folders else []
    whole = "-".join([*kept, name if ending else Path(name).stem])
    shown = _NOT_IN_ID.sub("_", _without_accents(whole)).strip("_")
    if not whole.isascii() or len(shown) > ID_LENGTH:
        return _with_digest(shown, whole)
    return shown or "video"


def _without_accents(text: str) -> str:
    parted = unicodedata.normalize("NFKD", text)
    return "".join(char for char in parted if not unicodedata.combining(char))


def _with_digest(name: str, whole: str) -> str:
    """`name`, shortened if need be, and 8 hex digits over `whole`."""
    data = whole.encode("utf-8", "surrogateescape")
    digest = hashlib.blake2b(data, digest_size=4).hexdigest()
    return f"{name[: ID_LENGTH - 9].strip('_-') or 'video'}-{digest}"
