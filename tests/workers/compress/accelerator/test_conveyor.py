"""Batches over an accelerator give what the clips give one by one: padded, captured, repeated."""

import logging

import pytest
import torch

from aot import CausalReducer, InvalidFeatures, make_reducer
from tests.aot.support import CAUSAL
from tests.workers.compress.accelerator.support import (
    CLIP_FRAMES,
    GRID,
    PixelEncoder,
    Recorder,
    make_pixels,
)
from workers.compress.accelerator.conveyor import Conveyor
from workers.compress.accelerator.graphs import Bucket, StepGraphs, pad_clips, pad_frames
from workers.compress.accelerator.lanes import PlainLanes
from workers.compress.push import push_each
from workers.seams import Push


def reducer(name="adaptive", retention=0.3) -> CausalReducer:
    made = make_reducer(name, retention, grid=GRID, clip_frames=CLIP_FRAMES)
    assert isinstance(made, CausalReducer)
    return made


def conveyor(name="adaptive", capture=None, encoder=None, **options) -> Conveyor:
    causal = reducer(name)
    lanes = PlainLanes(torch.device("cpu"))
    return Conveyor(
        encoder or PixelEncoder(), causal, lanes, StepGraphs(causal, capture, **options)
    )


def one_by_one(name, pushes):
    return push_each(PixelEncoder(), reducer(name), pushes, together=False)


