"""What a record says about its clip beside the columns: text keys and values, the same every time.

A record must come out byte for byte the same from every run, so the seconds of work in `ClipStats`
are not part of it (they go to the metrics); the counts are. Floats are written by `repr`, which
reads back exactly. Nothing here knows of Arrow or of tensors.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache

from pipeline.store.keys import record_id
from pipeline.values.errors import CorruptValue, InvalidRecord
from pipeline.values.types import require_stream_id
from workers.types import (
    FULL_LEVEL,
    PLAIN_LAYOUT,
    ClipStats,
    CompressedClip,
    Level,
    TokenLayout,
)

STAT_COUNTS = ("frames_in", "tokens_in", "tokens_out", "damaged", "shed")
NUM_KEYS = {1: 14, 2: 15, 3: 16}
"""Of the text form, by the record's version."""
MAX_FRAMES = 1 << 15
"""`frame` is an int16 column."""
MAX_CELLS = 1 << 15
"""`cell` is an int16 column."""


@dataclass(frozen=True)
class ClipMetadata:
    """The clip without its tokens."""

    stream_id: str
    epoch: int
    index: int
    start_s: float
    end_s: float
    wall_start_s: float | None
    pts_s: tuple[float, ...]
    grid: tuple[int, int]
    num_tokens: int
    dtype: str
    fingerprint: str
    stats: ClipStats
    layout: TokenLayout = PLAIN_LAYOUT
    level: Level = FULL_LEVEL

    def __post_init__(self) -> None:
        require_stream_id(self.stream_id)
        problem = self._problem()
        if problem:
            raise InvalidRecord(f"{self.record_id}: {problem}")

    def _problem(self) -> str | None:
        rows, columns = self.grid
        times = (self.start_s, self.end_s, self.wall_start_s or 0.0, *self.pts_s)
        if self.epoch < 0 or self.index < 0:
            return "epoch and index must not be negative"
        if not all(map(math.isfinite, times)) or self.start_s > self.end_s:
            return f"times must be finite with start <= end, got {self.start_s} to {self.end_s} s"
        if not 0 < len(self.pts_s) <= MAX_FRAMES:
            return f"got {len(self.pts_s)} frame times, expected 1 to {MAX_FRAMES}"
        if rows < 1 or columns < 1 or rows * columns > MAX_CELLS:
            return f"grid {self.grid} must have 1 to {MAX_CELLS} cells"
        if not self.fingerprint:
            return "the fingerprint is empty; expected what the tokens were made with, hashed"
        return None

    @property
    def record_id(self) -> str:
        """What the record's digest says it is: the same in every store and export."""
        return record_id(self.stream_id, self.epoch, self.index, self.level.clips)

    @property
    def version(self) -> int:
        """The oldest version of a record that can tell this."""
        if self.level != FULL_LEVEL:
            return 3
        return 1 if self.layout == PLAIN_LAYOUT else 2

    @property
    def coverage(self) -> float:
        """Share of the clip's sampled frames that are in it; below 1 where some were shed."""
        sampled = self.stats.frames_in + self.stats.shed
        return self.stats.frames_in / sampled if sampled else 1.0


def describe(clip: CompressedClip, *, fingerprint: str, dtype: str) -> ClipMetadata:
    """The metadata of `clip`. Raises `InvalidRecord`."""
    return ClipMetadata(
        stream_id=clip.stream_id,
        epoch=int(clip.epoch),
        index=int(clip.index),
        start_s=float(clip.start_s),
        end_s=float(clip.end_s),
        wall_start_s=None if clip.wall_start_s is None else float(clip.wall_start_s),
        pts_s=tuple(map(float, clip.pts_s)),
        grid=clip.tokens.grid,
        num_tokens=len(clip.tokens),
        dtype=dtype,
        fingerprint=fingerprint,
        stats=ClipStats(**{name: int(getattr(clip.stats, name)) for name in STAT_COUNTS}),
        layout=clip.layout,
        level=clip.level,
    )


