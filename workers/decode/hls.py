"""What a playlist says of wall time: which of its segments was filmed when (RFC 8216, 4.3.2.6).

FFmpeg passes `EXT-X-PROGRAM-DATE-TIME` over. Its playlists and segments come through a gate of
ours, which shows both here: the playlists' text as it is read, the segments' URLs as they are
opened. Opens nothing.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from urllib.parse import urljoin

MAX_PLAYLISTS = 64
MAX_PLAYLIST_BYTES = 4 << 20
SIGNATURE = b"#EXTM3U"
_TIME, _LENGTH, _BREAK = "#EXT-X-PROGRAM-DATE-TIME:", "#EXTINF:", "#EXT-X-DISCONTINUITY"


@dataclass
class ProgramClock:
    """Follows which segment is read, and what its playlist says of its time."""

    first_wall_s: float | None = None
    """Unix time at which the first segment that was opened begins."""
    wall_s: float | None = None
    """The same of the segment that was opened last; None where its playlist does not say."""
    _segments: dict[str, dict[str, float | None]] = field(default_factory=dict)
    _is_first: bool = True

    def read_playlist(self, url: str, text: bytes) -> None:
        """Take a playlist as it was served from a URL; what it said before is forgotten."""
        if url in self._segments or len(self._segments) < MAX_PLAYLISTS:
            self._segments[url] = dict(time_segments(url, text.decode("utf-8", "replace")))

    def open_url(self, url: str) -> None:
        """A URL is opened: where it is a segment, it is what is read from now on."""
        for segments in self._segments.values():
            if url in segments:
                self.wall_s = segments[url]
                if self._is_first:
                    self.first_wall_s, self._is_first = self.wall_s, False
                return


def time_segments(url: str, text: str) -> Iterator[tuple[str, float | None]]:
    """(absolute URL, Unix time of its start) of a playlist's segments; None where none is told.

    A time counts for its segment, for those behind it and for those before it, as far as nothing
    breaks the line between them.
    """
    for stretch in _stretches(url, text):
        told = [(number, wall) for number, (_, _, wall) in enumerate(stretch) if wall is not None]
        if not told:
            yield from ((segment, None) for segment, _, _ in stretch)
            continue
        number, wall_s = told[0]
        wall_s -= sum(length_s for _, length_s, _ in stretch[:number])
        for segment, length_s, own_s in stretch:
            wall_s = wall_s if own_s is None else own_s
            yield segment, wall_s
            wall_s += length_s


_Segment = tuple[str, float, float | None]


def _stretches(url: str, text: str) -> Iterator[list[_Segment]]:
    """Segments as (URL, seconds, Unix time as it is told), cut at discontinuities."""
    stretch: list[_Segment] = []
    length_s, wall_s = 0.0, None
    for line in map(str.strip, text.splitlines()):
        if line == _BREAK:
            yield stretch
            stretch = []
        elif line.startswith(_TIME):
            wall_s = _parse_time(line.removeprefix(_TIME))
        elif line.startswith(_LENGTH):
            length_s = _parse_length(line.removeprefix(_LENGTH))
        elif line and not line.startswith("#"):
            stretch.append((urljoin(url, line), length_s, wall_s))
            length_s, wall_s = 0.0, None
    yield stretch


def _parse_time(text: str) -> float | None:
    """Unix time; None for what is no time, or has no zone and so may be any."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return None if moment.tzinfo is None else moment.timestamp()


def _parse_length(text: str) -> float:
    try:
        return max(0.0, float(text.partition(",")[0]))
    except ValueError:
        return 0.0
