"""The answer worker as an actor: text streams from it as the model writes.

An answer that breaks off with its worker is not taken up again: a restarted generator would begin
at its first word. The caller gets an error and asks again.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError

from workers.answer import AnswerSettings, AnswerWorker
from workers.cluster.actors import create_actor, original_error
from workers.cluster.pool import close_pool
from workers.errors import WorkerLost
from workers.models import VisualSegment

PIECES_AHEAD = 64
"""Pieces of text the model may be ahead of a slow reader before it waits."""


class AnswerActor:
    """Holds one language half; loads it with the first call, so that errors come out typed."""

    def __init__(self, settings: AnswerSettings) -> None:
        self._settings = settings
        self._worker: AnswerWorker | None = None

    def load(self) -> None:
        if self._worker is None:
            self._worker = AnswerWorker(self._settings)

    def stream_answer(
        self, question: str, segments: Sequence[VisualSegment], max_new_tokens: int
    ) -> Iterator[str]:
        self.load()
        assert self._worker is not None
        pieces = self._worker.stream_answer(question, segments, max_new_tokens=max_new_tokens)
        # Not `yield from`: Ray sends values into the generator, which a plain iterator cannot take.
        for piece in pieces:  # noqa: UP028
            yield piece

    def destroy(self) -> None:
        if self._worker is not None:
            self._worker.close()
            self._worker = None


class ClusterAnswer:
    """An answer worker elsewhere, with the methods of one that is here."""

    def __init__(self, actor: Any, *, piece_timeout_s: float) -> None:
        self._actor = actor
        self._piece_timeout_s = piece_timeout_s

    def stream_answer(
        self, question: str, segments: Sequence[VisualSegment], *, max_new_tokens: int
    ) -> Iterator[str]:
        """Yield the answer's text in pieces.

        Raises:
            WorkerLost: the worker died, or wrote nothing for `piece_timeout_s`.
        """
        pieces = self._actor.stream_answer.options(
            num_returns="streaming", _generator_backpressure_num_objects=PIECES_AHEAD
        ).remote(question, list(segments), max_new_tokens)
        try:
            while True:
                ready, _ = ray.wait([pieces], timeout=self._piece_timeout_s)
                if not ready:
                    ray.cancel(pieces)
                    raise WorkerLost(
                        f"the answer worker wrote nothing for {self._piece_timeout_s:.0f} s; ask "
                        "again, or over a shorter range"
                    )
                piece: Any = ray.get(next(pieces))
                yield piece
        except StopIteration:
            return
        except RayTaskError as error:
            raise original_error(error) from None
        except RayActorError:
            raise WorkerLost("the answer worker died while it wrote; ask again") from None

    def close(self) -> None:
        close_pool([self._actor])


def open_answer(
    settings: AnswerSettings,
    *,
    cpus: float = 0.5,
    gpus: float | None = None,
    resources: dict[str, float] | None = None,
    ready_timeout_s: float = 300.0,
    piece_timeout_s: float = 120.0,
) -> ClusterAnswer:
    """Start an answer worker and wait until its model is loaded.

    Raises:
        ModelError: the checkpoint cannot be used.
        WorkerLost: no place in the cluster, or no start in time.
    """
    if gpus is None:
        gpus = 1.0 if settings.device.startswith("cuda") else 0.0
    options = {"num_cpus": cpus, "num_gpus": gpus, "resources": resources or {}}
    actor = create_actor(AnswerActor, settings, max_restarts=-1, **options)
    try:
        ray.get(actor.load.remote(), timeout=ready_timeout_s)
    except GetTimeoutError:
        ray.kill(actor)
        raise WorkerLost(
            f"the answer worker did not start in {ready_timeout_s:.0f} s; it needs {cpus} CPU and "
            f"{gpus} GPU free; stop sessions or add nodes"
        ) from None
    except RayTaskError as error:
        ray.kill(actor)
        raise original_error(error) from None
    return ClusterAnswer(actor, piece_timeout_s=piece_timeout_s)
