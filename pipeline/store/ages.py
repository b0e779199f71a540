"""When footage was seen, from its index row and what is known of its stream."""

from pipeline.values.types import ClipSpan, StreamInfo


def seen_at(span: ClipSpan, info: StreamInfo) -> float | None:
    """Unix time at which a clip begins; None where it is not known."""
    if span.wall_start_s is not None:
        return span.wall_start_s
    return None if info.wall_start_s is None else info.wall_start_s + span.start_s


def age_from(span: ClipSpan, info: StreamInfo) -> float:
    """Unix time from which a clip's age counts: since its stream was written, where no other."""
    seen_s = seen_at(span, info)
    return info.updated_at_s if seen_s is None else seen_s


def is_older(span: ClipSpan, info: StreamInfo, oldest_s: float) -> bool:
    """Whether all of a clip was seen before Unix time `oldest_s`."""
    return age_from(span, info) + span.end_s - span.start_s <= oldest_s
