"""How a model is asked whether a clip matters, and what it says of the right one."""

from dataclasses import replace

import pytest
import torch

from tests.checkpoints import write_tiny_checkpoint
from workers.errors import InvalidCheckpoint, PromptTooLong
from workers.models import VisualSegment, open_language_model
from workers.models.relevance import RelevanceRule, read_rules, write_relevance

RULES = (
    RelevanceRule("was {} shown ?", ("slide A", "slide B")),
    RelevanceRule("was there a {} ?", ("red circle", "red cross")),
)


@pytest.mark.parametrize(
    ("question", "asked", "expects_yes"),
    [
        ("when did the red cross come ?", "was there a red cross ?", True),
        ("was the red cross before the red circle ?", "was there a red cross ?", True),
        ("what was on slide B ?", "was slide B shown ?", True),
        ("what was on slide Bx ?", "what was on slide Bx ?", False),
        ("how many objects were there ?", "how many objects were there ?", False),
    ],
)
def test_the_first_rule_that_names_something_of_the_question_asks(question, asked, expects_yes):
    prompt = write_relevance(question, RULES)
    assert (prompt.text, prompt.expects_yes) == (asked, expects_yes)


def test_what_is_answered_first_is_asked_again_as_a_statement():
    rules = (*RULES, RelevanceRule("was there a {answer} {} ?", ("circle", "cross")))
    asked = write_relevance("what colour was the circle ?", rules)
    assert (asked.first, asked.expects_yes) == ("what colour was the circle ?", True)
    assert asked.about("red") == "was there a red circle ?"
    assert asked.about("{}") == "was there a {} circle ?"
    assert write_relevance("when did the red circle come ?", rules).first is None


def test_without_rules_it_is_asked_in_words():
    prompt = write_relevance("who is at {the} door?", ())
    assert prompt.expects_yes
    assert prompt.text.endswith("who is at {the} door?")


@pytest.mark.parametrize(
    "given",
    [
        "yes",
        [{"ask": "was there ?", "of": ["a"]}],
        [{"ask": "{} {}", "of": ["a"]}],
        [{"ask": "{0!r} {}", "of": ["a"]}],
        [{"ask": "{} {answer} {answer}", "of": ["a"]}],
        [{"ask": "{answer}", "of": ["a"]}],
        [{"ask": "{}", "of": [""]}],
        [{"ask": "{}", "of": "a"}],
        [{"ask": "{}"}],
    ],
)
def test_rules_that_do_not_read_are_refused(given):
    with pytest.raises(InvalidCheckpoint, match=r"got relevance .* mend config"):
        read_rules({"relevance": given}, "tiny")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return open_language_model(write_tiny_checkpoint(tmp_path_factory.mktemp("m") / "tiny"))


def part(seed: int, dim: int, count: int = 3) -> list[VisualSegment]:
    generator = torch.Generator().manual_seed(seed)
    return [VisualSegment("[00:00:01]", torch.randn(count, dim, generator=generator))]


def test_each_part_is_scored_by_itself(model):
    first, second = part(1, model.dim), part(2, model.dim)

    together = model.score_relevance("what is seen", [first, second])

    assert together == [model.score_relevance("what is seen", [p])[0] for p in (first, second)]
    assert together[0] != together[1]


def test_a_part_is_asked_back_what_the_model_says_of_it(model, monkeypatch):
    rules = (RelevanceRule("is {} {answer}", ("seen",)),)
    monkeypatch.setattr(model, "reading", replace(model.reading, relevance=rules))
    parts = [part(seed, model.dim) for seed in (1, 2)]
    said = ["".join(model.stream_answer("what is seen", p, max_new_tokens=8)) for p in parts]

    scores = model.score_relevance("what is seen", parts)

    assert said[0] != said[1]
    for p, words, score in zip(parts, said, scores, strict=True):
        asked = RelevanceRule(f"is {{}} {words.strip()}", ("seen",))
        monkeypatch.setattr(model, "reading", replace(model.reading, relevance=(asked,)))
        assert model.score_relevance("what is seen", [p]) == [score]
    monkeypatch.setattr(model, "reading", replace(model.reading, relevance=rules))
    with pytest.raises(PromptTooLong):
        model.score_relevance("what is seen", [part(1, model.dim, model.context_length)])


def test_a_part_that_does_not_fit_is_refused(model):
    with pytest.raises(PromptTooLong):
        model.score_relevance("what is seen", [part(1, model.dim, model.context_length)])
