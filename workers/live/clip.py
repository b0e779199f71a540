"""An open clip: what its frames have given so far, and the clip that comes of it."""

from dataclasses import dataclass, field, replace

from aot import ClipTokens, concatenate
from workers.live.timeline import Place
from workers.seams import Pushed
from workers.types import PLAIN_LAYOUT, ClipStats, CompressedClip, TokenLayout


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
    """Stream time up to which it speaks for the stream; held frames move it on."""

    def add(self, place: Place, pushed: Pushed, *, interval_s: float, damaged: bool) -> None:
        """Take what one frame gave."""
        self.pts_s.append(place.pts_s)
        self.parts.append(pushed.tokens)
        self.state = pushed.state
        self.end_s = place.pts_s + interval_s
        stats = self.stats
        self.stats = replace(
            stats,
            encode_s=stats.encode_s + pushed.encode_s,
            reduce_s=stats.reduce_s + pushed.reduce_s,
            frames_in=stats.frames_in + 1,
            tokens_in=stats.tokens_in + pushed.tokens_in,
            tokens_out=stats.tokens_out + len(pushed.tokens),
            damaged=stats.damaged + damaged,
        )

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
