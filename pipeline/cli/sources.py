"""What an answer rests on, told to people on stderr: ranges as understood, citations, cost."""

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from pipeline.cli.output import hms, note

if TYPE_CHECKING:
    from pipeline.ask.answer import Answer, Citation, StreamReading


def show_sources(answer: "Answer") -> None:
    """The range as it was understood, citations, coverage and cost on stderr."""
    for stream in answer.streams:
        note(f"  {stream.stream_id}  {_range_of(stream)}: {_found_in(stream)}")
    shown = answer.citations[:8]
    form = _form_of(shown)
    for span in shown:
        still = ", open" if span.is_open else ""
        note(f"  {span.stream_id}  {_where(span, form)}  clip {span.index}{still}")
    if len(answer.citations) > 8:
        note(f"  and {len(answer.citations) - 8} clips more")
    partial = ", some clips could not be read" if answer.partial else ""
    if answer.removed:
        partial = f", {answer.removed} clips were removed meanwhile"
    note(
        f"  {answer.visual_tokens} visual tokens, coverage {answer.coverage:.0%}, "
        f"{answer.read_fraction:.0%} of the clips read{partial}; "
        f"first word after {answer.timings.first_token_s:.2f} s"
    )


def _form_of(citations: "Sequence[Citation]") -> str:
    """How their times of day are written: with the date where it is not one and the same."""
    moments = [one for span in citations for one in (span.wall_start, span.wall_end) if one]
    days = {moment.partition("T")[0] for moment in moments}
    return "%H:%M:%S" if len(days) < 2 else "%Y-%m-%d %H:%M:%S"


def _where(span: "Citation", form: str) -> str:
    """A clip's times of day, in its stream's zone; its stream's own seconds where it has none."""
    if span.wall_start is None or span.wall_end is None:
        return f"{hms(span.start_s)} to {hms(span.end_s)}"
    first, last = map(datetime.fromisoformat, (span.wall_start, span.wall_end))
    return f"{first:{form}} to {last:{form}}"


def _range_of(stream: "StreamReading") -> str:
    told_by = f' ("{stream.phrase}")' if stream.phrase else ""
    if stream.wall_start is not None and stream.wall_end is not None:
        return f"{stream.wall_start} to {stream.wall_end}{told_by}"
    return f"{hms(stream.start_s)} to {hms(stream.end_s)}{told_by}"


def _found_in(stream: "StreamReading") -> str:
    if not stream.clips_found:
        return "no footage"
    gaps = Counter(gap.reason for gap in stream.gaps)
    without = "".join(f", {count} gaps ({reason})" for reason, count in gaps.items())
    if stream.held_s:
        without = f", unchanged for {hms(stream.held_s)}{without}"
    faded = f", {stream.clips_faded} faded" if stream.clips_faded else ""
    merged = "".join(
        f", {level.clips} merged from {level.tokens_before} to {level.tokens_read} tokens"
        for level in stream.levels
        if level.detail == "merged"
    )
    return (
        f"{stream.clips_read} of {stream.clips_found} clips read, coverage "
        f"{stream.coverage:.0%}{without}{faded}{merged}"
    )
