"""Never an answer about nothing; several streams in one context, a live one among them."""

import itertools
import random
from dataclasses import replace

import pytest

from pipeline.values.types import Gap

FOOTAGE = ((0.0, 20.0), (600.0, 620.0), (3000.0, 3020.0), (7200.0, 7220.0))
"""Of two hours of the stream `patchy`, in seconds."""
QUESTIONS = ("what is seen", "which colour was the last shape", "is there a door ?", "how many")
NOWHERE = ("what was there at 1 pm", "was there a car yesterday morning", "what was seen at 18:20")
"""The stream begins at noon."""


@pytest.fixture(scope="module")
def patchy(base, served):
    """Clips of `walk` at four places of two hours, each hole between them with its reason."""
    store = served.service.store
    clips = list(store.iter_clips(store.list_spans("walk")))
    info = replace(store.get_info("walk"), stream_id="patchy")
    store.put_info(info)
    lease = store.acquire_lease("patchy", "test", ttl_s=600)
    index = 0
    for number, (start_s, end_s) in enumerate(FOOTAGE):
        for clip in clips:
            moved = replace(
                clip,
                stream_id="patchy",
                index=index,
                start_s=clip.start_s + start_s,
                end_s=clip.end_s + start_s,
                pts_s=tuple(pts_s + start_s for pts_s in clip.pts_s),
                wall_start_s=clip.wall_start_s + start_s,
            )
            store.put_clip(moved, lease, fingerprint=info.fingerprint)
            index += 1
        until_s = FOOTAGE[number + 1][0] if number + 1 < len(FOOTAGE) else 9000.0
        if number % 2 == 0:  # of some holes nothing is known
            store.put_gap(Gap("patchy", 0, end_s, until_s, "disconnected"), lease)
    store.release_lease(lease)
    yield "patchy"
    store.delete_stream("patchy")


def empty_ranges(seed):
    """Ranges of all lengths that lie between the footage, up to its very edge."""
    rng = random.Random(seed)
    holes = [(a[1], b[0]) for a, b in itertools.pairwise(FOOTAGE)]
    holes.append((FOOTAGE[-1][1], 1e6))
    while True:
        low, high = rng.choice(holes)
        start_s = rng.choice([low, rng.uniform(low, high)])
        longest_s = min(high - start_s, 3600.0)
        length_s = rng.choice([0.1, 1.0, longest_s, rng.uniform(0.1, longest_s)])
        if 0 < length_s <= high - start_s:
            yield start_s, start_s + length_s


@pytest.mark.parametrize("count", [60, pytest.param(500, marks=pytest.mark.slow)])
def test_no_question_about_an_empty_stretch_is_answered(served, patchy, monkeypatch, count):
    model = served.service.answers.answerers().model

    def never(*arguments, **options):
        raise AssertionError("the model was asked about nothing")

    for name in ("stream_answer", "score_relevance"):
        monkeypatch.setattr(model, name, never)
    ranges = empty_ranges(count)
    with served.client() as client:
        for number in range(count):
            start, end = (round(one, 3) for one in next(ranges))
            text = QUESTIONS[number % len(QUESTIONS)]
            url = f"stream://{patchy}?start={start}&end={end}"
            content = [
                {"type": "video_url", "video_url": {"url": url}},
                {"type": "text", "text": text},
            ]
            path, body = [
                ("/v1/ask", {"question": text, "streams": [patchy], "start": start, "end": end}),
                ("/v1/search", {"question": text, "streams": [patchy], "start": start, "end": end}),
                (
                    "/v1/chat/completions",
                    {
                        "model": "aot",
                        "stream": number % 2 == 0,
                        "messages": [{"role": "user", "content": content}],
                    },
                ),
                ("/v1/ask", {"question": NOWHERE[number % 3], "streams": [patchy]}),
            ][number % 4]
            told = client.post(path, json=body)
            assert (told.status_code, told.json()["error"]["code"]) == (422, "NoFootage"), body
            assert "nearest" in told.json()["error"]["message"], told.text


def test_what_of_a_range_is_empty_is_told_with_its_answer(served, patchy):
    body = {"question": "what is seen", "streams": [patchy], "start": 10, "end": 610}
    with served.client() as client:
        told = client.post("/v1/ask", json=body).json()["evidence"]
    [stream] = told["streams"]
    [gap] = stream["gaps"]
    assert (gap["start_s"], gap["end_s"], gap["reason"]) == (20.0, 600.0, "disconnected")
    assert told["coverage"] == pytest.approx(20 / 600, abs=0.01)


@pytest.fixture
def eight(served):
    """`walk`, six copies of it, and a live one that is being written: its last clip is open."""
    store = served.service.store
    clips = list(store.iter_clips(store.list_spans("walk")))
    names = [f"copy{number}" for number in range(6)]
    for name in (*names, "live"):
        status = "running" if name == "live" else "complete"
        info = replace(store.get_info("walk"), stream_id=name, status=status)
        store.put_info(info)
        lease = store.acquire_lease(name, "test", ttl_s=600)
        moved = [replace(clip, stream_id=name) for clip in clips]
        for clip in moved[:-1]:
            store.put_clip(clip, lease, fingerprint=info.fingerprint)
        last = store.put_open if name == "live" else store.put_clip
        last(moved[-1], lease, fingerprint=info.fingerprint)
        store.release_lease(lease)
    yield ["walk", *names, "live"]
    for name in (*names, "live"):
        store.delete_stream(name)


def test_eight_streams_stand_in_one_context_a_live_one_with_its_open_clip(
    served, eight, monkeypatch
):
    model, read = served.service.answers.answerers().model, []
    answer = type(model).stream_answer

    def spied(question, segments, **options):
        read.append([segment.mark for segment in segments])
        return answer(model, question, segments, **options)

    monkeypatch.setattr(model, "stream_answer", spied)
    with served.client() as client:
        body = {"question": "what is seen", "streams": eight, "last": "4s"}
        told = client.post("/v1/ask", json=body).json()["evidence"]
    spans = told["spans"]
    assert [(one["stream_id"], one["start_s"]) for one in spans] == [
        (name, start_s) for name in eight for start_s in (16.0, 18.0)
    ]
    assert [one["is_open"] for one in spans] == [False] * 15 + [True]
    [marks] = read
    assert [sum(name in mark for mark in marks) for name in eight] == [1] * 8
    assert told["coverage"] == 1.0
    assert told["cost"]["clips_read"] == 16
