"""One accelerator with the streams that `sizing` gives it: how long a frame waits.

Frames of each stream come at its rate from a phase of its own; the worker takes what waits, up to a
batch, and is busy for as long as that takes.
"""

import random
import statistics
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import simpy

from bench.simulation.services import Fleet, Services


@dataclass(frozen=True)
class Waiting:
    """Of frames, from their arrival at the worker to their tokens."""

    streams: int
    busy: float
    """Share of the time."""
    p50_s: float
    p99_s: float


def simulate_worker(
    fleet: Fleet, services: Services, *, streams: int, seconds: float = 60.0, seed: int = 0
) -> Waiting:
    """`streams` on one worker for so many seconds, the first tenth left out."""
    rng, environment = random.Random(seed), simpy.Environment()
    waiting: list[float] = []
    taken: list[float] = []
    busy = [0.0]
    came = environment.event()

    def camera() -> Generator[Any, Any, None]:
        nonlocal came
        yield environment.timeout(rng.random() / fleet.fps)
        while True:
            if rng.random() < fleet.encoded:
                waiting.append(environment.now)
                if not came.triggered:
                    came.succeed()
            yield environment.timeout(1 / fleet.fps)

    def worker() -> Generator[Any, Any, None]:
        """Takes what waits, a batch at most, for as long as that takes."""
        nonlocal came
        while True:
            if not waiting:
                came = environment.event()
                yield came
            batch = waiting[: services.batch_frames]
            del waiting[: len(batch)]
            work_s = max(services.batch_floor_s, len(batch) / services.accelerator_frames_s)
            yield environment.timeout(work_s)
            if environment.now > seconds / 10:
                taken.extend(environment.now - arrived for arrived in batch)
                busy[0] += work_s

    for _ in range(streams):
        environment.process(camera())
    environment.process(worker())
    environment.run(until=seconds)
    ranked = statistics.quantiles(taken, n=100)
    share = busy[0] / (0.9 * seconds)
    return Waiting(streams, round(share, 3), round(ranked[49], 4), round(ranked[98], 4))
