"""`aot demo`: the main job on generated videos and a live camera, answered from the cache alone.

Draws a camera's recording and a lecture, writes them as H.264, ingests both on Ray into an embedded
Redis, deletes the videos, and asks five questions whose true answers are known; then plays another
camera over RTSP, without an end, and asks about it while it runs. Everything lies in
a temporary folder. The bundled model is a miniature trained on such scenes: it shows that the path
works, and what it costs; it knows no other world.
"""

import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from demo.camera import live_camera
from demo.world.questions import ask, open_window
from demo.world.render import render
from demo.world.scenes import Kind, Scene, generate_scene
from demo.world.video import write_video
from pipeline import Pipeline
from pipeline.ingest.request import IngestRequest
from pipeline.ingest.run import ingest
from pipeline.store import embedded_folder
from pipeline.store.embedded import stop_embedded
from workers.types import VideoSource

MODEL = Path(__file__).parent / "weights"
WINDOW_S = 8.0
DURATION_S = 24.0


@dataclass(frozen=True)
class Asked:
    """A question of the demo with its true answer."""

    stream: str
    start_s: float
    text: str
    truth: str
    answer: str = ""
    visual_tokens: int = 0
    first_token_s: float = 0.0

    @property
    def right(self) -> bool:
        """The model said what is true."""
        return self.answer.lower().split() == self.truth.lower().split()


SCENES: tuple[tuple[str, Kind, int], ...] = (
    ("camera", "surveillance", 810_004),
    ("lecture", "lecture", 810_007),
)
"""Stream, kind and seed; seeds the model was never trained on."""

PLAN = (
    ("camera", 8.0, "exist"),
    ("camera", 16.0, "colour"),
    ("camera", 8.0, "when"),
    ("lecture", 0.0, "slide_figure"),
    ("lecture", 8.0, "slide_last"),
)
"""Stream, start of the window and kind of question."""

LIVE: tuple[str, Kind, int] = ("door", "surveillance", 810_005)
"""The camera that plays while it is asked about."""
LIVE_PLAN = (("door", 0.0, "exist"),)
LIVE_FRAMES = 10
"""Frames of it that are in before it is asked about: more than the question's window."""


def run(*, as_json: bool = False) -> int:
    """Do it all and print what was asked, what is true and what was answered."""
    started_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="aot-demo-") as name:
        folder = Path(name)
        model, trained = _model(folder)
        if not trained:
            _say(
                "no trained weights in demo/weights: an untrained model answers, that is, gibberish"
            )
        with _pipeline(folder, model) as pipeline:
            scenes = _ingest(pipeline, folder)
            _say("videos deleted; five questions, answered from the stored tokens")
            asked = [_ask(pipeline, question) for question in _questions(scenes, PLAN)]
            asked += _ask_live(pipeline)
    _report(asked, trained, time.monotonic() - started_s, as_json)
    return 0


@contextmanager
def _pipeline(folder: Path, model: Path) -> Iterator[Pipeline]:
    url = f"embedded://{folder / 'store'}"
    settings: dict[str, Any] = {
        "model": {"id": str(model)},
        "ingest": {"retention": 0.10},
        "store": {"url": url},
        "live": {"networks": ("127.0.0.0/8",)},
        "ask": {"max_new_tokens": 12},
    }
    try:
        with Pipeline.open(None, settings) as pipeline:
            yield pipeline
    finally:
        stop_embedded(embedded_folder(url))


def _model(folder: Path) -> tuple[Path, bool]:
    if (MODEL / "config.json").is_file():
        return MODEL, True
    from demo.miniature.model import build_model, export_model

    export_model(build_model(0), folder / "untrained")
    return folder / "untrained", False


def _ingest(pipeline: Pipeline, folder: Path) -> dict[str, Scene]:
    scenes = {stream: generate_scene(kind, seed, DURATION_S) for stream, kind, seed in SCENES}
    for stream, scene in scenes.items():
        write_video(scene, folder / f"{stream}.mp4")
    requests = [
        IngestRequest(VideoSource(str(folder / f"{stream}.mp4"), stream)) for stream in scenes
    ]
    for done in ingest(pipeline.settings, requests):
        if done.state == "complete":
            _say(
                f"{done.stream_id}: {done.footage_s:.0f} s of H.264 in {done.clips} clips, "
                f"{done.tokens_out} of {done.tokens_in} tokens kept ({done.retention:.1%}), "
                f"{done.stored_bytes / 1e3:.0f} kB, {done.x_realtime:.1f}x real time"
            )
            (folder / f"{done.stream_id}.mp4").unlink()
    return scenes


def _ask_live(pipeline: Pipeline) -> list[Asked]:
    """The same of a stream that has not ended, and goes on while the answer is written."""
    stream, kind, seed = LIVE
    scene = generate_scene(kind, seed, DURATION_S)
    with live_camera(pipeline.settings, scene, stream, frames=LIVE_FRAMES) as progress:
        fresh_s = progress.freshness_s or 0.0
        _say(
            f"{stream}: a camera over RTSP, {progress.encoded} frames so far, the last readable "
            f"{fresh_s:.2f} s after it came; asked about while it runs"
        )
        return [_ask(pipeline, question) for question in _questions({stream: scene}, LIVE_PLAN)]


def _questions(scenes: dict[str, Scene], plan: Sequence[tuple[str, float, str]]) -> Iterator[Asked]:
    """The planned questions; a window that does not allow one is asked whatever it allows."""
    for number, (stream, start_s, kind) in enumerate(plan):
        times_s = start_s + np.arange(WINDOW_S)
        window = open_window(
            scenes[stream], render(scenes[stream], times_s).visible, times_s, start_s
        )
        rng = np.random.default_rng([810, number])
        found = ask(window, rng, [kind]) or ask(window, rng)
        yield Asked(stream, start_s, found[0].text, found[0].answer)


def _ask(pipeline: Pipeline, question: Asked) -> Asked:
    answer = pipeline.ask(
        question.text,
        streams=[question.stream],
        start_s=question.start_s,
        end_s=question.start_s + WINDOW_S,
    )
    return replace(
        question,
        answer=answer.text,
        visual_tokens=answer.visual_tokens,
        first_token_s=answer.timings.first_token_s,
    )


def _report(asked: list[Asked], trained: bool, seconds: float, as_json: bool) -> None:
    right = sum(question.right for question in asked)
    if as_json:
        rows = [{**asdict(question), "right": question.right} for question in asked]
        print(json.dumps({"right": right, "trained": trained, "seconds": seconds, "asked": rows}))
        return
    for question in asked:
        window = f"{question.start_s:.0f} to {question.start_s + WINDOW_S:.0f} s"
        print(f"\n{question.stream}, {window}: {question.text}")
        print(f"  true: {question.truth}   answered: {question.answer}", end="")
        print(f"   ({question.visual_tokens} tokens, {question.first_token_s:.2f} s)")
    print(f"\n{right} of {len(asked)} right, {seconds:.0f} s in all; a toy model on toy scenes")


def _say(text: str) -> None:
    print(text, file=sys.stderr)
