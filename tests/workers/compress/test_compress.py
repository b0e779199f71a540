"""Compressing: same bytes alone and among others, memory that runs out, what is measured."""

import threading
from dataclasses import replace

import numpy as np
import pytest
import torch

from aot import FrameFeatures, InvalidConfig, make_reducer
from tests.checkpoints import write_tiny_checkpoint
from tests.videos import write_video
from tests.workers.session_support import INFO, clip_digest, make_clip
from workers.clips import open_clips
from workers.compress import CompressSettings, CompressWorker
from workers.compress.batch import compress_batch, compress_each
from workers.compress.device import fixed_threads, is_device_broken, is_out_of_memory
from workers.compress.inline import InlineWorkers
from workers.errors import InvalidSettings, ModelNotFound, WorkerBroken
from workers.types import PLAIN_LAYOUT, FailedClip, PixelFormat, VideoSource


class StubEncoder:
    """Features that follow from the pixels; `fails(frames, first pixel)` may give an error."""

    identity, pixel_format, grid = INFO.identity, PixelFormat(8, 8), (4, 4)
    pooling, dim, layout = "bilinear", 4, PLAIN_LAYOUT

    def __init__(self, fails=lambda frames, first: None):
        self.fails = fails
        self.calls: list[int] = []

    def encode(self, pixels):
        self.calls.append(pixels.shape[0])
        error = self.fails(pixels.shape[0], pixels[0, 0, 0, 0])
        if error is not None:
            raise error
        values = torch.from_numpy(np.ascontiguousarray(pixels[:, ::2, ::2])).float() / 255
        values = values.reshape(pixels.shape[0], 16, 3)
        tokens = torch.cat([values, values.sum(-1, keepdim=True)], -1)
        return FrameFeatures(tokens, values[..., 0], values[..., 1], (4, 4))


def clips(count, stream="lobby"):
    return [make_clip(stream, index) for index in range(count)]


def reducer(name="uniform", retention=0.5, **constants):
    return make_reducer(name, retention, grid=(4, 4), clip_frames=4, **constants)


def out_of_memory(frames, first):
    return torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return write_tiny_checkpoint(tmp_path_factory.mktemp("recall") / "tiny")


def count_encoded(worker):
    """The worker with an encoder that counts what it is given."""
    encode, calls = worker._encoder.encode, []
    worker._encoder.encode = lambda pixels: (calls.append(len(pixels)), encode(pixels))[1]
    return calls


def test_a_picture_that_is_held_over_clips_is_encoded_once_and_the_records_stay(tiny, tmp_path):
    slides = write_video(tmp_path / "slides.mp4", frames=4, times_s=[0.0, 20.0, 60.0, 61.0])
    source = VideoSource(str(slides), "slides", fps=1.0)
    settings = CompressSettings(str(tiny), clip_frames=4)
    worker, fresh = CompressWorker(settings), CompressWorker(settings)
    calls = count_encoded(worker)
    with open_clips(source, worker.info, None) as clips:
        given = list(clips)
    found = [result for clip in given for result in worker.compress([clip])]
    fresh._recall.find = lambda clip: None
    expected = [result for clip in given for result in fresh.compress([clip])]
    assert [clip_digest(one) for one in found] == [clip_digest(one) for one in expected]
    assert (len(given), len(calls)) == (16, 3)
    counts = [(one.stats.frames_in, one.stats.tokens_in, one.stats.tokens_out) for one in found]
    assert counts == [
        (one.stats.frames_in, one.stats.tokens_in, one.stats.tokens_out) for one in expected
    ]


def test_a_clip_that_differs_in_one_pixel_is_encoded(tiny):
    worker = CompressWorker(CompressSettings(str(tiny), clip_frames=4))
    calls = count_encoded(worker)
    with_size = replace(INFO, pixel_format=worker.info.pixel_format)
    first = make_clip("lobby", 0, with_size)
    changed = first.pixels.copy()
    changed[-1, -1, -1, -1] ^= 1
    clips_given = [first, replace(first, index=1), replace(first, index=2, pixels=changed)]
    results = worker.compress(clips_given)
    assert calls == [4, 4]
    assert [result.index for result in results] == [0, 1, 2]
    assert results[0].tokens is results[1].tokens


