"""Numbers of an actor's process that Ray shows to Prometheus, at every node's own address.

Ray calls them `ray_NAME` and adds labels of its own, the process among them. It forgets none as
long as the process lives: what is no more is shown as 0. Without Ray's own extra (`ray[default]`) a
node has nobody to show them, and they go nowhere.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from ray.util.metrics import Gauge

from workers.live.tally import COUNTED, PushTally

SHOW_EVERY_S = 5.0
"""How often Ray is told what is counted; it shows it as often itself."""


class Shown(NamedTuple):
    """One number."""

    name: str
    text: str
    labels: Mapping[str, str]
    value: float


class RayGauges:
    """What was shown last, so that what is gone can be told."""

    def __init__(self) -> None:
        self._gauges: dict[str, Gauge] = {}
        self._last: dict[tuple[str, tuple[tuple[str, str], ...]], Shown] = {}

    def show(self, all_of_them: Iterable[Shown]) -> None:
        """All numbers there are now; of one name they have the same labels."""
        now = {(one.name, tuple(sorted(one.labels.items()))): one for one in all_of_them}
        for key, one in self._last.items():
            if key not in now:
                self._set(one._replace(value=0.0))
        for one in now.values():
            self._set(one)
        self._last = now

    def _set(self, one: Shown) -> None:
        gauge = self._gauges.get(one.name)
        if gauge is None:
            gauge = Gauge(one.name, description=one.text, tag_keys=tuple(one.labels))
            self._gauges[one.name] = gauge
        gauge.set(one.value, tags=dict(one.labels))


def show_tally(worker: str, tally: PushTally) -> Iterator[Shown]:
    """What an encoder has counted, by the names that a process of its own shows on its page."""
    for one in COUNTED:
        name = f"aot_{one.name}_total" if one.only_grows else f"aot_{one.name}"
        yield Shown(name, one.text, {"worker": worker}, float(one.get(tally)))
