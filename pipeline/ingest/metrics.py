"""Streams that are read here, and their encoder, as Prometheus metrics: values in, a page out.

Nothing is global: a `Metrics` has a registry of its own, so that the command that ingests and a
service each serve theirs, and tests make as many as they like. Names and labels are bounded:
streams by their ids (never a source, whose URL may hold a secret), reasons and rungs by the words
that there are; beyond `max_streams` streams are counted and not named. Counters are of this
process and begin at 0 when a session does, as counters may. Knows of no store and no terminal.
"""

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Generic, TypeVar

from prometheus_client import CollectorRegistry, generate_latest, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from pipeline.values.errors import InvalidSettings
from workers.live.tally import COUNTED, PushTally

if TYPE_CHECKING:
    from workers.live.session import LiveProgress

MAX_STREAMS = 1000

F = TypeVar("F")
"""What is known of a stream, or of a worker."""


@dataclass
class _Stream:
    progress: "LiveProgress"
    spooled_bytes: Callable[[], int]


@dataclass
class _Known:
    """What is shown; changed and read under one lock."""

    streams: dict[str, _Stream] = field(default_factory=dict)
    spools: dict[str, Callable[[], int]] = field(default_factory=dict)
    workers: dict[str, Callable[[], PushTally]] = field(default_factory=dict)
    untold: set[str] = field(default_factory=set)


class Metrics:
    """Takes what sessions and workers say; `render` is the page. For any number of threads."""

    def __init__(self, *, max_streams: int = MAX_STREAMS) -> None:
        self.registry = CollectorRegistry(auto_describe=False)
        """Others may register collectors of their own beside ours."""
        self._max_streams = max_streams
        self._known, self._lock = _Known(), threading.Lock()
        self.registry.register(_Collector(self))

    def see(self, progress: "LiveProgress") -> None:
        """How far a stream is now."""
        with self._lock:
            known, name = self._known, progress.stream_id
            if name not in known.streams and len(known.streams) >= self._max_streams:
                known.untold.add(name)  # until it ends: no more than there are sessions
                return
            known.untold.discard(name)
            spool = known.spools.get(name, _none)
            known.streams[name] = _Stream(progress, spool)

    def watch_spool(self, stream_id: str, spooled_bytes: Callable[[], int]) -> None:
        """Asked with every page: the bytes a stream has on disk for a store that is away."""
        with self._lock:
            self._known.spools[stream_id] = spooled_bytes

    def watch_worker(self, name: str, facts: Callable[[], PushTally]) -> None:
        """Asked with every page: what an encoder has counted so far."""
        with self._lock:
            self._known.workers[name] = facts

    def see_workers(self, tallies: Mapping[str, PushTally]) -> None:
        """What encoders elsewhere have counted when they were asked: these, and no others."""
        told = {name: partial(_given, tally) for name, tally in tallies.items()}
        with self._lock:
            self._known.workers = {**told}

    def forget(self, stream_id: str) -> None:
        """A stream that is read no more."""
        with self._lock:
            for table in (self._known.streams, self._known.spools):
                table.pop(stream_id, None)
            self._known.untold.discard(stream_id)

    def render(self) -> bytes:
        """The page, as Prometheus reads it."""
        return generate_latest(self.registry)

    def samples(self) -> Iterator[tuple[str, str, dict[str, str], float]]:
        """The same as numbers: name, what it is, labels, value."""
        for family in self.registry.collect():
            for sample in family.samples:
                yield sample.name, family.documentation, sample.labels, sample.value

    def snapshot(self) -> _Known:
        """What is known at one moment."""
        with self._lock:
            known = self._known
            return _Known(
                dict(known.streams), dict(known.spools), dict(known.workers), set(known.untold)
            )


def _none() -> int:
    return 0


def _given(tally: PushTally) -> PushTally:
    return tally


