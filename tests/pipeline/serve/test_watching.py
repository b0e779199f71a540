"""Standing questions over real clips: every event once, over restarts too, and as a back-test."""

import json
from dataclasses import replace

import pytest

from pipeline.serve.watching import Watcher
from pipeline.values.watch import Watch, WatchState, follow
from tests.pipeline.conftest import CLIPS
from tests.pipeline.serve.conftest import serving, with_serve
from tests.waits import wait_until

QUESTION = "what is seen"


@pytest.fixture
def watching(base, served):
    """A word that some of the model's answers about `walk` have and others have not."""
    evaluator = served.service.evaluator
    spans = served.service.store.list_spans("walk")
    probe = Watch("probe", "walk", QUESTION)
    words = [set(evaluator.answer(probe, span).split()) for span in spans]
    some = set.union(*words) - set.intersection(*words)
    return next(word for word in sorted(some) if word.isalnum())


def events_of(store, watch_id):
    return [
        event for _, event in store.list_events("walk", limit=1000) if event.watch_id == watch_id
    ]


def test_every_event_is_found_once_over_a_restart_and_by_the_back_test(served, watching):
    service = served.service
    watch = Watch("w-restart", "walk", QUESTION, expect=watching)
    service.store.put_watch(watch, WatchState())

    def asked():
        return next(s for w, s in service.store.list_watches("walk") if w.watch_id == "w-restart")

    first = Watcher(service.evaluator)
    wait_until(lambda: asked().index >= 2)
    first.close()
    others = [Watcher(service.evaluator) for _ in range(2)]  # two at once: one event each
    wait_until(lambda: asked().index == CLIPS - 1)
    for one in others:
        one.close()
    expected = [(e.kind, e.index) for e in service.evaluator.replay(watch)]
    assert expected
    assert [(e.kind, e.index) for e in events_of(service.store, "w-restart")] == expected
    ids = [event.event_id for event in events_of(service.store, "w-restart")]
    assert len(set(ids)) == len(ids)
    service.store.remove_watch("walk", "w-restart")


def test_a_watch_that_cannot_be_asked_holds_up_no_other(base, served, caplog):
    service = served.service
    settings = with_serve(base, max_range=5.0)
    wide = [Watch("a-wide", name, QUESTION, window_s=60.0) for name in ("other", "walk")]
    fits = Watch("b-fits", "walk", QUESTION)
    for watch in (*wide, fits):
        service.store.put_watch(watch, WatchState())

    def asked(watch):
        return next(s for w, s in service.store.list_watches(watch.stream_id) if w == watch).index

    watcher = Watcher(replace(service.evaluator, settings=settings))
    wait_until(lambda: asked(fits) == CLIPS - 1)
    watcher.close()
    for watch in wide:
        assert 0 <= asked(watch) < CLIPS - 1
        assert f"watch a-wide of {watch.stream_id}: not asked: got a range" in caplog.text
    for watch in (*wide, fits):
        service.store.remove_watch(watch.stream_id, watch.watch_id)


def test_a_watch_is_added_listed_and_removed_over_http(served):
    with served.client() as client:
        body = {"watch_id": "w-http", "question": QUESTION, "cooldown_s": 60}
        added = client.post("/v1/streams/walk/watches", json=body)
        assert (added.status_code, added.json()["cooldown_s"]) == (201, 60)
        assert client.post("/v1/streams/walk/watches", json=body).status_code == 409
        listed = client.get("/v1/streams/walk/watches").json()["watches"]
        assert "w-http" in [watch["watch_id"] for watch in listed]
        assert client.delete("/v1/streams/walk/watches/w-http").status_code == 200
        assert client.delete("/v1/streams/walk/watches/w-http").status_code == 404


def test_events_are_told_as_they_are_found_and_end_with_the_service(base, watching):
    with serving(base) as one, one.client() as client:
        watch = Watch("w-sse", "walk", QUESTION, expect=watching)
        expected = [event.event_id for event in one.service.evaluator.replay(watch)]
        before = client.get("/v1/streams/walk/events", params={"limit": 1000}).json()["events"]
        mark = before[-1]["mark"] if before else "0"
        one.service.store.put_watch(watch, WatchState())
        one.service.watch()
        headers = {"Accept": "text/event-stream", "Last-Event-ID": mark}
        told = []
        with client.stream("GET", "/v1/streams/walk/events", headers=headers) as answer:
            for line in answer.iter_lines():
                if line.startswith("data: "):
                    told.append(json.loads(line[6:])["event_id"])
                if len(told) == len(expected):
                    break
        assert told == expected
        one.service.store.remove_watch("walk", "w-sse")


def test_the_command_tells_all_events_however_many_are_read_at_a_time(
    run, opened, video, monkeypatch
):
    assert run("ingest", video).code == 0
    watch, state = Watch("door", "walk", QUESTION), WatchState()
    opened.put_watch(watch, state)
    for span, answer in zip(opened.list_spans("walk"), ("yes", "no", "yes"), strict=False):
        after, event = follow(watch, state, span, answer)
        assert opened.advance_watch(watch, state, after, event)
        state = after
    monkeypatch.setattr("pipeline.cli.watch.PAGE", 2)
    told = run("watch", "events", "-s", "walk", "--json").json["events"]
    assert [event["kind"] for event in told] == ["raised", "cleared", "raised"]


def test_a_back_test_is_a_command(run, video):
    assert run("ingest", video).code == 0
    ran = run("watch", "test", QUESTION, "-s", "walk", "--expect", "zebra", "--json")
    assert (ran.code, ran.json) == (0, {"events": []})
    assert run("watch", "add", "door", QUESTION, "-s", "walk").code == 0
    assert run("watch", "ls", "--json").json["watches"][0]["watch_id"] == "door"
    assert run("watch", "events", "-s", "walk", "--json").json == {"events": []}
    assert run("watch", "rm", "door", "-s", "walk").code == 0
    assert run("watch", "rm", "door", "-s", "walk").code == 1
