"""What keeps one endless source: how it is opened and read; picklable, for a session elsewhere."""

from dataclasses import dataclass, field

from workers.live.child import Request
from workers.live.process import DecoderProcess
from workers.live.session import LiveSettings
from workers.live.source import LiveSource
from workers.seams import StopSignal


@dataclass(frozen=True)
class LiveSpec:
    """One source, and what its session decides by itself."""

    request: Request
    stall_s: float = 20.0
    """Without a picture for so long it is opened anew."""
    settings: LiveSettings = field(default_factory=LiveSettings)

    def open(self, stop: StopSignal) -> LiveSource:
        """The source, connected to again and again until `stop` is set."""
        return LiveSource(
            lambda: DecoderProcess(self.request, stall_s=self.stall_s, stop=stop), stop=stop
        )
