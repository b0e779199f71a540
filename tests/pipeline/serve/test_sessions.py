"""What the service says of sessions whose process cannot say it itself."""

import multiprocessing
import os
import time

import pytest

from pipeline.serve import sessions
from pipeline.serve.sessions import Sessions
from pipeline.values.errors import Conflict
from tests.waits import wait_until


def die(settings, *arguments):
    os._exit(7)


def hang(settings, *arguments):
    time.sleep(600)


def test_a_pause_whose_process_dies_is_not_told_as_done(base, monkeypatch):
    monkeypatch.setattr(sessions, "_pause", die)
    with pytest.raises(Conflict, match="SessionKilled: its process ended with code 7"):
        Sessions(base).pause_detached("walk")


def test_a_pause_that_takes_too_long_is_not_told_as_done_and_ends(base, monkeypatch):
    monkeypatch.setattr(sessions, "_pause", hang)
    monkeypatch.setattr(sessions, "APART_S", 0.5)
    with pytest.raises(Conflict, match="walk was not ended within"):
        Sessions(base).pause_detached("walk")
    assert not multiprocessing.active_children()


def test_a_session_that_is_killed_before_its_first_clip_has_failed(served, monkeypatch):
    running = served.service.sessions._begin(die, served.service.settings)
    monkeypatch.setitem(served.service.sessions._running, "gone", running)
    wait_until(lambda: not served.service.sessions.is_running("gone"))
    with served.client() as client:
        view = client.get("/v1/streams/gone").json()
    assert view["status"] == "failed"
    assert "SessionKilled" in view["error"]