def to_text(metadata: ClipMetadata) -> dict[str, str]:
    """Keys and values as they stand in the Arrow schema, in a fixed order."""
    stats = {name: getattr(metadata.stats, name) for name in STAT_COUNTS}
    text = {
        "aot.version": str(metadata.version),
        "aot.dtype": metadata.dtype,
        "aot.grid": f"{metadata.grid[0]}x{metadata.grid[1]}",
        "aot.stream": metadata.stream_id,
        "aot.epoch": str(metadata.epoch),
        "aot.index": str(metadata.index),
        "aot.start_s": repr(metadata.start_s),
        "aot.end_s": repr(metadata.end_s),
        "aot.wall_start_s": "" if metadata.wall_start_s is None else repr(metadata.wall_start_s),
        "aot.pts_s": json.dumps(metadata.pts_s, separators=(",", ":")),
        "aot.num_tokens": str(metadata.num_tokens),
        "aot.fingerprint": metadata.fingerprint,
        "aot.coverage": repr(metadata.coverage),
        "aot.stats": json.dumps(stats, separators=(",", ":")),
    }
    if metadata.version > 1:
        text["aot.layout"] = json.dumps(asdict(metadata.layout), separators=(",", ":"))
    if metadata.version > 2:
        text["aot.level"] = json.dumps(asdict(metadata.level), separators=(",", ":"))
    assert len(text) == NUM_KEYS[metadata.version]
    return text


def from_text(text: Mapping[str, str]) -> ClipMetadata:
    """The other way. Raises `CorruptValue` for anything `to_text` would not have written."""
    try:
        version = int(text["aot.version"])
        rows, columns = text["aot.grid"].split("x")
        wall = text["aot.wall_start_s"]
        metadata = ClipMetadata(
            stream_id=text["aot.stream"],
            epoch=int(text["aot.epoch"]),
            index=int(text["aot.index"]),
            start_s=float(text["aot.start_s"]),
            end_s=float(text["aot.end_s"]),
            wall_start_s=float(wall) if wall else None,
            pts_s=tuple(map(float, json.loads(text["aot.pts_s"]))),
            grid=(int(rows), int(columns)),
            num_tokens=int(text["aot.num_tokens"]),
            dtype=text["aot.dtype"],
            fingerprint=text["aot.fingerprint"],
            stats=_stats(text["aot.stats"]),
            layout=_layout(text.get("aot.layout")),
            level=_level(text.get("aot.level")),
        )
    except (KeyError, ValueError, TypeError, RecursionError) as error:
        raise CorruptValue(f"metadata of a record does not read: {error!r:.200}") from error
    is_whole = metadata.version == version and len(text) == NUM_KEYS.get(version)
    if not is_whole or text.get("aot.coverage") != repr(metadata.coverage):
        raise CorruptValue(f"{metadata.record_id}: metadata this version {version} does not write")
    return metadata


@lru_cache(maxsize=16)
def _layout(text: str | None) -> TokenLayout:
    if text is None:
        return PLAIN_LAYOUT
    values = json.loads(text)
    layout = TokenLayout(frames=values["frames"], parts=tuple(values["parts"]))
    if json.dumps(asdict(layout), separators=(",", ":")) != text:
        raise ValueError(f"expected the layout of tokens, got {text[:100]}")
    return layout


@lru_cache(maxsize=64)
def _level(text: str | None) -> Level:
    if text is None:
        return FULL_LEVEL
    values = json.loads(text)
    level = Level(keep=values["keep"], clips=values["clips"])
    if json.dumps(asdict(level), separators=(",", ":")) != text:
        raise ValueError(f"expected the level of a clip, got {text[:100]}")
    return level


@lru_cache(maxsize=1024)
def _stats(text: str) -> ClipStats:
    """Of the counts, which many clips of a stream have in common."""
    counts = json.loads(text)
    if set(counts) != set(STAT_COUNTS) or not all(type(n) is int for n in counts.values()):
        raise ValueError(f"expected the counts {STAT_COUNTS}, got {text[:100]}")
    return ClipStats(**counts)
