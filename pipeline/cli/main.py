"""The `aot` command: its groups, and how every error becomes one line and an exit code.

Exit codes: 0 ok, 1 error, 2 usage, 3 no footage in the range, 130 interrupted.
"""

import signal
import sys
import traceback
from importlib.metadata import version
from types import FrameType

import typer

from pipeline.cli import (
    ask,
    bench,
    clips,
    cluster,
    demo,
    doctor,
    ingest,
    live,
    models,
    serve,
    store,
    streams,
    watch,
)
from pipeline.cli.arguments import EVERYWHERE, arrange
from pipeline.cli.output import Common, explain_error, print_json, warn_of_variables
from pipeline.values.errors import KINDS, kind_of
from pipeline.values.plain import one_line

OK, ERROR, USAGE, INTERRUPTED = 0, 1, 2, 130

app = typer.Typer(
    name="aot",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Video streams in; compressed visual tokens kept; questions answered from them.",
)
COMMANDS = (
    *(doctor.doctor, doctor.config, demo.demo, models.models),
    *(ingest.ingest, live.up, ask.ask, ask.chat, ask.search),
    *(serve.serve, serve.mcp),
)
for command in COMMANDS:
    app.command(epilog=EVERYWHERE)(command)
for name, group in (
    ("streams", streams.app),
    ("clips", clips.app),
    ("cluster", cluster.app),
    ("store", store.app),
    ("keys", serve.keys),
    ("watch", watch.app),
    ("bench", bench.app),
):
    app.add_typer(group, name=name, epilog=EVERYWHERE)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"aot-stream {version('aot-stream')}")
        raise typer.Exit


@app.callback()
def common(
    context: typer.Context,
    show_version: bool = typer.Option(
        False, "--version", is_eager=True, callback=_show_version, help="Show the version and exit."
    ),
    config: str = typer.Option(None, "--config", "-c", help="Settings file (YAML)."),
    store: str = typer.Option(None, "--store", help="URL of the store."),
    debug: bool = typer.Option(False, "--debug", help="Show tracebacks and all logs."),
) -> None:
    """Options of every command."""
    context.obj = Common(config=config, store=store, debug=debug)
    warn_of_variables()


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code."""
    given = arrange(sys.argv[1:] if arguments is None else arguments)
    signal.signal(signal.SIGTERM, _interrupt)
    if signal.getsignal(signal.SIGHUP) == signal.SIG_DFL:  # under nohup it is to be ignored
        signal.signal(signal.SIGHUP, _interrupt)
    try:
        result = app(given, standalone_mode=False, prog_name="aot")
        code = result if isinstance(result, int) else OK
    except KeyboardInterrupt:
        code = INTERRUPTED
    except typer.Exit as stop:
        return stop.exit_code
    except Exception as error:
        return _report(error, given)
    if code == INTERRUPTED:  # raised, or made an exit code by typer
        text = "interrupted; what was stored is kept"
        if "--json" in given:
            print_json({"error": {"code": "Interrupted", "message": text}})
        print(text, file=sys.stderr)
    return code


def _report(error: Exception, given: list[str]) -> int:
    if "--debug" in given:
        traceback.print_exc()
    code, text, exit_code = _explain(error)
    if "--json" in given:
        print_json({"error": {"code": code, "message": text}})
    print(f"error: {code}: {text}", file=sys.stderr)
    return exit_code


def _explain(error: Exception) -> tuple[str, str, int]:
    """Stable code, one line of text, exit code."""
    if isinstance(error, typer.BadParameter) or hasattr(error, "format_message"):
        message = getattr(error, "format_message", lambda: one_line(error))()
        return "Usage", " ".join(message.split()), USAGE
    if isinstance(error, typer.Abort):
        return "Aborted", "nothing was done; answer yes, or give --yes", ERROR
    code, text = explain_error(error)
    kind = kind_of(error)
    return code, f"{text}; run again with --debug" if kind == "internal" else text, KINDS[kind]


def _interrupt(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
