"""The language half that the settings name: here, a worker of a cluster, or an engine elsewhere."""

from collections.abc import Iterator
from contextlib import closing, contextmanager

from pipeline.settings import Settings
from workers.answer import open_answerer, open_engine
from workers.seams import Answerer


def answers_on_ray(settings: Settings) -> bool:
    """Whether questions are answered by a worker of a cluster."""
    return settings.ray.enabled and settings.ray.answers and settings.model.engine is None


@contextmanager
def open_answers(settings: Settings) -> Iterator[Answerer]:
    """Load it, and let it go at the end; what was started for it on Ray ends with it.

    Raises:
        ModelError: the checkpoint cannot be used.
        WorkerLost: the cluster has no place for it, or it did not start in time.
        ClusterUnreachable: no cluster answers at the address.
        InvalidSettings: this process is connected to a cluster already.
    """
    with open_answer_pool(settings, 1) as [model]:
        yield model


@contextmanager
def open_answer_pool(settings: Settings, size: int) -> Iterator[tuple[Answerer, ...]]:
    """The same as `size` workers on Ray; as one model here or one engine elsewhere."""
    if settings.model.engine is not None:
        with closing(open_engine(settings.answer_settings())) as engine:
            yield (engine,) * size
        return
    if not answers_on_ray(settings):
        model = open_answerer(settings.answer_settings())
        # A tokenizer settles its own options at its first use; after that threads may share it.
        model.count_tokens("", [])
        yield (model,)
        return
    from workers.cluster.cluster import open_cluster

    with open_cluster(settings.cluster_settings()) as cluster:
        place = settings.answer_place()
        yield tuple(cluster.open_answer(settings.answer_settings(), place) for _ in range(size))
