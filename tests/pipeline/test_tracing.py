"""Traces of a real ingest and a real question, taken by a collector on loopback."""

import pytest

from pipeline.api.pipeline import Pipeline
from pipeline.settings import load_settings
from pipeline.values.errors import InvalidSettings
from tests.collector import Collector
from tests.pipeline.support import aot, digests

CLIPS = 10


@pytest.fixture
def collector():
    made = Collector()
    yield made
    made.close()


def traces(collector, root: str) -> list[list]:
    """Spans of every trace whose outermost span has this name."""
    found = {span.trace_id: span for span in collector.spans if not span.parent_span_id}
    return [
        [span for span in collector.spans if span.trace_id == trace]
        for trace, span in found.items()
        if span.name == root
    ]


def facts(span) -> dict:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in span.attributes}


def test_an_ingest_and_a_question_are_traced_from_end_to_end(
    environment, opened, video, collector, monkeypatch
):
    monkeypatch.setenv("AOT_TRACING__ENDPOINT", collector.url)
    with Pipeline(load_settings()) as pipeline:
        pipeline.ingest(str(video), stream="walk")
        answer = pipeline.ask("What is the secret?", streams="walk")
    clips = traces(collector, "clip")
    assert len(clips) == CLIPS
    for spans in clips:
        assert {span.name for span in spans} == {
            "clip", "decode", "push", "encode", "reduce", "store",
        }  # fmt: skip
        assert all(span.end_time_unix_nano >= span.start_time_unix_nano for span in spans)
    roots = [facts(span) for spans in clips for span in spans if span.name == "clip"]
    stored = {(span.index, span.num_tokens) for span in opened.list_spans("walk")}
    assert {(root["index"], root["tokens_out"]) for root in roots} == stored
    [question] = traces(collector, "question")
    by_name = {span.name: span for span in question}
    assert set(by_name) == {"question", "index", "load", "answer"}
    assert facts(by_name["load"])["clips"] == len(answer.citations)
    whole_s = (
        by_name["question"].end_time_unix_nano - by_name["question"].start_time_unix_nano
    ) / 1e9
    assert whole_s == pytest.approx(answer.timings.total_s, rel=0.2, abs=0.05)


def test_no_trace_holds_a_source_or_a_question(environment, opened, video, collector, monkeypatch):
    monkeypatch.setenv("AOT_TRACING__ENDPOINT", collector.url)
    with Pipeline(load_settings()) as pipeline:
        pipeline.ingest(str(video), stream="walk")
        pipeline.ask("What is the secret?", streams="walk")
    sent = b"".join(request.SerializeToString() for request in collector.requests)
    assert b"walk" in sent
    assert b"secret" not in sent
    assert str(video).encode() not in sent


def test_records_are_the_same_with_traces_and_without(
    environment, opened, video, collector, monkeypatch
):
    def ingested() -> dict:
        with Pipeline(load_settings()) as pipeline:
            pipeline.ingest(str(video), stream="walk")
        made = digests(opened, "walk")
        opened.delete_stream("walk")
        return made

    without = ingested()
    monkeypatch.setenv("AOT_TRACING__ENDPOINT", collector.url)
    assert ingested() == without
    assert len(without) == CLIPS
    assert collector.spans


def test_an_endpoint_that_is_none_is_refused_at_the_start(environment, opened, monkeypatch):
    monkeypatch.setenv("AOT_TRACING__ENDPOINT", "collector:4318")
    with pytest.raises(Exception, match=r"tracing\.endpoint") as caught:
        Pipeline(load_settings())
    assert getattr(caught.value, "code", "") == InvalidSettings("").code


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_session_on_ray_traces_its_clips_from_its_own_process(
    environment, opened, video, collector, monkeypatch
):
    monkeypatch.setenv("AOT_TRACING__ENDPOINT", collector.url)
    monkeypatch.setenv("AOT_RAY__ENABLED", "true")
    ingested = aot("ingest", video, "--stream", "walk", "--json")
    assert ingested.code == 0, ingested.err
    clips = traces(collector, "clip")
    assert len(clips) == CLIPS
    for spans in clips:
        lasted = {s.name: s.end_time_unix_nano - s.start_time_unix_nano for s in spans}
        assert min(lasted[name] for name in ("decode", "encode", "reduce", "store")) > 0
