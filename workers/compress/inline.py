"""Workers without a cluster: one model in this process, one clip after the other."""

from collections.abc import Iterable, Iterator

from workers.compress.worker import CompressSettings, CompressWorker
from workers.seams import WorkerInfo
from workers.types import Clip, CompressedClip, FailedClip, StopSignal


class InlineWorkers:
    """A `WorkerGroup` in the calling thread: the laptop, the unit tests, the readable version."""

    def __init__(self, settings: CompressSettings) -> None:
        """Load the model.

        Raises:
            ModelError: the checkpoint cannot be used.
        """
        self._worker = CompressWorker(settings)

    @property
    def info(self) -> WorkerInfo:
        """What the loaded model and reducer are."""
        return self._worker.info

    def compress_stream(
        self, clips: Iterable[Clip], *, stop: StopSignal | None = None
    ) -> Iterator[CompressedClip | FailedClip]:
        """Compress clips in order; each is pulled only after the one before it was taken."""
        clips = iter(clips)
        while stop is None or not stop.is_set():
            clip = next(clips, None)
            if clip is None:
                return
            yield from self._worker.compress([clip])

    def close(self) -> None:
        """Free the model."""
        self._worker.close()

    def __enter__(self) -> "InlineWorkers":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()
