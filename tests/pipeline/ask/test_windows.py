"""Merged windows that are kept: found again for what they are, and for nothing else."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace

import pytest
import torch

from aot import recompress
from pipeline.ask import merging
from pipeline.ask.run import Question, answer_prepared, prepare
from pipeline.ask.windows import Window, Windows
from pipeline.store import StoreConfig, open_store
from pipeline.store.fading import fade_clips
from tests.pipeline.conftest import FPS
from tests.pipeline.support import store_video
from workers.models import VisualSegment, open_language_model
from workers.types import VideoSource

HANG_S = 60.0


@pytest.fixture(scope="module")
def stored(model_folder, video, server_folder):
    """The video as `one`."""
    config = StoreConfig(f"embedded://{server_folder}", namespace="windows")
    store_video(config, model_folder, VideoSource(str(video), "one", FPS))
    with open_store(config) as opened:
        yield opened


@pytest.fixture
def store(stored, model):
    """A copy of `one`, so that what a test changes is its own."""
    name = f"copy-{time.monotonic_ns()}"
    info = replace(stored.get_info("one"), stream_id=name)
    stored.put_info(info)
    lease = stored.acquire_lease(name, "tests", ttl_s=600)
    for clip in stored.iter_clips(stored.list_spans("one")):
        stored.put_clip(replace(clip, stream_id=name), lease, fingerprint=info.fingerprint)
    stored.release_lease(lease)
    asked((stored, name), model, None)  # makes the levels that it reads
    return stored, name


@pytest.fixture(scope="module")
def model(model_folder):
    return open_language_model(str(model_folder))


@pytest.fixture
def merged(monkeypatch):
    """How often tokens were merged."""
    calls = []
    monkeypatch.setattr(
        merging, "recompress", lambda *a, **k: calls.append(1) or recompress(*a, **k)
    )
    return calls


def question(name: str, **fields) -> Question:
    given = {"text": "what is seen", "streams": (name,), "max_new_tokens": 2}
    return Question(**{"max_visual_tokens": 12, **given, **fields})


def asked(store, model, windows, **fields):
    opened, name = store
    asked = question(name, **fields)
    *_, answer = answer_prepared(opened, model, prepare(opened, asked), windows=windows)
    return answer


def test_the_next_question_on_a_window_merges_nothing_and_reads_no_record(store, model, merged):
    windows = Windows(1 << 20)

    first = asked(store, model, windows)
    second = asked(store, model, windows, text="is there anything that moves")

    assert (len(merged), windows.hits) == (1, 1)
    assert second.streams == first.streams
    assert second.citations == first.citations
    assert (first.bytes_read > 0, second.bytes_read) == (True, 0)
    assert asked(store, model, None).text == asked(store, model, windows).text


@pytest.mark.parametrize(
    "other",
    [
        {"start": 0.5},
        {"max_visual_tokens": 11},
        {"marks": "frame"},
        {"keep_positions": True},
        {"end": 6.0},
    ],
)
def test_what_is_asked_otherwise_is_another_window(store, model, merged, other):
    windows, alone = Windows(1 << 20), asked(store, model, None, **other)

    asked(store, model, windows)
    answer = asked(store, model, windows, **other)

    assert windows.hits == 0
    assert answer.streams == alone.streams
    assert asked(store, model, windows, **other).streams == alone.streams
    assert windows.hits == 1


def test_a_window_whose_clip_fades_is_made_anew(store, model, merged):
    opened, name = store
    windows = Windows(1 << 20)
    asked(store, model, windows)

    fade_clips(opened, opened.list_spans(name)[:1], 0.02)
    asked(store, model, windows)

    assert (len(merged), windows.hits) == (2, 0)


def test_what_changes_while_it_is_read_is_not_kept(store, model, merged, monkeypatch):
    opened, _ = store
    windows = Windows(1 << 20)
    told = iter(range(100))
    plain = type(opened).list_digests

    def changing(self, nodes):
        return {node: f"{digest}{next(told)}" for node, digest in plain(self, nodes).items()}

    monkeypatch.setattr(type(opened), "list_digests", changing)
    asked(store, model, windows)

    assert windows.size_bytes == 0


def test_without_digests_nothing_is_kept(store, model, monkeypatch):
    windows = Windows(1 << 20)
    monkeypatch.setattr(type(store[0]), "list_digests", lambda self, nodes: {})
    asked(store, model, windows)
    asked(store, model, windows)
    assert (windows.hits, windows.size_bytes) == (0, 0)


def window(num_tokens: int) -> Window:
    segment = VisualSegment("", torch.zeros(num_tokens, 8))
    return Window(frozenset(), (segment,), {}, 0)


def test_the_least_recent_go_when_they_are_more_than_may_be_kept():
    windows = Windows(3 * 8 * 4 * 10)
    for name in "abc":
        windows.get(name, lambda: (window(10), True))
    assert windows.get("a", lambda: (window(1), True))[1]
    windows.get("d", lambda: (window(10), True))

    assert windows.size_bytes <= windows.max_bytes
    assert windows.get("a", lambda: (window(1), False))[1]
    assert not windows.get("b", lambda: (window(1), False))[1]


def test_a_window_is_made_once_for_all_that_ask_meanwhile():
    windows, may_end, made = Windows(1 << 20), threading.Event(), []

    def make():
        made.append(1)
        assert may_end.wait(HANG_S)
        return window(2), True

    with ThreadPoolExecutor(4) as callers:
        asked = [callers.submit(windows.get, "key", make) for _ in range(4)]
        may_end.set()
        kept = [each.result(HANG_S) for each in asked]

    assert len(made) == 1
    assert sorted(is_kept for _, is_kept in kept) == [False, True, True, True]
    assert len({id(one) for one, _ in kept}) == 1


def test_whoever_fails_leaves_it_to_the_next():
    windows = Windows(1 << 20)

    def fail():
        raise TimeoutError("the store")

    with suppress(TimeoutError):
        windows.get("key", fail)
    assert not windows.get("key", lambda: (window(1), True))[1]
    assert windows.get("key", lambda: (window(1), True))[1]
