"""A language half that reads visual tokens from a cache, for any family of transformers' classes.

Tokens enter `generate` through `mm_encoder_outputs`, where the vision half's output would be, so
that the model's own code places them; a class without that argument gets `inputs_embeds`. What a
family adds to a run, such as LLaVA-OneVision's learned newline, is put in here and never stored.
"""

import functools
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling

from aot import InvalidFeatures
from workers.errors import InvalidCheckpoint, PromptTooLong
from workers.models.base import ModelIdentity, ReadingStyle, VisualSegment
from workers.models.prefix import KeptPrompts, ReadPrompt, digest_of
from workers.models.prompt import Prompt, PromptWriter
from workers.models.relevance import RelevancePrompt, write_relevance
from workers.models.runs import interleave
from workers.models.streaming import stream_text
from workers.types import PLAIN_LAYOUT, TokenLayout

MAX_NEW_TOKENS = 512
"""Length of an answer where neither the caller nor the generation config says."""
TOKEN_TIMEOUT_S = 600.0
"""Longest wait for one token; a long prompt's prefill on a CPU takes minutes."""


AsOutput = Callable[[Float[Tensor, "n d"]], dict[str, Any]]
"""`mm_encoder_outputs` of the tokens of a prompt."""


def as_one_video(tokens: Float[Tensor, "n d"]) -> dict[str, Any]:
    """For classes that take the tokens of all videos as one tensor."""
    output: Any = BaseModelOutputWithPooling(pooler_output=tokens[None])  # type: ignore[arg-type]
    return {"video": output}


