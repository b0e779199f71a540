"""What every store does: the seam the rest of the pipeline is written against.

`redis.RedisStore` is the real one, `memory.MemoryStore` its in-memory twin for tests and dry runs,
and one set of contract tests runs on both. Both put records (`arrow.encode_clip`) beside a time
index (`ClipSpan`). Some small parts and their sum: whoever lists needs no writer. Nothing here
knows of Redis, Arrow or tensors.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Protocol, Self

from pipeline.store.checks import Place
from pipeline.store.cold import ColdTier
from pipeline.store.config import StoreConfig
from pipeline.store.levels import Node
from pipeline.store.writes import Exchange
from pipeline.values.types import (
    BrokenStream,
    ClipSpan,
    DeletedCounts,
    FadedCounts,
    Gap,
    Lease,
    Position,
    StoreHealth,
    StoreStats,
    StreamInfo,
    StreamOverview,
    StreamSegment,
    VerifyReport,
)
from pipeline.values.watch import Event, Watch, WatchState

if TYPE_CHECKING:
    from pipeline.store.arrow import ClipRecord
    from workers.types import CompressedClip

OnCorrupt = Literal["raise", "skip"]


class StreamIndex(Protocol):
    """What there is, without reading a record. All raise `StoreError`s."""

    def list_streams(self) -> list[str]:
        """Ids in alphabetical order; one may be gone by the time it is asked for."""
        ...

    def get_info(self, stream_id: str) -> StreamInfo:
        """`UnknownStream` when there is none."""
        ...

    def get_overview(self, stream_id: str) -> StreamOverview:
        """Facts, totals, gaps, position and writer at once. `UnknownStream`."""
        ...

    def iter_overviews(self) -> Iterator[StreamOverview | BrokenStream]:
        """Of all streams by id; one that was deleted meanwhile is left out, one that does not read
        is a `BrokenStream` and hides no other."""
        ...

    def get_position(self, stream_id: str) -> Position | None:
        """The end of the last stored clip; None before the first."""
        ...

    def iter_spans(
        self, stream_id: str, start_s: float | None = None, end_s: float | None = None
    ) -> Iterator[ClipSpan]:
        """Every clip with a part in [start_s, end_s), by start time, a page in memory at a time.

        A row that does not read is logged and left out; `verify` names it. `UnknownStream`.
        """
        ...

    def list_spans(
        self, stream_id: str, start_s: float | None = None, end_s: float | None = None
    ) -> list[ClipSpan]:
        """The same at once, in the order the stream was seen (epoch, index)."""
        ...

    def list_gaps(self, stream_id: str) -> list[Gap]:
        """In order of time; one that does not read is logged and left out."""
        ...

    def list_segments(self, stream_id: str) -> list[StreamSegment]:
        """The files of a joined stream, in the order they are read; none of any other."""
        ...


class ClipReader(Protocol):
    """Records, verified. Reads need no lease and see whole clips only."""

    def get_record(self, span: ClipSpan) -> bytes:
        """The record as stored, unverified. `MissingValue` when it is gone."""
        ...

    def get_clip(self, span: ClipSpan) -> "CompressedClip":
        """One clip, verified."""
        ...

    def iter_clips(
        self, spans: Iterable[ClipSpan], *, on_corrupt: OnCorrupt = "raise"
    ) -> Iterator["CompressedClip"]:
        """Clips in the order of `spans`, verified, a few values in memory at a time.

        With `skip`, a clip that cannot be read, or was removed since it was listed, is logged and
        left out: compare with `spans`, and ask `list_removed` which are no longer there.
        """
        ...

    def get_open(self, stream_id: str) -> "CompressedClip | None":
        """A live stream's open clip so far, verified; None where there is none."""
        ...

    def read_open(self, stream_id: str) -> "tuple[ClipSpan, CompressedClip] | None":
        """The same with the row that the index would have of it.

        It may be older than the index: a clip that has closed since is there as both.
        """
        ...

    def list_removed(self, spans: Iterable[ClipSpan]) -> list[ClipSpan]:
        """Those of `spans`, as they were listed once, that are no longer in the index."""
        ...

    def verify(self, stream_id: str) -> VerifyReport:
        """Read and check every row and record of the stream; what is removed meanwhile is none."""
        ...


