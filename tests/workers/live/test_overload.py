"""The ladder: down after being late for some time, up after a longer calm."""

from workers.live.overload import LADDER, OverloadLadder


def climb(*waits):
    """Rungs after frames a second apart that waited so long."""
    ladder = OverloadLadder()
    for now_s, waited_s in enumerate(waits):
        ladder.observe(waited_s, float(now_s))
    return ladder.rung.name


def test_one_late_frame_changes_nothing():
    assert climb(0.1, 9.0, 0.1, 9.0, 0.1) == "full"


def test_being_late_for_some_time_is_a_step_down():
    assert climb(*[5.0] * 4) == "half-rate"


def test_steps_go_down_to_the_last_rung_and_no_further():
    assert climb(*[5.0] * 100) == LADDER[-1].name


def test_a_step_up_takes_a_longer_calm():
    assert climb(*[5.0] * 4, *[0.1] * 20) == "half-rate"
    assert climb(*[5.0] * 4, *[0.1] * 40) == "full"


def test_a_late_frame_begins_the_calm_anew():
    assert climb(*[5.0] * 4, *[0.1] * 25, 5.0, *[0.1] * 25) == "half-rate"
