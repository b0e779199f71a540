"""The second part of `aot bench query`: how soon an answer begins, from the cache and without it.

A window of a generated 1080p video is asked about twice: from the store (index, values, prompt,
first token), and without it (decode, encode, reduce the same window again, the same prompt, first
token). Widths are those of SigLIP-so400m and Qwen2-0.5B; of both towers a few layers are built,
about the same share of each, so that the ratio is that of the whole model and the bench ends.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.camera import write_camera_clips
from bench.folders import own_folder, store_url
from bench.random_checkpoint import CheckpointSize, write_random_checkpoint
from pipeline.ask.run import Question, ask_stream
from pipeline.ingest.request import IngestRequest
from pipeline.ingest.run import ingest
from pipeline.settings import Settings, load_settings
from pipeline.store import ClipStore, open_store
from workers.clips import open_clips
from workers.compress.inline import InlineWorkers
from workers.models import LanguageModel, open_language_model
from workers.reading import read_clip
from workers.types import VideoSource

GOP = 50
SCENE_S = 8
WINDOW_S = 16.0
QUESTION = "What is on the screen?"
MODEL = CheckpointSize(
    image_size=384,
    patch_size=14,
    vision_layers=4,
    vision_dim=1152,
    vision_heads=16,
    vision_mlp_dim=4304,
    llm_layers=4,
    llm_dim=896,
    llm_heads=14,
    llm_kv_heads=2,
    llm_mlp_dim=4864,
)
"""4 of SigLIP-so400m's 26 layers, 4 of Qwen2-0.5B's 24: a twelfth too much for the latter, whose
cost both ways to the answer share, so that the ratio is understated a little."""


def measure_first_token(
    *,
    size: CheckpointSize = MODEL,
    rounds: int = 5,
    again_rounds: int = 3,
    on_progress: Callable[[str], None] = lambda _: None,
) -> dict[str, float]:
    """`first_token_s` (wall, from the cache) and `first_token_speedup` (ratio of CPU seconds).

    Both are medians; `again_rounds` are those of the slow way, which take their turn among the
    others.
    """
    with _prepared(size, on_progress) as (settings, video, store, model, workers):
        _from_cache(store, model)  # warms both
        cached, again = [], []
        for number in range(1, rounds + 1):
            on_progress(f"first token, round {number} of {rounds}")
            cached.append(_timed(lambda: _from_cache(store, model)))
            if number <= again_rounds:
                again.append(_timed(lambda: _from_video(video, model, workers, settings)))
    return _summarise(cached, again)


def _summarise(
    cached: list[tuple[float, float]], again: list[tuple[float, float]]
) -> dict[str, float]:
    cached_s, cached_cpu_s = (statistics.median(column) for column in zip(*cached, strict=True))
    again_s, again_cpu_s = (statistics.median(column) for column in zip(*again, strict=True))
    return {
        "first_token_s": round(cached_s, 3),
        "first_token_speedup": round(again_cpu_s / cached_cpu_s, 1),
        "first_token_wall_speedup": round(again_s / cached_s, 1),
        "first_token_cpu_s": round(cached_cpu_s, 3),
        "first_token_again_cpu_s": round(again_cpu_s, 2),
        "window_s": WINDOW_S,
    }


Prepared = tuple[Settings, Path, ClipStore, LanguageModel, InlineWorkers]


@contextmanager
def _prepared(size: CheckpointSize, on_progress: Callable[[str], None]) -> Iterator[Prepared]:
    """A video, its stream in a store of its own, and both halves loaded."""
    with own_folder() as folder:
        on_progress(f"encoding {2 * WINDOW_S:.0f} s of 1080p, writing a model")
        loops = int(2 * WINDOW_S) // SCENE_S
        video = write_camera_clips(folder, (GOP,), seconds=SCENE_S, loops=loops)[GOP]
        given = {
            "model": {
                "id": str(write_random_checkpoint(folder / "model", size)),
                "device": "cpu",
                "dtype": "float32",
            },
            "store": {"url": store_url(folder)},
            "ray": {"enabled": False},
        }
        settings = load_settings(None, given)
        on_progress("ingesting it")
        list(ingest(settings, [IngestRequest(VideoSource(str(video), "window"))]))
        model = open_language_model(settings.model.id)
        with (
            open_store(settings.store_config()) as store,
            InlineWorkers(settings.compress_settings()) as workers,
        ):
            yield settings, video, store, model, workers


def _from_cache(store: ClipStore, model: LanguageModel) -> None:
    question = Question(QUESTION, ("window",), last=WINDOW_S, max_new_tokens=1)
    for _ in ask_stream(store, model, question):
        pass


def _from_video(
    video: Path, model: LanguageModel, workers: InlineWorkers, settings: Settings
) -> None:
    """The same without a cache: the same frames, tokens and prompt."""
    source = VideoSource(str(video), "again", settings.ingest.fps, start_s=WINDOW_S)
    segments = []
    with open_clips(source, workers.info, None) as reader:
        for clip in workers.compress_stream(reader):
            segments += read_clip(clip)  # pyright: ignore[reportArgumentType]
    for _ in model.stream_answer(QUESTION, segments, max_new_tokens=1):
        pass


def _timed(body: Callable[[], None]) -> tuple[float, float]:
    """(seconds, CPU seconds of this process)."""
    started_s, cpu_s = time.perf_counter(), time.process_time()
    body()
    return time.perf_counter() - started_s, time.process_time() - cpu_s
