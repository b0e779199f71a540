"""`aot store`: its server on this machine, its cold tier, all streams into a folder and back."""

from pathlib import Path

import typer

from pipeline.cli.output import megabytes, open_store_of, print_json, print_table, settings_of
from pipeline.values.plain import to_plain

app = typer.Typer(
    help="The embedded server: status, stop. All streams: cool, backup, restore.",
    no_args_is_help=True,
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


@app.command()
def cool(
    context: typer.Context,
    name: str = typer.Argument(None, help="Of all streams when it is left out."),
    after: str = typer.Option(None, "--after", help="Age: 7d, 12h; else retention.cool_after."),
    as_json: bool = typer.Option(False, "--json"),
) -> int:
    """Move old clips to the cold tier, fade what is due there, join small files, remove dead ones.

    Sessions move clips by themselves while they run.
    """
    from pipeline.store.cold.run import cool as cool_all
    from pipeline.values.times import parse_duration

    rules = settings_of(context).retention.to_rules()
    after_s = rules.cool_after_s if after is None else parse_duration(after)
    with open_store_of(context) as store:
        cooled = list(cool_all(store, after_s, name, fade=rules.fade))
    if as_json:
        print_json({"streams": to_plain(cooled)})
    elif not cooled:
        print("nothing to move, and nothing to tidy")
    else:
        print_table(
            ("STREAM", "CLIPS MOVED", "SIZE", "FILES", "FADED", "REWRITTEN"),
            (
                (
                    one.stream_id,
                    one.moved.clips,
                    megabytes(one.moved.size_bytes),
                    one.moved.files,
                    one.faded.clips,
                    one.rewritten.clips,
                )
                for one in cooled
            ),
        )
    return 0


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
