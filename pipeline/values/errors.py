"""Errors of the pipeline.

    PipelineError
      InvalidSettings        a setting that cannot be; names the setting and where it came from
      InvalidQuery           a time range, a question or a budget that cannot be
      StoreError             the store
        StoreUnavailable       not there, or no answer in time
          StoreRefused           there, but takes no such login, command or kind of server
        StoreFull              out of memory or out of disk
        StoreReadOnly          a replica, or a server that takes no writes
        StoreUnsafe            a server set up so that it would lose records by itself
        InvalidRecord          a clip, a gap or an id that cannot be stored
        CorruptValue           what is stored is not what was written
          MissingValue           the index names a clip whose value is gone
        SchemaMismatch         a record of a version or a shape this release does not read
        Conflict               another value, or another writer, is there already
          LeaseHeld              somebody else writes this stream
        LeaseLost              this writer's lease ended or was taken over
        StoreWentBack          the store has less than this writer was told it has
      UnknownStream          no such stream
      UnknownClip            the stream has no such clip
      UnknownModel           no such model answers
      UnknownWatch           the stream has no such standing question
      NoFootage              the range holds no clip
        NotReadYet             the stream is to be read, and nothing of it is stored yet
      FingerprintMismatch    tokens of another model or other settings
      QueryTooLarge          more than the permitted number of clips, tokens or bytes
      UnknownKey             no key of that id
      NotAllowed             a key that is not known, or may not do this
      AnswerStopped          nobody waits for the answer any more
      TooManyRequests        faster, or more at one time, than one may ask
      ServiceUnreachable     no service answers where one was to be asked
      ServiceFailed          it answered with what is no answer
      NotConfirmed           a person was asked, and did not say yes
      NotInstalled           a bench or a demo that this installation does not hold

Every error has a stable `code` (its class name) and says what was got, what was expected, what to
do, in one line. No text holds a credential. Errors of all three packages have a `kind`, from which
every surface derives its own answer (`KINDS`).
"""

KINDS = {
    "usage": 2,
    "no_footage": 3,
    "not_found": 1,
    "conflict": 1,
    "too_large": 1,
    "refused": 1,
    "busy": 1,
    "unavailable": 1,
    "failed": 1,
    "internal": 1,
}
"""What an error is to whoever asked, with the exit code of a command that it ends."""


def kind_of(error: BaseException) -> str:
    """One of `KINDS`; `internal` for whatever is not an error of ours."""
    kind = getattr(error, "kind", None)
    return kind if isinstance(kind, str) and kind in KINDS else "internal"


class PipelineError(Exception):
    """Base of all errors raised by `pipeline`."""

    kind: str = "failed"
    """What follows from it, for programs: an exit code, a status; see
    `pipeline.values.errors.KINDS`."""

    @property
    def code(self) -> str:
        """A stable name for programs."""
        return type(self).__name__


class InvalidSettings(PipelineError, ValueError):
    """A setting that cannot be."""

    kind = "usage"


class InvalidQuery(PipelineError, ValueError):
    """A time range, a question or a budget that cannot be."""

    kind = "usage"


class StoreError(PipelineError):
    """The store cannot do what was asked."""


class StoreUnavailable(StoreError):
    """Not there, or no answer in time; `store.patience` waits for it to come back."""

    kind = "unavailable"


class StoreRefused(StoreUnavailable):
    """There, but it takes no such login, command or kind of server: waiting does not help."""


class StoreFull(StoreError):
    """Out of memory or out of disk; nothing was written."""

    kind = "unavailable"


class StoreReadOnly(StoreError):
    """A replica, or a server that takes no writes; nothing was written."""

    kind = "unavailable"


class StoreUnsafe(StoreError):
    """The server is set up so that it would lose records by itself."""


class InvalidRecord(StoreError, ValueError):
    """A clip, a gap or an id that cannot be stored."""


class CorruptValue(StoreError):
    """What is stored is not what was written."""


class MissingValue(CorruptValue):
    """The index names a clip whose value is gone."""


class SchemaMismatch(StoreError):
    """A record of a version or a shape that this release does not read."""


class Conflict(StoreError):
    """Another value, or another writer, is there already; nothing was written."""

    kind = "conflict"


class LeaseHeld(Conflict):
    """Somebody else writes this stream."""


class LeaseLost(StoreError):
    """This writer's lease ended or was taken over; nothing was written."""


class StoreWentBack(StoreError):
    """The store has less than this writer was told it has; nothing was written.

    A server that was restored, or restarted without its last writes. Go on from its position.
    """

    def __init__(self, text: str, *, last: tuple[int, int] | None = None) -> None:
        super().__init__(text)
        self.last = last
        """(epoch, index) of the last clip it still has; None for none."""


class UnknownStream(PipelineError):
    """The store has no stream of that id."""

    kind = "not_found"


class UnknownClip(PipelineError):
    """The stream has no clip of that place."""

    kind = "not_found"


class UnknownWatch(PipelineError):
    """The stream has no standing question of that id."""

    kind = "not_found"


class UnknownModel(PipelineError):
    """No model of that name answers."""

    kind = "not_found"


class NoFootage(PipelineError):
    """The range holds no clip."""

    kind = "no_footage"


class NotReadYet(NoFootage):
    """A stream that a cluster's sessions are to read, of which nothing is stored yet."""


class FingerprintMismatch(PipelineError):
    """Tokens of another model, or made with other settings."""

    kind = "conflict"


class QueryTooLarge(PipelineError):
    """More clips, tokens or bytes than one query may load."""

    kind = "too_large"


class UnknownKey(PipelineError):
    """There is no key of that id."""

    kind = "not_found"


class NotAllowed(PipelineError):
    """A key that is not known, or that may not do this."""

    kind = "refused"


class AnswerStopped(PipelineError):
    """Nobody waits for the answer any more; it was not written to its end."""

    kind = "unavailable"


class TooManyRequests(PipelineError):
    """Faster, or more at one time, than one may ask; nothing was done."""

    kind = "busy"


class ServiceUnreachable(PipelineError):
    """No service answers where one was to be asked."""

    kind = "unavailable"


class ServiceFailed(PipelineError):
    """A service that was asked failed, or answered with what is no answer."""


class NotConfirmed(PipelineError):
    """A person was asked, and did not say yes; nothing was changed."""


class NotInstalled(PipelineError):
    """A bench or a demo that this installation does not hold."""

    kind = "not_found"
