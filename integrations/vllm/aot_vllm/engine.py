"""A language half that a vLLM server runs, as an `Answerer`: the client side of both doors.

Text, marks and the order of everything are those that the model in this process would read
(`TokenReader`); the server gets them rendered, so that its own chat template has no say.
"""

import base64
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import httpx
import torch
from torch import Tensor

from aot_vllm.items import Item
from workers.answer import AnswerSettings
from workers.errors import ModelError, PromptTooLong, WorkerLost, one_line
from workers.models import ModelIdentity, ReadingStyle, VisualSegment, open_token_reader
from workers.models.reader import TokenReader

PIECE_S = 600.0
"""Longest wait for the first piece, and between two: a long prompt takes minutes to read."""
AS_IT_STANDS = (
    "{% for message in messages %}{% for part in message['content'] %}{{ part['text'] }}"
    "{% endfor %}{% endfor %}"
)
"""A chat template that adds nothing: what is sent is rendered already."""


@dataclass(frozen=True)
class VllmEngine:
    """An `Answerer`; open it by `open_tensor_door` or `open_store_door`."""

    reader: TokenReader
    client: httpx.Client
    model_name: str
    """As the server calls it."""
    context_length: int
    door: Literal["tensors", "store"]
    identity: ModelIdentity
    """Of the checkpoint that the server was started with, as far as we were told."""
    reading: ReadingStyle

    def close(self) -> None:
        """Let the server's connections go."""
        self.client.close()

    def count_tokens(self, question: str, segments: Sequence[VisualSegment]) -> int:
        """Length of the prompt in tokens; the server is not asked."""
        return self.reader.count_tokens(question, segments)

    def score_relevance(
        self, question: str, parts: Sequence[Sequence[VisualSegment]]
    ) -> list[float]:
        """Not to be had of a server.

        Raises:
            ModelError: always.
        """
        raise ModelError("vLLM scores no clips; take `fit: find` or `model.engine` away")

    def stream_answer(
        self, question: str, segments: Sequence[VisualSegment], *, max_new_tokens: int
    ) -> Iterator[str]:
        """Yield the answer's text in pieces, greedily; leaving the iterator stops the server.

        Raises:
            PromptTooLong: prompt and answer do not fit the context.
            ModelError: positions were kept, merged tokens by the store's door, or the server
                refused it or failed.
            WorkerLost: no answer of the server.
        """
        for part in self.stream_parts(question, segments, max_new_tokens=max_new_tokens):
            if text := part["text"]:
                yield text

    def stream_parts(
        self,
        question: str,
        segments: Sequence[VisualSegment],
        *,
        max_new_tokens: int,
        logprobs: int | None = None,
    ) -> Iterator[dict[str, Any]]:
        """The same as `{"text": ..., "raw": what the server sent}`, with log-probabilities."""
        if any(segment.positions is not None for segment in segments):
            raise ModelError("vLLM keeps no places of tokens; ask with `keep_positions: false`")
        length = self.count_tokens(question, segments) + max_new_tokens
        if length > self.context_length:
            raise PromptTooLong(
                f"prompt and answer take {length} tokens, the server was started with "
                f"{self.context_length}; ask for a smaller range or fewer tokens"
            )
        if self.door == "tensors":
            path, body = "/v1/chat/completions", self._with_tensors(question, segments)
            body |= {"max_completion_tokens": max_new_tokens, "temperature": 0}
            body |= {"logprobs": logprobs is not None, "top_logprobs": logprobs}
            body |= {"return_token_ids": logprobs is not None}
        else:
            path, body = "/inference/v1/generate", self._with_names(question, segments)
            sampling = {"max_tokens": max_new_tokens, "temperature": 0, "logprobs": logprobs}
            body |= {"sampling_params": sampling, "output_mode": "text"}
        body |= {"model": self.model_name, "stream": True}
        body |= {"stream_options": {"include_usage": True}}
        for event in self._post(path, body):
            choices = event.get("choices", ())
            texts = (one.get("text") or (one.get("delta") or {}).get("content") for one in choices)
            yield {"text": "".join(text or "" for text in texts), "raw": event}

    def _with_tensors(self, question: str, segments: Sequence[VisualSegment]) -> dict[str, Any]:
        """The rendered prompt, cut where visual tokens stand, with those between the pieces."""
        writer = self.reader.writer
        texts = writer.text(question, segments).split(writer.video_token)
        content: list[dict[str, str]] = []
        for i, text in enumerate(texts):
            if i and len(segments[i - 1].tokens):
                rows = self.reader.read_run(segments[i - 1])
                content.append({"type": "prompt_embeds", "data": _encode(rows)})
            if text:
                content.append({"type": "text", "text": text})
        return {
            "messages": [{"role": "user", "content": content}],
            "chat_template": AS_IT_STANDS,
            "add_generation_prompt": False,
        }

    def _with_names(self, question: str, segments: Sequence[VisualSegment]) -> dict[str, Any]:
        """Token ids with a placeholder for every row, and the names of what stands there."""
        writer = self.reader.writer
        ids = writer.write(question, segments).input_ids[0].tolist()
        names, places, at = [], [], 0
        for segment in segments:
            if not (length := writer.run_length(segment)):
                continue
            item = Item.of(segment, writer)
            if item is None:
                raise ModelError(
                    "tokens were merged further since they were stored, and have no name there; "
                    "ask with `fit: choose`, or by the door vllm+http"
                )
            at = ids.index(writer.video_token_id, at)
            names.append(str(item))
            places.append({"offset": at, "length": length})
            at += length
        features = {"mm_hashes": {"video": names}, "mm_placeholders": {"video": places}}
        return {"token_ids": ids} | ({"features": features} if names else {})

    def _post(self, path: str, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Events of a streamed answer."""
        try:
            with self.client.stream("POST", path, json=body) as response:
                if response.status_code >= 400:
                    raise _refusal(response.status_code, response.read())
                for line in response.iter_lines():
                    if line.startswith("data: ") and line != "data: [DONE]":
                        event = json.loads(line.removeprefix("data: "))
                        if "error" in event:
                            raise _refusal(500, line.removeprefix("data: ").encode())
                        yield event
        except httpx.HTTPError as error:
            raise WorkerLost(
                f"no answer of vLLM at {self.client.base_url} ({one_line(error)}); start it, or "
                "ask again"
            ) from error


def open_tensor_door(settings: AnswerSettings, url: str) -> VllmEngine:
    """A server started with `--enable-prompt-embeds --trust-request-chat-template`."""
    return _open(settings, url, "tensors")


def open_store_door(settings: AnswerSettings, url: str) -> VllmEngine:
    """A server whose encoder cache is the store (`connector`), with `--enable-scale-out`."""
    return _open(settings, url, "store")


def _open(settings: AnswerSettings, url: str, door: Literal["tensors", "store"]) -> VllmEngine:
    reader = open_token_reader(settings.model, revision=settings.revision)
    reader.count_tokens("", [])  # a tokenizer settles its options at its first use
    parts = httpx.URL(url)
    headers = {"Authorization": f"Bearer {parts.password}"} if parts.password else {}
    client = httpx.Client(
        base_url=parts.copy_with(userinfo=b""),
        headers=headers,
        timeout=httpx.Timeout(PIECE_S, connect=5.0),
        limits=httpx.Limits(max_connections=None),
        trust_env=False,
    )
    try:
        served = _ask_what_is_served(client)
    except Exception:
        client.close()
        raise
    length = min(reader.context_length, served.get("max_model_len") or reader.context_length)
    reading = replace(reader.reading, needs_records=door == "store")
    rest = (length, door, reader.identity, reading)
    return VllmEngine(reader, client, served["id"], *rest)


def _ask_what_is_served(client: httpx.Client) -> dict[str, Any]:
    try:
        response = client.get("/v1/models")
    except httpx.HTTPError as error:
        raise WorkerLost(f"no vLLM at {client.base_url} ({one_line(error)}); start it") from error
    if response.status_code >= 400:
        raise _refusal(response.status_code, response.content)
    return response.json()["data"][0]


def _encode(rows: Tensor) -> str:
    """As vLLM wants a tensor: torch's own file format, which it reads as weights only."""
    file = io.BytesIO()
    torch.save(rows.contiguous(), file)
    return base64.b64encode(file.getvalue()).decode()


def _refusal(status: int, content: bytes) -> ModelError:
    """What a server said, as an error."""
    try:
        said = json.loads(content)["error"]["message"]
    except (ValueError, KeyError, TypeError):
        said = content.decode(errors="replace")
    return ModelError(f"vLLM refused the question or failed at it ({status}): {one_line(said)}")
