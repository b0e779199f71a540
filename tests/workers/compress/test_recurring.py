"""What a stream showed last is not encoded again, one by one and over a device: a contract."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from aot import make_reducer
from tests.workers.compress.accelerator.support import (
    CLIP_FRAMES,
    GRID,
    PixelEncoder,
    make_pixels,
)
from workers.compress.accelerator.conveyor import Conveyor
from workers.compress.accelerator.graphs import StepGraphs
from workers.compress.accelerator.lanes import PlainLanes
from workers.compress.push import push_each
from workers.compress.recurring import Recurring
from workers.seams import Push
from workers.types import TokenLayout


class ByEach:
    """Pushes on a CPU, one after the other."""

    def __init__(self, encoder, recurring=None):
        self._encoder, self._recurring = encoder, recurring or Recurring()
        self._reducer = make_reducer("adaptive", 0.3, grid=GRID, clip_frames=CLIP_FRAMES)

    def __call__(self, *pushes):
        return push_each(
            self._encoder, self._reducer, pushes, together=False, recurring=self._recurring
        )


class ByBatch:
    """Pushes of one batch, over a device that is this CPU."""

    def __init__(self, encoder, recurring=None):
        reducer = make_reducer("adaptive", 0.3, grid=GRID, clip_frames=CLIP_FRAMES)
        lanes = PlainLanes(torch.device("cpu"))
        self._conveyor = Conveyor(encoder, reducer, lanes, StepGraphs(reducer, None), recurring)

    def __call__(self, *pushes):
        return self._conveyor.launch(pushes).wait()


@pytest.fixture(params=[ByEach, ByBatch])
def way(request):
    return request.param


def still(frame, times, **options):
    return Push(np.repeat(frame, times, axis=0), recurring="cam", **options)


def test_a_frame_that_comes_again_is_encoded_once_and_gives_what_it_would(way):
    encoder, frame = PixelEncoder(), make_pixels(1)
    push, plain = way(encoder), way(PixelEncoder())

    [first] = push(still(frame, 1))
    [then] = push(still(frame, 3, state=first.state, last=True))

    [wanted] = plain(Push(frame))
    [after] = plain(Push(np.repeat(frame, 3, axis=0), wanted.state, last=True))
    assert (sum(encoder.calls), first.recalled, then.recalled) == (1, 0, 3)
    assert then.tokens_in == after.tokens_in
    for got, expected in ((first, wanted), (then, after)):
        assert torch.equal(got.tokens.tokens, expected.tokens.tokens)
        assert torch.equal(got.tokens.frame, expected.tokens.frame)


def test_still_frames_and_new_ones_of_one_push_keep_their_order(way):
    encoder, (first, other) = PixelEncoder(), make_pixels(2)[:, None]
    push = way(encoder)
    push(still(first, 1))

    [got] = push(Push(np.concatenate([first, other, other, first]), last=True, recurring="cam"))

    [wanted] = way(PixelEncoder())(Push(np.concatenate([first, other, other, first]), last=True))
    assert (sum(encoder.calls), got.recalled) == (3, 2)
    assert torch.equal(got.tokens.tokens, wanted.tokens.tokens)


def test_streams_do_not_know_each_others_frames_and_unnamed_ones_none(way):
    encoder, frame = PixelEncoder(), make_pixels(1)
    push = way(encoder)

    push(still(frame, 1))
    results = push(replace(still(frame, 1), recurring="other"), Push(frame), Push(frame))

    assert (sum(encoder.calls), [one.recalled for one in results]) == (4, [0, 0, 0])


def test_what_is_not_known_any_more_is_encoded_again(way):
    encoder, frame, recurring = PixelEncoder(), make_pixels(1), Recurring(kept_bytes=8_000)
    push = way(encoder, recurring)

    for name in ("cam", *(f"other {number}" for number in range(4)), "cam"):
        push(replace(still(frame, 1), recurring=name))

    assert sum(encoder.calls) == 6
    kept_bytes = sum(known.size_bytes for known in recurring._known.values())
    assert 0 < kept_bytes == recurring._size_bytes <= 8_000


def test_what_is_kept_holds_no_batch():
    frames, recurring = make_pixels(4), Recurring()
    ByEach(PixelEncoder(), recurring)(Push(frames, recurring="cam"))
    [known] = recurring._known.values()
    assert not np.shares_memory(known.patch, frames)
    assert known.features.tokens.untyped_storage().nbytes() == known.features.tokens.nbytes


def test_a_patch_is_known_by_all_of_its_frames():
    frames, layout, recurring = make_pixels(3), TokenLayout(frames=2), Recurring()
    push = Push(frames, recurring="cam")

    patches = recurring.sort([push], layout)
    recurring.keep([push], patches, PixelEncoder().encode(frames[:2]))  # one step a patch

    last = np.repeat(frames[2:], 2, axis=0)  # as it was filled up
    again = recurring.sort([Push(last, recurring="cam"), Push(frames, recurring="cam")], layout)
    assert [len(new) for new in again.new] == [2, 2]
    assert [again.count_recalled(row, n) for row, n in enumerate((2, 3))] == [2, 0]
    assert recurring.sort([Push(frames[2:], recurring="cam")], layout).count_recalled(0, 1) == 1
