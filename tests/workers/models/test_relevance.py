"""How a model is asked whether a clip matters, and what it says of the right one."""

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


def test_a_part_that_does_not_fit_is_refused(model):
    with pytest.raises(PromptTooLong):
        model.score_relevance("what is seen", [part(1, model.dim, model.context_length)])
