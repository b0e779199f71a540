"""Sessions that tick instead of decoding: leases are taken, kept and fenced; no picture comes."""

import random
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from pipeline.ingest.host import HOST_PREFIX, Host, HostRules
from pipeline.ingest.hosted import open_roster, seat_of
from pipeline.ingest.lease import take_lease, take_leases
from pipeline.store import ClipStore, StoreConfig, open_store
from pipeline.values.errors import LeaseLost
from pipeline.values.types import Lease
from workers.cluster.host import HostPlace, LabelConditions


@dataclass(frozen=True)
class TickingStreams:
    """`HostWork` that holds leases."""

    store: StoreConfig
    rules: HostRules
    num_hosts: int
    tick_s: float
    version: str = "ticking"
    counts: dict[LabelConditions, int] | None = None
    """Of hosts on machines with labels, where there are such."""

    def run(self, place: HostPlace, *, stop: threading.Event, retire: threading.Event) -> None:
        seat = seat_of(place, self.version)
        own = dict(writer=place.name, lease_s=3 * self.tick_s, kin=HOST_PREFIX)
        with open_roster(self.store) as roster, open_store(self.store) as store:
            turns = threading.Semaphore(8)  # about as many at once as a host of 16 streams has
            run = partial(_tick, partial(take_lease, store, **own), store, turns, self.tick_s)
            take = partial(take_leases, roster, **own)
            Host(roster, seat, self.rules, run, take=take, stop=stop, retire=retire).work()

    def count_hosts(self) -> dict[LabelConditions, int] | None:
        return {(): self.num_hosts} if self.counts is None else self.counts


def _tick(
    take: Callable[..., Lease],
    store: ClipStore,
    turns: threading.Semaphore,
    tick_s: float,
    stream_id: str,
    text: str,
    lease: Lease | None,
    stop: threading.Event,
) -> None:
    rng = random.Random(stream_id)
    try:
        if lease is None:
            with turns:
                lease = take(stream_id)
        while not stop.wait(tick_s * (0.5 + rng.random())):
            with turns:
                store.renew_lease(lease)
    except LeaseLost:
        return
    with turns:
        store.release_lease(lease)
