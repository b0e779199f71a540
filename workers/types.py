"""The values that workers take and give: sources, frames, clips, compressed clips, gaps.

Times are seconds of the stream (`pts_s`, `start_s`) unless they say wall. Nothing here knows of
Ray, of a decoder or of a store.
"""

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, UInt8

from workers.errors import InvalidSource
from workers.names import STREAM_ID

if TYPE_CHECKING:  # a process that only decodes needs no torch
    from aot import ClipTokens

SourceEnd = Literal["complete", "truncated", "damaged", "disconnected"]
"""How a source ended: at its end; before the end it declares; with nothing but damaged frames; or
it went away, as live sources do."""

MIN_GAP_S = 2.0

GapReason = Literal[
    "gap", "damaged", "truncated", "failed",
    "held",
    "disconnected", "stalled", "crashed", "unreachable", "restart", "overload", "store", "paused",
]  # fmt: skip
"""Why a stretch of stream time has no clip: nothing came; what came could not be decoded; the
source ended early; no worker could compress it. `held`: it was seen and showed nothing new, so that
it counts as footage. The last row is what keeps a live source away: it closed the connection, sent
no pictures, its decoder died, it was not there, nobody read it, it was too fast, the store was
away, or it was told to wait."""


@runtime_checkable
class StopSignal(Protocol):
    """Asks a running session to end soon; `threading.Event` is one."""

    def is_set(self) -> bool:
        """Whether a session is to end."""
        ...


def is_gap(step_s: float, interval_s: float) -> bool:
    """Whether two samples so far apart have a gap between them, at one every `interval_s`."""
    return step_s > max(MIN_GAP_S, 3 * interval_s) + 1e-6


@dataclass(frozen=True)
class Segment:
    """One of the files that make one stream together, and where it lies on the stream's time."""

    path: str
    at_s: float
    """Stream time of the file's own second 0."""
    start_s: float
    """Stream time from which it is read; what lies before was in the segment before it."""
    end_s: float
    """Stream time at which it says it ends."""


@dataclass(frozen=True)
class VideoSource:
    """One video to ingest under one stream id."""

    url: str
    """A path or a URL; credentials in it are removed before it is shown or stored."""
    stream_id: str
    fps: float | None = 1.0
    """Frames sampled per second of the stream; None keeps every frame."""
    start_s: float = 0.0
    end_s: float | None = None
    wall_start_s: float | None = None
    """Unix time of stream second 0; None when the wall clock is not known."""
    max_hold_s: float | None = None
    """A picture is shown until the next one; beyond this it counts as a gap. None takes what the
    container's word is good for."""
    segments: tuple[Segment, ...] = ()
    """The files that make the stream, in its order; none where `url` is the one that does."""
    follow_s: float | None = None
    """The file is still being written: it is at its end when it has not grown for so long, with
    `math.inf` never. None reads what there is."""

    def __post_init__(self) -> None:
        if not STREAM_ID.fullmatch(self.stream_id):
            raise InvalidSource(
                f"stream id {self.stream_id[:80]!r} is not 1 to 64 of A-Z a-z 0-9 . _ -; rename it"
            )
        if self.fps is not None and not 0 < self.fps <= 240:
            raise InvalidSource(f"fps must be above 0 and at most 240, got {self.fps}")
        if self.max_hold_s is not None and not self.max_hold_s > 0:
            raise InvalidSource(f"max_hold_s must be above 0, got {self.max_hold_s}")
        if self.follow_s is not None and not self.follow_s > 0:
            raise InvalidSource(f"follow_s must be above 0, got {self.follow_s}")


@dataclass(frozen=True)
class PixelFormat:
    """The size and interpolation a model's image processor asks for (made by its adapter)."""

    height: int
    width: int
    resample: str = "bicubic"
    """`bicubic` or `bilinear`, always with antialiasing."""


@dataclass(frozen=True)
class Frame:
    """One sampled frame, resized for the model, not yet normalised."""

    pixels: UInt8[np.ndarray, "h w 3"]
    pts_s: float
    """Presentation time in seconds of the stream."""
    epoch: int = 0
    """Rises by one where the source's clock starts anew; times go on through all epochs."""
    cut: bool = False
    """True when a clip must not span from the previous frame to this one (gap, jump, new size)."""
    damaged: bool = False
    """True when the decoder reported damage in or before this frame."""
    end_s: float | None = None
    """Time until which it is known to be shown: the next picture's, or less; None if unknown."""
    gap: GapReason | None = None
    """Why there is nothing before it, where something is missing."""
    epoch_end_s: float | None = None
    """Where its epoch ends, if it is the last frame of it: it speaks for no longer."""


