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


def test_what_piled_up_is_caught_up_with_and_costs_nothing():
    """As after a start, while the model was loaded."""
    assert climb(*(20.0 - 0.6 * second for second in range(60))) == "full"


def test_catching_up_too_slowly_is_being_late():
    assert climb(*(20.0 - 0.3 * second for second in range(4))) == "half-rate"


def test_one_that_stops_catching_up_is_late_from_then_on():
    waits = [*(20.0 - second for second in range(9)), *[12.0] * 6]
    assert climb(*waits[:10]) == "full"
    assert climb(*waits) == "half-rate"
