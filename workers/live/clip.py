"""An open clip: what its frames have given so far, and the clip that comes of it."""

from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from aot import ClipTokens, concatenate
from workers.live.timeline import Place
from workers.seams import Pushed
from workers.types import PLAIN_LAYOUT, ClipStats, CompressedClip, TokenLayout


@dataclass
class ClipGrid:
    """Where a stream's clips end: after so many pictures, those that are held among them, so that
    gating moves no boundary."""

    clip_frames: int
    pictures: int = 0
    """Since the stream began, or a clip was cut short by what is no footage."""

    @property
    def is_full(self) -> bool:
        """Whether the last picture is the last of its stretch."""
        return self.pictures % self.clip_frames == 0


class Waiting(NamedTuple):
    """A frame that is to be pushed with others."""

    pixels: np.ndarray
    pts_s: float
    damaged: bool
    end_before_s: float
    """Of the clip, before the frame came."""


@dataclass
class OpenClip:
    """Gathers the tokens of one clip's frames in the order they were pushed."""

    stream_id: str
    index: int
    first: Place
    pts_s: list[float] = field(default_factory=list)
    parts: list[ClipTokens] = field(default_factory=list)
    stats: ClipStats = field(default_factory=ClipStats)
    state: object = None
    """The reducer's, for the clip's next frame."""
    layout: TokenLayout = PLAIN_LAYOUT
    end_s: float = 0.0
    """Stream time up to which it speaks for the stream."""
    waiting: list[Waiting] = field(default_factory=list)
    """Frames that do not fill a temporal patch yet."""

    @property
    def fills_patch(self) -> bool:
        """Whether the frames that wait fill whole temporal patches."""
        return len(self.waiting) % self.layout.frames == 0

    def wait(
        self, pixels: np.ndarray, place: Place, *, interval_s: float, damaged: bool = False
    ) -> None:
        """Take a frame that is to be pushed."""
        self.waiting.append(Waiting(pixels, place.pts_s, damaged, self.end_s))
        self.end_s = place.pts_s + interval_s

    def drop_waiting(self) -> int:
        """Forget the frames that wait, as if they had not come; how many."""
        dropped, self.waiting = self.waiting, []
        self.end_s = dropped[0].end_before_s
        return len(dropped)

    def add(self, pushed: Pushed) -> int:
        """Take what the frames that waited gave; how many they were."""
        frames, self.waiting = self.waiting, []
        self.pts_s += [frame.pts_s for frame in frames]
        self.parts.append(pushed.tokens)
        self.state = pushed.state
        stats = self.stats
        self.stats = replace(
            stats,
            encode_s=stats.encode_s + pushed.encode_s,
            reduce_s=stats.reduce_s + pushed.reduce_s,
            frames_in=stats.frames_in + len(frames),
            tokens_in=stats.tokens_in + pushed.tokens_in,
            tokens_out=stats.tokens_out + len(pushed.tokens),
            damaged=stats.damaged + sum(frame.damaged for frame in frames),
        )
        return len(frames)

    def end(self, rest: ClipTokens) -> None:
        """Take what the clip's end gave."""
        self.parts.append(rest)
        self.stats = replace(self.stats, tokens_out=self.stats.tokens_out + len(rest))

    def to_compressed(self) -> CompressedClip:
        """The clip so far; whole once it has ended."""
        return CompressedClip(
            stream_id=self.stream_id,
            epoch=self.first.epoch,
            index=self.index,
            start_s=self.pts_s[0],
            end_s=self.end_s,
            pts_s=tuple(self.pts_s),
            tokens=self.layout.with_frames(concatenate(self.parts)),
            wall_start_s=self.first.wall_s,
            stats=self.stats,
            layout=self.layout,
        )
