"""`aot serve` and `aot keys`: the service, and who may use it."""

import sys

import typer

from pipeline.cli.output import local_time, note, print_json, print_table, settings_of
from pipeline.values.plain import to_plain

keys = typer.Typer(help="Keys of the service: add, list, remove.", no_args_is_help=True)


def serve(
    context: typer.Context,
    host: str = typer.Option(None, "--host", help="Where to listen; elsewhere only with keys."),
    port: int = typer.Option(None, "--port", help="0 takes a free one."),
    model: str = typer.Option(None, "--model", "-m", help="Hub id or folder of the checkpoint."),
    as_json: bool = typer.Option(False, "--json"),
) -> int:
    """Answer questions over HTTP until interrupted: OpenAI's API, and what it has no shape for."""
    settings = settings_of(context, {"serve": {"host": host, "port": port}, "model": {"id": model}})
    from pipeline.serve.http import listen, run
    from pipeline.serve.service import Service

    with listen(settings) as at:
        service = Service(settings)
        url = f"http://{_shown(settings.serve.host)}:{at.getsockname()[1]}"
        if as_json:
            print_json({"url": url})
            sys.stdout.flush()
        open_to = "open to this machine: there are no keys" if service.is_open else "with keys"
        note(f"serving at {url}, {open_to}; stop it with Ctrl-C")
        run(service, at)
    return 0


def mcp(
    context: typer.Context,
    streams: list[str] = typer.Option(
        None, "--stream", "-s", help="A stream to show; repeatable, all without one."
    ),
    model: str = typer.Option(None, "--model", "-m", help="Hub id or folder of the checkpoint."),
    writes: bool = typer.Option(False, "--write", help="It may add standing questions."),
) -> int:
    """Serve the streams to an agent over stdio (MCP), read-only; over HTTP it is /mcp of serve."""
    settings = settings_of(context, {"model": {"id": model}, "serve": {"host": "127.0.0.1"}})
    from dataclasses import replace

    import anyio

    from pipeline.serve.keys import LOCAL
    from pipeline.serve.mcp import create_mcp
    from pipeline.serve.service import Service

    service = Service(settings)
    scope = "ingest" if writes else "read"
    caller = replace(LOCAL, scope=scope, streams=tuple(streams or ()))
    service.load()
    try:
        anyio.run(create_mcp(service, caller, may_write=writes).run_stdio_async)
    finally:
        service.close()
    return 0


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host else host


@keys.command("add")
def add_key(
    context: typer.Context,
    scope: str = typer.Option("read", "--scope", help="read, ingest or admin."),
    streams: list[str] = typer.Option(
        None, "--stream", "-s", help="A stream it is for; repeatable, all without one."
    ),
    text: str = typer.Option("", "--note", help="Whose it is."),
    as_json: bool = typer.Option(False, "--json"),
) -> int:
    """Make a key and show it, this once."""
    key, kept = _book(context).add(scope, streams or (), text)
    if as_json:
        print_json({"key": key, "key_id": kept.key_id, "scope": kept.scope})
    else:
        print(key)
        note(f"key {kept.key_id}, scope {kept.scope}; it is shown this once and kept as a digest")
    return 0


@keys.command("ls")
def list_keys(context: typer.Context, as_json: bool = typer.Option(False, "--json")) -> int:
    """All keys by their ids, and what each may do."""
    found = _book(context).list_keys()
    if as_json:
        shown = [{k: v for k, v in to_plain(key).items() if k != "digest"} for key in found]
        print_json({"keys": shown})
        return 0
    rows = (
        (
            key.key_id,
            key.scope,
            ", ".join(key.streams) or "all",
            local_time(key.created_at_s),
            key.note,
        )
        for key in found
    )
    print_table(("KEY", "SCOPE", "STREAMS", "MADE", "NOTE"), rows)
    return 0


@keys.command("rm")
def remove_key(
    context: typer.Context, key_id: str, as_json: bool = typer.Option(False, "--json")
) -> int:
    """Take a key back; a service that runs refuses it from now on."""
    _book(context).remove(key_id)
    print_json({"removed": key_id}) if as_json else print(f"removed {key_id}")
    return 0


def _book(context: typer.Context):
    from pipeline.serve.keys import KeyBook

    return KeyBook(settings_of(context).serve.keys_file)