class _Collector:
    """Makes the families anew for every page, of values as they are then."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        known = self._metrics.snapshot()
        yield from _fill(_OF_STREAMS, "stream", known.streams)
        workers = {name: facts() for name, facts in known.workers.items()}
        yield from _fill(_OF_WORKERS, "worker", workers)
        yield GaugeMetricFamily(
            "aot_streams_untold",
            "Streams beyond the number that is shown.",
            value=len(known.untold),
        )


@dataclass(frozen=True)
class _Family(Generic[F]):
    """One metric of every stream, or of every worker."""

    make: type[GaugeMetricFamily] | type[CounterMetricFamily]
    name: str
    text: str
    get: Callable[[F], float | Mapping[str, float] | None]
    """Its value; None is left out."""
    by: str | None = None
    """The label by which `get` gives several."""


def _fill(families: Iterable[_Family[F]], label: str, of: Mapping[str, F]) -> Iterator[Metric]:
    for one in families:
        labels = (label,) if one.by is None else (label, one.by)
        family = one.make(f"aot_{one.name}", one.text, labels=labels)
        for name, facts in of.items():
            got = one.get(facts)
            if isinstance(got, Mapping):
                for key, value in got.items():
                    family.add_metric((name, key), value)
            elif got is not None:
                family.add_metric((name,), got)
        yield family


def _is_up(stream: _Stream) -> float:
    return float(stream.progress.outage is None and stream.progress.state == "running")


def _retention(stream: _Stream) -> float | None:
    progress = stream.progress
    return progress.tokens_out / progress.tokens_in if progress.tokens_in else None


def _tokens(stream: _Stream) -> dict[str, float]:
    return {"in": stream.progress.tokens_in, "out": stream.progress.tokens_out}


def _frames(stream: _Stream) -> dict[str, float]:
    progress = stream.progress
    return {
        "in": progress.frames,
        "encoded": progress.encoded,
        "held": progress.held,
        "failed": progress.failed,
        "shed": progress.source.shed,
    }


_GAUGE, _COUNTER = GaugeMetricFamily, CounterMetricFamily

_OF_STREAMS: tuple[_Family[_Stream], ...] = (
    _Family(_GAUGE, "stream_up", "1 while pictures come, 0 while the source is away.", _is_up),
    _Family(
        _GAUGE,
        "stream_lag_seconds",
        "From the last encoded frame's arrival to its tokens being readable.",
        lambda s: s.progress.freshness_s,
    ),
    _Family(
        _GAUGE,
        "stream_position_seconds",
        "Stream time up to which all is accounted for.",
        lambda s: s.progress.position_s,
    ),
    _Family(_COUNTER, "stream_frames", "Frames by what became of them.", _frames, by="fate"),
    _Family(
        _COUNTER, "stream_tokens", "Tokens before and after the reduction.", _tokens, by="side"
    ),
    _Family(
        _GAUGE,
        "stream_retention_ratio",
        "Tokens kept over tokens before the reduction.",
        _retention,
    ),
    _Family(_COUNTER, "stream_clips", "Clips committed.", lambda s: s.progress.clips),
    _Family(
        _COUNTER,
        "stream_stored_bytes",
        "Bytes of their records.",
        lambda s: s.progress.stored_bytes,
    ),
    _Family(
        _COUNTER,
        "stream_gaps",
        "Stretches without a clip by reason.",
        lambda s: s.progress.gaps,
        by="reason",
    ),
    _Family(
        _COUNTER,
        "stream_connections",
        "Connections that gave pictures and ended.",
        lambda s: s.progress.source.connections,
    ),
    _Family(
        _COUNTER,
        "stream_connection_failures",
        "Tries that gave none.",
        lambda s: s.progress.source.failures,
    ),
    _Family(
        _GAUGE,
        "stream_rung",
        "1 for the rung of overload that is read at.",
        lambda s: {s.progress.rung: 1.0},
        by="rung",
    ),
    _Family(
        _GAUGE,
        "stream_spooled_bytes",
        "Bytes on disk for a store that is away.",
        lambda s: s.spooled_bytes(),
    ),
)

_OF_WORKERS = tuple(
    _Family(_COUNTER if one.only_grows else _GAUGE, one.name, one.text, one.get) for one in COUNTED
)


@contextmanager
def serve(metrics: Metrics, address: str) -> Iterator[int]:
    """Answer GET / and GET /metrics at `HOST:PORT` while open; gives the port (0 takes any).

    Raises:
        InvalidSettings: no such address, or somebody listens there.
    """
    host, port = parse_address(address)
    try:
        server, thread = start_http_server(port, host, registry=metrics.registry)
    except OSError as error:
        raise InvalidSettings(
            f"metrics.address {address}: {error.strerror or error}; choose another port"
        ) from None
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def parse_address(address: str) -> tuple[str, int]:
    """`HOST:PORT`, or `:PORT` and `PORT` of this machine alone.

    Raises:
        InvalidSettings: it is none.
    """
    host, _, port = address.rpartition(":")
    if not port.isascii() or not port.isdigit() or int(port) > 65_535:
        raise InvalidSettings(f"metrics.address {address!r}: expected HOST:PORT, as 127.0.0.1:9464")
    return host.strip("[]") or "127.0.0.1", int(port)
