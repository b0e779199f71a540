"""Machines that decode are lost at once: when each of their streams is read again, and by whom.

A stream of a lost session is free once the session has been silent for long enough and another one
looks; it changes hands through the one server that has the list, then waits for a core of its new
machine to start its decoder, for the source's next keyframe, and for the first clip to be whole.
"""

import random
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import simpy

from bench.simulation.services import Fleet, Services
from bench.simulation.sizing import cores_of_stream


@dataclass(frozen=True)
class Recovery:
    """Seconds from the loss, over the streams that were lost."""

    streams_lost: int
    nodes_lost: int
    owned_p50_s: float
    owned_max_s: float
    read_p50_s: float
    read_max_s: float
    """Their first frame is readable, in the open clip."""
    clip_p50_s: float
    clip_p95_s: float
    clip_max_s: float
    """Their first clip is stored."""


def simulate_loss(
    fleet: Fleet, services: Services, *, nodes: int, share: float = 0.01, seed: int = 0
) -> Recovery:
    """The loss of a share of the decode nodes: one at least, of two at least."""
    nodes = max(nodes, 2)
    lost_nodes = min(max(1, round(share * nodes)), nodes - 1)
    per_node = fleet.streams / nodes
    lost = max(1, round(lost_nodes * per_node))
    rng, environment = random.Random(seed), simpy.Environment()
    the_list = simpy.Resource(environment, capacity=1)
    spare = fleet.node_cores - per_node * cores_of_stream(services)
    machines = [
        simpy.Resource(environment, capacity=max(1, int(spare)))
        for _ in range(min(nodes - lost_nodes, lost))  # others take none
    ]
    owned, read, stored = [], [], []

    def stream(number: int, silent_s: float) -> Generator[Any, Any, None]:
        """One that was lost: missed, claimed from the list, opened, seen, stored."""
        yield environment.timeout(silent_s + rng.uniform(0, services.beat_s))
        with the_list.request() as turn:
            yield turn
            yield environment.timeout(services.claim_s)
        owned.append(environment.now)
        with machines[number % len(machines)].request() as core:
            yield core
            yield environment.timeout(services.start_cpu_s)
        yield environment.timeout(rng.uniform(0, services.keyframe_s))
        yield environment.timeout(rng.uniform(0, 1 / fleet.fps))  # the next sample's time
        read.append(environment.now)
        yield environment.timeout((fleet.clip_frames - 1) / fleet.fps)
        stored.append(environment.now)

    for number in range(lost):
        # A session said last that it lives some time before it was lost.
        silent_s = services.silent_s - rng.uniform(0, services.beat_s)
        environment.process(stream(number, silent_s))
    environment.run()
    return Recovery(
        streams_lost=lost,
        nodes_lost=lost_nodes,
        owned_p50_s=_at(owned, 50),
        owned_max_s=round(max(owned), 2),
        read_p50_s=_at(read, 50),
        read_max_s=round(max(read), 2),
        clip_p50_s=_at(stored, 50),
        clip_p95_s=_at(stored, 95),
        clip_max_s=round(max(stored), 2),
    )


def _at(values: list[float], percent: int) -> float:
    return round(sorted(values)[(len(values) - 1) * percent // 100], 2)
