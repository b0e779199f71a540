"""`aot models`: which checkpoints can be used, and what their tokens cost."""

from typing import Any

import typer

from pipeline.cli.output import print_json, print_table, settings_of
from pipeline.values.errors import InvalidQuery

GIB = 1 << 30


def models(
    context: typer.Context,
    model: str = typer.Argument(None, help="A hub id or a folder to look at, instead of the list."),
    retention: float = typer.Option(None, "--retention", help="Share of the tokens to keep."),
    fps: float = typer.Option(None, "--fps", help="Frames a second that are read."),
    as_json: bool = typer.Option(False, "--json"),
) -> None:
    """Checkpoints that can be used, with what an hour costs the store and a context holds."""
    from workers.models import is_downloaded, known_checkpoints, measure_model

    ingest = settings_of(context, strict=False).ingest
    share = ingest.retention if retention is None else retention
    rate = ingest.fps if fps is None else fps
    if not 0 < share <= 1 or not rate or rate <= 0:
        raise InvalidQuery(
            f"got retention {share} and fps {rate}, expected 0 < retention <= 1 and frames a second"
        )
    rows: list[dict[str, Any]] = []
    if model is not None:
        family, cost = measure_model(model)
        rows.append(_row(model, family, cost, share, rate, here=True))
    else:
        for known in known_checkpoints():
            here = is_downloaded(known.model_id)
            rows.append(_row(known.model_id, known.family, known.cost, share, rate, here=here))
    if as_json:
        print_json({"retention": share, "fps": rate, "models": rows})
        return
    print_table(
        ("MODEL", "FAMILY", "TOKENS/FRAME", "GIB/HOUR", "CONTEXT HOURS", "HERE"),
        [
            (
                row["model"],
                row["family"],
                f"{row['tokens_per_frame']:g}",
                f"{row['bytes_per_hour'] / GIB:.3f}",
                f"{row['context_hours']:.2f}",
                "yes" if row["downloaded"] else "",
            )
            for row in rows
        ],
    )


def _row(
    model: str, family: str, cost: Any, retention: float, fps: float, *, here: bool
) -> dict[str, Any]:
    return {
        "model": model,
        "family": family,
        "tokens_per_frame": cost.tokens_per_frame,
        "bytes_per_hour": round(cost.bytes_per_hour(retention, fps)),
        "context_hours": round(cost.context_hours(retention, fps), 4),
        "downloaded": here,
    }
