"""The bench of more workers: what stands in takes its time, and is counted right."""

import time

import pytest

from bench.scale import INFO, SleepingWorker, open_plain, run
from workers.compress import CompressSettings
from workers.types import VideoSource


def test_stand_ins_take_the_time_they_are_given():
    with open_plain(VideoSource("plain:3,0.02", "a"), INFO, None) as reader:
        began_s = time.monotonic()
        clips = list(reader)
        assert time.monotonic() - began_s >= 0.06
    began_s = time.monotonic()
    made = SleepingWorker(CompressSettings(model="0.05")).compress(clips)
    assert time.monotonic() - began_s >= 0.05
    assert [clip.index for clip in made] == [0, 1, 2]
    assert made[1].end_s == clips[1].end_s == 16.0


COUNTS = (1, 2)


@pytest.mark.slow
def test_the_bench_says_what_more_are_worth():
    figures = run(batch_s=0.2, clip_s=0.2, seconds=2.0, counts=COUNTS)
    for what in ("workers", "sessions"):
        alone = figures[f"{what}_1_clips_per_s"]
        for count in COUNTS:
            rate = figures[f"{what}_{count}_clips_per_s"]
            assert rate > 0
            share = pytest.approx(rate / count / alone, rel=0.05)
            assert figures[f"{what}_{count}_efficiency"] == share
