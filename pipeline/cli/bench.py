"""`aot bench`: progress on stderr; on stdout a table for people and one last line of JSON."""

from typing import Any

import typer

from pipeline.cli.extras import load_extra
from pipeline.cli.output import note, print_json, print_table

app = typer.Typer(help="Benchmarks; each ends in one line of JSON.", no_args_is_help=True)

_JSON = typer.Option(False, "--json", help="The line of JSON alone.")


def _run(name: str, as_json: bool, **options: Any) -> int:
    given = {key: value for key, value in options.items() if value is not None}
    result = load_extra("aot.benches", name)(on_progress=note, **given)
    if not as_json:
        rows = ((key, value) for key, value in result.items() if _is_short(value))
        print_table(("", name), rows)
    print_json(result)
    return 0


def _is_short(value: Any) -> bool:
    return not isinstance(value, (dict, list))


@app.command()
def decode(
    seconds: int = typer.Option(None, help="Length of the generated scene."),
    as_json: bool = _JSON,
) -> int:
    """The GOP plan against decoding everything and against the ffmpeg command."""
    return _run("decode", as_json, seconds=seconds)


@app.command()
def reduce(as_json: bool = _JSON) -> int:
    """The reduction against the reference's order of operations, and its share of encoding."""
    return _run("reduce", as_json)


@app.command()
def adapters(
    families: str = typer.Option(None, help="Their `model_type`s, with commas; all without it."),
    layers: int = typer.Option(None, help="Of each vision tower, 0 for all it has."),
    as_json: bool = _JSON,
) -> int:
    """Time and memory of every family's adapter over transformers' own vision tower."""
    return _run("adapters", as_json, families=families, layers=layers)


@app.command()
def ingest(
    seconds: int = typer.Option(None, help="Length of the generated video."),
    as_json: bool = _JSON,
) -> int:
    """The whole path against its bare parts, and its memory."""
    return _run("ingest", as_json, seconds=seconds)


@app.command()
def tracing(
    seconds: int = typer.Option(None, help="Length of the generated video."),
    as_json: bool = _JSON,
) -> int:
    """What traces cost a clip."""
    return _run("tracing", as_json, seconds=seconds)


@app.command()
def live(
    seconds: float = typer.Option(None, help="Of every number of streams."),
    as_json: bool = _JSON,
) -> int:
    """Endless streams side by side: freshness, how many hold, supervision, still frames."""
    return _run("live", as_json, seconds=seconds)


@app.command()
def soak(
    hours: float = typer.Option(None, help="Of every stream."),
    streams: int = typer.Option(None, help="Side by side."),
    speed: int = typer.Option(None, help="Seconds of the stream in a second."),
    fps: float = typer.Option(None, help="Pictures in a second of the stream."),
    as_json: bool = _JSON,
) -> int:
    """A day of cameras in minutes: memory, files and threads of every process stay flat."""
    return _run("soak", as_json, hours=hours, streams=streams, speed=speed, fps=fps)


@app.command()
def scale(
    seconds: float = typer.Option(None, help="Of each of six measurements."),
    as_json: bool = _JSON,
) -> int:
    """What 2 and 4 compress workers and sessions are worth; workers sleep as a GPU would work."""
    return _run("scale", as_json, seconds=seconds)


@app.command()
def query(as_json: bool = _JSON) -> int:
    """Index, reads and the first token of an hour-long cache."""
    return _run("query", as_json)


@app.command()
def storage(as_json: bool = _JSON) -> int:
    """The index of a million clips, and cold clips against hot ones."""
    return _run("storage", as_json)


@app.command()
def quality(as_json: bool = _JSON) -> int:
    """Answers kept per token dropped, for every reducer."""
    return _run("quality", as_json)


@app.command()
def start(as_json: bool = _JSON) -> int:
    """CPU time of a short command: help, settings, lists."""
    return _run("start", as_json)
