"""An answer worker elsewhere, as an `Answerer` here.

An answer that breaks off with its worker is not taken up again: a restarted worker would begin at
its first word. The caller gets an error and asks again, of the same object: Ray starts the worker
anew meanwhile.
"""

import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import (
    ActorUnavailableError,
    GetTimeoutError,
    RayActorError,
    RayError,
    RayTaskError,
)

from workers.answer import AnswerSettings, open_answerer
from workers.cluster.actors import create_actor, original_error
from workers.cluster.answer_actor import (
    READ_S,
    AnswerActor,
    AnswererFacts,
    OpenLanguageModel,
    Part,
)
from workers.cluster.pool import close_pool
from workers.errors import WorkerLost, one_line
from workers.models import ModelIdentity, ReadingStyle, VisualSegment

CALL_S = 30.0
"""Longest wait for an answer that needs no model: the process is there and hangs."""

TRIES = 3
"""How often a call is made whose worker dies over it."""

AGAIN_S = 0.5


@dataclass(frozen=True)
class AnswerPlace:
    """Where an answer worker runs, and how long it may take."""

    cpus: float = 0.5
    """Of Ray's CPU resource."""
    gpus: float | None = None
    """Of Ray's GPU resource; None takes a whole one when the device is an accelerator."""
    resources: dict[str, float] = field(default_factory=dict)
    """Further resources, to keep the worker on nodes that declare them."""
    ready_timeout_s: float = 300.0
    """For its start, the first and every further one: a free place and the model's load."""
    queue_timeout_s: float = 600.0
    """For the turn of a question behind others."""
    piece_timeout_s: float = 600.0
    """For one piece of text; a long prompt takes a CPU minutes before the first."""
    reader_timeout_s: float = 60.0
    """An answer that is not read for so long is given up."""


class ClusterAnswer:
    """A language half elsewhere, with the methods of one that is here; `Answerer`."""

    def __init__(self, actor: Any, place: AnswerPlace) -> None:
        """Wait until the worker has its model.

        Raises:
            ModelError: the checkpoint cannot be used.
            WorkerLost: no place in the cluster, no start in time, or it dies while it loads.
        """
        self._actor = actor
        self._place = place
        self._facts: AnswererFacts = self._call("describe")
        self._digest = self._facts.identity.digest()

    @property
    def identity(self) -> ModelIdentity:
        return self._facts.identity

    @property
    def reading(self) -> ReadingStyle:
        return self._facts.reading

    @property
    def context_length(self) -> int:
        return self._facts.context_length

    def count_tokens(self, question: str, segments: Sequence[VisualSegment]) -> int:
        """Length of the prompt in tokens; never waits for an answer that is being written.

        Raises:
            WorkerLost, ModelChanged: the worker died for good, or came back with other weights.
        """
        marks = [(segment.mark, len(segment.tokens)) for segment in segments]
        return self._call("count_tokens", question, marks, self._digest)

    def score_relevance(
        self, question: str, parts: Sequence[Sequence[VisualSegment]]
    ) -> list[float]:
        """How much each part matters for the question; in turn with the answers.

        Raises:
            WorkerLost, ModelChanged: the worker died for good, or came back with other weights.
        """
        return self._call("score", question, [list(part) for part in parts], self._digest)

    def stream_answer(
        self, question: str, segments: Sequence[VisualSegment], *, max_new_tokens: int
    ) -> Iterator[str]:
        """Yield the answer's text in pieces; leaving the iterator stops the generation.

        Questions are answered one after the other in the order they came.

        Raises:
            WorkerLost: the worker died, the turn or the next piece did not come in time, or the
                answer was not read for `reader_timeout_s`; ask again.
            AnswererBusy: too many questions are open.
            ModelError: the worker's own, such as `PromptTooLong`; other weights are refused.
        """
        name = uuid.uuid4().hex
        try:
            self._call("ask", name, question, list(segments), max_new_tokens, self._digest)
            yield from self._read(name)
        finally:
            with suppress(RayError):
                self._actor.leave.remote(name)

    def close(self) -> None:
        """End the worker; answers that are being written break off."""
        close_pool([self._actor])

    def _read(self, name: str) -> Iterator[str]:
        state, since_s = "waiting", time.monotonic()
        while True:
            part = self._read_part(name)
            yield from part.pieces
            if part.state == "done":
                return
            if part.pieces or part.state != state:
                state, since_s = part.state, time.monotonic()
            self._require_progress(part, time.monotonic() - since_s)

    def _read_part(self, name: str) -> Part:
        try:
            return ray.get(self._actor.read.remote(name), timeout=READ_S + CALL_S)
        except GetTimeoutError:
            raise WorkerLost("the answer worker is there and does not answer; ask again") from None
        except RayTaskError as error:
            raise original_error(error) from None
        except RayActorError as error:
            raise WorkerLost(
                f"the answer worker died while it wrote ({one_line(error)}); ask again"
            ) from None

    def _require_progress(self, part: Part, waited_s: float) -> None:
        place = self._place
        if part.state == "waiting" and waited_s > place.queue_timeout_s:
            raise WorkerLost(
                f"the question waited {waited_s:.0f} s behind others; ask again, or open more "
                "answer workers"
            )
        if part.state == "writing" and waited_s > place.piece_timeout_s:
            raise WorkerLost(
                f"the answer worker wrote nothing for {waited_s:.0f} s; ask again, or over a "
                "shorter range"
            )

    def _call(self, method: str, *arguments: Any) -> Any:
        """Call the worker, which may be on its way back; what is called may be called twice."""
        until_s = time.monotonic() + self._place.ready_timeout_s
        deaths = 0
        while True:
            call = getattr(self._actor, method).remote(*arguments)
            try:
                return ray.get(call, timeout=max(0.0, until_s - time.monotonic()))
            except RayTaskError as error:
                raise original_error(error) from None
            except GetTimeoutError:
                raise WorkerLost(self._not_ready()) from None
            except RayActorError as error:
                deaths += not isinstance(error, ActorUnavailableError)
                if deaths >= TRIES or time.monotonic() > until_s:
                    raise WorkerLost(
                        f"the answer worker died: {one_line(error, 300)}; see that the model fits "
                        "into the memory of the machine, and ask again"
                    ) from None
                time.sleep(AGAIN_S)

    def _not_ready(self) -> str:
        place = self._place
        return (
            f"the answer worker was not ready in {place.ready_timeout_s:.0f} s; it needs "
            f"{place.cpus} CPU, {place.gpus or 0} GPU {place.resources or ''}free in the cluster; "
            "stop sessions or add nodes"
        )


def open_answer(
    settings: AnswerSettings,
    place: AnswerPlace | None = None,
    *,
    open_model: OpenLanguageModel = open_answerer,
) -> ClusterAnswer:
    """Start an answer worker and wait until its model is loaded; errors are `ClusterAnswer`'s."""
    place = place or AnswerPlace()
    gpus = place.gpus
    if gpus is None:
        gpus = 1.0 if settings.device.startswith("cuda") else 0.0
    actor = create_actor(
        AnswerActor,
        settings,
        open_model,
        max_restarts=-1,
        max_task_retries=0,
        num_cpus=place.cpus,
        num_gpus=gpus,
        resources=dict(place.resources),
        init_reader_timeout_s=place.reader_timeout_s,
    )
    try:
        return ClusterAnswer(actor, place)
    except BaseException:
        ray.kill(actor)
        raise
