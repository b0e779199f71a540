"""The clip that a live stream is at: read with "now", told as open, never twice."""

from dataclasses import replace

import pytest

from pipeline.ask.run import Question, ask, prepare
from pipeline.ask.search import search_prepared
from pipeline.store import StoreConfig, open_store
from pipeline.store.levels import nodes_of
from tests.pipeline.conftest import FPS
from tests.pipeline.support import store_video
from workers.models import open_language_model
from workers.types import VideoSource

AT = 7
"""Index of the open clip: the last of two groups of four."""


@pytest.fixture(scope="module")
def config(model_folder, video, server_folder):
    config = StoreConfig(f"embedded://{server_folder}", namespace="open")
    store_video(config, model_folder, VideoSource(str(video), "walk", FPS))
    return config


@pytest.fixture(scope="module")
def model(model_folder):
    return open_language_model(str(model_folder))


@pytest.fixture
def store(config):
    """`walk`, and `live`: its first clips, the next one open."""
    with open_store(config) as opened:
        clips = list(opened.iter_clips(opened.list_spans("walk")))
        info = replace(opened.get_info("walk"), stream_id="live", status="running")
        opened.put_info(info)
        lease = opened.acquire_lease("live", "test", ttl_s=600)
        moved = [replace(clip, stream_id="live") for clip in clips[: AT + 1]]
        for clip in moved[:-1]:
            opened.put_clip(clip, lease, fingerprint=info.fingerprint)
        opened.put_open(moved[-1], lease, fingerprint=info.fingerprint)
        yield opened
        opened.delete_stream("live")


def question(**fields) -> Question:
    return Question(**{"text": "what is seen", "streams": ("live",), "max_new_tokens": 3, **fields})


def close_open_clip(store) -> None:
    lease = store.acquire_lease("live", "test", ttl_s=600, takeover=True)
    clip = store.get_open("live")
    store.put_clip(clip, lease, fingerprint=store.get_info("live").fingerprint)


@pytest.mark.parametrize("given", [{"last": 4.0}, {"start": 12.0}, {"start": 12.0, "end": 16.0}])
def test_now_is_the_open_clip_too(store, model, given):
    answer = ask(store, model, question(**given))

    assert [(s.index, s.is_open) for s in answer.citations] == [(6, False), (7, True)]
    assert (answer.streams[0].end_s, answer.coverage, answer.partial) == (16.0, 1.0, False)
    assert answer.bytes_read == sum(span.size_bytes for span in answer.citations)


def test_a_range_before_it_is_without_it(store, model):
    answer = ask(store, model, question(start=10, end=14))

    assert [span.index for span in answer.citations] == [5, 6]


def test_a_stream_with_nothing_but_an_open_clip_is_answered(store, model):
    store.delete_range("live", 0.0, 14.0, epoch=0)

    answer = ask(store, model, question(last="10s"))

    assert [(span.index, span.is_open) for span in answer.citations] == [(AT, True)]


def test_a_clip_that_closes_meanwhile_is_read_once(store, model, monkeypatch):
    """Between the look at it and the look at the index, at either of its two places."""
    left = store.read_open("live")
    before = store.get_position("live")
    close_open_clip(store)
    monkeypatch.setattr(type(store), "read_open", lambda self, name: left)
    for position in (store.get_position("live"), before):
        monkeypatch.setattr(type(store), "get_position", lambda self, name, at=position: at)

        answer = ask(store, model, question(last=4.0))

        assert [(s.index, s.is_open) for s in answer.citations] == [(6, False), (7, False)]


def test_an_open_clip_is_no_part_of_a_level(store, model):
    answer = ask(store, model, question(max_visual_tokens=4, max_clips=AT + 1))

    assert answer.visual_tokens == 4
    assert {s.index: s.is_open for s in answer.citations}[AT] is True
    made = store.find_levels(nodes_of(store.list_spans("live")))
    assert {(node.first, node.level) for node in made} == {(0, 1)}


def test_several_streams_and_a_search_read_it(store, model):
    asked = question(streams=("walk", "live"), last=4.0)

    answer = ask(store, model, asked)
    found = search_prepared(store, model, prepare(store, asked), most=9)

    opened = [("walk", False), ("walk", False), ("live", False), ("live", True)]
    assert [(span.stream_id, span.is_open) for span in answer.citations] == opened
    assert sum(hit.span.is_open for hit in found.hits) == 1


def test_a_model_that_reads_records_by_name_is_told_what_is_stored(store, model, monkeypatch):
    monkeypatch.setattr(model, "reading", replace(model.reading, needs_records=True))

    answer = ask(store, model, question(last=4.0))

    assert [(span.index, span.is_open) for span in answer.citations] == [(6, False)]
