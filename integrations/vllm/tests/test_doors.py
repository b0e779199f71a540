"""An unmodified `vllm serve` says what the model itself says, by both doors."""

import json
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace

import pytest
import torch
from aot_vllm.engine import VllmEngine, open_store_door, open_tensor_door

from integrations.vllm.tests.asking import MODEL, ask_here, ask_there, read_segments
from pipeline import Pipeline
from pipeline.ask.question import Question
from pipeline.ask.run import ask
from pipeline.store.embedded import start_embedded
from pipeline.store.embedded.folder import read_pid
from pipeline.values.errors import FingerprintMismatch
from workers.answer import AnswerSettings
from workers.errors import ModelError, PromptTooLong, WorkerLost
from workers.models import VisualSegment, open_language_model
from workers.models.base import StoredRows

DOORS = {"tensors": open_tensor_door, "store": open_store_door}
NEAR = 1e-4
TRIES = 20


@pytest.fixture(scope="module")
def model():
    return open_language_model(MODEL)


@pytest.fixture(scope="module", params=DOORS)
def engine(request, server) -> Iterator[VllmEngine]:
    with closing(DOORS[request.param](AnswerSettings(str(MODEL)), server.url)) as opened:
        yield opened


@pytest.fixture(scope="module")
def by_name(server) -> Iterator[VllmEngine]:
    with closing(open_store_door(AnswerSettings(str(MODEL)), server.url)) as opened:
        yield opened


def question(**fields) -> Question:
    given = {"text": "what colour was the square ?", "streams": ("tenth",), "max_new_tokens": 8}
    return Question(**{**given, "keep_positions": False, **fields})


@pytest.mark.parametrize("stream", ["full", "tenth"])
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"start": 8, "end": 16, "text": "was there a red circle ?"},
        {"start": 3, "end": 21, "marks": "clip"},
        {"start": 5, "end": 6, "marks": "clip", "text": "which shape was seen first ?"},
    ],
    ids=["all", "one-clip", "marks-a-clip", "a-second"],
)
def test_ids_and_log_probabilities_are_those_of_the_model(store, model, engine, stream, fields):
    asked = question(streams=(stream,), **fields)
    segments = read_segments(store, model, asked)
    here = ask_here(model, asked.text, segments, asked.max_new_tokens)
    there = ask_there(engine, asked.text, segments, asked.max_new_tokens)
    assert there.ids == here.ids
    torch.testing.assert_close(there.logprobs, here.logprobs, atol=NEAR, rtol=0)
    torch.testing.assert_close(there.top, here.top, atol=NEAR, rtol=0)


def test_the_answer_with_its_sources_is_as_with_the_model_here(store, model, engine):
    here, there = (ask(store, one, question(start=4, end=20)) for one in (model, engine))
    assert there.text == here.text != ""
    assert there.citations == here.citations
    assert (there.visual_tokens, there.prompt_tokens) == (here.visual_tokens, here.prompt_tokens)


def test_the_second_question_on_a_window_finds_it_read(store, model, engine):
    asked = question(streams=("full",), start=1, end=23)
    segments = read_segments(store, model, asked)
    first = ask_there(engine, "what was seen ?", segments, 4)
    second = ask_there(engine, asked.text, segments, 4)
    window = engine.count_tokens("", segments)
    assert first.cached < window * 0.5
    assert second.cached > window * 0.9
    assert second.ids == ask_here(model, asked.text, segments, 4).ids


def test_names_are_small_whatever_they_name(store, model, by_name):
    segments = read_segments(store, model, question(streams=("full",), marks="clip"))
    body = json.dumps(by_name._with_names("what was seen ?", segments)["features"])
    assert sum(len(segment.tokens) for segment in segments) == 1176
    assert len(body) < 1000


def test_sixteen_at_once(store, model, engine):
    asked = [
        question(streams=(stream,), start=start, end=start + 7, text=text, max_new_tokens=4)
        for stream in ("full", "tenth")
        for start in (0, 5, 10, 15)
        for text in ("what was seen ?", "was there a red circle ?")
    ]
    segments = [read_segments(store, model, one) for one in asked]
    here = [ask_here(model, one.text, s, 4).ids for one, s in zip(asked, segments, strict=True)]
    with ThreadPoolExecutor(16) as pool:
        there = pool.map(lambda o, s: ask_there(engine, o.text, s, 4).ids, asked, segments)
        assert list(there) == here


def rows_of(store, fingerprint: str, rows: list[int], index: int = 0) -> VisualSegment:
    """Some rows of a clip of `full`, as if they were what is left of it within a range."""
    clip = store.get_clip(store.list_spans("full")[index])
    chosen = torch.tensor(rows)
    stored = StoredRows(f"{fingerprint}/full/0/{index}@1.0", chosen)
    return VisualSegment("[00:00:00]", clip.tokens.tokens[chosen], stored=stored)


