"""A site whose machines are killed and cut off, one after the other, while its cameras are watched.

    python -m tests.site.faults --streams 16 --kills 10 --seed 1 --cut 65

Then another version of the settings is rolled out, and a machine drained.

Points in time and machines are drawn by the seed, every kind among them; what is killed is started
again with an empty disk. After each fault every record that was there must be there unchanged; at
the end every second of every camera lies in exactly one clip or gap, and no index is missing.
"""

import argparse
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from pipeline.store import ClipStore
from pipeline.store.roster import Roster, RosterView
from tests.pipeline.live.runs import Ledger, check_line
from tests.site.machines import Machine, why_not
from tests.site.secured import find_program
from tests.site.site import KINDS, Rates, Site, is_settled, open_site, wait_settled
from tests.waits import HANG_S, wait_until

ANOTHER_VERSION = {"spool": {"max_bytes": 1_000_000_000}}
"""A setting that nobody feels."""


@dataclass(frozen=True)
class Fault:
    """What happened to a machine, and how the streams took it."""

    what: str
    clip_of_all_s: float
    """From the fault to a clip of every stream that begins later."""
    longest_gap_s: float
    moved: int
    """Streams with a gap."""

    def __str__(self) -> str:
        return (
            f"{self.what:<18} longest gap {self.longest_gap_s:5.1f} s, {self.moved:2} streams with "
            f"one; a clip of all after {self.clip_of_all_s:5.1f} s; load {os.getloadavg()[0]:.0f}"
        )


class Watched:
    """The cameras of a site as the store has them."""

    def __init__(self, site: Site, roster: Roster, store: ClipStore, names: Sequence[str]) -> None:
        self.site, self.roster, self.store, self.names = site, roster, store, names
        self.ledgers: dict[str, Ledger] = {}

    def wait_for_clips(self, since_s: float) -> float:
        """Until every stream has a clip that begins later than a moment; seconds since then."""
        late = set(self.names)

        def are_there() -> bool:
            late.difference_update([name for name in late if self._begun_s(name) > since_s])
            return not late

        wait_until(are_there, poll_s=0.25)
        return time.time() - since_s

    def _begun_s(self, name: str) -> float:
        """By the wall clock, of the last clip."""
        if name not in self.store.list_streams():
            return 0.0
        spans, wall_s = self.store.list_spans(name), self.store.get_info(name).wall_start_s
        return 0.0 if not spans or wall_s is None else wall_s + spans[-1].start_s

    def look(self) -> int:
        """Nothing that was there is gone or changed; how many clips there are."""
        for name in self.names:
            self.ledgers.setdefault(name, Ledger(self.store, name))
        return sum(ledger.look() for ledger in self.ledgers.values())

    def gaps_since(self, since_s: float) -> dict[str, float]:
        """The longest gap of each stream that ends later than a moment."""
        found: dict[str, float] = {}
        for name in self.names:
            wall_s = self.store.get_info(name).wall_start_s or 0.0
            for gap in self.store.list_gaps(name):
                if wall_s + gap.end_s > since_s:
                    found[name] = max(found.get(name, 0.0), gap.end_s - gap.start_s)
        return found

    def suffer(self, what: str, happen: Callable[[], None]) -> Fault:
        """Have a fault happen, and see that all streams go on."""
        began_s = time.time()
        happen()
        clips_s = self.wait_for_clips(began_s)
        gaps = self.gaps_since(began_s)
        self.look()
        return Fault(what, clips_s, max(gaps.values(), default=0.0), len(gaps))

    def check(self) -> dict[str, float]:
        """Every second is accounted for, once; seconds by what they are, of all streams."""
        sums: dict[str, float] = {}
        rates = self.site.rates
        for name in self.names:
            line = check_line(self.store, clip_s=rates.clip_s, step_s=rates.step_s, stream_id=name)
            assert self.store.verify(name).ok
            for what, seconds in line.items():
                sums[what] = sums.get(what, 0.0) + seconds
        return sums


def choose_victims(site: Site, kills: int, rng: random.Random) -> list[Machine]:
    """Every kind in turn, in an order of chance, and which of a kind by chance."""
    kinds = [sorted(set(KINDS))[number % 3] for number in range(kills)]
    rng.shuffle(kinds)
    return [rng.choice(site.of_kind(kind)) for kind in kinds]


