"""A window that was read is asked again: the same answers, without reading it again."""

import inspect
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import zip_longest

import pytest
import torch

from tests.checkpoints import write_tiny_checkpoint
from workers.models import VisualSegment, open_language_model
from workers.models.prefix import KeptPrompts, ReadPrompt, RoomyLayer, digest_of

QUESTIONS = ("what is seen", "which colour was the last shape", "what is seen")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tiny_checkpoint(tmp_path_factory.mktemp("kept") / "tiny")


@pytest.fixture(scope="module")
def plain(folder):
    return open_language_model(folder)


@pytest.fixture
def keeping(folder):
    return open_language_model(folder, kept_bytes=64 << 20)


def window(model, seed=0, clips=3):
    torch.manual_seed(seed)
    return [VisualSegment(f"[00:00:0{n}]", torch.randn(20, model.dim)) for n in range(clips)]


def answer(model, question, segments):
    return "".join(model.stream_answer(question, segments, max_new_tokens=24))


def test_answers_are_those_of_a_prompt_that_is_read_whole(plain, keeping):
    for seed in range(3):
        segments = window(plain, seed)
        for question in QUESTIONS:
            assert answer(keeping, question, segments) == answer(plain, question, segments)
    assert keeping.kept.hits == 6


def test_what_was_read_is_not_read_again(keeping, monkeypatch):
    lengths = []
    forward = type(keeping._half).forward

    def spied(self, *arguments, **options):
        lengths.append(options["input_ids"].shape[1])
        return forward(self, *arguments, **options)

    spied.__signature__ = inspect.signature(forward)
    segments = window(keeping)
    answer(keeping, QUESTIONS[0], segments)
    monkeypatch.setattr(type(keeping._half), "forward", spied)
    answer(keeping, QUESTIONS[1], segments)
    assert max(lengths) < 20  # its own words


def test_one_changed_token_is_another_prompt(keeping):
    segments = window(keeping)
    answer(keeping, QUESTIONS[0], segments)
    segments[1].tokens[3, 2] += 1e-3
    answer(keeping, QUESTIONS[0], segments)
    assert keeping.kept.hits == 0
    assert digest_of(torch.zeros(1, 2), torch.zeros(2, 1)) != digest_of(
        torch.zeros(2, 1), torch.zeros(1, 2)
    )


def test_an_answer_that_was_left_leaves_what_was_read_as_it_was(plain, keeping):
    segments = window(plain)
    pieces = keeping.stream_answer(QUESTIONS[1], segments, max_new_tokens=200)
    next(pieces)
    pieces.close()
    for _ in range(2):
        assert answer(keeping, QUESTIONS[0], segments) == answer(plain, QUESTIONS[0], segments)


def test_two_at_one_time_do_not_write_into_each_other(plain, keeping):
    segments = window(plain)
    expected = [answer(plain, question, segments) for question in QUESTIONS[:2]]
    answer(keeping, QUESTIONS[0], segments)
    both = [keeping.stream_answer(q, segments, max_new_tokens=24) for q in QUESTIONS[:2]]
    pieces = zip(*zip_longest(*both, fillvalue=""), strict=True)
    assert ["".join(one) for one in pieces] == expected
    assert answer(keeping, QUESTIONS[0], segments) == expected[0]


def test_what_is_in_use_is_copied_and_what_is_being_read_is_waited_for():
    kept, read = KeptPrompts(1 << 20), []

    def reading():
        read.append(prompt(8))
        return read[-1]

    with kept.lend("a", reading) as one, kept.lend("a", reading) as other:
        assert one is read[0]
        assert other is not one
        for own in (one, other):
            own.layers[0].update(torch.ones(1, 2, 3, 4), torch.ones(1, 2, 3, 4))
        assert one.get_seq_length() == other.get_seq_length() == 11
    with ThreadPoolExecutor(4) as pool:
        slow = lambda: (time.sleep(0.2), reading())[1]  # noqa: E731
        lengths = pool.map(lambda _: _lent(kept, "b", slow), range(4))
    assert list(lengths) == [8] * 4
    assert len(read) == 2
    assert kept.hits == 1 + 3


def test_a_prompt_that_could_not_be_read_is_read_by_the_next():
    kept = KeptPrompts(1 << 20)

    def fail():
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError), kept.lend("a", fail):
        pass
    assert _lent(kept, "a", lambda: prompt(8)) == 8


def _lent(kept, digest, read):
    with kept.lend(digest, read) as one:
        return one.get_seq_length()


def test_the_least_recently_asked_goes_first():
    kept = KeptPrompts(3 * prompt(8).size_bytes)
    read = []

    def lend(name, length=8):
        _lent(kept, name, lambda: (read.append(name), prompt(length))[1])

    for name in (*"abc", "a", "d", "a", "c", "d"):
        lend(name)
    assert "".join(read) == "abcd"
    lend("b")
    assert "".join(read) == "abcdb"
    lend("large", 4000)
    lend("large", 4000)
    assert read[5:] == ["large", "large"]
    assert kept.size_bytes <= kept.max_bytes


def prompt(length):
    read = ReadPrompt(2)
    for layer in read.layers:
        layer.update(torch.zeros(1, 2, length, 4), torch.zeros(1, 2, length, 4))
    return read


def test_a_layer_holds_what_was_put_into_it_and_can_take_it_back():
    layer, expected = RoomyLayer(), torch.empty(1, 2, 0, 4)
    for number in range(200):
        new = torch.randn(1, 2, 1 + number % 3, 4)
        expected = torch.cat([expected, new], -2)
        keys, values = layer.update(new, new + 1)
        assert torch.equal(keys, expected)
        assert torch.equal(values, expected + 1)
    layer.cut(17)
    assert layer.get_seq_length() == 17
    keys, _ = layer.update(new, new)
    assert torch.equal(keys[..., :17, :], expected[..., :17, :])
