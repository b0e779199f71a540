"""`aot cluster`: the machines that share the streams of `aot up --detach`.

All of it is read from and written to the store: it works while Ray's head is away.
"""

import time
from typing import TYPE_CHECKING

import typer

from pipeline.cli.output import note, print_json, settings_of
from pipeline.values.errors import InvalidQuery
from pipeline.values.plain import to_plain

if TYPE_CHECKING:
    from pipeline.store.roster import HostView, Roster, RosterView

app = typer.Typer(no_args_is_help=True, help="Machines that share the streams of `up --detach`.")

STORE = typer.Option(None, "--store", help="URL of the store.")
JSON = typer.Option(False, "--json", help="As JSON.")
POLL_S = 0.5
SHORT = 12
"""Digits of a node's id that are shown, and enough to name it."""


@app.command()
def status(context: typer.Context, store: str = STORE, as_json: bool = JSON) -> int:
    """Which session has how many streams, on which machine."""
    from pipeline.ingest.hosted import open_roster

    settings = settings_of(context, {"store": {"url": store}})
    with open_roster(settings.store_config()) as roster:
        view = roster.view()
    print_json(to_plain(view)) if as_json else _show(view)
    return 0


@app.command()
def drain(
    context: typer.Context,
    node: str = typer.Argument(..., help="Of a machine: how its Ray id begins, or its address."),
    undo: bool = typer.Option(False, "--undo", help="Let it take streams again."),
    timeout: float = typer.Option(600.0, "--timeout", help="Seconds to wait for its last stream."),
    store: str = STORE,
) -> int:
    """Have a machine hand its streams over, one by one, so that it can be taken away.

    Returns when it has none left; 1 where others have no room for them in time.
    """
    from pipeline.ingest.hosted import open_roster

    settings = settings_of(context, {"store": {"url": store}})
    with open_roster(settings.store_config()) as roster:
        full = _find_node(roster.view().hosts, node)
        roster.drain(full, wanted=not undo)
        if undo:
            return 0
        left = _wait_until_empty(roster, full, timeout)
    if left:
        note(f"{left} streams are still there: others have no room; add a machine, and wait on")
        return 1
    print(f"{full[:SHORT]} holds no stream; it can be stopped")
    return 0


@app.command()
def down(context: typer.Context, store: str = STORE) -> int:
    """End all streams of `up --detach`; what they stored stays."""
    from pipeline.ingest.hosted import open_roster

    settings = settings_of(context, {"store": {"url": store}})
    with open_roster(settings.store_config()) as roster:
        roster.put_wanted({}, version="")
        while hosts := roster.view().hosts:
            if all(host.quiet_s > settings.ray.session_silent_s for host in hosts):
                break
            time.sleep(POLL_S)
    return 0


def _wait_until_empty(roster: "Roster", node: str, limit_s: float) -> int:
    until_s, left = time.monotonic() + limit_s, -1
    while time.monotonic() < until_s:
        hosts = [host for host in roster.view().hosts if host.seat.node == node]
        if left != (left := sum(host.num_streams for host in hosts)):
            note(f"{left} streams left on {node[:SHORT]}")
        if not left:
            break
        time.sleep(POLL_S)
    return max(0, left)


def _find_node(hosts: "tuple[HostView, ...]", name: str) -> str:
    """The full id of the one machine that is meant."""
    nodes = {one.seat.node for one in hosts if one.seat.node.startswith(name)}
    nodes |= {one.seat.node for one in hosts if one.seat.address == name}
    if len(nodes) != 1:
        there = sorted(f"{one.seat.node[:SHORT]} at {one.seat.address}" for one in hosts)
        raise InvalidQuery(
            f"{len(nodes)} machines are called {name!r}; name one of: {', '.join(there) or 'none'}"
        )
    return nodes.pop()


def _show(view: "RosterView") -> None:
    paused = f"; {view.num_paused} paused" if view.num_paused else ""
    print(f"{view.num_wanted} streams, {view.num_free} of them read by nobody now{paused}")
    for one in view.asking:
        kind = "ask for" if one.selector.is_required else "would rather have"
        near = sum(host.takes and one.selector.matches(host.seat.labels) for host in view.hosts)
        print(
            f"  {one.num_wanted} {kind} {one.selector}, {one.num_free} of them read by nobody now; "
            f"{near} sessions match"
        )
    for host in view.hosts:
        marks = [
            "draining" * host.is_draining,
            "of an earlier version" * (host.seat.version != view.version),
            f"silent for {host.quiet_s:.0f} s" * (host.quiet_s > 2.0),
        ]
        words = ", ".join(mark for mark in marks if mark)
        print(
            f"  {host.seat.node[:SHORT]} {host.seat.address:<15} {host.seat.host} "
            f"{host.num_streams} streams{': ' if words else ''}{words}"
        )
