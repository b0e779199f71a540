"""The language half that the settings name: here, a worker of a cluster, or an engine elsewhere."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from pipeline.settings import Settings
from workers.answer import open_answerer, open_engine
from workers.cluster.scaling import Scaling
from workers.seams import Answerer


def answers_on_ray(settings: Settings) -> bool:
    """Whether questions are answered by a worker of a cluster."""
    return settings.ray.enabled and settings.ray.answers and settings.model.engine is None


@runtime_checkable
class Answerers(Protocol):
    """Language halves, of which a question uses one in its turn."""

    @property
    def num_ready(self) -> int:
        """Those that have their model."""
        ...

    @property
    def num_starting(self) -> int:
        """Those that have none yet."""
        ...

    def use(self) -> AbstractContextManager[Answerer]:
        """A place on one; waited for, also while its model is loaded."""
        ...

    def peek(self) -> AbstractContextManager[Answerer]:
        """Any of them, for what needs no turn."""
        ...


@dataclass(frozen=True)
class OneAnswerer:
    """The model of this process, or an engine elsewhere: all questions use it."""

    model: Answerer
    num_ready: int = 1
    num_starting: int = 0

    def use(self) -> AbstractContextManager[Answerer]:
        """The one."""
        return nullcontext(self.model)

    def peek(self) -> AbstractContextManager[Answerer]:
        """The one."""
        return nullcontext(self.model)


@contextmanager
def open_answers(settings: Settings) -> Iterator[Answerer]:
    """Load it, and let it go at the end; what was started for it on Ray ends with it.

    Raises:
        ModelError: the checkpoint cannot be used.
        WorkerLost: the cluster has no place for it, or it did not start in time.
        ClusterUnreachable: no cluster answers at the address.
        InvalidSettings: this process is connected to a cluster already.
    """
    with open_answer_pool(settings, Scaling()) as answerers, answerers.use() as model:
        yield model


@contextmanager
def open_answer_pool(settings: Settings, scaling: Scaling) -> Iterator[Answerers]:
    """As many workers on Ray as questions take; one model here, or one engine elsewhere."""
    if settings.model.engine is not None:
        with closing(open_engine(settings.answer_settings())) as engine:
            yield OneAnswerer(engine)
        return
    if not answers_on_ray(settings):
        model = open_answerer(settings.answer_settings())
        # A tokenizer settles its own options at its first use; after that threads may share it.
        model.count_tokens("", [])
        yield OneAnswerer(model)
        return
    from workers.cluster.cluster import open_cluster

    together = settings.serve.together
    with open_cluster(settings.cluster_settings()) as cluster:
        answer, place = settings.answer_settings(), settings.answer_place()
        with closing(cluster.open_answers(answer, place, scaling, together=together)) as pool:
            pool.wait_ready()
            yield pool
