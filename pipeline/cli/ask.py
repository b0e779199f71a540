"""`aot ask`: a question about stored streams, answered from their tokens."""

from collections import Counter
from typing import TYPE_CHECKING, Any

import typer

from pipeline.cli.output import hms, note, print_json, settings_of
from pipeline.values.plain import to_plain

if TYPE_CHECKING:
    from pipeline.ask.answer import Answer, StreamReading


def ask(
    context: typer.Context,
    question: str = typer.Argument(..., metavar="QUESTION"),
    streams: list[str] = typer.Option(..., "--stream", "-s", help="Stream to ask; repeatable."),
    start: str = typer.Option(None, "--from", help="Start: 14:00, 750, -10m, ISO 8601."),
    end: str = typer.Option(None, "--to", help="End, in the same forms."),
    last: str = typer.Option(None, "--last", help="The last stretch, such as 10m."),
    max_visual_tokens: int = typer.Option(None, "--max-visual-tokens"),
    max_new_tokens: int = typer.Option(None, "--max-new-tokens"),
    fit: str = typer.Option(
        None, "--fit", help="Where the range holds more than the budget: choose, recompress, find."
    ),
    model: str = typer.Option(None, "--model", "-m", help="Hub id or folder of the checkpoint."),
    store: str = typer.Option(None, "--store", help="URL of the store."),
    ray: str = typer.Option(
        None, "--ray", help="Answer on a cluster: its HOST:PORT, or auto; off answers here."
    ),
    as_json: bool = typer.Option(False, "--json"),
) -> int:
    """Answer a question about a range of streams from the cache alone."""
    from pipeline.api.pipeline import Pipeline
    from pipeline.ask.answer import Answer

    budget = {
        "max_visual_tokens": max_visual_tokens,
        "max_new_tokens": max_new_tokens,
        "fit": fit,
    }
    overrides = {
        "model": {"id": model},
        "store": {"url": store},
        "ask": budget,
        "ray": _ray(ray),
    }
    settings = settings_of(context, overrides)
    with Pipeline(settings) as pipeline:
        answer = None
        for part in pipeline.ask_stream(question, streams=streams, start=start, end=end, last=last):
            if isinstance(part, Answer):
                answer = part
            elif not as_json:
                print(part.text, end="", flush=True)
    assert answer is not None
    if as_json:
        print_json(_as_json(answer))
    else:
        print()
        _show_sources(answer)
    return 0


def search(
    context: typer.Context,
    question: str = typer.Argument(..., metavar="QUESTION"),
    streams: list[str] = typer.Option(..., "--stream", "-s", help="Stream to search; repeatable."),
    start: str = typer.Option(None, "--from", help="Start: 14:00, 750, -10m, ISO 8601."),
    end: str = typer.Option(None, "--to", help="End, in the same forms."),
    last: str = typer.Option(None, "--last", help="The last stretch, such as 10m."),
    most: int = typer.Option(5, "--top", min=1, max=1000, help="How many to show."),
    model: str = typer.Option(None, "--model", "-m", help="Hub id or folder of the checkpoint."),
    store: str = typer.Option(None, "--store", help="URL of the store."),
    as_json: bool = typer.Option(False, "--json"),
) -> int:
    """Find the clips of a range that matter for a question, the most relevant first."""
    from pipeline.api.pipeline import Pipeline

    overrides = {"model": {"id": model}, "store": {"url": store}}
    with Pipeline(settings_of(context, overrides)) as pipeline:
        result = pipeline.search(
            question, streams=streams, start=start, end=end, last=last, most=most
        )
    if as_json:
        print_json(to_plain(result))
        return 0
    for hit in result.hits:
        begin, stop = hit.wall_start or hms(hit.start_s), hit.wall_end or hms(hit.end_s)
        print(f"{hit.score:8.2f}  {hit.stream_id}  {begin} to {stop}  clip {hit.span.index}")
    note(f"  {result.searched} clips looked through")
    return 0


def _ray(choice: str | None) -> dict[str, Any]:
    if choice is None:
        return {}
    if choice == "off":
        return {"answers": False}
    return {"enabled": True, "answers": True, "address": choice}


def _as_json(answer: "Answer") -> dict[str, Any]:
    plain = to_plain(answer)
    for shown, stream in zip(plain["streams"], answer.streams, strict=True):
        shown["read_fraction"] = stream.read_fraction
    return plain


def _show_sources(answer: "Answer") -> None:
    """The range as it was understood, citations, coverage and cost on stderr."""
    for stream in answer.streams:
        note(f"  {stream.stream_id}  {_range_of(stream)}: {_found_in(stream)}")
    for span in answer.citations[:8]:
        note(f"  {span.stream_id}  {hms(span.start_s)} to {hms(span.end_s)}  clip {span.index}")
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
    merged = "".join(
        f", {level.clips} merged from {level.tokens_before} to {level.tokens_read} tokens"
        for level in stream.levels
        if level.detail == "merged"
    )
    return (
        f"{stream.clips_read} of {stream.clips_found} clips read, coverage "
        f"{stream.coverage:.0%}{without}{merged}"
    )
