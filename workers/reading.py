"""From stored clips to what a language half reads: time marks with their visual tokens.

A clip is read as one run behind one mark, in the order it was emitted, or frame by frame, each
behind its own mark. Knows of no store and no model.
"""

from dataclasses import replace

from aot import ClipTokens
from workers.models.base import Marks, VisualSegment
from workers.types import CompressedClip


def format_mark(time_s: float, *, brackets: bool = True, name: str | None = None) -> str:
    """Seconds of the stream as `[HH:MM:SS]` or `[name HH:MM:SS]`; negative times count as zero."""
    minutes, seconds = divmod(max(int(time_s), 0), 60)
    hours, minutes = divmod(minutes, 60)
    text = f"{hours:02d}:{minutes:02d}:{seconds:02d}"
    if name is not None:
        text = f"{name} {text}"
    return f"[{text}]" if brackets else text


def read_clip(
    clip: CompressedClip,
    *,
    marks: Marks = "clip",
    keep_positions: bool = False,
    name: str | None = None,
) -> list[VisualSegment]:
    """Segments of one clip; its first mark says `name` where one is given.

    With `keep_positions` every token is read at the place it had before the reduction, so that
    the model sees which ones are missing; it takes as much of the context as all tokens would.
    """
    if marks == "frame":
        return [
            _read_frame(clip, frame, keep_positions, None if frame else name)
            for frame in range(len(clip.pts_s))
        ]
    tokens = clip.tokens
    segment = VisualSegment(format_mark(clip.start_s, name=name), tokens.tokens)
    if not keep_positions:
        return [segment]
    cells = tokens.grid[0] * tokens.grid[1]
    positions = tokens.frame.long() * cells + tokens.cell.long()
    return [replace(segment, positions=positions, num_positions=cells * len(clip.pts_s))]


def _read_frame(
    clip: CompressedClip, frame: int, keep_positions: bool, name: str | None
) -> VisualSegment:
    """A frame's tokens in raster order; an anchor and what was merged into it stand together."""
    tokens: ClipTokens = clip.tokens
    here = (tokens.frame == frame).nonzero()[:, 0]
    here = here[tokens.cell[here].long().argsort(stable=True)]
    cell = tokens.cell[here].long()
    return VisualSegment(
        format_mark(clip.pts_s[frame], name=name),
        tokens.tokens[here],
        positions=cell if keep_positions else None,
        num_positions=tokens.grid[0] * tokens.grid[1] if keep_positions else None,
    )
