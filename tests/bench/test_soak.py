"""The soak: what counts as flat, what is looked at, and a short run of all of it."""

import os
import threading

import pytest

from bench.soak import HOUR, Look, Soak, grow, is_flat, look_at, run


def test_growth_is_of_the_last_hour_over_the_second():
    hours = [(hour / 24 + 0.01, 100.0 + hour) for hour in range(24)]
    assert grow(hours) == pytest.approx(123 / 101 - 1)
    assert grow(hours[5:]) is None
    assert grow(hours[:20]) is None


def test_what_is_still_being_filled_is_not_compared():
    soak = Soak()
    assert soak.compared_from == HOUR
    soak.looks["store"] = [
        Look(hour / 24 + 0.01, rss_bytes=min(hour, 4), files=1, threads=1) for hour in range(24)
    ]
    assert soak.growth("store", "rss_bytes") == 3
    soak.full_at = 4 / 24
    assert soak.growth("store", "rss_bytes") == 0


def test_what_was_not_compared_is_not_flat():
    assert is_flat([0.01, -0.2, 0.05])
    assert not is_flat([0.01, 0.06])
    assert not is_flat([0.01, None])


def test_a_process_is_looked_at_from_outside():
    before = look_at(os.getpid(), 0.5)
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    with open(os.devnull) as _:
        after = look_at(os.getpid(), 0.5)
    stop.set()
    thread.join()
    assert (before.share, after.files, after.threads) == (0.5, before.files + 1, before.threads + 1)
    assert before.rss_bytes > 1_000_000
    assert look_at(2**22 + 1, 0.5) is None


@pytest.mark.slow
def test_minutes_of_two_cameras_are_all_accounted_for_and_leave_nothing_open():
    figures = run(hours=0.4, streams=2, speed=30, fps=0.5)

    assert figures["clips"] > 20
    assert 0 < figures["encoded"] < figures["frames"]
    assert figures["connections"] >= 8  # every decoder was killed, and came back
    assert figures["longest_unaccounted_s"] <= 16
    assert figures["within_retention"]
    assert set(figures["processes"]) == {"session", "store", "decoder cam0", "decoder cam1"}
    assert figures["files_growth"] <= 0.2
    assert figures["threads_growth"] <= 0.2
