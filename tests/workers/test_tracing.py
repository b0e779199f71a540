"""Spans as the SDK keeps them, and over a socket as a collector gets them."""

import pickle
import socket
import time
from dataclasses import replace

import pytest
import torch
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from aot import ClipTokens
from tests.collector import Collector
from workers.errors import InvalidSettings
from workers.tracing.open import TraceSettings, open_tracer
from workers.tracing.otel import OtelTracer
from workers.tracing.spans import NO_TRACER, trace_clip
from workers.types import ClipStats, CompressedClip


@pytest.fixture
def exporter():
    return InMemorySpanExporter()


@pytest.fixture
def tracer(exporter):
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    made = OtelTracer(provider)
    yield made
    made.close()


@pytest.fixture
def clip():
    index = torch.zeros(1, dtype=torch.int64)
    kind = torch.zeros(1, dtype=torch.uint8)
    tokens = ClipTokens(torch.zeros(1, 4), index, index, torch.ones(1), kind, (1, 1))
    stats = ClipStats(
        decode_s=0.25, encode_s=0.5, reduce_s=0.125, frames_in=8, tokens_in=90, tokens_out=1
    )
    return CompressedClip("front", 0, 7, 14.0, 16.0, (14.0,), tokens, stats=stats)


def seconds(span) -> float:
    return (span.end_time - span.start_time) / 1e9


def by_name(exporter):
    return {span.name: span for span in exporter.get_finished_spans()}


def test_a_clip_is_one_trace_whose_parts_lie_where_they_belong(tracer, exporter, clip):
    with trace_clip(tracer, clip):
        time.sleep(0.02)
    spans = by_name(exporter)
    assert set(spans) == {"clip", "decode", "push", "encode", "reduce", "store"}
    assert len({span.context.trace_id for span in spans.values()}) == 1
    parents = {name: span.parent and span.parent.span_id for name, span in spans.items()}
    ids = {name: span.context.span_id for name, span in spans.items()}
    assert parents["clip"] is None
    assert {parents[name] for name in ("decode", "push", "store")} == {ids["clip"]}
    assert {parents[name] for name in ("encode", "reduce")} == {ids["push"]}


def test_parts_last_as_long_as_was_measured_one_behind_the_other(tracer, exporter, clip):
    with trace_clip(tracer, clip):
        time.sleep(0.02)
    spans = by_name(exporter)
    lasted = {"decode": 0.25, "push": 0.625, "encode": 0.5, "reduce": 0.125}
    for name, expected_s in lasted.items():
        assert seconds(spans[name]) == pytest.approx(expected_s, abs=1e-6)
    assert seconds(spans["store"]) >= 0.02
    order = [spans[name].start_time for name in ("decode", "encode", "reduce", "store")]
    assert order == sorted(order)
    whole = spans["clip"]
    assert whole.start_time <= spans["decode"].start_time
    assert whole.end_time >= spans["store"].end_time
    assert dict(whole.attributes) | {"stream": "front", "index": 7, "tokens_in": 90} == dict(
        whole.attributes
    )


def test_an_error_is_told_by_its_code_and_goes_on(tracer, exporter, clip):
    with pytest.raises(ConnectionError), trace_clip(tracer, clip):
        raise ConnectionError("redis://:secret@host is away")
    spans = by_name(exporter)
    assert spans["store"].status.description == "ConnectionError"
    assert not spans["clip"].status.is_ok
    assert all("secret" not in span.to_json() for span in spans.values())


def test_a_reader_that_leaves_is_no_error(tracer, exporter):
    def answer():
        with tracer.span("question") as whole, whole.part("answer"):
            yield "a"
            yield "b"

    words = answer()
    next(words)
    words.close()
    assert {span.name: span.status.is_ok for span in exporter.get_finished_spans()} == {
        "answer": True,
        "question": True,
    }


def test_nothing_is_traced_without_settings(clip):
    tracer = open_tracer(None)
    assert tracer is NO_TRACER
    with trace_clip(tracer, clip), tracer.span("a", b=1) as span, span.part("c") as part:
        part.tell(d=2)
    tracer.close()


def test_settings_travel():
    settings = TraceSettings("http://127.0.0.1:4318", 0.5)
    assert pickle.loads(pickle.dumps(settings)) == settings


@pytest.mark.parametrize(
    "endpoint", ["127.0.0.1:4318", "grpc://a:4317", "http://", "", "file:///a"]
)
def test_an_endpoint_that_is_none_is_refused(endpoint):
    with pytest.raises(InvalidSettings, match="4318"):
        open_tracer(TraceSettings(endpoint))


@pytest.fixture
def collector():
    made = Collector()
    yield made
    made.close()


@pytest.mark.parametrize(("path", "asked"), [("", "/v1/traces"), ("/in/traces", "/in/traces")])
def test_a_collector_gets_what_was_traced(collector, clip, path, asked):
    tracer = open_tracer(TraceSettings(collector.url + path))
    for index in range(3):
        with trace_clip(tracer, replace(clip, index=index)):
            pass
    tracer.close()
    assert set(collector.paths) == {asked}
    names = sorted(span.name for span in collector.spans)
    assert names == sorted(["clip", "decode", "push", "encode", "reduce", "store"] * 3)
    assert len({span.trace_id for span in collector.spans}) == 3
    [resource] = {
        attribute.value.string_value
        for request in collector.requests
        for one in request.resource_spans
        for attribute in one.resource.attributes
    }
    assert resource == "aot-stream"


def test_of_a_share_whole_traces_are_sent_and_no_halves(collector, clip):
    tracer = open_tracer(TraceSettings(collector.url, share=0.3))
    for index in range(200):
        with trace_clip(tracer, replace(clip, index=index)):
            pass
    tracer.close()
    traces = [span.trace_id for span in collector.spans]
    assert 20 < len(set(traces)) < 120
    assert all(traces.count(trace) == 6 for trace in set(traces))


def test_a_collector_that_is_away_holds_nothing_up(clip, caplog):
    with socket.socket() as taken:  # bound and not listening: refused
        taken.bind(("127.0.0.1", 0))
        tracer = open_tracer(TraceSettings(f"http://127.0.0.1:{taken.getsockname()[1]}"))
        began_s = time.monotonic()
        for index in range(100):
            with trace_clip(tracer, replace(clip, index=index)):
                pass
        traced_s = time.monotonic() - began_s
        tracer.close()
        closed_s = time.monotonic() - began_s
    assert traced_s < 5
    assert closed_s < 20
    assert "opentelemetry" in caplog.text or caplog.records
