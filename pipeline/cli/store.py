"""`aot store`: its server on this machine, and all its streams into a folder and back."""

from pathlib import Path

import typer

from pipeline.cli.output import megabytes, open_store_of, print_json, print_table, settings_of
from pipeline.values.plain import to_plain

app = typer.Typer(
    help="The embedded server: status, stop. All streams: backup, restore.", no_args_is_help=True
)


@app.command()
def status(context: typer.Context, as_json: bool = typer.Option(False, "--json")) -> int:
    """How the server stands; starts nothing. Exit 1 where none runs."""
    from pipeline.store.embedded import embedded_status

    found = embedded_status(_folder(context))
    if as_json:
        print_json(to_plain(found))
    else:
        facts = {**to_plain(found), "disk_bytes": megabytes(found.disk_bytes)}
        print_table(("", ""), ((name, "" if v is None else v) for name, v in facts.items()))
    return 0 if found.state == "ready" else 1


@app.command()
def stop(context: typer.Context, as_json: bool = typer.Option(False, "--json")) -> int:
    """Flush to disk and stop the server; the next command that needs it starts it again."""
    from pipeline.store.embedded import stop_embedded

    folder = _folder(context)
    stopped = stop_embedded(folder)
    if as_json:
        print_json({"folder": str(folder), "stopped": stopped})
    else:
        print(f"{folder}: {'stopped' if stopped else 'no server was running'}")
    return 0


@app.command()
def backup(
    context: typer.Context, folder: Path, as_json: bool = typer.Option(False, "--json")
) -> int:
    """Export every stream into a folder, one Arrow file each, with its gaps and facts."""
    from pipeline.api.transfer import back_up

    return _transfer(context, back_up, folder, as_json)


@app.command()
def restore(
    context: typer.Context, folder: Path, as_json: bool = typer.Option(False, "--json")
) -> int:
    """Import every stream of a backup; what is there already stays as it is."""
    from pipeline.api.transfer import restore as restore_all

    return _transfer(context, restore_all, folder, as_json)


def _transfer(context: typer.Context, transfer, folder: Path, as_json: bool) -> int:
    with open_store_of(context) as store:
        counts = transfer(store, folder)
    if as_json:
        print_json({"folder": str(folder), "clips": counts})
    else:
        print_table(("STREAM", "CLIPS"), counts.items())
    return 0


def _folder(context: typer.Context):
    """Of the embedded store that the settings name; `InvalidSettings` where they name another."""
    from pipeline.store import embedded_folder

    return embedded_folder(settings_of(context).store.url)
