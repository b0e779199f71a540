"""The store goes away, fills up, takes no writes, is slow, loses its replies: a camera goes on."""

import random
import socket
import time

import pytest

from pipeline.store import StoreConfig, open_store
from tests.pipeline.live.runs import STREAM, Ledger, check_line, live_settings, running
from tests.pipeline.store.conftest import serve  # noqa: F401
from tests.pipeline.store.test_redis import DURABLE
from tests.proxy import FaultProxy

CLIP_S, STEP_S = 1.0, 0.2
POINTS = 20


@pytest.fixture
def server(serve):  # noqa: F811
    """A server of its own over TCP, that acknowledges what is on disk: (server, port)."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return serve(*DURABLE, "--port", str(port), "--maxmemory-policy", "noeviction"), port


@pytest.fixture
def proxy(server):
    with FaultProxy(("127.0.0.1", server[1])) as made:
        yield made


@pytest.fixture
def settings(proxy, tmp_path):
    made = live_settings(f"redis://127.0.0.1:{proxy.port}")
    store = made.store.model_copy(update={"timeout_s": 1.0, "connect_timeout_s": 1.0})
    spool = made.spool.model_copy(update={"folder": tmp_path / "spool"})
    return made.model_copy(update={"store": store, "spool": spool})


@pytest.fixture
def opened(server):
    """The store, past the proxy."""
    with open_store(StoreConfig(server[0].url)) as store:
        yield store


def behind_s(store) -> float:
    """Wall seconds that the stored stream is behind now."""
    wall_s = store.get_info(STREAM).wall_start_s
    return time.time() - wall_s - store.get_position(STREAM).end_s


def wait_until_caught_up(run, store) -> float:
    return run.wait(lambda: behind_s(store) < 3 * CLIP_S, 120)


def check(run, store, ledger):
    """Nothing told was lost, and no second of the outage is missing."""
    ledger.look()
    seconds = check_line(store, clip_s=CLIP_S, step_s=STEP_S)
    assert store.verify(STREAM).ok
    assert run.error is None
    return {name: round(value, 1) for name, value in seconds.items()}


def kill_servers(camera, settings, server, opened, points):
    rng = random.Random(6)
    with running(settings, camera.url) as run:
        ledger = Ledger(opened)
        for _ in range(points):
            time.sleep(rng.random())
            ledger.look()
            server[0].kill()
            time.sleep(rng.random())
            server[0].start()
            wait_until_caught_up(run, opened)
            ledger.look()
    return check(run, opened, ledger)


@pytest.mark.timeout(180)
def test_a_store_that_is_killed_loses_nothing(camera, settings, server, opened):
    assert "store" not in kill_servers(camera, settings, server, opened, 1)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_store_that_is_killed_twenty_times_loses_nothing(camera, settings, server, opened):
    seconds = kill_servers(camera, settings, server, opened, POINTS)

    print(f"{POINTS} kills of the store: seconds {seconds}")
    assert "store" not in seconds


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_minute_without_a_store_is_caught_up_with_in_another(camera, settings, server, opened):
    with running(settings, camera.url) as run:
        ledger = Ledger(opened)
        server[0].kill()
        time.sleep(60)
        assert run.last.outage is None
        server[0].start()
        took_s = wait_until_caught_up(run, opened)
    seconds = check(run, opened, ledger)

    print(f"60 s without a store: caught up within {took_s:.1f} s; seconds {seconds}")
    assert took_s <= 60
    assert "store" not in seconds


def fail(how, server, proxy, seconds):
    """The store misbehaves for so long."""
    client = server[0].client()
    if how == "full":
        client.config_set("maxmemory", 1)
        time.sleep(seconds)
        client.config_set("maxmemory", 0)
    elif how == "read-only":
        client.execute_command("REPLICAOF", "127.0.0.1", "1")
        time.sleep(seconds)
        client.execute_command("REPLICAOF", "NO", "ONE")
    elif how == "slow":
        for _ in range(round(seconds / 2)):
            client.execute_command("CLIENT", "PAUSE", "1900")
            time.sleep(2)
    else:
        proxy.fault = "deaf"
        time.sleep(seconds)
        proxy.cut("close")
        proxy.fault = "none"


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("how", ["full", "read-only", "slow", "replies lost"])
def test_a_store_that_misbehaves_costs_nothing(camera, settings, server, proxy, opened, how):
    with running(settings, camera.url) as run:
        ledger = Ledger(opened)
        fail(how, server, proxy, 10)
        took_s = wait_until_caught_up(run, opened)
    seconds = check(run, opened, ledger)

    print(f"{how} for 10 s: caught up within {took_s:.1f} s; seconds {seconds}")
    assert "store" not in seconds
