"""The live bench: what it counts, and a short run of all of it."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bench.camera import draw_still
from bench.live import Load, count_encoded, cpu_s, descendants, run

GOOD = Load(2, 0.1, 0.2, 20, 20, 0, ("full",), 0.5, 0.1, 1.0)


def test_a_load_holds_only_where_nothing_was_given_up():
    assert GOOD.holds
    assert not replace(GOOD, rungs=("full", "half-rate")).holds
    assert not replace(GOOD, dropped=1).holds
    assert not replace(GOOD, encoded=15).holds
    assert not replace(GOOD, freshness_p99_s=9.0).holds


def test_still_frames_are_not_counted_and_a_passing_object_is():
    still = draw_still(20, height=180, width=320)
    assert count_encoded(still) == (1, 20)

    passing = np.stack(list(draw_still(40, height=180, width=320)))
    encoded, frames = count_encoded(iter(passing))
    assert frames == 40
    assert 10 <= encoded <= 13


def test_cpu_is_counted_of_a_process_and_what_it_started():
    assert descendants(os.getpid())[0] == os.getpid()
    assert os.getpid() in descendants(os.getppid())
    assert cpu_s(os.getpid()) > 0
    assert cpu_s(2**22 + 1) == 0.0


@pytest.mark.slow
def test_it_measures_streams_supervision_and_stillness():
    figures = run(seconds=3, streams=(1, 2), more=(), rounds=1, recorded=Path("no such file"))

    assert [load["streams"] for load in figures["loads"]] == [1, 2]
    assert all(load["encoded"] > 0 for load in figures["loads"])
    assert 0 < figures["freshness_p50_s_1"] <= figures["freshness_p99_s_1"]
    assert figures["still_encoded"] < figures["still_frames"] / 2
    assert len(figures["supervision_rounds"]) == 1
