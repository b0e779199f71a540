"""What lies above the pipeline and is run by its command: benches and the demo.

They announce themselves as entry points of the distribution, so that no name of theirs stands here
and the layers stay one way.
"""

from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any

from pipeline.values.errors import NotInstalled


def load_extra(group: str, name: str) -> Callable[..., Any]:
    """The function that `name` announces in `group`.

    Raises:
        NotInstalled: nothing of that name is installed.
    """
    found = entry_points(group=group, name=name)
    if not found:
        known = ", ".join(sorted(point.name for point in entry_points(group=group))) or "none"
        raise NotInstalled(
            f"{group} has no {name!r}, got {known}; install the aot-stream distribution again"
        )
    return next(iter(found)).load()