@pytest.mark.parametrize("seed", range(TRIES))
def test_a_store_killed_while_it_is_read_costs_that_question_alone(
    seed, store, model, by_name, server, folder
):
    rng = torch.Generator().manual_seed(seed)
    fingerprint = store.get_info("full").fingerprint
    rows = sorted(torch.randperm(392, generator=rng)[:150].tolist())  # nobody asked for these yet
    segment = rows_of(store, fingerprint, rows, seed % 3)
    here = ask_here(model, "what was seen ?", [segment], 4)
    pid = read_pid(folder / "store")
    assert pid is not None
    halted, delay_s = seed % 2 == 0, float(torch.rand(1, generator=rng)) * 0.1
    if halted:
        os.kill(pid, signal.SIGSTOP)  # the read is under way and cannot end before the kill
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(ask_there, by_name, "what was seen ?", [segment], 4)
        time.sleep(delay_s)
        os.kill(pid, signal.SIGKILL)
        error = asked.exception(60)
    if halted:
        assert isinstance(error, ModelError)
    elif error is None:  # it had been read before
        assert asked.result() == replace(
            here, logprobs=asked.result().logprobs, top=asked.result().top
        )
    assert server.process.poll() is None
    start_embedded(folder / "store")
    assert ask_there(by_name, "what was seen ?", [segment], 4).ids == here.ids


def test_another_model_is_refused_before_it_is_asked(store, engine):
    with pytest.raises(FingerprintMismatch) as refused:
        ask(store, engine, question(streams=("other",)))
    made_by = store.get_info("other").made_with.loaded.weights
    assert made_by in str(refused.value)
    assert engine.identity.weights in str(refused.value)


@pytest.mark.parametrize(
    "case", ["model", "print", "rows", "length", "clip", "stream", "level", "no-name"]
)
def test_what_the_store_has_not_fails_alone_and_the_log_says_why(
    case, store, model, by_name, server
):
    own, other = (store.get_info(name).fingerprint for name in ("tenth", "other"))
    name, length, why = {
        "model": (
            f"{other}/other/0/0@1.0:0-4,n",
            6,
            store.get_info("other").made_with.loaded.weights,
        ),
        "print": (f"{other}/tenth/0/0@1.0:0-4,n", 6, f"{own}, got a question about {other}"),
        "rows": (f"{own}/tenth/0/0@1.0:0-90000", 90_001, "is no name"),
        "length": (f"{own}/tenth/0/0@1.0:0-4,n", 5, "is no name of 5 rows"),
        "clip": (f"{own}/tenth/0/77@1.0:0-4,n", 6, "MissingValue"),
        "stream": (f"{own}/nothere/0/0@1.0:0-4,n", 6, "UnknownStream"),
        "level": (f"{own}/tenth/0/0@0.02:0-4,n", 6, "the clip was faded since"),
        "no-name": ("picture", 6, "'picture' is no name of 6 rows"),
    }[case]
    length = min(length, 6)
    body = {
        "token_ids": [1, *[by_name.reader.writer.video_token_id] * length, 2],
        "features": {
            "mm_hashes": {"video": [name]},
            "mm_placeholders": {"video": [{"offset": 1, "length": length}]},
        },
        "sampling_params": {"max_tokens": 2, "temperature": 0},
    }
    before = server.log.stat().st_size
    answer = by_name.client.post("/inference/v1/generate", json=body)
    assert answer.status_code == 500
    said = server.log.read_bytes()[before:].decode()
    assert why in said
    segment = rows_of(store, store.get_info("full").fingerprint, [1, 5, 7])
    here = ask_here(model, "what was seen ?", [segment], 2)
    assert ask_there(by_name, "what was seen ?", [segment], 2).ids == here.ids


def test_merged_tokens_have_no_name(store, by_name):
    with pytest.raises(ModelError, match="merged further"):
        ask(store, by_name, question(max_visual_tokens=20, fit="recompress"))


def test_merged_tokens_travel_with_the_question(store, model, server):
    asked = question(max_visual_tokens=20, fit="recompress")
    with closing(open_tensor_door(AnswerSettings(str(MODEL)), server.url)) as engine:
        assert ask(store, engine, asked).text == ask(store, model, asked).text


def test_places_that_were_kept_are_refused(store, engine):
    with pytest.raises(ModelError, match="keep_positions"):
        ask(store, engine, question(keep_positions=True))


def test_too_long_a_prompt_is_refused_here(store, engine):
    short = replace(engine, context_length=100)
    segments = [VisualSegment("", torch.zeros(90, 192))]
    with pytest.raises(PromptTooLong):
        next(short.stream_answer("what ?", segments, max_new_tokens=20))


def test_no_server_is_said_so():
    with pytest.raises(WorkerLost, match="no vLLM at"):
        open_tensor_door(AnswerSettings(str(MODEL)), "http://127.0.0.1:9")


def test_the_settings_name_the_engine(config, server):
    settings = {
        "model": {"id": str(MODEL), "engine": f"vllm-store+{server.url}"},
        "store": {"url": config.url},
    }
    with Pipeline.open(None, settings) as pipeline:
        assert isinstance(pipeline.model, VllmEngine)
        answer = pipeline.ask("what was seen ?", streams="tenth", keep_positions=False)
    assert answer.text
