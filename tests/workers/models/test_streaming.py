"""Streaming ends in every case: done, failed, stalled, abandoned."""

import threading
import time

import pytest
import torch
from transformers import AutoTokenizer

from tests.checkpoints import write_tiny_checkpoint
from workers.errors import ModelError
from workers.models import open_language_model
from workers.models.streaming import stream_text


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tiny_checkpoint(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def tokenizer(folder):
    return AutoTokenizer.from_pretrained(folder)


def generate_words(ids):
    """A `generate` that gives these ids, then ends, unless told to stop."""

    def generate(streamer, stopping_criteria):
        streamer.put(torch.tensor([[1]]))  # the prompt, which is skipped
        for i in ids:
            streamer.put(torch.tensor([i]))
            if stopping_criteria(torch.tensor([[1]]), None).all():
                break
        streamer.end()

    return generate


def generating_threads():
    return [thread for thread in threading.enumerate() if thread.name == "generate"]


def test_pieces_join_to_the_decoded_text(tokenizer):
    ids = tokenizer("the first red car , time 12 : 30 .")["input_ids"]

    pieces = list(stream_text(generate_words(ids), tokenizer, 5.0))

    assert "".join(pieces) == tokenizer.decode(ids)
    assert "" not in pieces


def test_a_failure_reaches_the_reader_after_what_came_before(tokenizer):
    ids = tokenizer("the first red car")["input_ids"]

    def generate(streamer, stopping_criteria):
        generate_words(ids[:3])(streamer, stopping_criteria)
        raise RuntimeError("out of memory\nat layer 3")

    got = []
    with pytest.raises(ModelError, match=r"RuntimeError: out of memory at layer 3") as error:
        got.extend(stream_text(generate, tokenizer, 5.0))
    assert isinstance(error.value.__cause__, RuntimeError)


def test_a_failure_before_the_first_token(tokenizer):
    def generate(streamer, stopping_criteria):
        raise KeyError("x")

    with pytest.raises(ModelError, match="KeyError"):
        list(stream_text(generate, tokenizer, 5.0))


def test_a_stop_ends_the_text_though_its_reader_waits_for_more(tokenizer):
    ids = tokenizer("the first red car")["input_ids"]
    stop = threading.Event()
    told = []

    def generate(streamer, stopping_criteria):
        for i, token in enumerate(ids * 5):
            if i == 2:
                stop.set()
            streamer.put(torch.tensor([token]))
            told.append(token)
            if stopping_criteria(torch.tensor([[1]]), None).all():
                break
        streamer.end()

    list(stream_text(generate, tokenizer, 5.0, stop))
    assert len(told) == 3


def test_a_stall_ends_in_an_error(tokenizer):
    release = threading.Event()

    def generate(streamer, stopping_criteria):
        release.wait(100)

    start_s = time.monotonic()
    with pytest.raises(ModelError, match=r"no token within 0\.1 s"):
        list(stream_text(generate, tokenizer, 0.1))
    release.set()

    assert time.monotonic() - start_s < 50


def test_leaving_stops_the_generation(folder):
    model = open_language_model(folder)

    answer = model.stream_answer("what ?", [], max_new_tokens=30000)
    next(answer)
    answer.close()

    deadline_s = time.monotonic() + 100
    while generating_threads() and time.monotonic() < deadline_s:
        time.sleep(0.01)
    assert not generating_threads()


def test_a_real_models_failure_is_typed(folder, monkeypatch):
    model = open_language_model(folder)
    monkeypatch.setattr(
        model._half, "forward", lambda *args, **kwargs: (_ for _ in ()).throw(MemoryError("full"))
    )

    with pytest.raises(ModelError, match="MemoryError: full"):
        list(model.stream_answer("what ?", []))


def test_answers_of_two_threads_do_not_mix(folder):
    model = open_language_model(folder)
    questions = ["what is the first shape ?", "how many red car ?"]
    expected = ["".join(model.stream_answer(question, [])) for question in questions]
    got = {}

    def ask(i: int) -> None:
        got[i] = "".join(model.stream_answer(questions[i], []))

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)

    assert [got[0], got[1]] == expected
    assert expected[0] != expected[1]