def kill_and_start(watched: Watched, machine: Machine, rng: random.Random) -> Fault:
    """A machine gone for good; another of its kind comes, and the streams are shared again."""
    site = watched.site
    fault = watched.suffer(f"{site.kinds[machine]} killed", machine.kill)
    site.start(machine)
    site.wait_for_workers(KINDS.count("compress"))
    wait_settled(watched.roster)
    time.sleep(rng.uniform(0, 2 * site.rates.clip_s))
    return fault


def cut_off(watched: Watched, machine: Machine, away_s: float) -> Iterator[Fault]:
    """A machine's cable pulled, and plugged in again while others have its streams.

    Ray's part of it may end itself, as its head has given it up: then it is started again.
    """
    site, began_s = watched.site, time.monotonic()
    yield watched.suffer(f"{site.kinds[machine]} cut off", machine.pull_cable)
    time.sleep(max(0.0, away_s - (time.monotonic() - began_s)))
    watched.look()
    yield watched.suffer(f"back after {away_s:.0f} s", machine.plug_cable)
    time.sleep(2 * site.rates.clip_s)
    watched.look()
    if machine.address not in {host.seat.address for host in watched.roster.view().hosts}:
        machine.kill()
        site.start(machine)
    wait_settled(watched.roster)


def update(watched: Watched) -> Iterator[Fault]:
    """Another version beside the one that runs, on one machine more; then a machine drained."""
    site, roster = watched.site, watched.roster
    site.start(site.add("decode"))
    settings = site.write_settings(list(watched.names), "next.yaml", **ANOTHER_VERSION)

    def roll() -> None:
        site.aot("up", "--detach", settings=settings)
        wait_until(lambda: is_settled(roster.view()) and are_of_one_version(roster.view()))

    yield watched.suffer("rolling update", roll)
    leaving = next(host.seat.address for host in roster.view().hosts if host.num_streams)
    yield watched.suffer("drained", lambda: print(site.aot("cluster", "drain", leaving), end=""))


def are_of_one_version(view: RosterView) -> bool:
    """That which is to be, and all streams with it."""
    return all(host.seat.version == view.version for host in view.hosts)


@dataclass(frozen=True)
class Plan:
    """What is to happen."""

    kills: int = 10
    seed: int = 1
    cut_s: float = 65.0
    """0 pulls no cable."""
    update: bool = True


def run(program: str, rates: Rates, plan: Plan, tell: Callable[[str], None]) -> dict[str, float]:
    """All of it; seconds of the streams by what they are."""
    rng = random.Random(plan.seed)
    names = [f"cam{number:02}" for number in range(rates.streams)]
    with open_site(program, rates) as (site, roster, store):
        watched = Watched(site, roster, store, names)
        began_s = time.time()
        site.aot("up", "--detach", settings=site.write_settings(names))
        tell(f"up: a clip of all after {watched.wait_for_clips(began_s):.1f} s")
        wait_settled(roster)
        for fault in suffer_all(watched, plan, rng):
            tell(str(fault))
        clips = watched.look()
        site.aot("cluster", "down")
        wait_until(lambda: all(store.get_lease(name) is None for name in names), HANG_S)
        sums = watched.check()
        told = ", ".join(f"{what} {seconds:.0f}" for what, seconds in sums.items())
        tell(f"{clips} clips, none lost, changed or twice; seconds of all streams: {told}")
        return sums


def suffer_all(watched: Watched, plan: Plan, rng: random.Random) -> Iterator[Fault]:
    """One after the other."""
    site = watched.site
    for machine in choose_victims(site, plan.kills, rng):
        yield kill_and_start(watched, machine, rng)
    if plan.cut_s:
        yield from cut_off(watched, rng.choice(site.of_kind("decode")), plan.cut_s)
    if plan.update:
        yield from update(watched)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--fps", type=float, default=1.0)
    parser.add_argument("--clip-frames", type=int, default=4)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--cut", type=float, default=65.0, help="seconds; 0 leaves it out")
    parser.add_argument("--no-update", action="store_true")
    given = parser.parse_args()
    program = find_program()
    if (reason := why_not()) is not None or program is None:
        raise SystemExit(f"no site here: {reason or 'no redis-server with TLS on PATH'}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # what was started is ended
    rates = Rates(given.streams, given.fps, given.clip_frames)
    began_s = time.monotonic()

    def tell(text: str) -> None:
        print(f"{time.monotonic() - began_s:6.1f} s  {text}", flush=True)

    run(program, rates, Plan(given.kills, given.seed, given.cut, not given.no_update), tell)


if __name__ == "__main__":
    main()
