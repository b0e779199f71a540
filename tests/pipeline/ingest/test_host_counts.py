"""How many hosts there are to be, and which version reads."""

from pipeline.ingest.host import HostRules
from pipeline.ingest.hosted import HostedStreams, count_hosts, settings_version
from pipeline.settings import Settings, StreamSettings, load_settings
from pipeline.store.roster import HostView, RosterView, Seat

WORK = HostedStreams(None, "v1", HostRules(most=16), most_hosts=4)  # pyright: ignore[reportArgumentType]


def view(num_wanted, *, version="v1", draining=(), old=0) -> RosterView:
    seats = [(Seat(f"host-{n}", "n", "a", "v1"), drains) for n, drains in enumerate(draining)]
    seats += [(Seat(f"host-old{n}", "n", "a", "v0"), True) for n in range(old)]
    hosts = tuple(HostView(seat, 1, 0.0, True, drains) for seat, drains in seats)
    return RosterView(version, num_wanted, 0, hosts)


def test_hosts_are_three_quarters_full_up_to_a_bound():
    assert [count_hosts(view(n), WORK) for n in (0, 1, 12, 13, 1000)] == [0, 1, 1, 2, 4]


def test_a_machine_that_is_left_is_made_up_for():
    assert count_hosts(view(17, draining=(True, False)), WORK) == 3
    assert count_hosts(view(17, draining=(False, False), old=2), WORK) == 2


def test_another_version_needs_none_of_these():
    assert count_hosts(view(17, version="v2"), WORK) is None


def test_a_version_is_of_all_settings_but_the_list():
    one = load_settings(None, {"streams": [{"name": "a", "url": "rtsp://cam/1"}]})
    more = one.model_copy(update={"streams": (*one.streams, StreamSettings(name="b", url="x"))})
    other = load_settings(None, {"ingest": {"retention": 0.2}})
    assert settings_version(one) == settings_version(more) == settings_version(Settings())
    assert settings_version(other) != settings_version(one)
