"""The model that lmms-eval asks: a pipeline whose store is filled as videos are met."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from lmms_eval.api.instance import GenerationResult, Instance, TokenCounts
from lmms_eval.api.model import lmms
from tqdm import tqdm

from pipeline import Pipeline
from pipeline.values.errors import InvalidQuery, InvalidSettings, UnknownStream

STORE = "embedded://~/.cache/aot-stream/lmms-eval"
SETTINGS = {
    "model": "model.id",
    "revision": "model.revision",
    "dtype": "model.dtype",
    "device": "model.device",
    "engine": "model.engine",
    "store": "store.url",
    "retention": "ingest.retention",
    "reducer": "ingest.reducer",
    "fps": "ingest.fps",
    "fit": "ask.fit",
    "max_visual_tokens": "ask.max_visual_tokens",
}
"""Arguments of `--model_args`, and the settings they stand for; the rest is in `config`."""
DECIDING: Any = {"model": {"id", "revision", "dtype"}, "ingest": True, "store": {"dtype"}}
"""Settings that decide a stream's tokens: another retention is another stream."""
READ_BYTES = 1 << 20


class AotStream(lmms):
    """Videos are streams of a store; a question is asked of one of them, over all of it."""

    is_simple = True

    def __init__(
        self,
        config: str | None = None,
        batch_size: int | str = 1,
        max_batch_size: int | None = None,
        **given: Any,
    ) -> None:
        """Args are those of `SETTINGS`; `config` is a settings file.

        Raises:
            InvalidSettings: an argument that is none.
            StoreError: the store cannot be opened.
        """
        super().__init__()
        if unknown := sorted(set(given) - set(SETTINGS)):
            raise InvalidSettings(
                f"got model_args {', '.join(unknown)}, expected config or any of "
                f"{', '.join(SETTINGS)}; name other settings in a file: config=PATH"
            )
        # What a benchmark asks is about all of its video, also where it says "at the start".
        overrides: dict[str, dict[str, Any]] = {"ask": {"read_times": False}}
        given = {"store": STORE, **given} if config is None else given
        for name, value in given.items():
            group, _, field = SETTINGS[name].partition(".")
            overrides.setdefault(group, {})[field] = value
        self._pipeline = Pipeline.open(config, overrides)
        self._made_with = _digest(
            [self._pipeline.settings.model_dump_json(include=DECIDING).encode()]
        )
        self._streams: dict[Path, str] = {}

    def generate_until(self, requests: Sequence[Instance]) -> list[GenerationResult]:
        """An answer for each, in order."""
        results = []
        for request in tqdm(requests, disable=self.rank != 0, desc="Asking the store"):
            text, options, find_videos, doc_id, task, split = request.args
            stream = self._store(find_videos(self.task_dict[task][split][doc_id]))
            answer = self._pipeline.ask(
                text, streams=stream, max_new_tokens=options.get("max_new_tokens")
            )
            said = _cut(answer.text, options.get("until") or ())
            self.cache_hook.add_partial("generate_until", (text, options), said)
            results.append(GenerationResult(said, TokenCounts(input_tokens=answer.prompt_tokens)))
        return results

    def generate_until_multi_round(self, requests: Sequence[Instance]) -> list[str]:
        """Not to be had: rounds would need what was said before in the prompt."""
        raise NotImplementedError("aot_stream answers questions of one round")

    def loglikelihood(self, requests: Sequence[Instance]) -> list[tuple[float, bool]]:
        """Not to be had: the model writes, and scores no text that is given."""
        raise NotImplementedError("aot_stream writes answers; choose a task that generates")

    def _store(self, visuals: Iterable[Any]) -> str:
        """The stream of a document's one video, ingested when it is first met."""
        paths = list(visuals)
        if len(paths) != 1 or not isinstance(paths[0], (str, Path)):
            kinds = ", ".join(type(visual).__name__ for visual in paths) or "nothing"
            raise InvalidQuery(
                f"got {kinds} to look at, expected the path of one video; choose a task of videos"
            )
        path = Path(paths[0]).expanduser().absolute()
        if path not in self._streams:
            stream = f"{_digest(_read(path))}-{self._made_with[:16]}"
            if not self._has(stream):
                self._pipeline.ingest(str(path), stream=stream)
            self._streams[path] = stream
        return self._streams[path]

    def _has(self, stream: str) -> bool:
        """Whether it was brought in whole; one that was broken off is gone on with."""
        try:
            return self._pipeline.store.get_info(stream).status == "complete"
        except UnknownStream:
            return False


def _read(path: Path) -> Iterator[bytes]:
    """A file's content: tasks keep copies of one video under many names."""
    with path.open("rb") as file:
        while piece := file.read(READ_BYTES):
            yield piece


def _digest(pieces: Iterable[bytes]) -> str:
    """32 hex digits."""
    seen = hashlib.blake2b(digest_size=16)
    for piece in pieces:
        seen.update(piece)
    return seen.hexdigest()


def _cut(text: str, until: Iterable[str] | str) -> str:
    """The text before the first of some ends."""
    for end in (until,) if isinstance(until, str) else until:
        if end:
            text = text.partition(end)[0]
    return text.strip()
