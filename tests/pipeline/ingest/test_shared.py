"""Streams that hosts share, as whoever has only the store pauses, resumes and removes them."""

import threading

import pytest

from pipeline.api import sessions
from pipeline.ingest.host import HOST_PREFIX, Host, HostRules
from pipeline.ingest.hosted import open_roster
from pipeline.ingest.lease import take_lease
from pipeline.settings import StreamSettings
from pipeline.store import open_store
from pipeline.store.roster import Seat
from pipeline.values.errors import InvalidQuery, UnknownStream
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
