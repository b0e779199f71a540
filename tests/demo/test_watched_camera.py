"""A standing question on a live camera, by the bundled model: every event once, over kills too."""

import json
import os
import signal
import time
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from demo.camera import live_camera
from demo.run import MODEL
from demo.world.scenes import Item, Scene
from pipeline import Pipeline, load_settings
from pipeline.serve.service import Service
from pipeline.serve.watching import begin_watch
from pipeline.store.embedded import stop_embedded
from pipeline.values.watch import Watch
from tests.pipeline.support import start_aot
from tests.waits import wait_until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (MODEL / "config.json").is_file(), reason="no trained weights"),
]
CLIP_S, CLIPS = 8.0, 4
"""The camera shows the same four clips again and again."""
SHOWN = 1
"""The clip in which what is watched for is seen."""
LOOPS = 3
LIMIT_S = 400.0


def passing(colour, shape, start_s, end_s):
    path = ((0.2, 0.5), (0.8, 0.5))
    return Item("object", start_s, end_s, path, 0.11, 1.0, colour=colour, shape=shape)


def scene():
    begin_s = SHOWN * CLIP_S
    items = [passing("red", "circle", begin_s + 1.5, begin_s + 6.5)]
    items += [
        passing("blue", "square", n * CLIP_S + 2, n * CLIP_S + 6)
        for n in range(CLIPS)
        if n != SHOWN
    ]
    return Scene("surveillance", 810_005, CLIPS * CLIP_S, tuple(items))


@dataclass
class Watched:
    found: list
    replayed: list
    delays_s: list
    kills: int


@contextmanager
def served(settings):
    environment = {
        **os.environ,
        "AOT_STORE__URL": settings.store.url,
        "AOT_MODEL__ID": settings.model.id,
        "AOT_SERVE__KEYS_FILE": settings.store.url.removeprefix("embedded://") + "/none.json",
    }
    process = start_aot("serve", "--port", "0", environment=environment)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    """A camera for three rounds; the service is killed in the middle of each and started again."""
    folder = tmp_path_factory.mktemp("watched")
    settings = load_settings(
        None,
        {
            "model": {"id": str(MODEL)},
            "store": {"url": f"embedded://{folder}/store"},
            "live": {"networks": ("127.0.0.0/8",)},
            "ray": {"enabled": False},
        },
    )
    watch = Watch("circle", "door", "was there a red circle ?")
    try:
        with Pipeline(settings) as pipeline:
            store = pipeline.store
            with live_camera(settings, scene(), "door", frames=2, longest_s=LIMIT_S):
                begin_watch(store, watch)
                began_s = time.monotonic()
                for kill in range(LOOPS):
                    end_s = (kill + 1) * CLIPS * CLIP_S - (CLIP_S if kill < LOOPS - 1 else 0)
                    with served(settings):
                        wait_until(
                            lambda end_s=end_s: asked(store, watch).end_s >= end_s,
                            LIMIT_S - (time.monotonic() - began_s),
                        )
            ends = {span.index: span for span in store.list_spans("door")}
            events = [
                (mark, event)
                for mark, event in store.list_events("door", limit=1000)
                if event.watch_id == "circle"
            ]
            service = Service(settings)
            try:
                last = asked(store, watch)
                replayed = list(service.evaluator.replay(watch, 0.0, last.end_s))
            finally:
                service.close()
            delays_s = [
                int(mark.partition("-")[0]) / 1000
                - (ends[event.index].wall_start_s + ends[event.index].end_s)
                + ends[event.index].start_s
                for mark, event in events
            ]
            yield Watched([event for _, event in events], replayed, delays_s, LOOPS - 1)
    finally:
        stop_embedded(folder / "store")


def asked(store, watch):
    return next(state for one, state in store.list_watches("door") if one == watch)


def test_every_event_of_the_ground_truth_is_reported_once(watched):
    expected = [
        (kind, loop * CLIPS + SHOWN + (kind == "cleared"))
        for loop in range(LOOPS)
        for kind in ("raised", "cleared")
    ]
    print(json.dumps({"delays_s": [round(one, 2) for one in watched.delays_s]}))
    assert [(event.kind, event.index) for event in watched.found] == expected
    assert watched.kills == 2


def test_the_back_test_finds_the_same(watched):
    assert [e.event_id for e in watched.replayed] == [e.event_id for e in watched.found]
