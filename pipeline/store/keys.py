"""Every key of the store, in one place.

    aot:streams                      set     stream ids
    aot:{id}:info                    hash    source, model, settings, fingerprint, status, position
    aot:{id}:clips                   zset    one span per clip, scored by start time
    aot:{id}:gaps                    zset    gaps, scored by start time
    aot:{id}:clip:{epoch}:{index}    string  header + digest + Arrow IPC stream
    aot:{id}:clip:{epoch}:{index}:{level}    string  4^level clips from this one on as one record
    aot:{id}:open                    string  place and record of a live stream's open clip so far
    aot:{id}:segments                hash    of a stream of many files: path -> where it lies
    aot:{id}:lease                   string  who writes, with a fencing token; expires
    aot:{id}:fence                   string  the last fencing token given
    aot:{id}:watches                 hash    standing questions, each with what is known so far
    aot:{id}:events                  stream  what they found

    aot:{@roster}:wanted             hash    endless streams that hosts share: id -> how it is read
    aot:{@roster}:paused             hash    those that are to be read by nobody for now
    aot:{@roster}:free               set     those that no host has
    aot:{@roster}:free:{selector}    set     of these, those that ask for such labels
    aot:{@roster}:asking             hash    selector -> how many streams ask for such labels
    aot:{@roster}:held:{host}        set     those of one host
    aot:{@roster}:hosts              hash    host -> where it is
    aot:{@roster}:alive, :takers     zset    hosts by the server's time when each was heard last
    aot:{@roster}:draining           set     machines that are to be left
    aot:{@roster}:facts              hash    version that is to be, revision of what is wanted

The braces around the stream id stand in the key: they are Redis Cluster's hash tag, so that all
keys of one stream lie in one slot and one MULTI can write them.
"""

from dataclasses import dataclass

from pipeline.values.errors import InvalidSettings
from pipeline.values.types import require_stream_id

DEFAULT_NAMESPACE = "aot"


def record_id(stream_id: str, epoch: int, index: int, clips: int = 1) -> str:
    """What a record's digest says it is: the same in every namespace and every export.

    One of several clips says how many, so that it cannot be taken for the first of them.
    """
    return f"{stream_id}/{epoch}/{index}" + (f"+{clips}" if clips > 1 else "")


@dataclass(frozen=True)
class Keys:
    """The keys of one namespace."""

    namespace: str = DEFAULT_NAMESPACE

    def __post_init__(self) -> None:
        if not self.namespace or set(self.namespace) & set("{}*?[]\\ \n"):
            raise InvalidSettings(
                f"store namespace {self.namespace!r} is empty or holds one of {{}}*?[]\\ or a "
                "blank; use a plain word such as 'aot'"
            )

    def roster(self, what: str) -> str:
        """Of the streams that hosts share; `@` is in no stream's id, so that none is called so."""
        return f"{self.namespace}:{{@roster}}:{what}"

    @property
    def streams(self) -> str:
        """The set of all streams' ids."""
        return f"{self.namespace}:streams"

    def info(self, stream_id: str) -> str:
        """What is known of a stream."""
        return self._of(stream_id, "info")

    def clips(self, stream_id: str) -> str:
        """The time index of a stream."""
        return self._of(stream_id, "clips")

    def gaps(self, stream_id: str) -> str:
        """The gaps of a stream."""
        return self._of(stream_id, "gaps")

    def clip(self, stream_id: str, epoch: int, index: int) -> str:
        """The record of a clip."""
        return self._of(stream_id, f"clip:{epoch}:{index}")

    def level(self, stream_id: str, epoch: int, first: int, level: int) -> str:
        """The record of several clips, the first of which has the index `first`."""
        return self._of(stream_id, f"clip:{epoch}:{first}:{level}")

    def open_clip(self, stream_id: str) -> str:
        """The record of the clip that still grows."""
        return self._of(stream_id, "open")

    def segments(self, stream_id: str) -> str:
        """The files of a joined stream."""
        return self._of(stream_id, "segments")

    def lease(self, stream_id: str) -> str:
        """Who writes a stream."""
        return self._of(stream_id, "lease")

    def watches(self, stream_id: str) -> str:
        """Standing questions of a stream."""
        return self._of(stream_id, "watches")

    def events(self, stream_id: str) -> str:
        """What they found."""
        return self._of(stream_id, "events")

    def fence(self, stream_id: str) -> str:
        """The highest fence given to a writer."""
        return self._of(stream_id, "fence")

    def facts_of(self, stream_id: str) -> list[str]:
        """All keys of a stream but those of its values."""
        of = (
            *(self.info, self.clips, self.gaps, self.segments, self.open_clip),
            *(self.lease, self.fence, self.watches, self.events),
        )
        return [key(stream_id) for key in of]

    def values_of(self, stream_id: str) -> str:
        """A pattern that matches the values of the stream and no other key."""
        return self._of(stream_id, "clip:*")

    def _of(self, stream_id: str, what: str) -> str:
        require_stream_id(stream_id)
        return f"{self.namespace}:{{{stream_id}}}:{what}"