@dataclass(frozen=True)
class Clip:
    """Frames of one clip in presentation order (the paper's segment)."""

    stream_id: str
    epoch: int
    index: int
    """Counts the stream's clips in order, across epochs."""
    pixels: UInt8[np.ndarray, "t h w 3"]
    pts_s: Float[np.ndarray, " t"]
    end_s: float
    """Time up to which the clip speaks for the stream: one sampling interval behind its last
    frame, later where that is shown longer, and not beyond the end of its epoch."""
    decode_s: float = 0.0
    """CPU seconds spent decoding it."""
    damaged: int = 0
    """How many of its frames the decoder reported as damaged."""

    def __repr__(self) -> str:
        return (
            f"Clip({self.stream_id}/{self.epoch}/{self.index}, {self.pixels.shape}, "
            f"{self.pts_s[0]:.3f}..{self.end_s:.3f} s)"
        )


@dataclass(frozen=True)
class ClipStats:
    """What a clip cost and what it gave; numbers travel with the data."""

    decode_s: float = 0.0
    encode_s: float = 0.0
    reduce_s: float = 0.0
    frames_in: int = 0
    tokens_in: int = 0
    """Pooled tokens before the reduction."""
    tokens_out: int = 0
    damaged: int = 0
    shed: int = 0
    """Frames dropped because the workers could not keep up."""

    @property
    def retention(self) -> float:
        """Tokens kept over tokens before reduction, measured."""
        return self.tokens_out / self.tokens_in if self.tokens_in else 0.0


@dataclass(frozen=True)
class TokenLayout:
    """What a token is, of a model for which it is more than one embedding of one frame.

    Nothing else has to travel with a token: where it stood in time and space is told by its frame,
    the frames' times, its cell and the grid.
    """

    frames: int = 1
    """Frames that a token speaks of, those of one temporal patch; `frame` is the first of them."""
    parts: tuple[int, ...] = ()
    """Widths of what lies side by side in a token's row: the embedding, then what is added to it in
    the first layers behind; empty where the row is the embedding alone."""

    def __post_init__(self) -> None:
        if self.frames < 1 or len(self.parts) == 1 or any(width < 1 for width in self.parts):
            raise ValueError(f"got {self}, expected frames >= 1 and no part or several")

    def steps(self, num_frames: int) -> int:
        """Temporal patches of so many frames; the last is filled up."""
        return -(-num_frames // self.frames)

    def with_frames(self, tokens: "ClipTokens") -> "ClipTokens":
        """Tokens whose `frame` counted temporal patches, with the first frame of each."""
        return tokens if self.frames == 1 else replace(tokens, frame=tokens.frame * self.frames)


PLAIN_LAYOUT = TokenLayout()


@dataclass(frozen=True)
class Level:
    """How much coarser a clip is than the reduction left it."""

    keep: float = 1.0
    """It was faded to at most this share of the tokens before the reduction; 1 where it was not, 0
    where the keyframe's anchors are all that was kept."""
    clips: int = 1
    """Of so many clips it tells together: those whose indexes, from its own on, are as many."""

    def __post_init__(self) -> None:
        if not 0 <= self.keep <= 1 or self.clips < 1:
            raise ValueError(f"got {self}, expected 0 <= keep <= 1 and at least one clip")


FULL_LEVEL = Level()


@dataclass(frozen=True)
class CompressedClip:
    """What is stored of a clip."""

    stream_id: str
    epoch: int
    index: int
    start_s: float
    end_s: float
    pts_s: tuple[float, ...]
    """Presentation time of every frame that went in."""
    tokens: "ClipTokens"
    wall_start_s: float | None = None
    """Unix time of `start_s`."""
    stats: ClipStats = field(default_factory=ClipStats)
    layout: TokenLayout = PLAIN_LAYOUT
    level: Level = FULL_LEVEL

    def __repr__(self) -> str:
        return (
            f"CompressedClip({self.stream_id}/{self.epoch}/{self.index}, "
            f"{self.start_s:.3f}..{self.end_s:.3f} s, {self.tokens!r})"
        )


@dataclass(frozen=True)
class FailedClip:
    """A clip that no worker could compress; it becomes a gap and the stream goes on."""

    stream_id: str
    epoch: int
    index: int
    start_s: float
    end_s: float
    detail: str
    """What went wrong, in one line."""

    @classmethod
    def of(cls, clip: Clip, detail: str) -> "FailedClip":
        """A clip that came to nothing, by its place in the stream."""
        start_s = float(clip.pts_s[0])
        return cls(clip.stream_id, clip.epoch, clip.index, start_s, clip.end_s, detail)


@dataclass(frozen=True)
class StreamGap:
    """A stretch of stream time without a clip, and why."""

    stream_id: str
    epoch: int
    start_s: float
    end_s: float
    reason: GapReason


@dataclass(frozen=True)
class Cursor:
    """Where a stream stands: its last stored clip."""

    epoch: int
    index: int
    last_pts_s: float
    """Presentation time of the clip's last frame; reading goes on behind it."""
    end_s: float
    complete: bool = False
    """True when the source was read to its end, so that nothing is left to do."""
