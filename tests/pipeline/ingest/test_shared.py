"""Streams that hosts share, as whoever has only the store pauses, resumes and removes them."""

import threading

import pytest

from pipeline.api import sessions
from pipeline.api.shared import explain_wait, look_up_reading
from pipeline.ingest.host import HOST_PREFIX, Host, HostRules
from pipeline.ingest.hosted import open_roster
from pipeline.ingest.lease import take_lease
from pipeline.settings import StreamSettings
from pipeline.store import open_store
from pipeline.store.roster import HostView, RosterView, Seat
from pipeline.values.errors import InvalidQuery, UnknownStream
from pipeline.values.labels import ANYWHERE, LabelSelector
from pipeline.values.types import Lease, StreamInfo
from tests.waits import wait_until

NAME = "gate"
TEXT = StreamSettings(name=NAME, url="rtsp://10.0.0.9/sub", fps=0.5).model_dump_json()


@pytest.fixture
def read(environment):
    """A host that has the stream and writes it, as far as a lease tells; how often it began."""
    begun: list[str] = []
    stop, host = threading.Event(), f"{HOST_PREFIX}a"

    def run(stream_id: str, text: str, given: Lease | None, own: threading.Event) -> None:
        with open_store(environment) as store:
            lease = take_lease(store, stream_id, writer=host, lease_s=30.0, kin=HOST_PREFIX)
            store.put_info(StreamInfo(stream_id, "rtsp://10.0.0.9/sub", "tiny", "f1"))
            begun.append(text)
            own.wait(100)
            store.release_lease(lease)

    with open_roster(environment) as roster:
        roster.put_wanted({NAME: TEXT}, version="v1")
        seat = Seat(host, "n1", "127.0.0.1", "v1")
        made = Host(roster, seat, HostRules(beat_s=0.05), run, take=lambda _: {}, stop=stop)
        thread = threading.Thread(target=made.work, daemon=True)
        thread.start()
        wait_until(lambda: begun)
        yield begun
        stop.set()
        thread.join(60)
        roster.put_wanted({}, version="")


def test_a_shared_stream_is_paused_and_resumed_without_a_cluster(settings, opened, read):
    assert not settings.ray.enabled
    assert sessions.pause(settings, NAME) == "stopped"
    assert opened.get_lease(NAME) is None
    assert sessions.pause(settings, NAME) is None, "it is paused already"
    assert sessions.resume_shared(settings, NAME)
    wait_until(lambda: len(read) == 2)
    assert not sessions.resume_shared(settings, NAME), "it is not paused"
    assert read[0] == read[1] == TEXT


def test_a_shared_stream_is_resumed_where_its_source_lies_now(settings, read):
    assert sessions.pause(settings, NAME) == "stopped"
    with pytest.raises(InvalidQuery, match="url_env"):
        sessions.resume_shared(settings, NAME, "rtsp://me:secret@10.0.0.9/sub")
    assert sessions.resume_shared(settings, NAME, "rtsp://10.0.0.10/sub")
    wait_until(lambda: len(read) == 2)
    moved = StreamSettings.model_validate_json(read[1])
    assert (moved.url, moved.fps) == ("rtsp://10.0.0.10/sub", 0.5)


def test_a_shared_stream_is_removed_and_nobody_begins_it_again(settings, opened, read):
    sessions.remove(settings, NAME)
    assert opened.list_streams() == []
    assert opened.get_lease(NAME) is None
    with pytest.raises(UnknownStream):
        sessions.remove(settings, NAME)
    assert len(read) == 1


def test_a_shared_stream_of_which_nothing_is_stored_is_just_taken_off_the_list(settings):
    with open_roster(settings.store_config()) as roster:
        roster.put_wanted({NAME: TEXT}, version="v1")
        assert sessions.remove(settings, NAME).clips == 0
        assert roster.view().num_wanted == 0


NORTH = LabelSelector.of({"site": "north"})
NEAR = LabelSelector.of({"site": "north"}, is_required=False)


def host(streams, labels=None, *, quiet_s=0.0, takes=True) -> HostView:
    seat = Seat("host-a", "n1", "127.0.0.1", "v1", labels or {})
    return HostView(seat, streams, quiet_s, takes=takes, is_draining=not takes)


@pytest.mark.parametrize(
    ("selector", "hosts", "waits_for"),
    [
        (ANYWHERE, [], "session"),
        (ANYWHERE, [host(1, quiet_s=9.0), host(1, takes=False)], "session"),
        (ANYWHERE, [host(16), host(16)], "room"),
        (ANYWHERE, [host(16), host(15)], "turn"),
        (NORTH, [host(0), host(0, {"site": "south"})], "label_match"),
        (NORTH, [host(0), host(0, {"site": "north"}, quiet_s=9.0)], "label_match"),
        (NORTH, [host(0), host(16, {"site": "north"})], "room"),
        (NORTH, [host(16), host(0, {"site": "north"})], "turn"),
        (NEAR, [host(0)], "turn"),
    ],
)
def test_what_a_stream_waits_for_has_a_name(selector, hosts, waits_for):
    view = RosterView("v1", 1, 1, tuple(hosts))
    assert explain_wait(selector, view, most=16, silent_s=3.0) == waits_for


def test_a_stream_that_no_machine_matches_says_so(settings, opened, read, run, monkeypatch):
    monkeypatch.setenv("AOT_RAY__SESSION_SILENT_S", "240")
    stream = StreamSettings(name="far", url="rtsp://cam/1", label_selector={"site": "north"})
    with open_roster(settings.store_config()) as roster:
        roster.add_wanted({"far": stream.model_dump_json()})
        wait_until(lambda: any(host.takes for host in roster.view().hosts))
    shown = run("streams", "show", "far", "--json")
    assert (shown.code, shown.json["status"]) == (0, "waiting")
    assert shown.json["shared"] == {
        "is_read": False,
        "waits_for": "label_match",
        "label_selector": {"site": "north"},
        "label_fallback": False,
    }
    known = run("streams", "show", NAME, "--json").json
    assert (known["status"], known["shared"]["is_read"]) == ("running", True)
    assert "label_match" in run("streams", "show", "far").out
    assert run("streams", "show", "other").code == 1
    status = run("cluster", "status")
    assert "1 ask for site=north, 1 of them read by nobody now; 0 sessions match" in status.out
    assert run("cluster", "status", "--json").json["asking"][0]["num_free"] == 1
    assert run("streams", "rm", "far", "--yes").code == 0
    assert look_up_reading(opened, "far", settings) is None


def test_a_paused_stream_waits_to_be_resumed(settings, opened, read):
    assert sessions.pause(settings, NAME) == "stopped"
    reading = look_up_reading(opened, NAME, settings)
    assert reading is not None
    assert (reading.is_read, reading.waits_for) == (False, "resume")