class CachedTokensLanguageModel:
    """A `LanguageModel` over a class of transformers; open it by `open_language_model`."""

    def __init__(
        self,
        half: Any,
        writer: PromptWriter,
        newline: Float[Tensor, " d"] | None,
        identity: ModelIdentity,
        reading: ReadingStyle,
        *,
        layout: TokenLayout = PLAIN_LAYOUT,
        as_output: AsOutput = as_one_video,
        token_timeout_s: float = TOKEN_TIMEOUT_S,
    ) -> None:
        """
        Args:
            half: a `...ForConditionalGeneration` whose vision half is not used.
            newline: the learned token that stands where `writer.runs` says; None where nowhere.
            layout: what a token is, as the vision half has it.
            as_output: the tokens of a prompt as the model's own vision half would give them.
        """
        text_config = half.config.get_text_config()
        self.identity = identity
        self.reading = reading
        self.dim: int = sum(layout.parts) or text_config.hidden_size
        self.context_length: int = text_config.max_position_embeddings
        self._half = half
        self._writer = writer
        self._newline = newline
        self._as_output = as_output
        self._token_timeout_s = token_timeout_s
        self.kept = KeptPrompts(0)
        """Prompts that were read; none until it may hold some."""

    def count_tokens(self, question: str, segments: Sequence[VisualSegment]) -> int:
        """See `LanguageModel.count_tokens`."""
        return self._writer.write(question, segments).input_ids.shape[1]

    @torch.no_grad()
    def score_relevance(
        self, question: str, parts: Sequence[Sequence[VisualSegment]]
    ) -> list[float]:
        """See `LanguageModel.score_relevance`; one part at a time."""
        asked = write_relevance(question, self.reading.relevance)
        return [self._score(asked, part) for part in parts]

    def _score(self, asked: RelevancePrompt, part: Sequence[VisualSegment]) -> float:
        prompt = self._writer.write(asked.text, part)
        self._answer_limit(prompt, 1)
        inputs = self._inputs(prompt, self._features(part))
        scores = self._half(**inputs, use_cache=False, logits_to_keep=1).logits[0, -1]
        likely = scores.float().log_softmax(dim=0)
        if not asked.expects_yes:
            return float(likely.max())
        yes, no = (likely[self._word_ids(word)].logsumexp(dim=0) for word in ("yes", "no"))
        return float(yes - no)

    def _word_ids(self, word: str) -> list[int]:
        """First tokens of a word however it is written, without the unknown one."""
        tokenizer = self._writer.tokenizer
        spelled = [tokenizer.encode(w, add_special_tokens=False) for w in (word, word.title())]
        ids = {tokens[0] for tokens in spelled if tokens} - {tokenizer.unk_token_id}
        if not ids:
            raise InvalidCheckpoint(
                f"{self.identity.model_id} has no word {word!r}: it cannot be asked what matters; "
                "give a range instead"
            )
        return sorted(ids)

    def stream_answer(
        self,
        question: str,
        segments: Sequence[VisualSegment],
        *,
        max_new_tokens: int | None = None,
        stop: threading.Event | None = None,
    ) -> Iterator[str]:
        """See `LanguageModel.stream_answer`."""
        prompt = self._writer.write(question, segments)
        limit = self._answer_limit(prompt, max_new_tokens)
        features = self._features(segments)
        inputs = self._inputs(prompt, features)
        generate = functools.partial(self._half.generate, max_new_tokens=limit)
        if features is not None and self._can_be_kept(prompt):
            write = functools.partial(self._generate_behind, generate, inputs, features)
        else:
            write = functools.partial(generate, **inputs)
        return stream_text(write, self._writer.tokenizer, self._token_timeout_s, stop)

    def _can_be_kept(self, prompt: Prompt) -> bool:
        """Where tokens follow each other, and all that is seen stands before the question."""
        # A family with positions or columns of its own has more of a prompt than keys and values.
        plain = prompt.position_ids is None and self._as_output is as_one_video
        return self.kept.max_bytes > 0 and plain and self._half._supports_mm_encoder_outputs()

    def _generate_behind(
        self,
        generate: Callable[..., Any],
        inputs: dict[str, Any],
        features: Float[Tensor, "n d"],
        **streaming: Any,
    ) -> None:
        """Write an answer behind what was read before, or is read now and kept."""
        input_ids, mask = inputs["input_ids"], inputs["attention_mask"]
        length = int((input_ids[0] == self._writer.video_token_id).nonzero()[-1]) + 1
        digest = digest_of(input_ids[:, :length], features)
        read = self.kept.take(digest) or self._read(inputs, length)
        try:
            generate(input_ids=input_ids, attention_mask=mask, past_key_values=read, **streaming)
        finally:
            read.cut(length)
            self.kept.give(digest, read)

    @torch.no_grad()
    def _read(self, inputs: dict[str, Any], length: int) -> ReadPrompt:
        """The keys and values of a prompt's first `length` tokens."""
        read = ReadPrompt(self._half.config.get_text_config().num_hidden_layers)
        begin = {name: inputs[name][:, :length] for name in ("input_ids", "attention_mask")}
        self._half(
            **begin,
            mm_encoder_outputs=inputs["mm_encoder_outputs"],
            past_key_values=read,
            use_cache=True,
            logits_to_keep=1,
        )
        return read

    def _answer_limit(self, prompt: Prompt, max_new_tokens: int | None) -> int:
        """Answer tokens to allow; an explicit number must fit, a default is cut to what does."""
        left = self.context_length - prompt.end
        wanted = 1 if max_new_tokens is None else max_new_tokens
        if left < wanted:
            raise PromptTooLong(
                f"got a prompt that takes {prompt.end} positions and {wanted} for the answer, "
                f"expected at most {self.context_length} together; ask for a smaller range, "
                "fewer tokens, or without their positions"
            )
        default = self._half.generation_config.max_new_tokens or MAX_NEW_TOKENS
        return min(default, left) if max_new_tokens is None else max_new_tokens

    def _inputs(self, prompt: Prompt, features: Float[Tensor, "n d"] | None) -> dict[str, Any]:
        """Keyword arguments that `forward` and `generate` share."""
        device = self._half.device
        input_ids = prompt.input_ids.to(device)
        # Given also where it is all ones: without it, gaps between position ids would be taken
        # for borders between packed sequences.
        inputs: dict[str, Any] = {"attention_mask": torch.ones_like(input_ids)}
        if prompt.position_ids is not None:
            inputs["position_ids"] = prompt.position_ids.to(device)
        if features is None:
            return inputs | {"input_ids": input_ids}
        if self._half._supports_mm_encoder_outputs():
            outputs = {"mm_encoder_outputs": self._as_output(features)}
            return inputs | {"input_ids": input_ids} | outputs
        embeddings = self._half.get_input_embeddings()(input_ids)
        places = (input_ids == self._writer.video_token_id)[..., None]
        return inputs | {"inputs_embeds": embeddings.masked_scatter(places, features)}

    def _features(self, segments: Sequence[VisualSegment]) -> Float[Tensor, "n d"] | None:
        """All runs in order, each with its newlines; None when no segment has a token."""
        runs = []
        for segment in segments:
            if segment.tokens.shape[1] != self.dim:
                raise InvalidFeatures(
                    f"got tokens {segment.tokens.shape[1]} wide, expected {self.dim}; "
                    "they were made by another model"
                )
            if len(segment.tokens):
                runs.append(self._with_newlines(segment))
        return torch.cat(runs) if runs else None

    def _with_newlines(self, segment: VisualSegment) -> Float[Tensor, "r d"]:
        tokens = segment.tokens.to(device=self._half.device, dtype=self._half.dtype)
        if self._newline is None:
            return tokens
        before = self._writer.runs.newlines(segment)
        return interleave(tokens, self._newline.expand(len(before), -1), before)
