"""The bench of a worker, on a tiny tower and the host: its figures mean something."""

import pytest

from bench.random_checkpoint import CheckpointSize
from bench.worker import _covered, measure_worker
from workers.compress import CompressWorker


def test_frames_are_counted_and_time_is_shared(monkeypatch):
    monkeypatch.setattr(CompressWorker, "_on_cpu", False)
    figures = measure_worker(
        device="cpu", reducers=("adaptive",), tower=CheckpointSize(), batch_clips=2, seconds=0.5
    )
    assert figures["worker_adaptive_frames_per_s"] > 0
    assert figures["worker_adaptive_busy_share"] > 0
    assert figures["worker_adaptive_failed_clips"] == 0
    assert 0 < figures["worker_adaptive_retention"] < 0.5


def test_spans_that_overlap_count_once():
    assert _covered([(0, 2), (1, 3), (5, 10)]) == pytest.approx(0.8)
    assert _covered([]) == 0.0
