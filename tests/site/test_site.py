"""A short form of `python -m tests.site.faults`: a machine of each kind killed, a cable pulled."""

import pytest

from tests.site.faults import Plan, run
from tests.site.machines import why_not
from tests.site.secured import find_program
from tests.site.site import Rates

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


@pytest.fixture
def program() -> str:
    """A server with TLS; without one, or without the rights for machines, there is no site."""
    if (reason := why_not()) is not None:
        pytest.skip(f"no machines here: {reason}")
    found = find_program()
    if found is None:
        pytest.skip("no valkey-server or redis-server on PATH that speaks TLS")
    return found


def test_any_machine_may_die_or_be_cut_off_and_nothing_is_lost_or_doubled(program, capsys):
    rates = Rates(streams=4, fps=1.0, clip_frames=2)
    plan = Plan(kills=3, seed=3, cut_s=12.0, update=False)
    with capsys.disabled():
        seconds = run(program, rates, plan, tell=print)
    assert seconds["restart"] > 0, "no stream was ever taken over"
    assert seconds["clip"] > 4 * seconds["restart"]
