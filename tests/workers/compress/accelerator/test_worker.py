"""A worker on an accelerator, here one whose copies are done at once: company, faults, threads."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.workers.compress.accelerator.support import CLIP_FRAMES, PixelEncoder, make_pixels
from tests.workers.session_support import INFO, make_clip
from workers.compress import CompressSettings, CompressWorker, reducer_for
from workers.compress.accelerator.conveyor import Underway
from workers.compress.batch import compress_each
from workers.compress.push import push_each
from workers.errors import WorkerBroken
from workers.seams import Push, Pushed
from workers.types import FailedClip, PixelFormat

SETTINGS = CompressSettings("model", reducer="adaptive", retention=0.3, clip_frames=CLIP_FRAMES)
OURS = replace(INFO, pixel_format=PixelFormat(6, 6))


@pytest.fixture
def encoder(monkeypatch):
    made = PixelEncoder()
    monkeypatch.setattr(
        "workers.compress.worker.open_vision_encoder", lambda *args, **options: made
    )
    monkeypatch.setattr(CompressWorker, "_on_cpu", False)
    return made


def clips(count):
    return [make_clip("lobby", index, OURS) for index in range(count)]


def broken(clip):
    pixels = np.full_like(clip.pixels, 255)
    return replace(clip, pixels=pixels)


def singly(some):
    encoder = PixelEncoder()
    return compress_each(encoder, reducer_for(encoder, SETTINGS), some)


def check_same(got, expected):
    assert (got.index, got.pts_s) == (expected.index, expected.pts_s)
    assert torch.equal(got.tokens.cell, expected.tokens.cell)
    torch.testing.assert_close(got.tokens.tokens, expected.tokens.tokens, rtol=1e-5, atol=1e-5)
    assert got.stats.tokens_in == expected.stats.tokens_in
    assert got.stats.tokens_out == expected.stats.tokens_out


def test_a_batch_is_encoded_at_once_and_gives_each_clip_its_own(encoder):
    results = CompressWorker(SETTINGS).compress(clips(3))
    assert encoder.calls == [12]
    for got, expected in zip(results, singly(clips(3)), strict=True):
        check_same(got, expected)


def test_a_clip_that_is_not_finite_fails_alone_and_says_where(encoder):
    first, second, third = clips(3)
    results = CompressWorker(SETTINGS).compress([first, broken(second), third])
    assert [type(result) is FailedClip for result in results] == [False, True, False]
    assert "token 0 of frame 0 holds NaN" in results[1].detail
    assert encoder.calls == [12, 4]
    check_same(results[2], singly([third])[0])


def test_a_batch_that_fails_is_taken_apart(encoder, monkeypatch):
    def refuse(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Underway, "wait", refuse)
    results = CompressWorker(SETTINGS).compress(clips(3))
    for got, expected in zip(results, singly(clips(3)), strict=True):
        check_same(got, expected)


def test_a_broken_device_is_the_fault_of_no_clip(encoder):
    encoder.fails = torch.AcceleratorError("CUDA error: device-side assert triggered")
    worker = CompressWorker(SETTINGS)
    with pytest.raises(WorkerBroken, match="device-side assert"):
        worker.compress(clips(2))
    with pytest.raises(WorkerBroken, match="device-side assert"):
        worker.push([Push(make_pixels(1))])
    assert encoder.calls == [8, 1]


def test_pictures_of_two_sizes_are_not_put_into_one_batch(encoder):
    small, other = clips(2)
    other = replace(other, pixels=np.zeros((4, 8, 8, 3), np.uint8))
    results = CompressWorker(SETTINGS).compress([small, other])
    assert [type(result) is FailedClip for result in results] == [False, True]


def test_a_reducer_that_runs_clip_by_clip_is_not_carried(encoder):
    worker = CompressWorker(replace(SETTINGS, reducer="holitom", retention=0.5))
    assert worker.batches_at_once == 1
    assert [len(result.tokens) > 0 for result in worker.compress(clips(2))] == [True, True]


def test_a_push_among_others_that_fail_is_not_touched(encoder):
    pixels = make_pixels(2)
    pushes = [Push(pixels), Push(np.full_like(pixels, 255)), Push(pixels, last=True)]
    results = CompressWorker(SETTINGS).push(pushes)
    assert [isinstance(result, Pushed) for result in results] == [True, False, True]
    assert "NaN" in str(results[1])
    [alone] = push_each(PixelEncoder(), reducer_for(encoder, SETTINGS), [pushes[2]], together=False)
    assert torch.equal(results[2].tokens.cell, alone.tokens.cell)


def test_a_state_that_finds_no_room_is_the_fault_of_its_push_alone(encoder, monkeypatch):
    worker, pixels = CompressWorker(SETTINGS), make_pixels(1)
    [begun] = worker.push([Push(pixels)])
    assert isinstance(begun, Pushed)

    def refuse(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Underway, "wait", refuse)
    monkeypatch.setattr(type(begun.state), "to", refuse)
    alone, other = worker.push([Push(pixels, begun.state), Push(pixels, last=True)])
    assert isinstance(alone, torch.OutOfMemoryError)
    assert isinstance(other, Pushed)


def test_a_batch_is_launched_while_another_is_waited_for(encoder, monkeypatch):
    """What keeps the device busy: the second thread's batch goes out behind the first's."""
    worker, launched, together = CompressWorker(SETTINGS), [], threading.Barrier(2)
    wait = Underway.wait

    def wait_for_both(underway):
        launched.append(len(underway.pushes))
        together.wait(timeout=60)
        return wait(underway)

    monkeypatch.setattr(Underway, "wait", wait_for_both)
    assert worker.batches_at_once == 2
    with ThreadPoolExecutor(2) as threads:
        both = list(threads.map(worker.compress, [clips(2), clips(3)]))
    assert sorted(launched) == [2, 3]
    for results, count in zip(both, (2, 3), strict=True):
        for got, expected in zip(results, singly(clips(count)), strict=True):
            check_same(got, expected)


def test_the_host_never_waits_for_the_whole_device(encoder, monkeypatch):
    def refuse(*_):
        raise AssertionError("the host waits for the device")

    worker = CompressWorker(SETTINGS)
    monkeypatch.setattr(torch.cuda, "synchronize", refuse)
    assert all(not isinstance(result, FailedClip) for result in worker.compress(clips(3)))
    assert all(isinstance(result, Pushed) for result in worker.push([Push(make_pixels(1))]))
