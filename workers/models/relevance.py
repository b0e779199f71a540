"""How a language half is asked whether something it reads matters for a question.

No second model: the one that will answer says how likely it is to say yes. A model that follows
instructions is asked in words; a checkpoint that knows few questions names its own:

    "relevance": [{"ask": "was there a {} ?", "of": ["red circle", "red square"]},
                  {"ask": "was there a {answer} {} ?", "of": ["circle", "square"]}]

The first rule one of whose names stands in the question is taken. With `{answer}` the question
itself is put first, and what is said to it is asked again as a statement: what colour a circle had
can be said of a clip without one, but not stood by. Where no rule is, the question itself is put,
and what counts is how sure the model is of its answer.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from workers.errors import InvalidCheckpoint

KEY = "relevance"
ANSWER = "{answer}"
"""In a rule, what the model answers to the question itself."""
IN_WORDS = (
    "Does this part of the video show what is needed to answer the following question? Answer yes "
    "or no.\n{}"
)


@dataclass(frozen=True)
class RelevanceRule:
    """A question a checkpoint can answer with yes or no, and the names that it is about."""

    ask: str
    """With one `{}` for the name, and one `{answer}` at most."""
    of: tuple[str, ...]


@dataclass(frozen=True)
class RelevancePrompt:
    """What is asked of each part, and how the answer is read."""

    text: str
    """With `{answer}` where that to `first` belongs."""
    expects_yes: bool
    """Else how sure the model is of whatever it says."""
    first: str | None = None
    """What is asked before, for its answer."""

    def about(self, answer: str) -> str:
        """What is asked once `first` is answered."""
        return self.text.replace(ANSWER, answer)


def write_relevance(question: str, rules: Sequence[RelevanceRule]) -> RelevancePrompt:
    """What a model is asked of a part of a video for the sake of a question."""
    if not rules:
        return RelevancePrompt(IN_WORDS.format(question), expects_yes=True)
    for rule in rules:
        found = [(at, name) for name in rule.of if (at := _find(name, question)) is not None]
        if found:
            first = question if ANSWER in rule.ask else None
            return RelevancePrompt(
                rule.ask.replace("{}", min(found)[1]), expects_yes=True, first=first
            )
    return RelevancePrompt(question, expects_yes=False)


def read_rules(config: Any, model_id: str) -> tuple[RelevanceRule, ...]:
    """The rules that a checkpoint's config.json names.

    Raises:
        InvalidCheckpoint: they do not read.
    """
    given = config.get(KEY, [])
    if not isinstance(given, list) or not all(_is_rule(rule) for rule in given):
        raise InvalidCheckpoint(
            f"{model_id}: got {KEY} {str(given)[:100]}, expected a list of objects with ask (text "
            "with one {}, and {answer} once at most) and of (names); mend config.json"
        )
    return tuple(RelevanceRule(rule["ask"], tuple(rule["of"])) for rule in given)


def _is_rule(rule: Any) -> bool:
    if not isinstance(rule, dict) or set(rule) != {"ask", "of"}:
        return False
    ask, names = rule["ask"], rule["of"]
    rest = ask.replace(ANSWER, "", 1) if isinstance(ask, str) else ""
    is_text = rest.count("{}") == 1 == rest.count("{") == rest.count("}")
    return is_text and isinstance(names, list) and all(isinstance(n, str) and n for n in names)


def _find(name: str, text: str) -> int | None:
    """Where a name stands in a text, as whole words."""
    match = re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text)
    return None if match is None else match.start()
