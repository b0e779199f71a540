"""What the routes give: streams, clips as Arrow, coverage, answers with evidence and cost."""

import threading

import httpx
import pyarrow as pa
import pytest

from pipeline import Pipeline
from pipeline.serve.leaving import WhileWanted
from pipeline.values.errors import AnswerStopped
from pipeline.values.plain import to_plain
from tests.pipeline.conftest import CLIPS

ARROW = {"Accept": "application/vnd.apache.arrow.stream"}


@pytest.fixture
def client(served):
    with served.client() as one:
        yield one


def error_of(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, response.json()["error"]["code"]


def test_streams_are_listed_with_their_size_and_state(client):
    views = {view["stream_id"]: view for view in client.get("/v1/streams").json()["streams"]}
    assert {"walk", "other"} <= set(views)
    assert (views["walk"]["status"], views["walk"]["clips"]) == ("complete", CLIPS)
    assert client.get("/v1/streams/walk").json() == {**views["walk"], "shared": None}


def test_a_stream_that_is_not_there_is_not_found(client):
    for path in ("", "/clips", "/coverage", "/clips/0-0"):
        assert error_of(client.get(f"/v1/streams/nobody{path}")) == (404, "UnknownStream")


def test_clips_of_a_range_are_its_index_rows(client, served):
    listed = client.get("/v1/streams/walk/clips").json()
    rows = served.service.store.list_spans("walk")
    assert [clip["index"] for clip in listed["clips"]] == [row.index for row in rows]
    part = client.get("/v1/streams/walk/clips", params={"start": "4", "end": "8"}).json()
    assert [clip["start_s"] for clip in part["clips"]] == [4.0, 6.0]
    few = client.get("/v1/streams/walk/clips", params={"limit": 3}).json()
    assert (len(few["clips"]), few["more"]) == (3, True)


def test_a_clip_is_plain_arrow(client, served):
    span = served.service.store.list_spans("walk")[3]
    answer = client.get(f"/v1/streams/walk/clips/{span.epoch}-{span.index}", headers=ARROW)
    assert answer.headers["content-type"] == ARROW["Accept"]
    table = pa.ipc.open_stream(answer.content).read_all()
    assert table.num_rows == span.num_tokens
    assert {"token", "frame", "cell", "mass", "kind"} <= set(table.column_names)
    assert error_of(client.get("/v1/streams/walk/clips/0-999")) == (404, "UnknownClip")


def test_coverage_tells_the_range_as_it_was_understood(client):
    told = client.get("/v1/streams/walk/coverage", params={"last": "6s"}).json()
    assert (told["start_s"], told["end_s"], told["coverage"]) == (14.0, 20.0, 1.0)
    assert told["wall_end"].startswith("2026-01-01T")
    assert told["clips"] == 3
    assert told["gaps"] == []


def test_an_answer_carries_evidence_and_cost(client):
    body = {"question": "what is seen", "streams": ["walk"], "start": 4, "end": 8}
    told = client.post("/v1/ask", json=body).json()
    evidence, cost = told["evidence"], told["evidence"]["cost"]
    assert [span["start_s"] for span in evidence["spans"]] == [4.0, 6.0]
    assert (evidence["streams"][0]["start_s"], evidence["streams"][0]["end_s"]) == (4.0, 8.0)
    assert (evidence["coverage"], cost["clips_read"], cost["frames_decoded"]) == (1.0, 2, 0)
    assert cost["bytes_read"] == sum(span["size_bytes"] for span in evidence["spans"])
    assert cost["prompt_tokens"] > cost["visual_tokens"] > 0
    assert 0 < cost["first_token_ms"] <= cost["total_ms"]
    parts_ms = [cost[name] for name in ("index_ms", "load_ms", "wait_ms")]
    assert min(parts_ms) > 0
    assert sum(parts_ms) <= cost["first_token_ms"]


def test_streams_may_be_asked_each_over_its_own_range(client):
    windows = [{"stream_id": "walk", "last": "4s"}, {"stream_id": "other", "start": 0, "end": 2}]
    told = client.post("/v1/ask", json={"question": "what is seen", "streams": windows}).json()
    read = [(span["stream_id"], span["start_s"]) for span in told["evidence"]["spans"]]
    assert read == [("walk", 16.0), ("walk", 18.0), ("other", 0.0)]


@pytest.mark.parametrize(
    ("given", "phrase", "start_s", "end_s"),
    [
        ({}, "in the last 6 seconds", 14.0, 20.0),
        ({"start": 4, "end": 8}, None, 4.0, 8.0),
        ({"streams": [{"stream_id": "walk", "last": 2}]}, None, 18.0, 20.0),
    ],
)
def test_a_time_in_the_question_is_its_range_where_none_is_given(
    client, given, phrase, start_s, end_s
):
    body = {"question": "what was seen in the last 6 seconds", "streams": ["walk"], **given}
    for told in (
        client.post("/v1/ask", json=body).json()["evidence"],
        client.post("/v1/search", json=body).json(),
    ):
        [stream] = told["streams"]
        assert (stream["phrase"], stream["start_s"], stream["end_s"]) == (phrase, start_s, end_s)


@pytest.mark.parametrize("fit", ["choose", "recompress", "find", None])
def test_how_a_question_is_made_to_fit_is_told(client, fit):
    options = {"max_visual_tokens": 40, "fit": fit}
    body = {"question": "what is seen", "streams": ["walk"], "options": options}
    evidence = client.post("/v1/ask", json=body).json()["evidence"]
    [level] = evidence["streams"][0]["levels"]
    assert level["tokens_read"] == evidence["cost"]["visual_tokens"] <= 40
    is_merged = fit in ("recompress", None)  # which is the default
    assert level["detail"] == ("merged" if is_merged else "stored")
    assert (level["clips"] == CLIPS) is is_merged


def test_a_search_tells_the_best_clips_as_the_pipeline_finds_them(client, served):
    body = {"question": "what is seen", "streams": ["walk", "other"], "start": 4, "end": 12}
    told = client.post("/v1/search", json={**body, "top": 3}).json()
    assert told["searched"] == 8
    scores = [hit["score"] for hit in told["hits"]]
    assert len(scores) == 3
    assert scores == sorted(scores, reverse=True)
    with Pipeline(served.service.settings) as pipeline:
        found = pipeline.search("what is seen", streams=["walk", "other"], start=4, end=12, most=3)
    assert told == to_plain(found)


def test_a_search_that_nobody_waits_for_looks_no_further(client, served):
    model, left = served.service.answers.answerers().model, threading.Event()
    left.set()
    with pytest.raises(AnswerStopped):
        WhileWanted(model, left).score_relevance("what", [[]])


@pytest.mark.parametrize("path", ["/v1/ask", "/v1/search"])
@pytest.mark.parametrize(
    ("changes", "status", "code"),
    [
        ({"streams": ["nobody"]}, 404, "UnknownStream"),
        ({"start": 500, "end": 600}, 422, "NoFootage"),
        ({"start": 8, "end": 4}, 422, "InvalidQuery"),
        ({"start": "teatime"}, 422, "InvalidQuery"),
        ({"last": "3650d"}, 413, "QueryTooLarge"),
        ({"start": 0, "end": 315_360_000}, 413, "QueryTooLarge"),
        ({"streams": []}, 422, "InvalidRequest"),
        ({"streams": ["../walk"]}, 422, "InvalidRequest"),
        ({"question": ""}, 422, "InvalidRequest"),
        ({"question": "x" * 5000}, 422, "InvalidRequest"),
        ({"question": "what was seen in the first 3650 days"}, 413, "QueryTooLarge"),
        ({"surprise": 1}, 422, "InvalidRequest"),
    ],
)
def test_what_cannot_be_asked_is_told(client, path, changes, status, code):
    body = {"question": "what is seen", "streams": ["walk"], **changes}
    assert error_of(client.post(path, json=body)) == (status, code)


@pytest.mark.parametrize(
    ("path", "changes", "status", "code"),
    [
        ("/v1/ask", {"options": {"max_new_tokens": 10**9}}, 422, "InvalidRequest"),
        ("/v1/ask", {"options": {"max_visual_tokens": 1, "fit": "choose"}}, 413, "QueryTooLarge"),
        ("/v1/ask", {"options": {"fit": "squeeze"}}, 422, "InvalidRequest"),
        ("/v1/search", {"top": 0}, 422, "InvalidRequest"),
        ("/v1/search", {"top": 1001}, 422, "InvalidRequest"),
    ],
)
def test_what_cannot_be_done_is_told(client, path, changes, status, code):
    body = {"question": "what is seen", "streams": ["walk"], **changes}
    assert error_of(client.post(path, json=body)) == (status, code)


def test_a_long_range_is_refused_before_a_row_is_listed(client, served, monkeypatch):
    def never(*arguments):
        raise AssertionError("the index was listed")

    monkeypatch.setattr(type(served.service.store), "list_spans", never)
    body = {"question": "what is seen", "streams": ["walk"], "start": 0, "end": 315_360_000}
    refused = client.post("/v1/ask", json=body)
    assert error_of(refused) == (413, "QueryTooLarge")
    assert "at most 2678400 s" in refused.json()["error"]["message"]


def test_health_says_when_questions_can_be_answered(client, served):
    assert client.get("/healthz").json() == client.get("/v1/health/live").json()
    served.service.answers.answerers()
    assert client.get("/readyz").json() == {"store": "ok", "model": "ok"}


def test_metrics_count_requests_by_route(client):
    client.get("/v1/streams/walk")
    text = client.get("/metrics").text
    assert 'aot_http_requests_total{route="/v1/streams/{stream_id}",status="200"}' in text


def test_an_unknown_route_and_a_wrong_method_are_told_in_the_same_shape(client):
    assert error_of(client.get("/v1/nothing")) == (404, "NoSuchRoute")
    assert error_of(client.put("/v1/streams")) == (405, "NoSuchMethod")
