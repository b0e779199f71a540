"""Errors of the workers.

    WorkerError
      InvalidSource        a stream id, range or rate that cannot be
      InvalidSettings      a number of workers, threads or clips that cannot be
      SourceError          the video; carries the source with credentials removed
        SourceUnreachable    not there, not readable, or no answer
        SourceStalled        connected, but no picture came for too long
        SourceBroken         reading broke off: an error behind the first pictures
        SourceCrashed        the process that decodes it died
        SourceReplaced       a followed file was shortened, or another one took its place
        SourceRefused        not allowed: protocol, format, or place
        NoVideoStream        opened, but holds no picture
        NoKeyframe           no frame to start decoding from
        NoFrames             opened, but nothing could be decoded
        UnsupportedCodec     no decoder for it
        TooLarge             pixels, bytes or frames beyond the cap
      ModelError           the checkpoint
        ModelNotFound        no such folder, or not to be had from the hub
        UnsupportedModel     a model type without an adapter
        NoVisionTower        a checkpoint that cannot see
        UnsafeWeights        no safetensors
        InvalidCheckpoint    files missing, damaged, or not fitting together
        PromptTooLong        more tokens than the model's context
        ModelChanged         other weights behind the name than before, or than on other nodes
      WorkerLost           a worker died and could not be replaced
      AnswererBusy         too many questions are open at an answer worker
      WorkerBroken         a worker's device can compute no more; its process is replaced
      SessionCrashed       a session died too often to be started once more
      SinkWentBack         the sink has less than it had acknowledged; go on from its position
      SinkFull             the sink's store is away, and what may be kept meanwhile is full
      ClipsFailed          no worker could compress several clips in a row
      ClusterUnreachable   no Ray cluster at the address, or one of another version

Every error has a stable `code` (its class name) and says what was got, what was expected, what to
do, in one line.
"""


class WorkerError(Exception):
    """Base of all errors raised by `workers`."""

    kind: str = "failed"
    """What follows from it, for programs: an exit code, a status; see
    `pipeline.values.errors.KINDS`."""

    @property
    def code(self) -> str:
        """A stable name for programs."""
        return type(self).__name__


class InvalidSource(WorkerError, ValueError):
    """A stream id, a range or a rate that cannot be."""

    kind = "usage"


class InvalidSettings(WorkerError, ValueError):
    """A number of workers, threads or clips that cannot be."""

    kind = "usage"


class SourceError(WorkerError):
    """The video cannot be read as asked."""

    source: str | None = None
    """What it is about, credentials removed; None where whoever raised it does not know."""

    def at(self, source: str) -> "SourceError":
        """The same error with its source, named in front of the message."""
        if self.source is None:
            self.source, self.args = source, (f"{source}: {self}",)
        return self


class SourceUnreachable(SourceError):
    """Not there, not readable, or no answer in time."""


class SourceStalled(SourceError):
    """Connected, but no picture came for too long."""


class SourceBroken(SourceError):
    """Reading broke off behind what was read: the source sent what is not to be read, or an
    error."""


class SourceCrashed(SourceError):
    """The process that decodes it died."""


class SourceReplaced(SourceError):
    """A file that is followed was shortened, or another one took its place."""


class SourceRefused(SourceError):
    """Not allowed: protocol, container format, or place."""

    kind = "refused"


class NoVideoStream(SourceError):
    """The file holds no video track."""


class NoKeyframe(SourceError):
    """No frame was found from which decoding can start."""


class NoFrames(SourceError):
    """The file opens, but no frame could be decoded."""


class UnsupportedCodec(SourceError):
    """There is no decoder for the video track."""


class TooLarge(SourceError):
    """Pixels, bytes or frames beyond the cap."""

    kind = "too_large"


class ModelError(WorkerError):
    """The checkpoint cannot be used."""


class ModelNotFound(ModelError):
    """No such folder, or not to be had from the hub."""

    kind = "not_found"


class UnsupportedModel(ModelError):
    """The model type has no adapter."""


class NoVisionTower(ModelError):
    """The checkpoint has no vision half."""


class UnsafeWeights(ModelError):
    """The weights are not safetensors."""


class InvalidCheckpoint(ModelError):
    """Files of the checkpoint are missing, damaged, or do not fit together."""


class PromptTooLong(ModelError):
    """Prompt and answer together are longer than the model's context."""

    kind = "too_large"


class ModelChanged(ModelError):
    """The weights behind a name are others than they were, or than those of other workers."""


class WorkerLost(WorkerError):
    """A worker died and could not be replaced in time."""

    kind = "unavailable"


class AnswererBusy(WorkerError):
    """Too many questions are open at an answer worker; ask again."""

    kind = "busy"


class WorkerBroken(WorkerError):
    """The device a worker computes on is in a state that only a new process ends."""


class SessionCrashed(WorkerError):
    """A session died so often within its window that it is not started again."""


class SinkWentBack(WorkerError):
    """The sink has less than it had acknowledged; nothing was written. Go on from its position."""


class SinkFull(WorkerError):
    """The sink's store is away, and what may be kept meanwhile is full; nothing was written."""

    kind = "unavailable"


class ClipsFailed(WorkerError):
    """Several clips in a row could not be compressed, so it is not the clips."""


class ClusterUnreachable(WorkerError):
    """No Ray cluster answers at the address in time, or it runs another version."""

    kind = "unavailable"


def one_line(error: object, limit: int = 200) -> str:
    """An error's text, or its name where it has none, on one line of at most `limit` characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= limit else text[: limit - 3] + "..."
