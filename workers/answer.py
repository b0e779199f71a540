"""Which language half answers a question, and how it is opened: in this process or an actor's."""

from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Protocol, runtime_checkable

from workers.errors import InvalidSettings
from workers.models import LanguageModel, open_language_model
from workers.seams import Answerer


@dataclass(frozen=True)
class AnswerSettings:
    """Which language half answers, and where."""

    model: str
    """A hub id or a folder; the checkpoint whose vision half made the tokens."""
    revision: str | None = None
    device: str = "cpu"
    dtype: str = "float32"
    together: int = 1
    """Questions that are answered at one time."""
    kept_bytes: int = 0
    """Of prompts that were read and are kept for further questions on the same window."""
    engine: str | None = None
    """`NAME+URL` of a server that runs the language model; None runs it here."""


@runtime_checkable
class Engine(Answerer, Protocol):
    """A language model that a server runs."""

    def close(self) -> None:
        """Let the server's connections go."""
        ...


def open_answerer(settings: AnswerSettings) -> LanguageModel:
    """Load the language half into this process.

    Raises:
        ModelError: the checkpoint cannot be used.
    """
    return open_language_model(
        settings.model,
        revision=settings.revision,
        device=settings.device,
        dtype=settings.dtype,
        kept_bytes=settings.kept_bytes,
    )


def open_engine(settings: AnswerSettings) -> Engine:
    """Connect to the server that `settings.engine` names; its kind is an entry point `aot.engines`.

    Raises:
        InvalidSettings: nothing that is installed knows such a server.
        ModelError: the checkpoint cannot be asked there.
        WorkerLost: no server answers.
    """
    name, _, url = str(settings.engine).partition("+")
    known = {point.name: point for point in entry_points(group="aot.engines")}
    if name not in known or not url:
        raise InvalidSettings(
            f"got engine {settings.engine!r}, expected NAME+URL with a name of "
            f"{', '.join(sorted(known)) or 'none: nothing is installed'}; for vLLM install "
            "aot-stream-vllm and give vllm+http://host:8000"
        )
    return known[name].load()(settings, url)
