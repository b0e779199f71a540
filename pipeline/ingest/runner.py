"""What runs the sessions of an ingest: the protocol, and the runner of this process.

A runner has its workers loaded while it is open. Its twin on a cluster is `on_ray.RayRunner`.
"""

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Protocol

from pipeline.ingest.job import IngestJob
from pipeline.ingest.request import IngestRequest
from workers.compress.inline import InlineWorkers
from workers.seams import SessionReport
from workers.session import Progress, SessionSettings, run_session


class Runner(Protocol):
    """Runs one video's session after the other, or several side by side."""

    def side_by_side(self, num_videos: int) -> int:
        """How many of so many videos it runs at one time, each in a thread of its own."""
        ...

    def run(self, request: IngestRequest) -> Generator[Progress]:
        """Run a session to its end; when the iterator is closed early, the session is stopped."""
        ...


class InlineRunner:
    """Sessions in the calling thread, with workers that are loaded once."""

    def __init__(self, job: IngestJob, workers: InlineWorkers) -> None:
        self._job, self._workers = job, workers

    def side_by_side(self, num_videos: int) -> int:
        """One: there is one model, which has its own threads."""
        return 1

    def run(self, request: IngestRequest) -> Generator[Progress]:
        """As `Runner.run`."""
        sink = self._job.sink(request, self._workers.info).open()
        try:
            yield from run_session(
                request.source,
                SessionSettings(),
                self._workers,
                sink,
                open_clips=self._job.open_clips,
            )
        except (KeyboardInterrupt, GeneratorExit):
            sink.finish(SessionReport("stopped"))
            raise
        finally:
            sink.close()


@contextmanager
def open_inline(job: IngestJob) -> Iterator[InlineRunner]:
    """Load the model into this process."""
    with InlineWorkers(job.compress) as workers:
        yield InlineRunner(job, workers)
