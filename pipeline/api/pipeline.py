"""The pipeline as a Python object: ingest, ask, read clips.

with Pipeline.open("configs/default.yaml") as p:
    p.ingest("lecture.mp4", stream="cs101")
    p.ask("What is on the slide?", streams=["cs101"], start=700, end=800).text
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal, TypedDict, Unpack

from pipeline.api.shared import require_info
from pipeline.ask.answer import Answer, Piece
from pipeline.ask.model import answers_on_ray, open_answers
from pipeline.ask.question import Fit, Question
from pipeline.ask.run import Prepared, answer_prepared, prepare
from pipeline.ask.search import SearchResult, search_prepared
from pipeline.ingest.request import IngestRequest
from pipeline.ingest.run import ingest
from pipeline.settings import Settings, load_settings
from pipeline.store import ClipStore, open_store
from pipeline.values.errors import InvalidQuery, UnknownStream
from pipeline.values.types import BrokenStream, StreamInfo
from workers.models import Marks
from workers.seams import Answerer
from workers.session import Progress
from workers.tracing.open import open_tracer
from workers.tracing.spans import Tracer
from workers.types import CompressedClip, VideoSource

Time = float | str
"""Seconds of the stream, or as `pipeline.values.times` reads it: `14:05`, `-10m`, ISO 8601."""


class AskOptions(TypedDict, total=False):
    """What a question may be given; what is not, or None, is as the settings say."""

    start: Time | None
    """Of the range; from the stream's start without one."""
    end: Time | None
    """To the end of what is stored without one."""
    last: Time | None
    """The last so many seconds, or `10m`, instead of start and end."""
    start_s: Time | None
    """Another name of `start`."""
    end_s: Time | None
    """Another name of `end`."""
    max_visual_tokens: int | None
    max_new_tokens: int | None
    max_clips: int | None
    marks: Marks | None
    keep_positions: bool | None
    fit: Fit | None


class Pipeline:
    """An open store with the settings to fill it and the model to ask it."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.store: ClipStore = open_store(settings.store_config())
        self._tracer: Tracer = open_tracer(settings.trace_settings())
        self._model: Answerer | None = None
        self._holding = ExitStack()

    @classmethod
    def open(
        cls, config: str | Path | None = None, overrides: Mapping[str, Any] | None = None
    ) -> "Pipeline":
        """Open by a settings file, the environment, and `overrides` nested like the file.

        Raises:
            InvalidSettings, StoreError: what is wrong.
        """
        return cls(load_settings(config, overrides))

    def ingest(
        self,
        url: str,
        *,
        stream: str,
        fps: float | Literal["settings"] | None = "settings",
        start_s: float = 0.0,
        end_s: float | None = None,
        wall_start_s: float | None = None,
    ) -> Progress:
        """Bring a video into the store; goes on where an earlier run stopped.

        `fps` is that of the settings unless it is given, and None keeps every frame;
        `wall_start_s` is the Unix time of stream second 0. Gives the last progress.
        """
        last = None
        for progress in self.iter_ingest(
            url, stream=stream, fps=fps, start_s=start_s, end_s=end_s, wall_start_s=wall_start_s
        ):
            last = progress
        assert last is not None
        return last

    def iter_ingest(
        self,
        url: str,
        *,
        stream: str,
        fps: float | Literal["settings"] | None = "settings",
        start_s: float = 0.0,
        end_s: float | None = None,
        wall_start_s: float | None = None,
    ) -> Iterator[Progress]:
        """`ingest`, yielding the progress of every commit."""
        if answers_on_ray(self.settings):
            self._let_go()
        rate = self.settings.ingest.fps if fps == "settings" else fps
        hold_s = self.settings.ingest.max_hold_s
        source = VideoSource(url, stream, rate, start_s, end_s, wall_start_s, hold_s)
        yield from ingest(self.settings, [IngestRequest(source)])

    def ask(
        self, text: str, *, streams: str | Sequence[str], **options: Unpack[AskOptions]
    ) -> Answer:
        """Answer from the stored tokens of a range of one stream or several.

        Errors: `pipeline.ask.run.ask_stream`.
        """
        *_, answer = self.ask_stream(text, streams=streams, **options)
        assert isinstance(answer, Answer)
        return answer

    def ask_stream(
        self, text: str, *, streams: str | Sequence[str], **options: Unpack[AskOptions]
    ) -> Iterator[Piece | Answer]:
        """`ask`, yielding the text as it is written and last the `Answer`.

        Streams, range and budget are looked at before the model is loaded.
        """
        prepared = self._prepare(self._question(text, streams, options))
        return answer_prepared(self.store, self.model, prepared, tracer=self._tracer)

    def search(
        self,
        text: str,
        *,
        streams: str | Sequence[str],
        start: Time | None = None,
        end: Time | None = None,
        last: Time | None = None,
        most: int = 5,
    ) -> SearchResult:
        """The clips of a range that matter most for a question, the most relevant first.

        All of them are looked through, up to `ask.max_clips`. Errors: those of `ask_stream`.
        """
        question = self._question(text, streams, {"start": start, "end": end, "last": last})
        prepared = self._prepare(question)
        return search_prepared(self.store, self.model, prepared, most)

    def clips(
        self, stream: str, *, start_s: float | None = None, end_s: float | None = None
    ) -> Iterator[CompressedClip]:
        """The stored clips with a part in the range, verified, in order."""
        require_info(self.store, stream, self.settings)
        return self.store.iter_clips(self.store.list_spans(stream, start_s, end_s))

    def streams(self) -> list[StreamInfo]:
        """What is known of every stream that reads."""
        found = self.store.iter_overviews()
        return [one.info for one in found if not isinstance(one, BrokenStream)]

    @property
    def model(self) -> Answerer:
        """The language half, loaded when first asked for.

        On Ray (`ray.answers`) it is let go before an ingest, which connects anew: a process has
        one connection.
        """
        if self._model is None:
            self._model = self._holding.enter_context(open_answers(self.settings))
        return self._model

    def _prepare(self, question: Question) -> Prepared:
        """Look up what is asked; a stream that is still to be read is told as such."""
        try:
            return prepare(self.store, question)
        except UnknownStream:
            for name in question.streams:
                require_info(self.store, name, self.settings)
            raise

    def _question(self, text: str, streams: str | Sequence[str], options: AskOptions) -> Question:
        names = (streams,) if isinstance(streams, str) else tuple(streams)
        given = {name: value for name, value in options.items() if value is not None}
        for name in ("start", "end"):
            if f"{name}_s" in given:
                if name in given:
                    raise InvalidQuery(f"got both {name} and {name}_s; give one of them")
                given[name] = given.pop(f"{name}_s")
        return Question(text=text, streams=names, **{**self.settings.ask.model_dump(), **given})

    def _let_go(self) -> None:
        self._model = None
        self._holding.close()

    def close(self) -> None:
        """Close the store; an embedded server goes on for other processes."""
        self._let_go()
        self.store.close()
        self._tracer.close()

    def __enter__(self) -> "Pipeline":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()
