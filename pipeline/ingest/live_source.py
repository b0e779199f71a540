"""How endless sources are opened: checked, and connected to while nothing else is there yet.

What it takes is loaded in a moment: a source is connected to, and its pictures wait, while the
model is loaded, which takes seconds.
"""

import logging
from collections.abc import Iterable
from dataclasses import dataclass

from pipeline.ingest.request import IngestRequest
from pipeline.settings import LiveSourceSettings
from workers.decode.policy import SourcePolicy, check_url
from workers.live.child import Request
from workers.live.forks import Forks
from workers.live.process import DecoderProcess
from workers.live.settings import LiveSettings
from workers.live.source import LiveSource
from workers.live.spec import LiveSpec
from workers.live.stillness import StillnessRule
from workers.redact import show_url
from workers.types import StopSignal

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LiveEnd:
    """A session's last word."""

    stream_id: str
    error: Exception | None = None


@dataclass(frozen=True)
class Wanted:
    """One stream to keep, and how sources are opened; another value of it is another session."""

    request: IngestRequest
    live: LiveSourceSettings

    @property
    def spec(self) -> LiveSpec:
        """How it is opened and read."""
        return live_spec(self.live, self.request)


class SourcesAhead:
    """Sources that are connected to before their sessions begin; those that none took are left."""

    def __init__(self, forks: Forks | None = None) -> None:
        self.forks = forks
        """Where decoders come from; None has each come from a process of its own."""
        self._begun: list[tuple[LiveSpec, DecoderProcess]] = []

    def begin(self, specs: Iterable[LiveSpec]) -> None:
        """Connect to them: to one that two streams want, twice."""
        for spec in specs:
            try:
                self._begun.append((spec, spec.begin(self.forks)))
            except OSError as error:  # its session tries again, and tells it
                logger.warning("no decoder for %s yet: %s", spec.request.shown, error)

    def take(self, spec: LiveSpec) -> DecoderProcess | None:
        """A connection of a source, for its session to use and to end; each only once."""
        at = next((n for n, (own, _) in enumerate(self._begun) if own == spec), None)
        return None if at is None else self._begun.pop(at)[1]

    def __enter__(self) -> "SourcesAhead":
        return self

    def __exit__(self, *exc_info: object) -> None:
        while self._begun:
            self._begun.pop()[1].kill()


def check_live(live: LiveSourceSettings, request: IngestRequest) -> None:
    """Raise what is wrong with a source's URL: `SourceRefused`, or a name that nobody knows."""
    url = request.source.url
    policy = SourcePolicy(live.networks, devices=live.devices)
    check_url(url, policy, shown=show_url(url))


def live_settings(live: LiveSourceSettings, request: IngestRequest) -> LiveSettings:
    """What a session decides by itself."""
    hold = live.hold_still if request.hold_still is None else request.hold_still
    return LiveSettings(stillness=StillnessRule() if hold else None)


def open_source(live: LiveSourceSettings, request: IngestRequest, stop: StopSignal) -> LiveSource:
    """A source that is connected to, again and again, until `stop` is set."""
    return live_spec(live, request).open(stop)


def live_spec(live: LiveSourceSettings, request: IngestRequest) -> LiveSpec:
    """How a source is opened and read, as the settings say."""
    source = request.source
    wanted = Request(
        url=source.url,
        shown=show_url(source.url),
        fps=source.fps,
        networks=live.networks,
        devices=live.devices,
        transport=live.transport,
        open_timeout_s=live.open_timeout_s,
        memory_bytes=live.decoder_memory_mb << 20,
    )
    return LiveSpec(wanted, live.stall_s, live_settings(live, request))
