"""Answers written in one step are those that each would be by itself; so is their attention."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import GenerationConfig

from tests.checkpoints import write_tiny_checkpoint
from workers.errors import ModelError
from workers.models import VisualSegment, open_language_model
from workers.models.grouped import Ragged, _grouped_attention, attend
from workers.models.together import writes_greedily

QUESTIONS = ("what is seen", "which colour was the last shape", "how many", "is there a door ?")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tiny_checkpoint(tmp_path_factory.mktemp("together") / "tiny")


@pytest.fixture
def model(folder):
    return open_language_model(folder, kept_bytes=64 << 20)


def window(model, seed, clips=3):
    torch.manual_seed(seed)
    return [VisualSegment(f"[00:00:0{n}]", torch.randn(20, model.dim)) for n in range(clips)]


def answer(model, question, segments, **options):
    return "".join(model.stream_answer(question, segments, max_new_tokens=24, **options))


def by_generate(model, question, segments):
    """By transformers' own loop and its own SDPA."""
    model._half.set_attn_implementation("sdpa")
    together, model._together = model._together, None
    try:
        return answer(model, question, segments)
    finally:
        model._together = together
        model._half.set_attn_implementation("sdpa_of_groups")


def test_answers_are_those_of_generate_one_by_one_and_all_at_once(model):
    asked = [(q, window(model, n % 3)) for n, q in enumerate(QUESTIONS * 4)] + [("what", [])]
    expected = [by_generate(model, *one) for one in asked]
    assert [answer(model, *one) for one in asked] == expected
    model._together.steps = model._together.tokens = 0
    with ThreadPoolExecutor(len(asked)) as pool:
        assert list(pool.map(lambda one: answer(model, *one), asked)) == expected
    assert model._together.tokens > 2 * model._together.steps  # they were written together


def test_one_that_leaves_or_fails_does_not_end_the_others(model, monkeypatch):
    segments = window(model, 0)
    expected = answer(model, QUESTIONS[0], segments)
    assert expected.count(" ") > 8
    left = model.stream_answer(QUESTIONS[1], segments, max_new_tokens=400)
    next(left)
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(answer, model, QUESTIONS[0], segments)
        left.close()
        assert other.result(30) == expected
    stopped = threading.Event()
    stopped.set()
    assert len(answer(model, QUESTIONS[0], segments, stop=stopped)) < len(expected)

    def broken(*arguments):
        raise RuntimeError("device lost")

    with monkeypatch.context() as patch:
        patch.setattr(type(model._together), "_step", broken)
        with pytest.raises(ModelError, match="device lost"):
            answer(model, QUESTIONS[0], segments)
    assert answer(model, QUESTIONS[0], segments) == expected


@pytest.mark.parametrize("queries", [1, 5, 64, 65, 80])
@pytest.mark.parametrize(("heads", "groups"), [(4, 4), (6, 2), (3, 1)])
def test_every_query_attends_to_what_stands_before_it(queries, heads, groups):
    torch.manual_seed(0)
    keys = 80
    query = torch.randn(1, heads, queries, 16)
    key, value = torch.randn(2, 1, groups, keys, 16)
    allowed = torch.ones(queries, keys, dtype=torch.bool).tril(keys - queries)
    every = [one.repeat_interleave(heads // groups, 1) for one in (key, value)]
    expected = scaled_dot_product_attention(query, *every, attn_mask=allowed, scale=0.3)
    torch.testing.assert_close(attend(query, key, value, 0.3), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_in_half_precision_it_is_as_exact_as_its_numbers(dtype):
    torch.manual_seed(0)
    query, (key, value) = torch.randn(1, 6, 9, 16), torch.randn(2, 1, 2, 700, 16)
    expected = attend(*(one.to(dtype).float() for one in (query, key, value)))
    got = attend(query.to(dtype), key.to(dtype), value.to(dtype))
    assert got.dtype == dtype
    torch.testing.assert_close(got.float(), expected, atol=0.02, rtol=0.02)


def test_sequences_of_several_lengths_are_attended_to_each_by_itself():
    torch.manual_seed(0)
    query = torch.randn(3, 4, 1, 8)
    keys, values = (Ragged(torch.randn(1, 2, n, 8) for n in (3, 70, 9)) for _ in range(2))
    together, _ = _grouped_attention(None, query, keys, values, None)
    for n, one in enumerate(together):
        alone = attend(query[n : n + 1], keys[n], values[n])
        torch.testing.assert_close(one, alone[0].transpose(0, 1))


@pytest.mark.parametrize(
    ("given", "is_greedy"),
    [
        ({}, True),
        ({"eos_token_id": [1, 2], "max_new_tokens": 9}, True),
        ({"do_sample": True, "temperature": 0.7}, False),
        ({"repetition_penalty": 1.1}, False),
        ({"suppress_tokens": [3]}, False),
    ],
)
def test_what_is_not_greedy_goes_through_generate(given, is_greedy):
    assert writes_greedily(GenerationConfig(**given)) is is_greedy
