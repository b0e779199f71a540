"""From stored clips to what a language half reads: time marks with their visual tokens.

A clip is read as one run behind one mark, in the order it was emitted, or frame by frame, each
behind its own mark; of a clip that reaches out of the asked range only what speaks of it. Knows of
no store and no model.
"""

from collections.abc import Callable
from dataclasses import replace

import torch
from jaxtyping import Bool
from torch import Tensor

from aot import ClipTokens, TokenKind
from workers.models.base import Marks, VisualSegment
from workers.types import CompressedClip


def format_time(time_s: float) -> str:
    """Seconds as `HH:MM:SS`; negative times count as zero."""
    minutes, seconds = divmod(max(int(time_s), 0), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02d}:{minutes:02d}:{seconds:02d}"


def format_mark(
    time_s: float,
    *,
    brackets: bool = True,
    name: str | None = None,
    time_text: Callable[[float], str] = format_time,
) -> str:
    """A time as `[HH:MM:SS]` or `[name HH:MM:SS]`, as `time_text` writes it."""
    text = time_text(time_s)
    if name is not None:
        text = f"{name} {text}"
    return f"[{text}]" if brackets else text


def placeholder(mark: str, num_tokens: int) -> VisualSegment:
    """A segment of some length that holds nothing: enough to count what a prompt takes."""
    return VisualSegment(mark, torch.empty(num_tokens, 0))


def read_clip(
    clip: CompressedClip,
    *,
    marks: Marks = "clip",
    keep_positions: bool = False,
    name: str | None = None,
    within: tuple[float, float] | None = None,
    time_text: Callable[[float], str] = format_time,
) -> list[VisualSegment]:
    """Segments of one clip; its first mark says `name` where one is given.

    With `keep_positions` every token is read at the place it had before the reduction, so that
    the model sees which ones are missing; it takes as much of the context as all tokens would.
    `within` leaves out the tokens of frames that were not shown in [start_s, end_s); merged anchors
    stay, as they speak for the whole clip.
    """
    frames = frames_within(clip, within)
    if not frames:
        return []
    if marks == "frame":
        return [
            _read_frame(clip, frame, frames[0], keep_positions, time_text, None if i else name)
            for i, frame in enumerate(frames)
        ]
    tokens = clip.tokens
    mark = format_mark(_begin_s(clip, frames[0]), name=name, time_text=time_text)
    kept = _speaks_of(tokens, frames, len(clip.pts_s))
    segment = VisualSegment(mark, tokens.tokens[kept])
    if not keep_positions:
        return [segment]
    cells = tokens.grid[0] * tokens.grid[1]
    positions = (tokens.frame.long() * cells + tokens.cell.long())[kept]
    return [replace(segment, positions=positions, num_positions=cells * len(clip.pts_s))]


def frames_within(clip: CompressedClip, within: tuple[float, float] | None) -> list[int]:
    """The frames shown in [start_s, end_s): each until the next one, or the clip's end."""
    begins_s = [min(clip.start_s, clip.pts_s[0]), *clip.pts_s[1:]]
    ends_s = [*clip.pts_s[1:], max(clip.end_s, clip.pts_s[-1])]
    if within is None:
        return list(range(len(clip.pts_s)))
    start_s, end_s = within
    return [
        frame
        for frame, (shown_s, until_s) in enumerate(zip(begins_s, ends_s, strict=True))
        if shown_s < end_s and until_s > start_s
    ]


def _begin_s(clip: CompressedClip, first: int) -> float:
    return clip.start_s if first == 0 else clip.pts_s[first]


def _speaks_of(tokens: ClipTokens, frames: list[int], num_frames: int) -> Bool[Tensor, " m"]:
    """Tokens of these frames, and anchors that gathered from all of them."""
    wanted = torch.zeros(num_frames, dtype=torch.bool)
    wanted[frames] = True
    return wanted[tokens.frame.long()] | (tokens.kind == int(TokenKind.MERGED))


def _read_frame(
    clip: CompressedClip,
    frame: int,
    first: int,
    keep_positions: bool,
    time_text: Callable[[float], str],
    name: str | None,
) -> VisualSegment:
    """A frame's tokens in raster order; an anchor and what was merged into it stand together.

    Anchors of a keyframe that is not read stand with the first frame that is.
    """
    tokens: ClipTokens = clip.tokens
    is_here = tokens.frame == frame
    if frame == first:
        is_here |= (tokens.frame < first) & (tokens.kind == int(TokenKind.MERGED))
    here = is_here.nonzero()[:, 0]
    here = here[tokens.cell[here].long().argsort(stable=True)]
    cell = tokens.cell[here].long()
    return VisualSegment(
        format_mark(clip.pts_s[frame], name=name, time_text=time_text),
        tokens.tokens[here],
        positions=cell if keep_positions else None,
        num_positions=tokens.grid[0] * tokens.grid[1] if keep_positions else None,
    )
