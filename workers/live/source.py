"""A source kept alive: connect, read, and connect again for as long as it takes.

Every try is counted and every outage is told with its reason, so that who reads this can account
for each second. What trying again cannot mend (a URL that is refused, a codec that is not read) is
raised. The source is proved to live by pictures, never by a socket.
"""

import logging
import random
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Literal, Protocol, runtime_checkable

from workers.decode.live import Pace, Picture
from workers.errors import (
    NoKeyframe,
    NoVideoStream,
    SourceBroken,
    SourceCrashed,
    SourceError,
    SourceStalled,
    SourceUnreachable,
    TooLarge,
)
from workers.types import StopSignal

logger = logging.getLogger(__name__)

OutageReason = Literal["disconnected", "stalled", "crashed", "unreachable"]

POLL_S = 0.2
"""How often a wait looks whether it was asked to stop."""

_REASONS: dict[type[SourceError], OutageReason] = {
    SourceStalled: "stalled",
    NoKeyframe: "stalled",
    SourceCrashed: "crashed",
    SourceBroken: "disconnected",
    SourceUnreachable: "unreachable",
    NoVideoStream: "unreachable",  # a camera that starts answers before it has pictures
}


@dataclass(frozen=True)
class Backoff:
    """Waits between tries: doubled from the first to the longest, each shortened by chance."""

    first_s: float = 1.0
    longest_s: float = 30.0
    jitter: float = 0.5
    """Up to this share of a wait is left out, so that a site's cameras do not come back at once."""

    def wait_s(self, failures: int, rng: random.Random) -> float:
        """The wait after so many failures in a row (at least 1)."""
        whole_s = min(self.longest_s, self.first_s * 2.0 ** min(failures - 1, 16))
        return whole_s * (1.0 - self.jitter * rng.random())


@dataclass(frozen=True)
class Outage:
    """The connection ended, or a try failed; pictures come again behind it, or the next outage."""

    reason: OutageReason
    text: str
    failures: int
    """Tries in a row that gave no picture, this one among them; 0 where pictures had come."""


@dataclass(frozen=True)
class SourceTally:
    """What keeping the source alive took so far."""

    connections: int = 0
    """Tries that gave pictures."""
    failures: int = 0
    """Tries that gave none."""
    shed: int = 0
    """Pictures dropped before they were read."""


@runtime_checkable
class Connection(Protocol):
    """Pictures of one try, until it ends; `DecoderProcess` is one."""

    @property
    def shed(self) -> int:
        """Pictures dropped so far because nobody took them in time."""
        ...

    def set_pace(self, pace: Pace) -> None:
        """How much of what comes is decoded from now on."""
        ...

    def __iter__(self) -> Iterator[Picture]: ...


Connect = Callable[[], AbstractContextManager[Connection]]
"""Makes one try; raises a `SourceError` on entering or while iterating."""


@runtime_checkable
class LiveEvents(Protocol):
    """What a live session reads: `LiveSource` is one."""

    @property
    def tally(self) -> SourceTally:
        """What the source did so far, over all its connections."""
        ...

    def set_pace(self, pace: Pace) -> None:
        """How much is decoded, of this connection and of those that follow."""
        ...

    def events(self) -> Iterator[tuple[int, Picture] | Outage]:
        """Pictures with the number of their connection, and what lay between connections."""
        ...


class LiveSource:
    """Iterates `(connection, picture)` and outages until it is stopped; never ends by itself."""

    def __init__(
        self,
        connect: Connect,
        *,
        backoff: Backoff | None = None,
        stop: StopSignal | None = None,
        seed: int | None = None,
    ) -> None:
        self._connect = connect
        self._backoff = backoff or Backoff()
        self._stop = stop
        self._rng = random.Random(seed)
        self._connection: Connection | None = None
        self._pace: Pace = "all"
        self.tally = SourceTally()

    def set_pace(self, pace: Pace) -> None:
        """How much is decoded, of this connection and of those that follow."""
        self._pace = pace
        if self._connection is not None:
            self._connection.set_pace(pace)

    def events(self) -> Iterator[tuple[int, Picture] | Outage]:
        """Pictures with the number of their connection, and what lay between connections.

        Raises:
            SourceError: what trying again cannot mend.
        """
        failures = 0
        while not self._is_stopped():
            number, pictures = self.tally.connections, 0
            try:
                with self._connect() as connection:
                    self._connection = connection
                    connection.set_pace(self._pace)
                    try:
                        for picture in connection:
                            if self._is_stopped():
                                return
                            pictures += 1
                            yield number, picture
                    finally:
                        shed = self.tally.shed + connection.shed
                        self.tally = replace(self.tally, shed=shed)
                reason, text = "disconnected", "the source closed the connection"
            except SourceError as error:
                known = _reason_of(error, had_pictures=pictures > 0)
                if known is None:
                    raise
                reason, text = known, str(error)
            finally:
                self._connection = None
            if self._is_stopped():
                return  # the connection ended because it was told to
            failures = 0 if pictures else failures + 1
            self._count(bool(pictures))
            yield Outage(reason, text, failures)
            self._sleep(self._backoff.wait_s(max(1, failures), self._rng))

    def _count(self, gave_pictures: bool) -> None:
        tally = self.tally
        if gave_pictures:
            self.tally = replace(tally, connections=tally.connections + 1)
        else:
            self.tally = replace(tally, failures=tally.failures + 1)

    def _sleep(self, wait_s: float) -> None:
        until_s = time.monotonic() + wait_s
        while not self._is_stopped() and (left_s := until_s - time.monotonic()) > 0:
            time.sleep(min(POLL_S, left_s))

    def _is_stopped(self) -> bool:
        return self._stop is not None and self._stop.is_set()


def _reason_of(error: SourceError, *, had_pictures: bool) -> OutageReason | None:
    """Why a connection ended; None where another one would end so too.

    A decoder that comes to its memory's limit is begun anew where it gave pictures before: what
    grew for weeks is small then. A picture that is too large is the first that it does not give.
    """
    if isinstance(error, TooLarge) and had_pictures:
        return "crashed"
    return _REASONS.get(type(error))
