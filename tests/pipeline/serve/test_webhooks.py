"""Webhooks: signed, tried again, at least once under one id, and only where they may go."""

import base64
import hashlib
import hmac
import http.server
import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
from pydantic import SecretStr

from pipeline.serve import webhooks
from pipeline.serve.watching import Watcher
from pipeline.serve.webhooks import Webhooks, sign
from pipeline.values.errors import InvalidQuery
from pipeline.values.watch import Watch, WatchState, follow
from tests.pipeline.conftest import CLIPS
from tests.pipeline.serve.conftest import serving, with_serve
from tests.pipeline.support import start_aot
from tests.waits import wait_until

SECRET = "whsec_" + base64.b64encode(b"a key of thirty-two bytes, or so").decode()
PATH = "/hook?token=hunter2"


class Receiver:
    """What was told, and how each call is answered."""

    def __init__(self) -> None:
        self.calls: list[tuple[dict[str, str], bytes]] = []
        self.statuses: list[int] = []
        """Of the next calls; 200 behind them."""
        receiver = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.calls.append((dict(self.headers.items()), body))
                assert self.path == PATH
                self.send_response(receiver.statuses.pop(0) if receiver.statuses else 200)
                self.send_header("Location", "/elsewhere")
                self.end_headers()

            def log_message(self, *arguments):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}{PATH}"

    @property
    def ids(self) -> list[str]:
        return [headers["webhook-id"] for headers, _ in self.calls]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    one = Receiver()
    threading.Thread(target=one.server.serve_forever, daemon=True).start()
    yield one
    one.server.shutdown()
    one.server.server_close()


@pytest.fixture
def allowed(base, monkeypatch):
    """Settings of a service that may call this machine, and hardly waits between two tries."""
    monkeypatch.setattr(webhooks, "FIRST_WAIT_S", 0.05)
    monkeypatch.setattr(webhooks, "LOOK_S", 0.05)
    live = base.live.model_copy(update={"networks": ("127.0.0.0/8",)})
    changed = base.model_copy(update={"live": live})
    return with_serve(changed, webhook_secret=SecretStr(SECRET))


@contextmanager
def telling(settings, store):
    one = Webhooks(settings, store)
    try:
        yield one
    finally:
        one.close()


@pytest.fixture
def watched(served, receiver):
    """A watch with a webhook, and events of it and of another watch in turns."""
    store = served.service.store
    watch = Watch("hooked", "walk", "what", webhook=receiver.url)
    other = Watch("not-hooked", "walk", "what")
    last = [mark for mark, _ in store.list_events("walk", limit=1000)][-1:]
    states = {w: WatchState(told="".join(last)) for w in (watch, other)}
    for one, state in states.items():
        store.put_watch(one, state)
    made = []
    for number, span in enumerate(store.list_spans("walk")[:6]):
        for one in (other, watch):
            after, event = follow(one, states[one], span, "yes" if number % 2 == 0 else "no")
            assert store.advance_watch(one, states[one], after, event)
            states[one] = after
            made += [event.event_id] if one is watch and event else []
    yield watch, made
    for one in states:
        store.remove_watch("walk", one.watch_id)


def told_up_to(store, watch):
    return next(state.told for one, state in store.list_watches("walk") if one == watch)


def test_each_event_is_told_in_order_signed_and_once(served, receiver, allowed, watched):
    watch, made = watched
    with telling(allowed, served.service.store):
        wait_until(lambda: len(receiver.calls) >= len(made))
        marks = [mark for mark, _ in served.service.store.list_events("walk", limit=1000)]
        wait_until(lambda: told_up_to(served.service.store, watch) == marks[-1])
    assert receiver.ids == made
    for headers, body in receiver.calls:
        assert json.loads(body)["event_id"] == headers["webhook-id"]
        assert abs(int(headers["webhook-timestamp"]) - time.time()) < 60
        signed = b".".join(
            [headers["webhook-id"].encode(), headers["webhook-timestamp"].encode(), body]
        )
        key = base64.b64decode(SECRET.removeprefix("whsec_"))
        expected = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
        assert headers["webhook-signature"] == f"v1,{expected}"
    with telling(allowed, served.service.store):  # another one goes on behind
        time.sleep(0.3)
    assert receiver.ids == made


def test_what_is_not_taken_is_tried_again_under_the_same_id(
    served, receiver, allowed, watched, caplog
):
    _, made = watched
    receiver.statuses = [500, 302, 429]
    with telling(allowed, served.service.store):
        wait_until(lambda: len(receiver.calls) >= len(made) + 3)
    assert receiver.ids[: len(made) + 3] == [made[0]] * 3 + made
    assert "not taken by its webhook (try 3 of 12: it answered 429)" in caplog.text
    assert "hunter2" not in caplog.text


def test_it_is_given_up_after_so_many_tries_and_the_next_is_told(
    served, receiver, allowed, watched, monkeypatch
):
    _, made = watched
    monkeypatch.setattr(webhooks, "MAX_TRIES", 2)
    receiver.statuses = [500, 500]
    with telling(allowed, served.service.store):
        wait_until(lambda: len(receiver.calls) >= len(made) + 1)
    assert receiver.ids[: len(made) + 1] == [made[0], *made]