class Leases(Protocol):
    """Streams are written under a lease, one writer at a time: a write with a lease that ended or
    was taken over raises `LeaseLost` and changes nothing."""

    def acquire_lease(
        self, stream_id: str, holder: str, *, ttl_s: float = 30.0, takeover: bool = False
    ) -> Lease:
        """The right to write `stream_id`. `LeaseHeld` names who has it, unless `takeover`."""
        ...

    def acquire_leases(
        self, stream_ids: Collection[str], holder: str, *, ttl_s: float = 30.0, kin: str
    ) -> dict[str, Lease]:
        """The same for many at once, a few round trips for hundreds of them.

        Taken over are leases whose holder's name begins with `kin`; what somebody else has is left
        to them, and out of what is returned.
        """
        ...

    def renew_lease(self, lease: Lease) -> None:
        """`ttl_s` more from now. `LeaseLost` when it ended before."""
        ...

    def release_lease(self, lease: Lease) -> None:
        """Give it back; nothing happens when it is no longer ours."""
        ...

    def get_lease(self, stream_id: str) -> Lease | None:
        """Who writes the stream now."""
        ...


class ClipWriter(Protocol):
    """Every write is idempotent.

    `after` is the place of the last clip that the writer was told is stored, None to go unchecked:
    when the store has less than that, a write raises `StoreWentBack` and changes nothing.
    """

    def put_info(
        self, info: StreamInfo, *, lease: Lease | None = None, after: Place | None = None
    ) -> None:
        """Make the stream, or change what is known of it; fenced where a lease is given.

        A status other than `running` is kept even when the store is full, as `failed: StoreFull`.
        `FingerprintMismatch` when the stream has clips of another fingerprint.
        """
        ...

    def put_clip(
        self,
        clip: "CompressedClip",
        lease: Lease,
        *,
        fingerprint: str,
        after: Place | None = None,
    ) -> ClipSpan:
        """Store value, index row, totals and position in one transaction.

        A gap `failed` that lies within the clip goes. A clip that `delete_range` removed is passed
        over: the position moves behind it, nothing is stored. `Conflict` when the key holds another
        clip, `FingerprintMismatch` when the stream's is another, `UnknownStream` before `put_info`.
        """
        ...

    def put_record(
        self, key: str, blob: bytes, lease: Lease, *, after: Place | None = None
    ) -> ClipSpan:
        """The same for a record as `get_record` or an import gives it."""
        ...

    def put_open(self, clip: "CompressedClip", lease: Lease, *, fingerprint: str) -> int:
        """Show a live stream's open clip as it is so far; return the bytes of its record.

        It stands beside the index, replaces the one before, and goes with the next clip that is
        put. One that a writer left behind when it died is there for the next one.
        """
        ...

    def put_gap(self, gap: Gap, lease: Lease, *, after: Place | None = None) -> None:
        """Record that a stretch of time has no clip; the same gap again replaces it.

        `UnknownStream` before `put_info`.
        """
        ...

    def remove_gap(self, gap: Gap, lease: Lease) -> None:
        """Take back that a stretch has no clip: it is read again. Nothing where it is not told."""
        ...

    def put_segments(self, segments: Iterable[StreamSegment], lease: Lease) -> None:
        """Make files part of a joined stream, or change what is known of them, by their paths."""
        ...

    def rewind(
        self, lease: Lease, *, position: Position | None, drop: Iterable[ClipSpan] = ()
    ) -> None:
        """Have the next ingest go on behind `position`: `repair` says where and why.

        The rows `drop` go, and those that do not read, with values that no other row names. What
        stays is found to be there when it is put again.
        """
        ...

    def delete_range(
        self,
        stream_id: str,
        start_s: float | None = None,
        end_s: float | None = None,
        *,
        epoch: int | None = None,
    ) -> DeletedCounts:
        """Remove every clip that has a part in [start_s, end_s), whole; of one epoch or of all.

        Needs no lease and disturbs no writer: position and open clip stay. A page at a time, each
        at once with its totals and a gap `expired` that tells what is no longer there; it grows
        with what is removed next to it, and takes in the gaps that lie within. The rest of what was
        broken off goes when it is said again. A clip that was removed is not stored again: whoever
        puts it goes on behind it. `UnknownStream`.
        """
        ...

    def exchange(self, stream_id: str, exchanges: Sequence[Exchange]) -> FadedCounts:
        """Put coarser records of clips in the place of what is there: all at once, with their rows
        and totals, and without the levels that tell of them.

        Needs no lease, as `delete_range`. A clip of which the index or the record is not as it was
        read is left as it is. `UnknownStream`.
        """
        ...

    def delete_stream(self, stream_id: str, *, deep: bool = False) -> DeletedCounts:
        """Fence off any writer and remove everything of the stream. `UnknownStream`.

        `deep` also looks through the whole server for keys that no index names.
        """
        ...


