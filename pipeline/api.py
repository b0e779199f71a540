"""The pipeline as a Python object: ingest, ask, read clips.

with Pipeline.open("configs/default.yaml") as p:
    p.ingest("lecture.mp4", stream="cs101")
    p.ask("What is on the slide?", streams=["cs101"], start_s=700, end_s=800).text
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.ask.run import Answer, Question, ask, ask_stream
from pipeline.ingest.request import IngestRequest
from pipeline.ingest.run import ingest
from pipeline.settings import Settings, load_settings
from pipeline.store import ClipStore, open_store
from pipeline.types import StreamInfo
from workers.models import LanguageModel, open_language_model
from workers.session import Progress
from workers.types import CompressedClip, VideoSource


class Pipeline:
    """An open store with the settings to fill it and the model to ask it."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.store: ClipStore = open_store(settings.store_config())
        self._model: LanguageModel | None = None

    @classmethod
    def open(
        cls, config: str | Path | None = None, overrides: Mapping[str, Any] | None = None
    ) -> "Pipeline":
        """Open by a settings file, the environment, and `overrides` nested like the file.

        Raises:
            InvalidSettings, StoreError: what is wrong.
        """
        return cls(load_settings(config, overrides))

    def ingest(self, url: str, *, stream: str, **source: Any) -> Progress:
        """Bring a video into the store; goes on where an earlier run stopped.

        `source` takes the further fields of `VideoSource`. Gives the last progress.
        """
        *_, last = self.iter_ingest(url, stream=stream, **source)
        return last

    def iter_ingest(self, url: str, *, stream: str, **source: Any) -> Iterator[Progress]:
        """`ingest`, yielding the progress of every commit."""
        fields = {"fps": self.settings.ingest.fps, **source}
        yield from ingest(self.settings, [IngestRequest(VideoSource(url, stream, **fields))])

    def ask(
        self,
        text: str,
        *,
        streams: Sequence[str],
        start_s: float | str | None = None,
        end_s: float | str | None = None,
        last: float | str | None = None,
        **question: Any,
    ) -> Answer:
        """Answer from the stored tokens of a range; errors: `pipeline.ask.run.ask_stream`."""
        return ask(
            self.store, self.model, self._question(text, streams, start_s, end_s, last, question)
        )

    def ask_stream(
        self,
        text: str,
        *,
        streams: Sequence[str],
        start_s: float | str | None = None,
        end_s: float | str | None = None,
        last: float | str | None = None,
        **question: Any,
    ) -> Iterator[str | Answer]:
        """`ask`, yielding the text as it is written and last the `Answer`."""
        asked = self._question(text, streams, start_s, end_s, last, question)
        return ask_stream(self.store, self.model, asked)

    def clips(
        self, stream: str, *, start_s: float | None = None, end_s: float | None = None
    ) -> Iterator[CompressedClip]:
        """The stored clips with a part in the range, verified, in order."""
        self.store.get_info(stream)
        return self.store.iter_clips(self.store.list_spans(stream, start_s, end_s))

    def streams(self) -> list[StreamInfo]:
        """What is known of every stream."""
        return [self.store.get_info(stream) for stream in self.store.list_streams()]

    @property
    def model(self) -> LanguageModel:
        """The language half, loaded when first asked for."""
        if self._model is None:
            model = self.settings.model
            self._model = open_language_model(
                model.id, revision=model.revision, device=model.device, dtype=model.dtype
            )
        return self._model

    def close(self) -> None:
        """Close the store; an embedded server goes on for other processes."""
        self._model = None
        self.store.close()

    def __enter__(self) -> "Pipeline":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _question(
        self,
        text: str,
        streams: Sequence[str],
        start: float | str | None,
        end: float | str | None,
        last: float | str | None,
        fields: Mapping[str, Any],
    ) -> Question:
        return Question(
            text=text,
            streams=tuple(streams),
            start=start,
            end=end,
            last=last,
            **{**self.settings.ask.model_dump(), **fields},
        )
