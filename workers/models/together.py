"""Several answers written at one time: one step of the model gives each of them its next token.

A step costs hardly more for sixteen answers than for one: the weights are read once for all. Each
answer has keys and values of its own, as long as it is (`ReadPrompt`); what is written is computed
in a row, what is attended to is looked up one by one (`grouped.Ragged`), so that nothing is padded,
answers come and go at any step, and a prompt that was kept is written behind where it lies.

transformers' continuous batching takes prompts of token ids alone and pages of a cache of its own;
visual tokens have no ids, and prompts that are kept lie elsewhere. Written here is what it would
do for greedy answers; others go through `generate`.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

from workers.models.grouped import Ragged
from workers.models.prefix import ReadPrompt, RoomyLayer

Tell = Callable[[int], bool]
"""Takes a token; whether more are wanted."""
PLAIN = {"do_sample", "temperature", "top_p", "top_k", "use_cache", "transformers_version"} | {
    *("eos_token_id", "bos_token_id", "pad_token_id", "max_new_tokens", "max_length"),
    *("output_attentions", "output_hidden_states"),
}
"""Fields of a generation config that leave a greedy answer what it is, or are read here."""


def writes_greedily(config: Any) -> bool:
    """Whether a `GenerationConfig` asks for the likeliest token, and for nothing beside it."""
    given = {name for name in config.to_diff_dict() if not name.startswith("_")}
    return not config.do_sample and given <= PLAIN


class _Layers(DynamicLayer):
    """One layer of several sequences; what is put in is shared out among them."""

    def __init__(self, layers: Sequence[RoomyLayer]) -> None:
        super().__init__()
        self._layers = layers

    def update(  # type: ignore[override]
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Ragged, Ragged]:
        """A position more for each sequence; all of each."""
        new = zip(self._layers, key_states.split(1), value_states.split(1), strict=True)
        keys, values = zip(*(layer.update(k, v) for layer, k, v in new), strict=True)
        return Ragged(keys), Ragged(values)

    def get_seq_length(self) -> int:
        """Of the longest."""
        return max(layer.get_seq_length() for layer in self._layers)


class _Together(Cache):
    def __init__(self, read: Sequence[ReadPrompt]) -> None:
        layers = zip(*(prompt.roomy for prompt in read), strict=True)
        super().__init__(layers=[_Layers(of_all) for of_all in layers])


@dataclass(eq=False)
class _Writing:
    """An answer under way."""

    read: ReadPrompt
    token: int
    """The last that was written, and that is not read yet."""
    tell: Tell
    done: threading.Event = field(default_factory=threading.Event)
    error: BaseException | None = None


class Together:
    """Writes answers of one language half, all that are under way in one step."""

    def __init__(self, half: Any) -> None:
        """
        Args:
            half: a `...ForConditionalGeneration` that attends by `GROUPED_SDPA`.
        """
        self._half = half
        self._joining: list[_Writing] = []
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self.steps = 0
        self.tokens = 0
        """Written in `steps`; over them: how many answers were written together."""

    def write(self, read: ReadPrompt, token: int, tell: Tell, timeout_s: float) -> None:
        """Tell the tokens behind `read` and `token`, one by one, until no more are wanted.

        Raises:
            TimeoutError: it was not at its end in time.
            BaseException: what failed.
        """
        writing = _Writing(read, token, tell)
        with self._lock:
            self._joining.append(writing)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="together", daemon=True)
                self._thread.start()
        if not writing.done.wait(timeout_s):
            writing.tell = lambda _: False
            raise TimeoutError(f"the answer was not at its end within {timeout_s:.0f} s")
        if writing.error is not None:
            raise writing.error

    def _run(self) -> None:
        active: list[_Writing] = []
        while True:
            with self._lock:
                active += self._joining
                self._joining.clear()
                if not active:
                    self._thread = None
                    return
            try:
                tokens = self._step(active)
            except BaseException as error:  # raised to each of them
                for writing in active:
                    writing.error = error
                    writing.done.set()
                active = []
            else:
                told = zip(active, tokens, strict=True)
                active = [writing for writing, token in told if _is_wanted(writing, token)]

    @torch.no_grad()
    def _step(self, active: Sequence[_Writing]) -> list[int]:
        """The next token of each."""
        device = self._half.device
        places = [writing.read.get_seq_length() for writing in active]
        logits = self._half(
            input_ids=torch.tensor([[writing.token] for writing in active], device=device),
            position_ids=torch.tensor(places, device=device)[:, None],
            past_key_values=_Together([writing.read for writing in active]),
            use_cache=True,
            logits_to_keep=1,
        ).logits
        self.steps += 1
        self.tokens += len(active)
        return logits[:, -1].argmax(dim=-1).tolist()


def _is_wanted(writing: _Writing, token: int) -> bool:
    """Tell a token; whether the answer goes on."""
    writing.token = token
    try:
        if writing.tell(token):
            return True
    except BaseException as error:
        writing.error = error
    writing.done.set()
    return False
