"""What keeps one endless source: how it is opened and read; picklable, for a session elsewhere."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field

from workers.live.child import Request
from workers.live.forks import Forks
from workers.live.process import DecoderProcess
from workers.live.settings import LiveSettings
from workers.live.source import Connection, LiveSource
from workers.types import StopSignal


@dataclass(frozen=True)
class LiveSpec:
    """One source, and what its session decides by itself."""

    request: Request
    stall_s: float = 20.0
    """Without a picture for so long it is opened anew."""
    settings: LiveSettings = field(default_factory=LiveSettings)

    def begin(self, forks: Forks | None = None) -> DecoderProcess:
        """Connect before anybody reads: pictures wait, as many as the decoder's queue holds.

        `open` takes it on, or it is to be killed.
        """
        return DecoderProcess(self.request, stall_s=self.stall_s, forks=forks).__enter__()

    def open(
        self,
        stop: StopSignal,
        *,
        begun: DecoderProcess | None = None,
        forks: Forks | None = None,
    ) -> LiveSource:
        """The source, connected to again and again until `stop` is set; `begun` is its first
        connection, `forks` has the processes of all of them."""
        ahead = [] if begun is None else [begun]

        def connect() -> AbstractContextManager[Connection]:
            if ahead:
                return _take_on(ahead.pop(), stop)
            return DecoderProcess(self.request, stall_s=self.stall_s, stop=stop, forks=forks)

        return LiveSource(connect, stop=stop)


@contextmanager
def _take_on(decoder: DecoderProcess, stop: StopSignal) -> Iterator[DecoderProcess]:
    decoder.stop = stop
    try:
        yield decoder
    finally:
        decoder.kill()
