"""On a card: a captured batch gives what its clips give step by step, and no launch waits."""

import pytest
import torch

from aot import CausalReducer, make_reducer
from tests.aot.support import CAUSAL, no_waits
from tests.workers.compress.accelerator.support import CLIP_FRAMES, GRID, PixelEncoder, make_pixels
from workers.compress.accelerator.conveyor import Conveyor, open_conveyor
from workers.compress.accelerator.lanes import CudaLanes
from workers.compress.push import push_each
from workers.seams import Push

pytestmark = pytest.mark.gpu


def reducer(name) -> CausalReducer:
    made = make_reducer(name, 0.3, grid=GRID, clip_frames=CLIP_FRAMES)
    assert isinstance(made, CausalReducer)
    return made


def conveyor(name) -> Conveyor:
    made = open_conveyor(PixelEncoder("cuda"), reducer(name), CudaLanes(torch.device("cuda")))
    assert made is not None
    return made


def wholes(*lengths):
    return [Push(make_pixels(n, seed), last=True) for seed, n in enumerate(lengths)]


@pytest.mark.parametrize("name", CAUSAL)
def test_a_captured_batch_is_as_its_clips_on_the_host(name):
    carrier, pushes = conveyor(name), wholes(4, 2, 4)
    expected = push_each(PixelEncoder(), reducer(name), pushes, together=False)
    launched = [carrier.launch(pushes) for _ in range(4)]
    assert len(carrier._graphs) == 1
    for underway in launched:
        for got, wanted in zip(underway.wait(), expected, strict=True):
            assert got is not None
            assert got.tokens.tokens.device.type == "cpu"
            assert torch.equal(got.tokens.frame, wanted.tokens.frame)
            assert torch.equal(got.tokens.cell, wanted.tokens.cell)
            torch.testing.assert_close(
                got.tokens.tokens, wanted.tokens.tokens, rtol=1e-3, atol=1e-3
            )


@pytest.mark.parametrize("name", CAUSAL)
def test_no_launch_makes_the_host_wait(name, monkeypatch):
    carrier = conveyor(name)
    begun = carrier.launch([Push(make_pixels(2)), Push(make_pixels(1))]).wait()
    assert begun[0] is not None
    pushes = [Push(make_pixels(2), begun[0].state), Push(make_pixels(1))]
    for batch in (wholes(4, 4), pushes) * 2:
        carrier.launch(batch).wait()

    def refuse(*_):
        raise AssertionError("the host waits for the device")

    with no_waits(), monkeypatch.context() as patched:
        patched.setattr(torch.cuda, "synchronize", refuse)
        launched = [carrier.launch(batch) for batch in (wholes(4, 4), pushes, wholes(4, 4))]
    assert all(result is not None for underway in launched for result in underway.wait())
