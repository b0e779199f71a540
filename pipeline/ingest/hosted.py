"""What a host of a cluster reads: streams of the roster, over the workers of one pool.

All hosts of one version have the same settings; how a single stream is read stands in the roster,
without a secret: a URL that holds one is named by a variable of the machines that read it.
"""

import hashlib
import logging
import math
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version as version_of
from typing import Any

from pipeline.ingest.host import HOST_PREFIX, Host, HostRules
from pipeline.ingest.job import IngestJob
from pipeline.ingest.lease import take_leases
from pipeline.ingest.live_session import Shared, run_session
from pipeline.ingest.live_source import Wanted
from pipeline.ingest.metrics import Metrics
from pipeline.ingest.request import request_of
from pipeline.settings import Settings, StreamSettings
from pipeline.settings.logs import about_stream
from pipeline.store import StoreConfig, arrow, open_store
from pipeline.store.roster import Roster, RosterStore, RosterView, Seat
from pipeline.values.errors import InvalidQuery, InvalidSettings, LeaseLost
from pipeline.values.labels import LabelSelector
from pipeline.values.types import Lease
from workers.cluster.gauges import SHOW_EVERY_S, RayGauges, Shown
from workers.cluster.host import HostPlace, LabelConditions
from workers.live.forks import Forks
from workers.live.session import LiveProgress

logger = logging.getLogger(__name__)

FILLED = 0.75
"""Of what hosts may hold: the rest is for the streams of a machine that is lost."""
_NOT_ALIKE: Any = {
    **dict.fromkeys(("streams", "ask", "serve", "metrics"), True),
    "ingest": {"fps"},
    "live": {"hold_still"},
}
AGAIN_S = 10.0
"""Before a stream that failed is begun again."""


@contextmanager
def open_roster(store: StoreConfig) -> Iterator[RosterStore]:
    """A store with its roster.

    Raises:
        InvalidSettings: a store of one process alone.
    """
    with open_store(store) as opened:
        if not isinstance(opened, RosterStore):
            raise InvalidSettings(
                "a store in memory shares no streams between processes; give one on a server: "
                "--store redis://HOST:PORT/DB"
            )
        yield opened


def settings_version(settings: Settings) -> str:
    """12 hex digits over the code and what hosts do alike with every stream.

    Not among it is what each stream's text says, nor what no host reads.
    """
    text = settings.model_dump_json(exclude=_NOT_ALIKE)
    code = f"{version_of('aot-stream')} {settings.ingest.fps is None}"
    return hashlib.blake2b(f"{code} {text}".encode(), digest_size=6).hexdigest()


def put_streams(roster: Roster, settings: Settings) -> set[str]:
    """Have hosts of these settings' version read the streams that they name, and no others.

    Returns the names of those that are read no more.
    """
    texts = {stream.name: _write(stream, settings) for stream in settings.streams}
    return roster.put_wanted(texts, version=settings_version(settings))


def add_streams(roster: Roster, settings: Settings, streams: Iterable[StreamSettings]) -> None:
    """Have hosts read these too; a stream that is read already goes on if it is read alike.

    Errors: those of `require_alike`.
    """
    require_alike(roster, settings)
    texts = {stream.name: _write(stream, settings) for stream in streams}
    roster.add_wanted(texts, version=settings_version(settings))


def require_alike(roster: Roster, settings: Settings) -> None:
    """Raise `InvalidQuery` where hosts read streams by other settings than these."""
    view, version = roster.view(), settings_version(settings)
    if view.num_wanted and view.version != version:
        raise InvalidQuery(
            f"the cluster's sessions read {view.num_wanted} streams by other settings than these; "
            "give the command those (--config FILE, options, AOT_...), or change them for all "
            "streams: list this one under `streams:` and say `aot up --detach`"
        )


def _write(stream: StreamSettings, settings: Settings) -> str:
    """How a stream is read, whatever the settings say then of those that do not say it."""
    hold = settings.live.hold_still if stream.hold_still is None else stream.hold_still
    told = {"fps": stream.fps or settings.ingest.fps, "hold_still": hold}
    unsaid = set() if stream.label_selector else {"label_selector", "label_fallback"}
    return stream.model_copy(update=told).model_dump_json(exclude=unsaid)