def check_same(got, expected):
    assert got is not None
    assert torch.equal(got.tokens.frame, expected.tokens.frame)
    assert torch.equal(got.tokens.cell, expected.tokens.cell)
    assert torch.equal(got.tokens.kind, expected.tokens.kind)
    torch.testing.assert_close(got.tokens.mass, expected.tokens.mass, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(got.tokens.tokens, expected.tokens.tokens, rtol=1e-5, atol=1e-5)
    assert got.tokens.grid == expected.tokens.grid
    assert got.tokens_in == expected.tokens_in
    assert (got.state is None) == (expected.state is None)


def wholes(*lengths):
    return [Push(make_pixels(n, seed), last=True) for seed, n in enumerate(lengths)]


@pytest.mark.parametrize("name", CAUSAL)
def test_clips_of_any_lengths_are_as_one_by_one(name):
    recorder = Recorder()
    carrier = conveyor(name, recorder)
    batches = wholes(4, 2, 4), wholes(4, 4, 4, 4), wholes(1), wholes(3, 1, 2), wholes(1)
    for pushes in batches:
        got = carrier.launch(pushes).wait()
        for ours, theirs in zip(got, one_by_one(name, pushes), strict=True):
            check_same(ours, theirs)
    assert recorder.captures == 2  # of four clips, and of one frame
    assert recorder.replays == 3  # each but the first of its shape


@pytest.mark.parametrize("name", CAUSAL)
def test_open_clips_go_on_from_their_states_beside_others(name):
    carrier, causal = conveyor(name, Recorder()), reducer(name)
    videos = [make_pixels(4, seed) for seed in range(3)]
    first = [Push(videos[0][:2]), Push(videos[1][:1]), Push(videos[2][:1])]
    carrier.launch(first)
    begun = carrier.launch(first).wait()
    wanted = push_each(PixelEncoder(), causal, first, together=False)

    then = [
        Push(videos[0][2:], begun[0].state, last=True),
        Push(videos[1][1:3], begun[1].state),
        Push(videos[2][:2]),
    ]
    carrier.launch(then)
    got = carrier.launch(then).wait()
    states = [wanted[0].state, wanted[1].state, None]
    after = [Push(p.pixels, state, p.last) for p, state in zip(then, states, strict=True)]
    expected = push_each(PixelEncoder(), causal, after, together=False)
    for ours, theirs in zip([*begun, *got], [*wanted, *expected], strict=True):
        check_same(ours, theirs)
    assert int(got[1].state.position) == 3


def test_results_are_not_written_over_by_the_next_batch():
    carrier = conveyor("adaptive", Recorder())
    carrier.launch(wholes(4, 4))
    first, second = carrier.launch(wholes(4, 4)), carrier.launch(wholes(4, 4)[::-1])
    kept = [result.tokens.tokens for result in first.wait()]
    before = [tokens.clone() for tokens in kept]
    second.wait()
    carrier.launch(wholes(2, 2)).wait()
    assert all(torch.equal(a, b) for a, b in zip(kept, before, strict=True))


def test_the_features_of_a_batch_are_gone_with_it():
    carrier = conveyor("aot", Recorder())
    carrier.launch(wholes(4, 4, 4))
    broken = make_pixels(4).copy()
    broken[:] = 255
    assert carrier.launch([*wholes(4, 4), Push(broken, last=True)]).wait()[2] is None
    got = carrier.launch(wholes(4, 4, 4)).wait()
    for ours, theirs in zip(got, one_by_one("aot", wholes(4, 4, 4)), strict=True):
        check_same(ours, theirs)


def test_a_clip_that_is_not_finite_fails_alone():
    broken = make_pixels(4).copy()
    broken[1] = 255
    pushes = [*wholes(4), Push(broken, last=True), *wholes(4)]
    got = conveyor("adaptive").launch(pushes).wait()
    assert [result is None for result in got] == [False, True, False]


def test_no_more_graphs_are_kept_than_there_is_room_for():
    recorder = Recorder()
    carrier = conveyor("adaptive", recorder, kept=2)
    for clips in (1, 2, 4, 1, 2, 4, 2, 1):
        carrier.launch(wholes(*[4] * clips)).wait()
    assert len(carrier._graphs) == 2
    assert recorder.captures == 4  # the one of two clips was still there


def test_what_cannot_be_captured_is_launched_step_by_step_and_told_once(caplog):
    recorder = Recorder(fails=True)
    carrier = conveyor("adaptive", recorder)
    with caplog.at_level(logging.WARNING):
        for _ in range(4):
            [got] = carrier.launch(wholes(4)).wait()
            check_same(got, one_by_one("adaptive", wholes(4))[0])
    assert recorder.captures == 1
    assert [record.message.count("could not be captured") for record in caplog.records] == [1]


def test_a_state_of_another_model_is_refused():
    other = make_reducer("adaptive", 0.3, grid=(8, 8), clip_frames=CLIP_FRAMES)
    state = other.open_state(1, (4, 4), 16, torch.float32, torch.device("cpu"))
    with pytest.raises(InvalidFeatures, match="expected AdaptiveState"):
        conveyor().launch([Push(make_pixels(2), state)])


def test_the_pads_are_few_and_never_short():
    assert [pad_clips(n) for n in (1, 3, 8, 9, 33)] == [1, 4, 8, 16, 33]
    assert [pad_frames(n, 8) for n in (1, 2, 3, 5, 8, 9)] == [1, 2, 4, 8, 8, 16]
    assert [pad_frames(n, 6) for n in (3, 5, 6, 7)] == [4, 6, 6, 8]
    assert not Bucket(33, 8, True, True, False).captured


def test_the_host_never_waits_for_the_whole_device(monkeypatch):
    def refuse(*_):
        raise AssertionError("the host waits for the device")

    monkeypatch.setattr(torch.cuda, "synchronize", refuse)
    assert conveyor("adaptive", Recorder()).launch(wholes(4, 4)).wait()[0] is not None


class NowhereLanes(PlainLanes):
    """To a device that has no values, so that whoever asked for one would fail."""

    def download(self, data):
        return data, self.mark()


@pytest.mark.parametrize("name", CAUSAL)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_nothing_of_a_launch_asks_for_a_value(name, dtype):
    nowhere, causal = torch.device("meta"), reducer(name)
    encoder = PixelEncoder("meta", dtype)
    recorder = Recorder()
    carrier = Conveyor(encoder, causal, NowhereLanes(nowhere), StepGraphs(causal, recorder))
    state = carrier._open_state()
    pushes = [Push(make_pixels(1)), Push(make_pixels(2), state), Push(make_pixels(1))]
    launched = [carrier.launch(batch) for batch in (wholes(4, 2, 4), pushes) * 2]
    assert all(underway.parcel.data.is_meta for underway in launched)
    assert recorder.captures == recorder.replays == 2  # each shape, when it came again