class Levels(Protocol):
    """Records of several clips together (`levels`), which go when one of those changes."""

    def find_levels(self, nodes: Iterable[Node]) -> set[Node]:
        """Those of the nodes that have a record."""
        ...

    def measure_levels(self, nodes: Iterable[Node]) -> dict[Node, int]:
        """The same with the bytes of each record."""
        ...

    def list_digests(self, nodes: Iterable[Node]) -> dict[Node, str]:
        """Digests of the nodes' records as their headers say, those of clips too; of those that
        have one in the server itself."""
        ...

    def iter_levels(self, nodes: Iterable[Node]) -> Iterator["tuple[Node, ClipRecord | None]"]:
        """Records of nodes, verified, a few in memory at a time.

        None where there is none, or one that does not read, which is logged.
        """
        ...

    def put_level(
        self, node: Node, blob: bytes, of: dict[Node, str | None], cold: Sequence[ClipSpan] = ()
    ) -> bool:
        """Keep a node's record, made of children with these digests; None where there was none.

        For clips in the cold tier, of which there is none, their rows stand. False, and nothing is
        kept, when one of them is not so any more.
        """
        ...

    def remove_levels(self, nodes: Iterable[Node]) -> None:
        """Forget records of nodes: those that do not read."""
        ...


class Watches(Protocol):
    """Standing questions beside their stream, and the events they make; both go with it."""

    def put_watch(self, watch: Watch, state: WatchState) -> None:
        """Have a question asked of every clip behind `state`. `UnknownStream`, and `Conflict` when
        one of that id is there."""
        ...

    def list_watches(self, stream_id: str) -> list[tuple[Watch, WatchState]]:
        """By their ids, each with what is known so far; none for a stream that is not there."""
        ...

    def remove_watch(self, stream_id: str, watch_id: str) -> None:
        """Ask it no more; its events stay. `UnknownWatch`."""
        ...

    def advance_watch(
        self, watch: Watch, before: WatchState, after: WatchState, event: Event | None
    ) -> bool:
        """Replace what is known, with the event that it makes: both or neither, and once.

        False where it is `before` no more: somebody else asked about the clip, or the watch went.
        """
        ...

    def list_events(
        self, stream_id: str, *, after: str | None = None, limit: int = 100
    ) -> list[tuple[str, Event]]:
        """Events in the order they were found, each with a mark to go on `after`."""
        ...


class Cooling(Protocol):
    """Records taken out of the server once they are old, each with its row: `cold` has the rest.

    No lease is needed and no writer disturbed. A reader finds a clip in one place or the other.
    """

    cold: ColdTier | None
    """Where they go; None where none is set."""

    def list_hot(
        self, stream_id: str, *, most_clips: int, from_start: bool = False
    ) -> list[ClipSpan]:
        """The oldest clips whose records are in the server, by start time.

        Behind the latest one that was moved, unless `from_start`: then also what came later.
        """
        ...

    def begin_move(self, stream_id: str) -> str:
        """Say that files of the stream are being written, and refuse whoever said so before.
        `UnknownStream`."""
        ...

    def holds_move(self, stream_id: str, token: str) -> bool:
        """Whether nobody else said so since."""
        ...

    def move_clips(
        self, stream_id: str, moves: Sequence[tuple[ClipSpan, ClipSpan]], token: str
    ) -> int:
        """Have clips have other rows, that name where their records lie now; how many did.

        None where another one began to move since `begin_move` gave the token.

        All in one transaction, with their values, which go, and levels over those that
        faded on the way. A clip whose row is no longer as it is given, was removed or moved
        by another: it stays as it is.
        """
        ...


class ClipStore(StreamIndex, ClipReader, ClipWriter, Levels, Leases, Watches, Cooling, Protocol):
    """Compressed clips by stream and time."""

    @property
    def config(self) -> StoreConfig:
        """What opens this same data again, from another process of this machine."""
        ...

    def stats(self) -> StoreStats:
        """What the store holds, in numbers."""
        ...

    def check(self) -> StoreHealth:
        """Ask the server, and say what is set up so that records could be lost or read."""
        ...

    def close(self) -> None:
        """Let go of connections."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None: ...
