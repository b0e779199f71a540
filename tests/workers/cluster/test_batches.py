"""How an actor makes batches of calls: full ones beside another, parts of one alone."""

import asyncio
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
import ray

from aot import InvalidFeatures
from tests.workers.session_support import INFO, ModelFreeWorkers, make_clip
from workers.cluster.actors import CompressActor
from workers.compress import CompressSettings
from workers.live.push import BatchRule
from workers.seams import Push


class Gated:
    """Takes batches of two, two at once; each ends when it is let go."""

    info, batch_clips, batches_at_once = INFO, 2, 2

    def __init__(self, settings):
        self.begun: list[list[int]] = []
        self.let_go = threading.Semaphore(0)

    def compress(self, clips):
        self.begun.append([clip.index for clip in clips])
        assert self.let_go.acquire(timeout=60)
        return list(ModelFreeWorkers().compress_stream(clips))

    def push(self, pushes):
        self.begun.append([int(push.pixels[0, 0, 0, 0]) for push in pushes])
        assert self.let_go.acquire(timeout=60)
        return [InvalidFeatures("a stand-in")] * len(pushes)

    def finish(self, state, dtype):
        raise NotImplementedError

    def close(self):
        pass


@pytest.fixture
def made(monkeypatch):
    context = SimpleNamespace(
        current_actor=None, was_current_actor_reconstructed=False, get_actor_name=lambda: None
    )
    monkeypatch.setattr(ray, "get_runtime_context", lambda: context)
    held = []

    def open_gated(settings):
        held.append(Gated(settings))
        return held[0]

    return held, open_gated


async def until(condition):
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.01)


def test_a_full_batch_goes_out_beside_another_and_a_part_of_one_waits(made):
    held, open_gated = made

    async def go():
        actor = CompressActor(
            CompressSettings("model"), open_gated, batch_timeout_s=60.0, detached=False
        )
        digest = (await actor.describe()).identity.digest()
        worker = held[0]

        def send(*indices):
            clips = [make_clip("lobby", index) for index in indices]
            return [asyncio.create_task(actor.compress(clip, digest)) for clip in clips]

        calls = send(0)
        await until(lambda: worker.begun == [[0]])
        calls += send(1)
        await asyncio.sleep(0.1)
        assert worker.begun == [[0]]
        assert (await actor.pulse("")).waiting == 2
        calls += send(2)
        await until(lambda: worker.begun == [[0], [1, 2]])
        calls += send(3, 4, 5)
        await asyncio.sleep(0.1)
        assert len(worker.begun) == 2
        worker.let_go.release()
        await until(lambda: worker.begun[2:] == [[3, 4]])
        worker.let_go.release(10)
        results = await asyncio.gather(*calls)
        assert [result.index for result in results] == [0, 1, 2, 3, 4, 5]
        assert worker.begun[3:] == [[5]]

    asyncio.run(go())


def test_frames_of_several_cameras_share_a_batch_that_goes_out_full_or_in_time(made):
    held, open_gated = made
    rule = BatchRule(frames=4, wait_s=0.3)

    async def go():
        actor = CompressActor(
            CompressSettings("model"), open_gated, batch_timeout_s=60.0, detached=False, rule=rule
        )
        digest = (await actor.describe()).identity.digest()
        worker = held[0]

        def send(*numbers):
            frames = [Push(np.full((1, 2, 2, 3), number, np.uint8)) for number in numbers]
            return [asyncio.create_task(actor.push(frame, digest)) for frame in frames]

        began_s = time.monotonic()
        calls = send(0, 1)
        await until(lambda: worker.begun)
        assert worker.begun == [[0, 1]]
        assert time.monotonic() - began_s >= 0.3
        calls += send(2, 3, 4, 5, 6)
        await until(lambda: len(worker.begun) == 2)  # full: beside the first one
        assert worker.begun[1] == [2, 3, 4, 5]
        worker.let_go.release(3)
        await asyncio.wait(calls, timeout=60)
        assert worker.begun[2] == [6]
        assert all(isinstance(call.exception(), InvalidFeatures) for call in calls)

    asyncio.run(go())
