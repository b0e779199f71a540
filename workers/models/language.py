"""A language half that reads visual tokens from a cache, for any family of transformers' classes.

Tokens enter `generate` through `mm_encoder_outputs`, where the vision half's output would be, so
that the model's own code places them; a class without that argument gets `inputs_embeds`. What a
family adds to a run, such as LLaVA-OneVision's learned newline, is put in here and never stored.
"""

import functools
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling

from aot import InvalidFeatures
from workers.errors import InvalidCheckpoint, PromptTooLong
from workers.models.base import ModelIdentity, ReadingStyle, VisualSegment
from workers.models.grouped import GROUPED_SDPA, attends_to_all
from workers.models.prefix import KeptPrompts, ReadPrompt, digest_of
from workers.models.prompt import Prompt, PromptWriter
from workers.models.relevance import RelevancePrompt, write_relevance
from workers.models.runs import interleave
from workers.models.streaming import stream_text
from workers.models.together import Together, writes_greedily
from workers.types import PLAIN_LAYOUT, TokenLayout

MAX_NEW_TOKENS = 512
"""Length of an answer where neither the caller nor the generation config says."""
SAID_TOKENS = 8
"""Of an answer that is asked back, to tell whether a part of a video matters."""
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
        self._together = self._open_together()
        self._turn = threading.Lock()
        """Of whoever reads a prompt, or writes by itself: two at one time would both be late."""

    def _open_together(self) -> Together | None:
        """Where tokens follow each other, and the likeliest is what is said next."""
        half = self._half
        # A family with positions or columns of its own has more of a prompt than keys and values.
        is_plain = self._as_output is as_one_video and self._writer.positions_per_s is None
        if not (
            is_plain
            and half._supports_mm_encoder_outputs()
            and attends_to_all(half.config.get_text_config())
            and writes_greedily(half.generation_config)
        ):
            return None
        half.set_attn_implementation(GROUPED_SDPA)
        return Together(half)

    @functools.cached_property
    def _ends(self) -> frozenset[int]:
        """Tokens that end an answer."""
        ends = self._half.generation_config.eos_token_id
        return frozenset([ends] if isinstance(ends, int) else ends or ())

    def count_tokens(self, question: str, segments: Sequence[VisualSegment]) -> int:
        """See `LanguageModel.count_tokens`."""
        return self._writer.count(question, segments)

    @torch.no_grad()
    def score_relevance(
        self, question: str, parts: Sequence[Sequence[VisualSegment]]
    ) -> list[float]:
        """See `LanguageModel.score_relevance`; one part at a time."""
        asked = write_relevance(question, self.reading.relevance)
        return [self._score(asked, part) for part in parts]

    def _score(self, asked: RelevancePrompt, part: Sequence[VisualSegment]) -> float:
        text = asked.text if asked.first is None else asked.about(self._say(asked.first, part))
        prompt = self._writer.write(text, part)
        self._answer_limit(prompt, 1)
        inputs = self._inputs(prompt, self._features(part))
        with self._turn:
            scores = self._half(**inputs, use_cache=False, logits_to_keep=1).logits[0, -1]
        likely = scores.float().log_softmax(dim=0)
        if not asked.expects_yes:
            return float(likely.max())
        yes, no = (likely[self._word_ids(word)].logsumexp(dim=0) for word in ("yes", "no"))
        return float(yes - no)

    def _say(self, question: str, part: Sequence[VisualSegment]) -> str:
        """A few words of an answer, of which nothing is kept."""
        prompt = self._writer.write(question, part)
        self._answer_limit(prompt, SAID_TOKENS)
        inputs = self._inputs(prompt, self._features(part))
        with self._turn:
            ids = self._half.generate(**inputs, max_new_tokens=SAID_TOKENS, do_sample=False)[0]
        begin = len(inputs["input_ids"][0]) if "input_ids" in inputs else 0
        return self._writer.tokenizer.decode(ids[begin:], skip_special_tokens=True).strip()

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
        self._check_width(segments)
        if self._together is None or prompt.position_ids is not None:
            inputs = self._inputs(prompt, self._features(segments))
            write = functools.partial(self._generate, max_new_tokens=limit, **inputs)
        else:
            write = functools.partial(self._write_together, prompt, segments, limit)
        return stream_text(write, self._writer.tokenizer, self._token_timeout_s, stop)

    def _generate(self, **options: Any) -> None:
        """Write an answer by itself."""
        with self._turn:
            self._half.generate(**options)

    def _write_together(
        self,
        prompt: Prompt,
        segments: Sequence[VisualSegment],
        limit: int,
        *,
        streamer: Any,
        stopping_criteria: Any,
    ) -> None:
        """Write an answer in step with all others, behind what was read before or is read now."""
        assert self._together is not None
        input_ids = prompt.input_ids
        length = self._kept_length(prompt)
        streamer.put(input_ids)
        with self._read_to(prompt, segments, length) as read:
            left = iter(range(limit - 1, -1, -1))

            def tell(token: int) -> bool:
                given = torch.tensor([[token]])
                streamer.put(given[0])
                is_over = bool(stopping_criteria(given, None).any()) or token in self._ends
                return next(left) > 0 and not is_over

            token = self._read_on(read, input_ids[:, read.get_seq_length() :])
            if tell(token):
                self._together.write(read, token, tell, limit * self._token_timeout_s)
        streamer.end()

    def _kept_length(self, prompt: Prompt) -> int:
        """Of the prompt's begin up to its last visual token; 0 without one."""
        seen = (prompt.input_ids[0] == self._writer.video_token_id).nonzero()
        return int(seen[-1]) + 1 if len(seen) else 0

    @contextmanager
    def _read_to(
        self, prompt: Prompt, segments: Sequence[VisualSegment], length: int
    ) -> Iterator[ReadPrompt]:
        """The keys and values of a prompt's first `length` tokens, kept where some may be."""
        if self.kept.max_bytes > 0 and length:
            tokens = [segment.tokens for segment in segments if len(segment.tokens)]
            newlines = [self._writer.runs.newlines(segment) for segment in segments]
            digest = digest_of(prompt.input_ids[:, :length], *tokens, *newlines)
            with self.kept.lend(digest, lambda: self._read(prompt, segments, length)) as read:
                yield read
        else:
            yield self._read(prompt, segments, length)

    @torch.no_grad()
    def _read(self, prompt: Prompt, segments: Sequence[VisualSegment], length: int) -> ReadPrompt:
        read = ReadPrompt(self._half.config.get_text_config().num_hidden_layers)
        if length:
            begin = replace(prompt, input_ids=prompt.input_ids[:, :length])
            with self._turn:
                inputs = self._inputs(begin, self._features(segments))
                self._half(**inputs, past_key_values=read, use_cache=True, logits_to_keep=1)
        return read

    @torch.no_grad()
    def _read_on(self, read: ReadPrompt, input_ids: Int[Tensor, "1 l"]) -> int:
        """Read the rest of a prompt; the likeliest token behind it."""
        with self._turn:
            logits = self._half(
                input_ids=input_ids.to(self._half.device),
                past_key_values=read,
                use_cache=True,
                logits_to_keep=1,
            ).logits
        return int(logits[0, -1].argmax())

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
        self._check_width(segments)
        runs = [self._with_newlines(segment) for segment in segments if len(segment.tokens)]
        return torch.cat(runs) if runs else None

    def _check_width(self, segments: Sequence[VisualSegment]) -> None:
        for segment in segments:
            if segment.tokens.shape[1] != self.dim:
                raise InvalidFeatures(
                    f"got tokens {segment.tokens.shape[1]} wide, expected {self.dim}; "
                    "they were made by another model"
                )

    def _with_newlines(self, segment: VisualSegment) -> Float[Tensor, "r d"]:
        tokens = segment.tokens.to(device=self._half.device, dtype=self._half.dtype)
        if self._newline is None:
            return tokens
        before = self._writer.runs.newlines(segment)
        return interleave(tokens, self._newline.expand(len(before), -1), before)