def test_a_batch_gives_each_clip_its_own_tokens_in_order():
    alone = compress_each(StubEncoder(), reducer(), clips(3))
    together = compress_batch(StubEncoder(), reducer(), clips(3))
    assert [clip.index for clip in together] == [0, 1, 2]
    assert [clip_digest(clip) for clip in together] == [clip_digest(clip) for clip in alone]


def test_a_batch_is_encoded_at_once_and_singles_one_by_one():
    encoder = StubEncoder()
    compress_batch(encoder, reducer(), clips(3))
    compress_each(encoder, reducer(), clips(3))
    assert encoder.calls == [12, 4, 4, 4]


def test_what_was_kept_is_measured():
    stats = compress_batch(StubEncoder(), reducer(), clips(1))[0].stats
    assert (stats.frames_in, stats.tokens_in, stats.tokens_out) == (4, 16, 8)
    assert stats.retention == 0.5
    assert stats.encode_s >= 0
    assert stats.reduce_s >= 0


def test_times_and_damage_come_from_the_clip():
    clip = replace(make_clip("lobby", 7), decode_s=1.5, damaged=2)
    [result] = compress_batch(StubEncoder(), reducer(), [clip])
    assert (result.index, result.start_s, result.end_s) == (7, 28.0, 32.0)
    assert result.pts_s == (28.0, 29.0, 30.0, 31.0)
    assert (result.stats.decode_s, result.stats.damaged) == (1.5, 2)


def test_a_batch_without_memory_is_halved_until_it_fits():
    encoder = StubEncoder(lambda frames, first: out_of_memory(0, 0) if frames > 4 else None)
    results = compress_batch(encoder, reducer(), clips(4))
    assert encoder.calls == [16, 8, 4, 4, 8, 4, 4]
    assert [clip_digest(clip) for clip in results] == [
        clip_digest(clip) for clip in compress_each(StubEncoder(), reducer(), clips(4))
    ]


def test_a_clip_that_never_fits_fails_alone_after_three_tries():
    batch = clips(3)
    first = batch[1].pixels[0, 0, 0, 0]

    def fails(frames, pixel):
        return out_of_memory(0, 0) if frames > 4 or pixel == first else None

    encoder = StubEncoder(fails)
    results = compress_batch(encoder, reducer(), batch)
    assert [type(result) is FailedClip for result in results] == [False, True, False]
    assert (results[1].index, results[1].start_s, results[1].end_s) == (1, 4.0, 8.0)
    assert "CUDA out of memory" in results[1].detail
    assert encoder.calls.count(4) == 1 + 3 + 1


@pytest.mark.parametrize("error", [RuntimeError("shapes"), KeyError("weight"), ZeroDivisionError()])
def test_an_unknown_error_fails_its_clip_alone(error):
    batch = clips(4)
    first = batch[2].pixels[0, 0, 0, 0]

    def fails(frames, pixel):
        return error if frames > 4 or pixel == first else None

    encoder = StubEncoder(fails)
    results = compress_batch(encoder, reducer(), batch)
    assert [type(result) is FailedClip for result in results] == [False, False, True, False]
    assert type(error).__name__ in results[2].detail
    assert encoder.calls == [16, 4, 4, 4, 4]


def test_a_broken_device_is_the_fault_of_no_clip():
    error = torch.AcceleratorError("CUDA error: device-side assert triggered")
    encoder = StubEncoder(lambda frames, first: error)
    with pytest.raises(WorkerBroken, match="device-side assert"):
        compress_batch(encoder, reducer(), clips(2))
    assert encoder.calls == [8]


def test_features_that_are_not_finite_fail_their_clip_alone():
    class Broken(StubEncoder):
        def encode(self, pixels):
            features = super().encode(pixels)
            bad = torch.from_numpy(pixels[:, 0, 0, 0] == broken)
            return replace(
                features, tokens=features.tokens.masked_fill(bad[:, None, None], torch.nan)
            )

    batch = clips(2)
    broken = batch[1].pixels[2, 0, 0, 0]
    results = compress_batch(Broken(), reducer("aot"), batch)
    assert [type(result) is FailedClip for result in results] == [False, True]


