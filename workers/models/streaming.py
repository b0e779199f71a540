"""Text from `generate` piece by piece, without ever waiting for nothing.

transformers' streamer hands text over through a queue filled by the thread that generates. Here
every wait has a limit, an exception of that thread reaches the reader, and a reader that leaves
stops the thread at its next token.
"""

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from transformers import StoppingCriteria, StoppingCriteriaList, TextIteratorStreamer

from workers.errors import ModelError, one_line


class _StopWhenSet(StoppingCriteria):
    def __init__(self, stops: Sequence[threading.Event]) -> None:
        self.stops = stops

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> Any:
        size = (input_ids.shape[0],)
        is_over = any(stop.is_set() for stop in self.stops)
        return torch.full(size, is_over, device=input_ids.device, dtype=torch.bool)


def stream_text(
    generate: Callable[..., Any],
    tokenizer: Any,
    token_timeout_s: float,
    stop: threading.Event | None = None,
) -> Iterator[str]:
    """Run `generate(streamer=..., stopping_criteria=...)` in a thread and yield its text.

    Args:
        generate: a model's `generate` with its inputs bound.
        token_timeout_s: longest wait for one token, the first with its prefill included.
        stop: ends the text at the next token once it is set; the reader need not have left.

    Raises:
        ModelError: no token within the limit, or the generation failed.
    """
    streamer = TextIteratorStreamer(
        tokenizer, skip_prompt=True, timeout=token_timeout_s, skip_special_tokens=True
    )
    left = threading.Event()
    stops = [left] if stop is None else [left, stop]
    failures: list[BaseException] = []

    def run() -> None:
        try:
            generate(
                streamer=streamer, stopping_criteria=StoppingCriteriaList([_StopWhenSet(stops)])
            )
        except BaseException as error:  # handed to the reader below
            failures.append(error)
            streamer.text_queue.put(streamer.stop_signal)

    thread = threading.Thread(target=run, name="generate", daemon=True)
    thread.start()
    try:
        yield from filter(None, streamer)
    except queue.Empty:
        raise ModelError(
            f"the language model gave no token within {token_timeout_s:g} s; "
            "ask for a smaller range, or raise the limit"
        ) from None
    finally:
        left.set()
    thread.join(token_timeout_s)
    if failures:
        raise ModelError(
            f"the language model failed ({type(failures[0]).__name__}: {one_line(failures[0])}); "
            "ask for a smaller range, or see the log"
        ) from failures[0]