def seat_of(place: HostPlace, version: str) -> Seat:
    """Where a host is, as the roster tells it."""
    started_for = LabelSelector(place.started_for).key
    return Seat(place.name, place.node, place.address, version, place.labels, started_for)


@dataclass(frozen=True)
class HostedStreams:
    """`workers.cluster.host.HostWork` over the roster."""

    job: IngestJob
    version: str
    rules: HostRules
    most_hosts: int

    def run(self, place: HostPlace, *, stop: threading.Event, retire: threading.Event) -> None:
        """Read what falls to this host."""
        assert place.pusher is not None, "a host of real streams has workers"
        logs = self.job.settings.stream_logs()
        if logs is not None:
            logs.keep()
        arrow.share_one_heap()
        seat = seat_of(place, self.version)
        metrics = Metrics()
        with (
            Forks() as forks,
            open_roster(self.job.store) as roster,
            _shown(metrics, place.gauges),
        ):
            shared = Shared(
                *(self.job, place.pusher, place.pusher.info, metrics),
                writer=place.name,
                kin=HOST_PREFIX,
                forks=forks,
            )
            take = partial(
                take_leases,
                roster,
                writer=place.name,
                lease_s=self.job.settings.ingest.lease_s,
                kin=HOST_PREFIX,
            )
            run = partial(_read, shared, place.streams)
            Host(roster, seat, self.rules, run, take=take, stop=stop, retire=retire).work()

    def count_hosts(self) -> dict[LabelConditions, int] | None:
        """As many as hold all streams; None when another version is to be."""
        with open_roster(self.job.store) as roster:
            view = roster.view()
        return count_hosts(view, self)


@contextmanager
def _shown(metrics: Metrics, gauges: RayGauges) -> Iterator[None]:
    """Have Ray show what is counted, every few seconds while open; nothing of it afterwards."""
    done = threading.Event()

    def show() -> None:
        while not done.wait(SHOW_EVERY_S):
            gauges.show(Shown(*sample) for sample in metrics.samples())

    thread = threading.Thread(target=show, name="gauges", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        gauges.show(())


def count_hosts(view: RosterView, work: HostedStreams) -> dict[LabelConditions, int] | None:
    """How many hosts of a version there should be, beside those whose machine is to be left.

    They have room for more than there is: while Ray's head is away no host is started, and those
    that run take what others lose. Streams that need machines of a kind have hosts on such.
    """
    if view.version != work.version:
        return None
    needs, leaving = Counter[LabelConditions](), Counter[LabelConditions]()
    for selector, number in view.wanted.items():
        needs[selector.conditions if selector.is_required else ()] += number
    for host in view.hosts:
        if host.is_draining and host.seat.version == work.version:
            leaving[LabelSelector.of_key(host.seat.started_for).conditions] += 1
    counts, room = dict[LabelConditions, int](), work.most_hosts
    for conditions, number in sorted(needs.items()):
        held = math.ceil(number / (FILLED * work.rules.most)) + leaving[conditions]
        counts[conditions] = min(room, held)
        room -= counts[conditions]
    return counts


def _read(
    shared: Shared,
    shown: dict[str, LiveProgress],
    stream_id: str,
    text: str,
    lease: Lease | None,
    stop: threading.Event,
) -> None:
    """One stream until it is to end, or is somebody else's; what fails is begun again."""
    metrics = shared.metrics or Metrics()

    def see(progress: LiveProgress) -> None:
        metrics.see(progress)
        shown[stream_id] = progress

    with about_stream(stream_id):
        while True:
            try:
                settings = shared.job.settings
                request = request_of(StreamSettings.model_validate_json(text), settings)
                wanted = Wanted(request, settings.live)
                run_session(shared, wanted, stop, see, lease=lease)
                return
            except LeaseLost as error:
                logger.warning("stream %s is somebody else's: %s", stream_id, error)
                return
            except Exception as error:
                logger.error("stream %s: %s: %s", stream_id, type(error).__name__, error)
            finally:
                metrics.forget(stream_id)
                shown.pop(stream_id, None)
            lease = None  # the session has given it back
            if stop.wait(AGAIN_S):
                return
