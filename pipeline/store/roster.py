"""The roster: which endless streams there are to be, and which host has which.

A host is a process that reads many streams. It says every moment that it lives; streams of one that
says nothing go back to the list, whence others take them. Holding a stream is the leave to take its
lease over, and no more: what is written is fenced by the lease's token, so that a host that was
taken for dead and is not writes nothing. Needs a server, and no cluster: what moves streams here
goes on while Ray's head is away. Of the text that says how a stream is read only one thing is
looked at here: which machines' labels it asks for. Streams that ask for the same lie together.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from pipeline.store.base import Leases
from pipeline.values.labels import ANYWHERE, Labels, LabelSelector


@dataclass(frozen=True)
class Seat:
    """Where a host is; written to the roster with every beat."""

    host: str
    """A name that no other life of any host has."""
    node: str
    """Ray's id of its machine."""
    address: str
    """Of that machine, as people name it."""
    version: str
    """Of the settings and the code that it reads with."""
    labels: Labels = field(default_factory=dict)
    """Of its machine."""
    started_for: str = ""
    """The key of the selector by which its machine was chosen."""


@dataclass(frozen=True)
class Standing:
    """What a host learns by a beat."""

    held: frozenset[str]
    """Its streams; what is no more among them belongs to somebody else."""
    wanted: Mapping[LabelSelector, int]
    """How many streams ask for which labels; those that ask for none among them."""
    free: Mapping[LabelSelector, int]
    """How many of those that this host will do for are free."""
    takers: Mapping[str, Labels]
    """Hosts that take streams, this one included once it said so; without their labels where no
    stream asks for any."""
    version: str
    """That is to be: hosts of another hand over what they have."""
    revision: int
    """Rises when what is wanted changes."""
    is_draining: bool
    """Its machine is to be left."""
    silent: tuple[str, ...]
    """Some of the hosts of which nothing was heard for too long."""


@dataclass(frozen=True)
class HostView:
    """A host as the roster shows it."""

    seat: Seat
    num_streams: int
    quiet_s: float
    """Since it was heard last."""
    takes: bool
    is_draining: bool


@dataclass(frozen=True)
class Asking:
    """Streams that ask for the same labels."""

    selector: LabelSelector
    num_wanted: int
    num_free: int


@dataclass(frozen=True)
class RosterView:
    """All of it in numbers."""

    version: str
    num_wanted: int
    num_free: int
    hosts: tuple[HostView, ...]
    num_paused: int = 0
    asking: tuple[Asking, ...] = ()
    """Of these streams, those that ask for labels."""

    @property
    def wanted(self) -> dict[LabelSelector, int]:
        """How many streams ask for which labels, or for none."""
        asking = {one.selector: one.num_wanted for one in self.asking}
        return {ANYWHERE: self.num_wanted - sum(asking.values()), **asking}


@runtime_checkable
class Roster(Protocol):
    """Every call may be repeated, and made by many at once. All raise `StoreError`s."""

    def put_wanted(self, wanted: Mapping[str, str], *, version: str) -> set[str]:
        """Have these streams and no others, each with a text that says how it is read.

        Those that are paused stay so. Returns the names of those that are wanted no more.
        """
        ...

    def add_wanted(self, wanted: Mapping[str, str], *, version: str | None = None) -> None:
        """Have these streams too, paused ones again; None keeps the version that is to be."""
        ...

    def pause(self, stream_id: str) -> bool:
        """Have a stream read by nobody until it is added again; whether it was wanted."""
        ...

    def get_paused(self, stream_id: str) -> str | None:
        """The text of a paused stream; None of any other."""
        ...

    def forget(self, stream_id: str) -> bool:
        """Have a stream neither wanted nor paused; whether it was one of them."""
        ...

    def is_held(self, stream_id: str, *, silent_s: float) -> bool:
        """Whether a host has it that was heard within so long."""
        ...

    def get_wanted(self, stream_ids: Collection[str]) -> dict[str, str]:
        """The texts of those that are still wanted."""
        ...

    def beat(self, seat: Seat, *, takes: bool, silent_s: float) -> Standing:
        """Say that a host lives, and whether it takes streams; hear how it stands.

        `silent_s`: who was not heard for so long, by the server's clock, is silent.
        """
        ...

    def claim(self, host: str, most: int, selector: LabelSelector = ANYWHERE) -> list[str]:
        """Take up to so many free streams that ask for this; those that were got."""
        ...

    def give_back(self, host: str, stream_ids: Iterable[str]) -> None:
        """Let others have them; what is not wanted any more is just let go."""
        ...

    def drop(self, host: str, stream_ids: Iterable[str]) -> None:
        """Forget to hold them, as somebody else has them."""
        ...

    def bury(self, host: str) -> int:
        """Free the streams of a host that is gone, and forget it; how many there were."""
        ...

    def drain(self, node: str, *, wanted: bool = True) -> None:
        """Have a machine's hosts hand over what they hold, or no more so."""
        ...

    def view(self) -> RosterView:
        """All of it, for people."""
        ...

    def find_lost(self) -> set[str]:
        """Streams that are wanted, and neither free nor held."""
        ...

    def free(self, stream_ids: Iterable[str]) -> None:
        """Put lost ones back to where they are taken from."""
        ...


@runtime_checkable
class RosterStore(Roster, Leases, Protocol):
    """A store whose streams are shared: the roster says who may take which lease."""
