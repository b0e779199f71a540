"""Streams that are read here, and their encoder, as Prometheus metrics: values in, a page out.

Nothing is global: a `Metrics` has a registry of its own, so that the command that ingests and a
service each serve theirs, and tests make as many as they like. Names and labels are bounded:
streams by their ids (never a source, whose URL may hold a secret), reasons and rungs by the words
that there are; beyond `max_streams` streams are counted and not named. Counters are of this
process and begin at 0 when a session does, as counters may. Knows of no store and no terminal.
"""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, generate_latest, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from pipeline.values.errors import InvalidSettings

if TYPE_CHECKING:
    from workers.live.push import PushTally
    from workers.live.session import LiveProgress

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
MAX_STREAMS = 1000


@dataclass
class _Stream:
    progress: "LiveProgress"
    spooled_bytes: Callable[[], int]


@dataclass
class _Known:
    """What is shown; changed and read under one lock."""

    streams: dict[str, _Stream] = field(default_factory=dict)
    spools: dict[str, Callable[[], int]] = field(default_factory=dict)
    workers: dict[str, Callable[[], "PushTally"]] = field(default_factory=dict)
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
                known.untold.add(name) if len(known.untold) < self._max_streams else None
                return
            spool = known.spools.get(name, _none)
            known.streams[name] = _Stream(progress, spool)

    def watch_spool(self, stream_id: str, spooled_bytes: Callable[[], int]) -> None:
        """Asked with every page: the bytes a stream has on disk for a store that is away."""
        with self._lock:
            self._known.spools[stream_id] = spooled_bytes

    def watch_worker(self, name: str, facts: Callable[[], "PushTally"]) -> None:
        """Asked with every page: what an encoder has counted so far."""
        with self._lock:
            self._known.workers[name] = facts

    def forget(self, stream_id: str) -> None:
        """A stream that is read no more."""
        with self._lock:
            for table in (self._known.streams, self._known.spools):
                table.pop(stream_id, None)
            self._known.untold.discard(stream_id)

    def render(self) -> bytes:
        """The page, of `CONTENT_TYPE`."""
        return generate_latest(self.registry)

    def snapshot(self) -> _Known:
        """What is known at one moment."""
        with self._lock:
            known = self._known
            return _Known(
                dict(known.streams), dict(known.spools), dict(known.workers), set(known.untold)
            )


def _none() -> int:
    return 0


class _Collector:
    """Makes the families anew for every page, of values as they are then."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        known = self._metrics.snapshot()
        yield from _stream_metrics(known.streams)
        yield from _worker_metrics({name: facts() for name, facts in known.workers.items()})
        yield _gauge(
            "streams_untold", "Streams beyond the number that is shown.", {(): len(known.untold)}
        )


Values = Mapping[tuple[str, ...], float | None]
"""By the values of a metric's labels; None is left out."""


def _stream_metrics(streams: Mapping[str, _Stream]) -> Iterator[Metric]:
    of = {name: stream.progress for name, stream in streams.items()}

    def each(get: Callable[["LiveProgress"], Any]) -> Values:
        return {(name,): get(progress) for name, progress in of.items()}

    def table(get: Callable[["LiveProgress"], Mapping[str, float]]) -> Values:
        return {(name, key): value for name, p in of.items() for key, value in get(p).items()}

    labels = ("stream",)
    yield _gauge(
        "stream_up",
        "1 while pictures come, 0 while the source is away.",
        each(lambda p: float(p.outage is None and p.state == "running")),
        labels,
    )
    yield _gauge(
        "stream_lag_seconds",
        "From the last encoded frame's arrival to its tokens being readable.",
        each(lambda p: p.freshness_s),
        labels,
    )
    yield _gauge(
        "stream_position_seconds",
        "Stream time up to which all is accounted for.",
        each(lambda p: p.position_s),
        labels,
    )
    yield _counter(
        "stream_frames", "Frames by what became of them.", table(_frames), (*labels, "fate")
    )
    yield _counter(
        "stream_tokens",
        "Tokens before and after the reduction.",
        table(lambda p: {"in": p.tokens_in, "out": p.tokens_out}),
        (*labels, "side"),
    )
    yield _gauge(
        "stream_retention_ratio",
        "Tokens kept over tokens before the reduction.",
        each(lambda p: p.tokens_out / p.tokens_in if p.tokens_in else None),
        labels,
    )
    yield _counter("stream_clips", "Clips committed.", each(lambda p: p.clips), labels)
    yield _counter(
        "stream_stored_bytes", "Bytes of their records.", each(lambda p: p.stored_bytes), labels
    )
    yield _counter(
        "stream_gaps",
        "Stretches without a clip by reason.",
        table(lambda p: p.gaps),
        (*labels, "reason"),
    )
    yield _counter(
        "stream_connections",
        "Connections that gave pictures and ended.",
        each(lambda p: p.source.connections),
        labels,
    )
    yield _counter(
        "stream_connection_failures",
        "Tries that gave none.",
        each(lambda p: p.source.failures),
        labels,
    )
    yield _gauge(
        "stream_rung",
        "1 for the rung of overload that is read at.",
        {(name, p.rung): 1.0 for name, p in of.items()},
        (*labels, "rung"),
    )
    yield _gauge(
        "stream_spooled_bytes",
        "Bytes on disk for a store that is away.",
        {(name,): stream.spooled_bytes() for name, stream in streams.items()},
        labels,
    )


def _frames(progress: "LiveProgress") -> dict[str, float]:
    return {
        "in": progress.frames,
        "encoded": progress.encoded,
        "held": progress.held,
        "failed": progress.failed,
        "shed": progress.source.shed,
    }


def _worker_metrics(workers: Mapping[str, "PushTally"]) -> Iterator[Metric]:
    def each(get: Callable[["PushTally"], float]) -> Values:
        return {(name,): get(facts) for name, facts in workers.items()}

    labels = ("worker",)
    yield _counter("worker_batches", "Batches encoded.", each(lambda f: f.batches), labels)
    yield _counter("worker_frames", "Frames in them.", each(lambda f: f.frames), labels)
    yield _gauge(
        "worker_batch_frames", "Frames of the last batch.", each(lambda f: f.last_frames), labels
    )
    yield _counter(
        "worker_busy_seconds",
        "Time at work: its rate is the busy share.",
        each(lambda f: f.busy_s),
        labels,
    )
    yield _counter(
        "worker_encode_seconds", "Of it in the encoder.", each(lambda f: f.encode_s), labels
    )
    yield _counter(
        "worker_reduce_seconds", "Of it in the reduction.", each(lambda f: f.reduce_s), labels
    )
    yield _gauge(
        "worker_queue_frames", "Frames that wait for a batch.", each(lambda f: f.waiting), labels
    )


def _gauge(name: str, text: str, values: Values, labels: tuple[str, ...] = ()) -> Metric:
    return _filled(GaugeMetricFamily(f"aot_{name}", text, labels=labels), values)


def _counter(name: str, text: str, values: Values, labels: tuple[str, ...] = ()) -> Metric:
    return _filled(CounterMetricFamily(f"aot_{name}", text, labels=labels), values)


def _filled(family: Any, values: Values) -> Metric:
    for labels, value in values.items():
        if value is not None:
            family.add_metric(labels, value)
    return family


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
