"""The network fails in every way it has: pictures come again, and no second is left out."""

import random
import time

import pytest

from pipeline.store import StoreConfig, open_store
from pipeline.store.embedded import stop_embedded
from tests.pipeline.live.runs import check_line, live_settings, running
from tests.proxy import FaultProxy

KINDS = ("delay", "stall", "trickle", "close", "reset", "half")
LASTING = ("delay", "stall", "trickle")
"""Over when the source was given up: nothing is closed by them."""
STALL_S = 2.0
CLIP_S, STEP_S = 1.0, 0.2


@pytest.fixture
def store_url(tmp_path):
    yield f"embedded://{tmp_path}/store"
    stop_embedded(tmp_path / "store")


def begin(proxy, kind):
    if kind == "delay":
        proxy.delay_s = 4 * STALL_S
    elif kind in LASTING:
        proxy.fault = kind
    else:
        proxy.cut(kind)


def end(proxy):
    proxy.delay_s, proxy.fault = 0.0, "none"


def disturb(camera, store_url, kinds):
    """Each kind in turn, each awaited: (seconds until it was told, until the next clip)."""
    rng, found_s, recovered_s = random.Random(14), [], []
    port = int(camera.url.split(":")[2].split("/")[0])
    settings = live_settings(store_url, stall_s=STALL_S)
    with FaultProxy(("127.0.0.1", port)) as proxy:
        with running(settings, f"rtsp://127.0.0.1:{proxy.port}/live") as run:
            for kind in kinds:
                time.sleep(rng.random())
                outages, began_s = len(run.outages), time.monotonic()
                begin(proxy, kind)
                run.wait(lambda told=outages: len(run.outages) > told, 30)
                found_s.append(time.monotonic() - began_s)
                end(proxy)
                run.wait(lambda: run.last.outage is None, 60)
                run.wait_for_clips(1, 60)
                recovered_s.append(time.monotonic() - began_s)
        tally = run.last.source
    return found_s, recovered_s, tally


def check(camera, store_url, kinds):
    began_s = time.time()
    found_s, recovered_s, tally = disturb(camera, store_url, kinds)
    ended_s = time.time()

    with open_store(StoreConfig(store_url)) as store:
        seconds = check_line(store, clip_s=CLIP_S, step_s=STEP_S)
        wall_start_s = store.get_info("cam").wall_start_s
    ordered = sorted(recovered_s)
    print(
        f"{len(recovered_s)} outages, {tally.connections} connections with pictures, "
        f"{tally.failures} without; found within {max(found_s):.1f} s, next clip p50 "
        f"{ordered[len(ordered) // 2]:.1f} s, p95 {ordered[int(0.95 * len(ordered))]:.1f} s, "
        f"at most {ordered[-1]:.1f} s; seconds { ({k: round(v, 1) for k, v in seconds.items()}) }"
    )
    assert len(recovered_s) == len(kinds)
    assert tally.connections >= len(kinds)
    assert max(found_s) <= 20
    assert began_s < wall_start_s < ended_s
    assert seconds["behind"] < 15 + (time.time() - ended_s)


@pytest.mark.timeout(300)
def test_outages_are_recovered_from_and_accounted_for(camera, store_url):
    check(camera, store_url, ("stall", "reset"))


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_hundred_outages_give_a_hundred_recoveries(camera, store_url):
    kinds = [KINDS[number % len(KINDS)] for number in range(100)]
    random.Random(7).shuffle(kinds)
    check(camera, store_url, kinds)
