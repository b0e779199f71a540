"""How many hosts there are to be, and which version reads."""

from dataclasses import replace
from typing import Any

import pytest

from pipeline.ingest.host import HostRules
from pipeline.ingest.hosted import HostedStreams, add_streams, count_hosts, settings_version
from pipeline.ingest.request import IngestRequest, move_stream, stream_of
from pipeline.settings import Settings, StreamSettings, load_settings
from pipeline.store.roster import Asking, HostView, RosterView, Seat
from pipeline.values.errors import InvalidQuery
from pipeline.values.labels import LabelSelector, selector_of
from workers.types import VideoSource

WORK = HostedStreams(None, "v1", HostRules(most=16), most_hosts=4)  # pyright: ignore[reportArgumentType]


def view(num_wanted, *, version="v1", draining=(), old=0) -> RosterView:
    seats = [(Seat(f"host-{n}", "n", "a", "v1"), drains) for n, drains in enumerate(draining)]
    seats += [(Seat(f"host-old{n}", "n", "a", "v0"), True) for n in range(old)]
    hosts = tuple(HostView(seat, 1, 0.0, True, drains) for seat, drains in seats)
    return RosterView(version, num_wanted, 0, hosts)


def test_hosts_are_three_quarters_full_up_to_a_bound():
    counts = [count_hosts(view(n), WORK) for n in (0, 1, 12, 13, 1000)]
    assert counts == [{(): number} for number in (0, 1, 1, 2, 4)]


def test_a_machine_that_is_left_is_made_up_for():
    assert count_hosts(view(17, draining=(True, False)), WORK) == {(): 3}
    assert count_hosts(view(17, draining=(False, False), old=2), WORK) == {(): 2}


def test_streams_that_need_machines_of_a_kind_have_hosts_on_such():
    north, rather = (LabelSelector.of({"site": "north"}, is_required=one) for one in (True, False))
    asking = Asking(north, 13, 0), Asking(rather, 12, 0)
    one = replace(view(26), asking=asking)
    assert count_hosts(one, WORK) == {(): 2, (("site", "north"),): 2}
    seat = replace(one_leaving().seat, started_for=north.key)
    leaving = replace(one, hosts=(replace(one_leaving(), seat=seat),))
    assert count_hosts(leaving, replace(WORK, most_hosts=9)) == {(): 2, (("site", "north"),): 3}
    assert count_hosts(leaving, replace(WORK, most_hosts=3)) == {(): 2, (("site", "north"),): 1}


def one_leaving() -> HostView:
    return view(1, draining=(True,)).hosts[0]


def test_a_list_without_labels_is_written_as_before_there_were_any():
    settings, roster = Settings(), Texts("v0", 0)
    add_streams(roster, settings, [StreamSettings(name="b", url="rtsp://cam/1")])  # pyright: ignore[reportArgumentType]
    assert "label" not in roster.added["b"]
    near = StreamSettings(name="c", url="rtsp://cam/1", label_selector={"site": "north"})
    add_streams(roster, settings, [near])  # pyright: ignore[reportArgumentType]
    assert selector_of(roster.added["c"]) == LabelSelector.of({"site": "north"})
    with pytest.raises(ValueError, match="expected a label's value"):
        StreamSettings(name="d", url="rtsp://cam/1", label_selector={"site": "in()"})


def test_another_version_needs_none_of_these():
    assert count_hosts(view(17, version="v2"), WORK) is None


def test_a_version_is_of_what_all_streams_are_read_alike_by():
    one = load_settings(None, {"streams": [{"name": "a", "url": "rtsp://cam/1"}]})
    more = one.model_copy(update={"streams": (*one.streams, StreamSettings(name="b", url="x"))})
    other = load_settings(None, {"ingest": {"retention": 0.2}})
    assert settings_version(one) == settings_version(more) == settings_version(Settings())
    assert settings_version(other) != settings_version(one)
    each = {"ingest": {"fps": 0.5}, "live": {"hold_still": True}, "ask": {"max_clips": 9}}
    assert settings_version(load_settings(None, each)) == settings_version(one)


class Texts:
    """A roster that holds some streams already."""

    def __init__(self, version: str, num_wanted: int) -> None:
        self.version, self.num_wanted = version, num_wanted
        self.added: dict[str, str] = {}

    def view(self) -> RosterView:
        return view(self.num_wanted, version=self.version)

    def add_wanted(self, wanted, *, version):
        self.added |= wanted
        self.version = version


def test_a_stream_is_added_with_all_that_is_its_own():
    settings = load_settings(None, {"ingest": {"fps": 0.5}})
    roster: Any = Texts("v0", 0)
    add_streams(roster, settings, [StreamSettings(name="b", url="rtsp://cam/1")])
    stream = StreamSettings.model_validate_json(roster.added["b"])
    assert (stream.url, stream.fps, stream.hold_still) == ("rtsp://cam/1", 0.5, False)
    assert roster.version == settings_version(settings)


def test_a_stream_is_not_added_to_those_that_are_read_by_other_settings():
    roster: Any = Texts("v0", 3)
    with pytest.raises(InvalidQuery, match="3 streams by other settings than these"):
        add_streams(roster, Settings(), [StreamSettings(name="b", url="rtsp://cam/1")])
    assert roster.added == {}


def test_a_url_that_may_hold_a_secret_stands_in_no_list():
    request = IngestRequest(VideoSource("rtsp://me:hunter2@cam/1", "gate"))
    with pytest.raises(InvalidQuery, match="url_env") as caught:
        stream_of(request)
    assert "hunter2" not in str(caught.value)
    with pytest.raises(InvalidQuery, match="url_env"):
        move_stream(StreamSettings(name="b", url="rtsp://cam/1").model_dump_json(), "rtsp://u:p@c")


def test_a_stream_that_moved_has_one_url():
    stream = StreamSettings(name="gate", url_env="GATE", fps=0.5)
    moved = StreamSettings.model_validate_json(
        move_stream(stream.model_dump_json(), "rtsp://cam/2")
    )
    assert (moved.url, moved.url_env, moved.fps) == ("rtsp://cam/2", None, 0.5)
