"""A server that is full, comes back without its last writes, or is away for a while."""

import dataclasses
import shutil
import threading
import time

import pytest

from pipeline.store import StoreConfig, open_store
from pipeline.store.patience import retry_while_away
from pipeline.values.errors import StoreFull, StoreRefused, StoreUnavailable, StoreWentBack
from tests.pipeline.store.test_redis import DURABLE, fill


def test_a_server_restored_to_an_older_state_is_noticed_and_nothing_stays_lost(
    serve, info, make_clip
):
    server = serve(*DURABLE)
    with open_store(StoreConfig(server.url)) as store:
        lease, _ = fill(store, info, map(make_clip, range(5)))
        older = server.folder.with_name(f"{server.folder.name}-older")
        shutil.copytree(server.folder, older, ignore=shutil.ignore_patterns("s"))
        try:
            for index in range(5, 10):
                store.put_clip(make_clip(index), lease, fingerprint="f1", after=(0, index - 1))
            server.kill()
            shutil.rmtree(server.folder / "appendonlydir", ignore_errors=True)
            shutil.copytree(older, server.folder, dirs_exist_ok=True)
        finally:
            shutil.rmtree(older)
        server.start()
        assert store.get_lease("lobby") == lease
        with pytest.raises(StoreWentBack) as caught:
            store.put_clip(make_clip(10), lease, fingerprint="f1", after=(0, 9))
        assert caught.value.last == (0, 4)
        for index in range(5, 11):
            store.put_clip(make_clip(index), lease, fingerprint="f1", after=(0, index - 1))
        assert [span.index for span in store.list_spans("lobby")] == list(range(11))
        assert store.verify("lobby").ok


@pytest.fixture
def full(serve, info, make_clip):
    """(server, store, lease) of a server that takes no more."""
    server = serve("--maxmemory-policy", "noeviction")
    with open_store(StoreConfig(server.url)) as store:
        lease, _ = fill(store, info, map(make_clip, range(3)))
        server.client().config_set("maxmemory", 1)
        yield server, store, lease


def test_a_full_server_still_learns_how_a_session_ended(full, info, make_clip, caplog):
    server, store, lease = full
    with pytest.raises(StoreFull):
        store.put_clip(make_clip(3), lease, fingerprint="f1")
    store.put_info(dataclasses.replace(info, status="failed", error="any"), lease=lease)
    ended = store.get_info("lobby")
    assert (ended.status, ended.error.partition(":")[0]) == ("failed", "StoreFull")
    assert store.get_overview("lobby").info == ended
    with pytest.raises(StoreFull):
        store.put_info(info, lease=lease)
    server.client().config_set("maxmemory", 0)
    store.put_info(info, lease=lease)
    assert store.get_info("lobby") == info


def test_a_stream_can_be_removed_from_a_full_server(full):
    server, store, _ = full
    assert store.delete_stream("lobby").clips == 3
    assert server.client().keys("*") == []


def test_a_server_that_restarts_is_waited_for(serve, info, make_clip, caplog):
    server = serve(*DURABLE)
    with open_store(StoreConfig(server.url)) as store:
        lease, _ = fill(store, info, [make_clip(0)])
        server.kill()
        starter = threading.Timer(0.7, server.start)
        starter.start()
        try:
            put = lambda: store.put_clip(make_clip(1), lease, fingerprint="f1")  # noqa: E731
            assert retry_while_away(put, limit_s=30).index == 1
        finally:
            starter.join()
        assert [span.index for span in store.list_spans("lobby")] == [0, 1]
    assert "waiting up to 30 s for the store" in caplog.text
    assert "the store is back" in caplog.text


def test_a_server_that_answers_too_late_is_asked_again(serve, info, make_clip):
    server = serve()
    with open_store(StoreConfig(server.url, timeout_s=0.2)) as store:
        lease, _ = fill(store, info, [make_clip(0)])
        server.client().execute_command("CLIENT", "PAUSE", "900")
        put = lambda: store.put_clip(make_clip(1), lease, fingerprint="f1")  # noqa: E731
        assert retry_while_away(put, limit_s=30).index == 1


def fail_with(error, calls):
    def action():
        calls.append(time.monotonic())
        raise error

    return action


def test_waiting_ends_at_its_limit_with_the_last_error():
    calls = []
    with pytest.raises(StoreUnavailable, match="away"):
        retry_while_away(fail_with(StoreUnavailable("away"), calls), limit_s=0.3)
    assert len(calls) >= 3
    assert calls[-1] - calls[0] >= 0.3


def test_what_waiting_does_not_help_is_raised_at_once():
    calls = []
    with pytest.raises(StoreRefused):
        retry_while_away(fail_with(StoreRefused("wrong password"), calls), limit_s=60)
    assert len(calls) == 1


def test_waiting_ends_when_it_is_told_to_stop():
    calls, stop = [], threading.Event()
    stop.set()
    with pytest.raises(StoreUnavailable):
        retry_while_away(
            fail_with(StoreUnavailable("away"), calls),
            limit_s=60,
            wait=stop.wait,
            is_stopped=stop.is_set,
        )
    assert len(calls) == 1
