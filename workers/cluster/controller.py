"""The actor that keeps as many hosts as it takes, on machines of the kinds that are needed.

It holds nothing: what is wanted it asks anew at every turn, what there is it sees by the names of
the actors. So it is started again without end, and hosts go on without it.
"""

import logging
import threading
import time
from contextlib import suppress
from typing import Any

import ray
from ray.actor import exit_actor
from ray.exceptions import RayActorError, RayError

from workers.cluster.actors import create_actor
from workers.cluster.host import HostActor, HostSpec, LabelConditions, list_hosts

logger = logging.getLogger(__name__)

CONTROLLER = "controller"
TURN_S = 2.0
"""Between two looks."""
SHRINK_S = 60.0
"""For so long fewer hosts must be wanted than there are before one is let go."""


class ControllerActor:
    """Keeps as many hosts of its version as are wanted; ends when its version is not, any more."""

    def __init__(self, spec: HostSpec) -> None:
        self._spec = spec
        self._self = ray.get_runtime_context().current_actor
        self._surplus_since_s: float | None = None
        threading.Thread(target=self._run, name="controller", daemon=True).start()

    def version(self) -> str:
        """That it keeps hosts of."""
        return self._spec.work.version

    def leave(self) -> None:
        """End this process for good."""
        exit_actor()

    def _run(self) -> None:
        while True:
            try:
                if not self._turn():
                    break
            except Exception as error:
                logger.warning("the controller looks again: %s: %s", type(error).__name__, error)
            time.sleep(TURN_S)
        self._self.leave.remote()

    def _turn(self) -> bool:
        counts = self._spec.work.count_hosts()
        if counts is None:
            return False
        there, name = list_hosts(self._spec.prefix), self._spec.name
        wanted = {name(one, number): one for one, n in counts.items() for number in range(n)}
        for missing in wanted.keys() - set(there):
            self._start(missing, wanted[missing])
        self._shrink([name for name in there if name not in wanted])
        return True

    def _start(self, name: str, conditions: LabelConditions) -> None:
        """Ask Ray for another process; one without a place is what its autoscaler goes by."""
        spec = self._spec
        with suppress(ValueError):  # somebody else was quicker
            create_actor(
                HostActor,
                spec,
                conditions,
                name=name,
                lifetime="detached",
                num_cpus=spec.cpus,
                resources=dict(spec.resources),
                label_selector=dict(conditions),
                scheduling_strategy="SPREAD",
                max_restarts=-1,
                max_task_retries=0,
                max_concurrency=4,
            )

    def _shrink(self, surplus: list[str]) -> None:
        """Let the last go, once it was too many for a while."""
        if not surplus:
            self._surplus_since_s = None
            return
        self._surplus_since_s = self._surplus_since_s or time.monotonic()
        if time.monotonic() - self._surplus_since_s > SHRINK_S:
            for name in surplus:
                with suppress(ValueError, RayActorError):
                    ray.get_actor(name).retire.remote()


def start_controller(spec: HostSpec) -> None:
    """Have a controller with this spec, and no other: one of an earlier spec holds nothing."""
    with suppress(ValueError, RayError):
        ray.kill(ray.get_actor(CONTROLLER))
    _create_controller(spec)


def _create_controller(spec: HostSpec, *, limit_s: float = 10.0) -> Any:
    until_s = time.monotonic() + limit_s
    while True:
        try:
            return create_actor(
                ControllerActor,
                spec,
                name=CONTROLLER,
                lifetime="detached",
                num_cpus=0,
                max_restarts=-1,
                max_task_retries=0,
            )
        except ValueError:  # the last one's name is not free at once
            if time.monotonic() > until_s:
                raise
            time.sleep(0.2)
