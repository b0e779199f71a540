"""A stream that a cluster's sessions are to read, and of which nothing is stored yet."""

import pytest

from pipeline import Pipeline
from pipeline.settings import StreamSettings
from pipeline.values.errors import NotReadYet, UnknownStream

NAME = "dock"


@pytest.fixture
def dock(served):
    """It is on the list, and there is no session."""
    stream = StreamSettings(name=NAME, url="rtsp://cam/1", label_selector={"site": "north"})
    store = served.service.store
    store.add_wanted({NAME: stream.model_dump_json()})
    yield NAME
    store.forget(NAME)


def error_of(response):
    return response.status_code, response.json()["error"]["code"]


def test_it_is_shown_with_what_it_waits_for(served, dock):
    with served.client() as client:
        shown = client.get(f"/v1/streams/{dock}").json()
    assert (shown["status"], shown["clips"]) == ("waiting", 0)
    assert shown["shared"] == {
        "is_read": False,
        "waits_for": "session",
        "label_selector": {"site": "north"},
        "label_fallback": False,
    }


@pytest.mark.parametrize("path", ["/clips", "/clips?start=0&end=4", "/clips/0-0", "/coverage"])
def test_what_is_asked_of_it_says_why_there_is_nothing(served, dock, path):
    with served.client() as client:
        told = client.get(f"/v1/streams/{dock}{path}")
    assert error_of(told) == (422, "NotReadYet")
    assert "no session takes streams" in told.json()["error"]["message"]


@pytest.mark.parametrize("path", ["/v1/ask", "/v1/search"])
@pytest.mark.parametrize("others", [(), ("walk",)])
def test_so_does_a_question(served, dock, path, others):
    body = {"question": "what is seen", "streams": [*others, dock]}
    with served.client() as client:
        assert error_of(client.post(path, json=body)) == (422, "NotReadYet")


def test_whoever_may_not_see_it_hears_of_no_such_stream(keyed):
    store = keyed.service.store
    stream = StreamSettings(name=NAME, url="rtsp://cam/1")
    store.add_wanted({NAME: stream.model_dump_json()})
    try:
        with keyed.client("walk") as client:
            assert error_of(client.get(f"/v1/streams/{NAME}")) == (404, "UnknownStream")
            assert error_of(client.get(f"/v1/streams/{NAME}/coverage")) == (404, "UnknownStream")
    finally:
        store.forget(NAME)


def test_it_is_paused_resumed_and_taken_off_the_list(served, dock):
    with served.client() as client:
        at = f"/v1/streams/{dock}"
        assert client.post(f"{at}:pause").json()["status"] == "stopped"
        assert client.get(at).json()["shared"]["waits_for"] == "resume"
        assert error_of(client.post(f"{at}:pause")) == (422, "NotReadYet"), "it is paused already"
        assert client.post(f"{at}:resume").json()["status"] == "starting"
        assert error_of(client.post(f"{at}:resume")) == (422, "NotReadYet"), "it is not paused"
        assert client.delete(at).json()["clips"] == 0
        assert error_of(client.get(at)) == (404, "UnknownStream")


def test_the_pipeline_and_the_command_say_so_too(base, dock, run, monkeypatch):
    with Pipeline(base) as pipeline:
        for work in (
            lambda: pipeline.ask("what", streams=["walk", dock]),
            lambda: pipeline.search("what", streams=dock),
            lambda: pipeline.clips(dock),
        ):
            with pytest.raises(NotReadYet, match="no session takes streams"):
                work()
        with pytest.raises(UnknownStream):
            pipeline.ask("what", streams=["walk", "nobody"])
    monkeypatch.setenv("AOT_STORE__URL", base.store.url)
    monkeypatch.setenv("AOT_STORE__NAMESPACE", base.store.namespace)
    ran = run("ask", "what", "-s", dock)
    assert (ran.code, "NotReadYet" in ran.err) == (3, True), ran.err
