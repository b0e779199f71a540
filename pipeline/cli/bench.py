"""`aot bench`: a table for people on stderr, and one last line of JSON on stdout."""

import importlib
from typing import Any

import typer

from pipeline.cli.output import note, print_json

app = typer.Typer(help="Benchmarks; each ends in one line of JSON.", no_args_is_help=True)

_MODULES = {
    "decode": "pipeline.bench_decode",
    "reduce": "workers.bench_reduce",
    "ingest": "pipeline.bench_ingest",
    "query": "pipeline.bench_query",
    "quality": "demo.quality",  # above the pipeline: imported by name, when asked for
}


def _run(name: str, **options: Any) -> int:
    given = {key: value for key, value in options.items() if value is not None}
    print_json(importlib.import_module(_MODULES[name]).run(on_progress=note, **given))
    return 0


@app.command()
def decode(seconds: int = typer.Option(30, help="Length of the generated clips.")) -> int:
    """The GOP plan against decoding everything and against the ffmpeg command."""
    return _run("decode", seconds=seconds)


@app.command()
def reduce() -> int:
    """The reduction against the reference's order of operations, and its share of encoding."""
    return _run("reduce")


@app.command()
def ingest(seconds: int = typer.Option(None, help="Length of the generated video.")) -> int:
    """The whole path against its bare parts, and its memory."""
    return _run("ingest", seconds=seconds)


@app.command()
def query() -> int:
    """Index, reads and the first token of an hour-long cache."""
    return _run("query")


@app.command()
def quality() -> int:
    """Answers kept per token dropped, for every reducer."""
    return _run("quality")