def test_a_follower_and_a_teller_do_not_undo_each_other(served, watched):
    store = served.service.store
    watch, _ = watched
    watcher = Watcher(served.service.evaluator)
    try:
        for number in range(50):
            state = next(state for one, state in store.list_watches("walk") if one == watch)
            store.advance_watch(watch, state, replace(state, told=f"{number + 1}-0"), None)
        wait_until(
            lambda: (
                next(s for one, s in store.list_watches("walk") if one == watch).index == CLIPS - 1
            )
        )
    finally:
        watcher.close()
    assert told_up_to(store, watch).endswith("-0")


def test_nobody_is_called_that_may_not_be(served, receiver, allowed, watched):
    """Addresses are looked at when it is called too."""
    assert watched
    closed = allowed.model_copy(update={"live": served.service.settings.live})
    with telling(closed, served.service.store):
        time.sleep(0.4)
    assert receiver.calls == []


@pytest.mark.parametrize(
    ("url", "status", "code"),
    [
        ("http://127.0.0.1:9/x", 422, "SourceRefused"),
        ("http://169.254.169.254/latest", 422, "SourceRefused"),
        ("http://[::1]/", 422, "SourceRefused"),
        ("ftp://example.com/", 422, "InvalidQuery"),
        ("file:///etc/passwd", 422, "InvalidQuery"),
        ("http://me:pw@example.com/", 422, "InvalidQuery"),
        ("nowhere", 422, "InvalidQuery"),
    ],
)
def test_a_webhook_is_looked_at_when_it_is_set(base, url, status, code):
    with serving(with_serve(base, webhook_secret=SecretStr(SECRET))) as one, one.client() as client:
        body = {"watch_id": "w", "question": "what", "webhook": url}
        told = client.post("/v1/streams/walk/watches", json=body)
        assert (told.status_code, told.json()["error"]["code"]) == (status, code)
        assert "pw" not in told.text


def test_a_webhook_is_shown_without_its_path(allowed, receiver, run, base, monkeypatch):
    with serving(allowed) as one, one.client() as client:
        body = {"watch_id": "w-shown", "question": "what", "webhook": receiver.url}
        added = client.post("/v1/streams/walk/watches", json=body)
        listed = client.get("/v1/streams/walk/watches")
        assert added.status_code == 201
        assert receiver.url.partition("/hook")[0] + "/..." in listed.text
        assert "hunter2" not in added.text + listed.text
        one.service.store.remove_watch("walk", "w-shown")


def test_without_a_secret_there_is_no_webhook(served):
    with pytest.raises(InvalidQuery, match="AOT_SERVE__WEBHOOK_SECRET"):
        webhooks.require_webhook(served.service.settings, "http://example.com/")


def test_a_signature_is_the_standards_own_example():
    """From the specification of Standard Webhooks, its test vector."""
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    body = b'{"test": 2432232314}'
    assert (
        sign(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body)
        == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    )


@pytest.mark.slow
def test_killed_in_the_middle_no_event_is_lost_and_none_is_twice(base, served, receiver):
    """The service is killed and started again twice, while events are found and told."""
    store = served.service.store
    spans = store.list_spans("walk")
    probe = Watch("probe", "walk", "what is seen")
    words = [set(served.service.evaluator.answer(probe, span).split()) for span in spans]
    some = sorted(set.union(*words) - set.intersection(*words))
    expect = next(word for word in some if word.isalnum())
    watch = Watch("w-killed", "walk", "what is seen", expect=expect, webhook=receiver.url)
    expected = [event.event_id for event in served.service.evaluator.replay(watch)]
    assert len(expected) >= 2
    last = [mark for mark, _ in store.list_events("walk", limit=1000)][-1:]
    store.put_watch(watch, WatchState(told="".join(last)))

    def state():
        return next(s for one, s in store.list_watches("walk") if one == watch)

    environment = {
        **os.environ,
        "AOT_STORE__URL": base.store.url,
        "AOT_STORE__NAMESPACE": base.store.namespace,
        "AOT_MODEL__ID": base.model.id,
        "AOT_SERVE__WEBHOOK_SECRET": SECRET,
        "AOT_LIVE__NETWORKS": '["127.0.0.0/8"]',
        "AOT_SERVE__KEYS_FILE": str(base.serve.keys_file),
    }
    try:
        for until in (3, 6, CLIPS - 1):
            process = start_aot("serve", "--port", "0", environment=environment)
            try:
                wait_until(lambda until=until: state().index >= until, 120)
                if until == CLIPS - 1:
                    wait_until(lambda: set(receiver.ids) >= set(expected), 60)
            finally:
                process.send_signal(signal.SIGKILL)
                process.communicate()
    finally:
        store.remove_watch("walk", "w-killed")
    found = [e.event_id for _, e in store.list_events("walk", limit=1000)]
    assert [one for one in found if one.startswith("w-killed-")] == expected
    assert list(dict.fromkeys(receiver.ids)) == expected  # each told, in order, at least once
