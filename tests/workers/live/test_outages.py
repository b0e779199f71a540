"""A real camera behind a network that fails: pictures come again after every kind of outage."""

import random
import threading

import pytest

from tests.proxy import FaultProxy
from workers.live.child import Request
from workers.live.process import DecoderProcess
from workers.live.source import Backoff, LiveSource, Outage

KINDS = ("close", "reset", "half", "stall", "refuse")
STALL_S = 2.0
BACKOFF = Backoff(first_s=0.05, longest_s=0.2)


def open_source(port, stop):
    def connect():
        request = Request(
            url=f"rtsp://127.0.0.1:{port}/live",
            shown="camera",
            fps=5.0,
            networks=("127.0.0.0/8",),
            open_timeout_s=3.0,
            read_timeout_s=3.0,
        )
        return DecoderProcess(request, stall_s=STALL_S)

    return LiveSource(connect, backoff=BACKOFF, stop=stop, seed=1)


def disturb(proxy, kind):
    """One outage of a kind; those that last are over when the connection is."""
    if kind in ("stall", "refuse"):
        proxy.fault = kind
        if kind == "refuse":
            proxy.cut("close")
    else:
        proxy.cut(kind)


def recover(camera, kinds):
    """Outages seen, and pictures after each, when the network fails in these ways in turn."""
    stop, kinds, outages = threading.Event(), list(kinds), []
    pending = False
    with FaultProxy(("127.0.0.1", int(camera.url.split(":")[2].split("/")[0]))) as proxy:
        for event in open_source(proxy.port, stop).events():
            if isinstance(event, Outage):
                proxy.fault = "none"
                outages.append(event.reason)
                pending = False
            elif not pending:
                if not kinds:
                    stop.set()
                    break
                disturb(proxy, kinds.pop(0))
                pending = True
    return outages


@pytest.mark.timeout(300)
def test_pictures_come_again_after_every_kind_of_outage(camera):
    outages = recover(camera, KINDS)

    assert len(outages) >= len(KINDS)
    assert "stalled" in outages
    assert "disconnected" in outages


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_hundred_outages_give_a_hundred_recoveries(camera):
    kinds = list(KINDS) * 20
    random.Random(7).shuffle(kinds)

    assert len(recover(camera, kinds)) >= 100
