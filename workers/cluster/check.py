"""A look at a source from where its session would run, which may be another machine."""

import logging
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError, RayTaskError

from workers.cluster.actors import original_error
from workers.errors import one_line
from workers.session import CheckSource
from workers.types import VideoSource

logger = logging.getLogger(__name__)


def check_on_cluster(
    check: CheckSource,
    source: VideoSource,
    *,
    cpus: float,
    resources: dict[str, float],
    timeout_s: float,
) -> Any:
    """Run a check with the resources of a session; return what it gives, raise what it raises.

    A cluster without a free place, or whose worker died over it, has said nothing about the
    source: that is logged and left to the session, which waits for a place and is restarted; None
    comes back.
    """
    task: Any = ray.remote(_run)
    options = {"num_cpus": cpus, "resources": resources, "max_retries": 0}
    answer = task.options(**options).remote(check, source)
    try:
        return ray.get(answer, timeout=timeout_s)
    except RayTaskError as error:
        raise original_error(error) from None
    except GetTimeoutError:
        ray.cancel(answer, force=True)
        logger.warning("stream %s: no place to look at its source beforehand", source.stream_id)
    except RayError as error:
        logger.warning(
            "stream %s: its source was not looked at: %s", source.stream_id, one_line(error)
        )
    return None


def _run(check: CheckSource, source: VideoSource) -> Any:
    return check(source)
