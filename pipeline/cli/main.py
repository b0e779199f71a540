"""The `aot` command: its groups, and how every error becomes one line and an exit code.

Exit codes: 0 ok, 1 error, 2 usage, 3 no footage in the range, 130 interrupted.
"""

import signal
import sys
import traceback
from importlib.metadata import version
from types import FrameType

import typer

from aot.errors import AOTError, InvalidConfig
from pipeline.cli import ask, bench, clips, doctor, ingest, streams
from pipeline.cli.output import Common, one_line, print_json
from pipeline.errors import InvalidQuery, InvalidSettings, NoFootage, PipelineError
from workers.errors import InvalidSettings as InvalidWorkerSettings
from workers.errors import InvalidSource, WorkerError

OK, ERROR, USAGE, NO_FOOTAGE, INTERRUPTED = 0, 1, 2, 3, 130

_USAGE_ERRORS = (
    InvalidQuery,
    InvalidSettings,
    InvalidSource,
    InvalidWorkerSettings,
    InvalidConfig,
)

app = typer.Typer(
    name="aot",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Video streams in; compressed visual tokens kept; questions answered from them.",
)
app.command()(doctor.doctor)
app.command()(doctor.config)
app.command()(doctor.demo)
app.command()(ingest.ingest)
app.add_typer(streams.app, name="streams")
app.command()(ask.ask)
app.add_typer(clips.app, name="clips")
app.add_typer(bench.app, name="bench")


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
    debug: bool = typer.Option(False, "--debug", help="Show tracebacks and all logs."),
) -> None:
    """Options of every command."""
    context.obj = Common(config=config, debug=debug)


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code."""
    given = sys.argv[1:] if arguments is None else arguments
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
        print("interrupted; what was stored is kept", file=sys.stderr)
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
    text = one_line(error)
    if isinstance(error, typer.BadParameter) or hasattr(error, "format_message"):
        message = getattr(error, "format_message", lambda: text)()
        return "Usage", " ".join(message.split()), USAGE
    code = getattr(error, "code", type(error).__name__)
    if isinstance(error, NoFootage):
        return code, text, NO_FOOTAGE
    if isinstance(error, _USAGE_ERRORS):
        return code, text, USAGE
    if isinstance(error, (PipelineError, WorkerError, AOTError)):
        return code, text, ERROR
    return "InternalError", f"{type(error).__name__}: {text}; run again with --debug", ERROR


def _interrupt(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