def test_pictures_of_two_sizes_are_not_put_into_one_batch():
    small = make_clip("lobby", 0)
    large = make_clip("lobby", 1, replace(INFO, pixel_format=PixelFormat(16, 8)))
    encoder = StubEncoder()
    results = compress_batch(encoder, reducer(), [small, large])
    assert encoder.calls == [4, 4]
    assert [type(result) is FailedClip for result in results] == [False, True]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("x"), True),
        (MemoryError(), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 1 TB"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `x`"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (torch.AcceleratorError("CUDA error: out of memory"), True),
        (torch.AcceleratorError("CUDA error: an illegal memory access"), False),
        (RuntimeError("other"), False),
        (ValueError("can't allocate memory"), False),
    ],
)
def test_lack_of_memory_is_told_from_other_errors(error, expected):
    assert is_out_of_memory(error) is expected


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.AcceleratorError("CUDA error: an illegal memory access"), True),
        (RuntimeError("CUDA error: device-side assert triggered"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), True),
        (torch.AcceleratorError("CUDA error: out of memory"), False),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `x`"), False),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("CUDA error"), False),
    ],
)
def test_a_broken_device_is_told_from_other_errors(error, expected):
    assert is_device_broken(error) is expected


def test_a_worker_on_a_cpu_waits_for_no_batch(model):
    assert CompressWorker(CompressSettings(model, batch_clips=8)).batch_clips == 1


def test_threads_are_set_inside_and_put_back():
    before = torch.get_num_threads()
    with fixed_threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return str(write_tiny_checkpoint(tmp_path_factory.mktemp("model") / "tiny"))


def test_a_worker_gives_the_same_bytes_in_any_company_and_thread(model):
    worker = CompressWorker(CompressSettings(model, clip_frames=4))
    made = [make_clip("lobby", index, worker.info) for index in range(3)]
    alone = [clip_digest(worker.compress([clip])[0]) for clip in made]
    found: list[str] = []
    thread = threading.Thread(
        target=lambda: found.extend(clip_digest(clip) for clip in worker.compress(made[::-1]))
    )
    thread.start()
    thread.join(timeout=200)
    worker.close()
    assert found == alone[::-1]


def test_a_worker_tells_what_it_has_loaded(model):
    settings = CompressSettings(model, clip_frames=4, retention=0.25, constants={"window": 5})
    with InlineWorkers(settings) as workers:
        info = workers.info
    assert (info.grid, info.dim, info.clip_frames) == ((14, 14), 64, 4)
    assert (info.config.window, info.config.clip_frames) == (5, 4)
    assert info.pixel_format.height == 112
    assert info.identity.dtype == "float32"


@pytest.mark.parametrize(
    ("name", "low", "high"), [("none", 1.0, 1.0), ("uniform", 0.24, 0.26), ("aot", 0.1, 0.5)]
)
def test_the_reducer_and_its_retention_are_those_asked_for(model, name, low, high):
    settings = CompressSettings(model, clip_frames=4, reducer=name, retention=0.25)
    with InlineWorkers(settings) as workers:
        [result] = workers.compress_stream([make_clip("lobby", 0, workers.info)])
    assert low <= result.stats.retention <= high
    assert result.tokens.tokens.dtype == torch.float32


def test_tokens_come_in_the_dtype_of_the_model(model):
    settings = CompressSettings(model, clip_frames=4, dtype="bfloat16")
    with InlineWorkers(settings) as workers:
        [result] = workers.compress_stream([make_clip("lobby", 0, workers.info)])
    assert result.tokens.tokens.dtype == torch.bfloat16


def test_inline_workers_pull_one_clip_at_a_time_and_stop_when_asked(model):
    stop, pulled = threading.Event(), []
    with InlineWorkers(CompressSettings(model, clip_frames=4)) as workers:

        def pull():
            for index in range(5):
                pulled.append(index)
                yield make_clip("lobby", index, workers.info)

        stream = workers.compress_stream(pull(), stop=stop)
        next(stream)
        assert pulled == [0]
        next(stream)
        stop.set()
        assert list(stream) == []
    assert pulled == [0, 1]


def test_settings_that_cannot_be_are_refused(model):
    with pytest.raises(InvalidSettings, match="threads must be at least 1, got 0"):
        CompressSettings(model, threads=0)
    with pytest.raises(InvalidConfig, match="no reducer 'magic'"):
        CompressWorker(CompressSettings(model, reducer="magic"))
    with pytest.raises(ModelNotFound):
        CompressWorker(CompressSettings("/nowhere/at-all"))
